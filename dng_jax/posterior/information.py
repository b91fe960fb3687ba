r"""The information budget of a denoiser: what its predictions know of the class, in nats.

    lambda = log(alpha^2 / sigma^2),     x = alpha x_0 + sigma z,     c the class of x_0
    I(c; x) at lambda  =  1/2 int_{-inf}^{lambda}  E |z - eps_base|^2 - E |z - eps_c|^2  dlambda'
                       =  1/2 int_{-inf}^{lambda}  E |eps_base - eps_c|^2  dlambda'

The first line is the I-MMSE relation (Guo, Shamai & Verdu 2005, IEEE Trans. Inf. Theory 51, eq. 22)
for I(x_0; x) - I(x_0; x | c), with x_0 - x_hat = (sigma / alpha)(eps_hat - z) and d snr = snr
d lambda. The second is true of exact denoisers alone, whose error is orthogonal to every function
of x. Where classes do not overlap both reach H(c) at the clean end, and on the images of class k
alone -log p(c = k).

For a network the first is still a difference of losses, H(c) plus what the base errs more than the
class, over all levels; the second is the evidence that a tracker of kernels collects on the way. A
network whose first integral misses H(c) gives every tracker a bias that no temperature mends; one
whose two integrals differ is surer, or less sure, than its errors allow.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError
from dng_jax.rules import Denoise, chain_dtype, class_roles, predict
from dng_jax.sampling import as_pytree
from dng_jax.steps import StepTable


class Estimate(NamedTuple):
    """A mean and its 95% interval, nats."""

    value: float
    low: float
    high: float


class Share(NamedTuple):
    """The budget of some images: how many, what it should be (-log of the class's prior, on average
    over them), and what the two integrals are on average, nats."""

    images: int
    due: float
    loss: Estimate
    gap: Estimate

    @property
    def closed(self) -> float:
        """The first integral over what is due; NaN where nothing is."""
        return self.loss.value / self.due if self.due else float("nan")


class Budget(NamedTuple):
    """What an information budget found, for B images on T levels, noisiest first.

    logsnr [T]; loss, gap float64 [B, T]: |z - eps_base|^2 - |z - eps_c|^2 and |eps_base - eps_c|^2
    of each image with its own class, summed over its pixels.
    """

    logsnr: np.ndarray
    loss: np.ndarray
    gap: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[Budget]) -> Budget:
        """One budget of all images of several, which have the same levels."""
        loss, gap = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
        return cls(parts[0].logsnr, loss, gap)

    def shares(self, labels, prior) -> list[Share]:
        """Of all images, and then of each class [K] by itself; prior [K] of the classes."""
        labels = np.asarray(labels)
        with np.errstate(divide="ignore"):  # a class that never comes has no images either
            due = -np.log(np.asarray(prior, np.float64))
        loss, gap = self.by_loss(), self.by_gap()

        def share(which: np.ndarray) -> Share:
            wanted = float(np.mean(due[labels[which]])) if which.any() else float("nan")
            return Share(int(which.sum()), wanted, _estimate(loss[which]), _estimate(gap[which]))

        each = [share(labels == k) for k in range(len(due))]
        return [share(np.full(len(labels), True)), *each]

    def density(self) -> tuple[np.ndarray, np.ndarray]:
        """What both integrals gain per unit of log-SNR on average over images, nats, [T] each."""
        return self.loss.mean(axis=0) / 2, self.gap.mean(axis=0) / 2

    def by_loss(self) -> np.ndarray:
        """The first integral of each image, nats, [B]; their mean estimates I(c; x)."""
        return _half_integral(self.loss, self.logsnr)

    def by_gap(self) -> np.ndarray:
        """The second one, [B]."""
        return _half_integral(self.gap, self.logsnr)


def information_budget(
    denoise: Denoise,
    table: StepTable,
    x_0: jax.Array,
    labels,
    keys: jax.Array,
    *,
    num_classes: int,
) -> Budget:
    """The budget of a denoiser that knows classes on the levels of a table.

    x_0 [B, ...] clean images; labels int [B] in 0..K-1; keys [B] typed; each image is noised anew
    on every level, from its own key. Half precision is taken in float32. The trapezoid rule over
    lambda needs levels close to one another, and nothing is counted outside the table's range:
    choose one at whose last level the class is decided. InputError for images that are no floats,
    labels that are none, and another number of keys.
    """
    x_0, labels = jnp.asarray(x_0), np.asarray(labels)
    if not jnp.issubdtype(x_0.dtype, jnp.floating):
        raise InputError(
            f"x_0 must be floats in [-1, 1], got {x_0.dtype}: see dng_jax.data.to_unit"
        )
    if not len(x_0) or len(keys) != len(x_0):
        raise InputError(
            f"{len(x_0)} images and {len(keys)} keys: give a key per image, at least one"
        )
    x_0 = x_0.astype(chain_dtype(x_0))
    whole = np.issubdtype(labels.dtype, np.integer)
    if not whole or labels.shape != (len(x_0),):
        raise InputError(f"labels must be {len(x_0)} integers, got {labels.dtype} {labels.shape}")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise InputError(f"labels must lie in 0..{num_classes - 1}")
    roles = ("base", *class_roles(num_classes))
    loss, gap = _errors(as_pytree(denoise), table, x_0, jnp.asarray(labels), keys, roles)
    logsnr = np.asarray(table.logsnr, np.float64)
    return Budget(logsnr, np.asarray(loss, np.float64).T, np.asarray(gap, np.float64).T)


@functools.partial(jax.jit, static_argnames=("roles",))
def _errors(denoise, table, x_0, labels, keys, roles):
    rows = jax.tree.map(jnp.asarray, table)

    def level(row):
        def draw(key):
            return jax.random.normal(jax.random.fold_in(key, row.index), x_0.shape[1:], x_0.dtype)

        z = jax.vmap(draw)(keys)
        found = predict(denoise, row.alpha * x_0 + row.sigma * z, row, roles)
        base, *classes = (eps.reshape(len(x_0), -1) for eps in found.values())
        own = jnp.stack(classes, axis=1)[jnp.arange(len(x_0)), labels]
        difference = own - base
        flat = z.reshape(base.shape)
        # |z - base|^2 - |z - own|^2, without the two large numbers.
        return jnp.sum(difference * (2 * flat - base - own), axis=1), jnp.sum(difference**2, axis=1)

    return jax.lax.map(level, rows)


def _estimate(values: np.ndarray) -> Estimate:
    if len(values) < 2:
        return Estimate(float(values[0]) if len(values) else np.nan, -np.inf, np.inf)
    mean, half = float(values.mean()), 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5
    return Estimate(mean, mean - half, mean + half)


def _half_integral(values: np.ndarray, logsnr: np.ndarray) -> np.ndarray:
    return np.trapezoid(values, logsnr, axis=1) / 2
