r"""The exactly solvable model: a Gaussian mixture (or a finite set of patterns) under noise.

    x_0 | component m of class k ~ N(mu_km, s_km^2 I),  weight w_km;   s = 0 is empirical data
    x_t = alpha x_0 + sigma eps,     v_km = alpha^2 s_km^2 + sigma^2

    l_km(x)   = log w_km - |x - alpha mu_km|^2 / (2 v_km) - (d/2) log v_km
    p(k | x)  = exp(lse_m l_km - lse_all l)                          class posterior
    eps_k(x)  = sum_m r_km (sigma / v_km)(x - alpha mu_km),   r = softmax_m l_k
    score_k   = -eps_k / sigma,      E[x_0 | x, k] = (x - sigma eps_k) / alpha

Identities that tie them together (tested): score = sum_k p(k|x) score_k, and
grad log p(k|x) = score_k - score. With s = 0 the denoiser is the update of a modern Hopfield
network at inverse temperature alpha / sigma^2.

Components are stored per class, padded to the largest class: means [K, M, d], so that all class
denoisers come out of two batched matrix products. All arithmetic is float32 at highest precision,
float64 where the mixture or x is (JAX's x64 mode).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError, find
from dng_jax.rules import chain_dtype, class_roles, in_dtype
from dng_jax.steps import StepRow


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mixture:
    """Gaussian mixture with classes. Make it with `gaussians` or `patterns`.

    means [K, M, d]; log_weights [K, M], -inf where padded, normalised over all components;
    scales [K, M], standard deviation of each component, >= 0.
    Images of any shape [B, ...] with prod(...) = d are accepted and returned.
    """

    means: jax.Array
    log_weights: jax.Array
    scales: jax.Array

    @property
    def num_classes(self) -> int:
        return self.means.shape[0]

    @property
    def prior(self) -> jax.Array:
        """Class probabilities, [K]."""
        return jnp.exp(jax.nn.logsumexp(self.log_weights, axis=1))

    def log_class_joint(self, x, alpha, sigma) -> jax.Array:
        """log p(k, x_t) for every class, [B, K]; a proper density in x."""
        logits, common = self._logits(x, alpha, sigma)
        return jax.nn.logsumexp(logits, axis=2).T + common[:, None]

    def log_density(self, x, alpha, sigma) -> jax.Array:
        """log p_t(x), [B]."""
        return jax.nn.logsumexp(self.log_class_joint(x, alpha, sigma), axis=1)

    def log_posterior(self, x, alpha, sigma) -> jax.Array:
        """log p(k | x_t), [B, K]."""
        logits, _ = self._logits(x, alpha, sigma)
        return jax.nn.log_softmax(jax.nn.logsumexp(logits, axis=2).T, axis=1)

    def class_eps(self, x, alpha, sigma) -> tuple[jax.Array, jax.Array]:
        """eps_k for every class [B, K, ...] and log p(k | x_t) [B, K], from one pass."""
        self, x, alpha, sigma = self.same_dtype(x, alpha, sigma)
        logits, _ = self._logits(x, alpha, sigma)
        log_posterior = jax.nn.log_softmax(jax.nn.logsumexp(logits, axis=2).T, axis=1)
        r = jax.nn.softmax(logits, axis=2) * (sigma / self._variance(alpha, sigma))[:, None, :]
        flat = x.reshape(x.shape[0], -1)
        pull = jnp.einsum("kbm,kmd->bkd", r, self.means, precision="highest")
        eps = r.sum(axis=2).T[:, :, None] * flat[:, None, :] - alpha * pull
        return eps.reshape(x.shape[0], self.num_classes, *x.shape[1:]), log_posterior

    def restrict(self, classes: Sequence[int]) -> Mixture:
        """The mixture of the named classes alone, weights renormalised."""
        index = _members("a restricted mixture", classes, self.num_classes)
        log_weights = self.log_weights[index]
        return Mixture(
            self.means[index], log_weights - jax.nn.logsumexp(log_weights), self.scales[index]
        )

    def draw(self, keys, shape: Sequence[int] = ()) -> tuple[jax.Array, jax.Array]:
        """One clean sample per key: x_0 [B, *shape] (default [B, d]) and class int32 [B]."""
        count = self.log_weights.shape[1]

        def one(key):
            which, noise = jax.random.split(key)
            i = jax.random.categorical(which, self.log_weights.ravel())
            mean, scale = self.means[i // count, i % count], self.scales[i // count, i % count]
            z = jax.random.normal(noise, mean.shape, mean.dtype)
            return mean + scale * z, (i // count).astype(jnp.int32)

        x, k = jax.vmap(one)(keys)
        return x.reshape(len(x), *(shape or x.shape[1:])), k

    def same_dtype(self, x, alpha, sigma) -> tuple[Mixture, jax.Array, jax.Array, jax.Array]:
        """The mixture and an image, with its level, in float32, or float64 where either is."""
        x = jnp.asarray(x)
        dtype = max(chain_dtype(self.means), chain_dtype(x), key=lambda dtype: dtype.itemsize)
        x, alpha, sigma = (jnp.asarray(a, dtype) for a in (x, alpha, sigma))
        return in_dtype(self, dtype), x, alpha, sigma

    def _variance(self, alpha, sigma):
        return alpha**2 * self.scales**2 + sigma**2

    def _logits(self, x, alpha, sigma):
        # l_km [K, B, M] less a part common to all components, [B]. |x|^2 enters only through the
        # differences of 1/v, which vanish for equal scales: at low noise the terms it would
        # otherwise cancel against cost all digits of float32.
        self, x, alpha, sigma = self.same_dtype(x, alpha, sigma)
        flat = x.reshape(x.shape[0], -1)
        d = flat.shape[1]
        if d != self.means.shape[2]:
            raise InputError(
                f"the mixture lives in {self.means.shape[2]} dimensions, an image of x has {d}"
            )
        v = self._variance(alpha, sigma)
        v_ref = jnp.max(v)
        inner = jnp.einsum("bd,kmd->kbm", flat, self.means, precision="highest")
        square = jnp.sum(self.means**2, axis=2)
        norm = jnp.sum(flat**2, axis=1)
        bias = self.log_weights - alpha**2 * square / (2 * v) - d / 2 * jnp.log(v / v_ref)
        excess = (1 / v_ref - 1 / v)[:, None, :] * norm[None, :, None] / 2
        common = -norm / (2 * v_ref) - d / 2 * jnp.log(2 * jnp.pi * v_ref)
        return alpha * inner / v[:, None, :] + bias[:, None, :] + excess, common


def gaussians(means, scales, classes=None, weights=None, dtype=jnp.float32) -> Mixture:
    """A mixture of N isotropic Gaussians.

    means [N, ...] (flattened to d); scales a number or [N], >= 0; classes [N] int from 0 without
    gaps, default one class per component; weights [N] > 0, default equal, normalised here.
    """
    means = np.asarray(means, np.float64).reshape(len(means), -1)
    n = len(means)
    classes = np.arange(n) if classes is None else np.asarray(classes, int)
    weights = np.ones(n) if weights is None else np.asarray(weights, np.float64)
    for name, value in (("classes", classes), ("weights", weights)):
        if value.shape != (n,):
            raise InputError(f"a mixture of {n} components got {value.size} {name}")
    scales = np.broadcast_to(np.asarray(scales, np.float64), (n,))
    if not np.isfinite(means).all():
        raise InputError("the means of a mixture must be finite numbers")
    if not ((scales >= 0).all() and (weights > 0).all()):
        raise InputError("a mixture needs scales >= 0 and weights > 0")
    present = np.unique(classes)
    if not np.array_equal(present, np.arange(len(present))):
        raise InputError(f"classes must be numbered 0, 1, ... without gaps, got {present.tolist()}")
    members = [np.flatnonzero(classes == k) for k in present]
    width = max(map(len, members))
    shape = (len(present), width)
    out_means, out_scales = np.zeros((*shape, means.shape[1])), np.ones(shape)
    log_weights = np.full(shape, -np.inf)
    for k, index in enumerate(members):
        out_means[k, : len(index)] = means[index]
        out_scales[k] = scales[index[0]]
        out_scales[k, : len(index)] = scales[index]
        log_weights[k, : len(index)] = np.log(weights[index] / weights.sum())
    return Mixture(
        jnp.asarray(out_means, dtype),
        jnp.asarray(log_weights, dtype),
        jnp.asarray(out_scales, dtype),
    )


def patterns(images, labels, scale: float = 0.15, dtype=jnp.float32) -> Mixture:
    """Data as a mixture: one component per image [N, ...], class labels [N], equal weights."""
    return gaussians(images, scale, classes=labels, dtype=dtype)


def _members(who: str, classes: Iterable[int], num_classes: int) -> np.ndarray:
    given = np.asarray(list(classes))
    if given.size and not np.issubdtype(given.dtype, np.integer):
        raise InputError(f"{who} names classes {given.tolist()}: give whole numbers")
    index = np.unique(given.astype(int))
    if index.size == 0 or index[0] < 0 or index[-1] >= num_classes:
        raise InputError(
            f"{who} names classes {index.tolist()}: choose at least one class of"
            f" 0..{num_classes - 1}"
        )
    return index


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MixtureDenoiser:
    """The exact denoiser of a mixture, for any set of roles.

    conditions: role -> [K] mask of the classes it stands for (all ones: the base model). The
    prediction is eps of the mixture restricted to those classes, at the true class weights.
    """

    mixture: Mixture
    conditions: dict[str, jax.Array]

    def __call__(self, x, row: StepRow, roles: Sequence[str]) -> dict[str, jax.Array]:
        eps, log_posterior = self.mixture.class_eps(x, row.alpha, row.sigma)
        flat = eps.reshape(*eps.shape[:2], math.prod(eps.shape[2:]))
        out = {}
        for role in roles:
            weights = jax.nn.softmax(
                jnp.where(find(self.conditions, role)[None] > 0, log_posterior, -jnp.inf), axis=1
            )
            mean = jnp.einsum("bk,bkd->bd", weights, flat, precision="highest")
            out[role] = mean.reshape(x.shape)
        return out

    def with_conditions(self, conditions: Mapping[str, int | Sequence[int]]) -> MixtureDenoiser:
        """The same mixture with other classes, one or several, behind some roles."""
        k = self.mixture.num_classes
        return dataclasses.replace(self, conditions=self.conditions | _masks(conditions, k))


def mixture_denoiser(
    mixture: Mixture, conditions: Mapping[str, int | Sequence[int]] | None = None
) -> MixtureDenoiser:
    """Exact denoiser. Roles "base" and "class:0".."class:K-1" always; others as {role: class}, or
    {role: classes}."""
    k = mixture.num_classes
    sets: dict[str, int | Sequence[int]] = {"base": range(k)}
    sets |= {role: i for i, role in enumerate(class_roles(k))}
    return MixtureDenoiser(mixture, _masks(sets | dict(conditions or {}), k))


def _masks(sets: Mapping[str, int | Sequence[int]], num_classes: int) -> dict[str, jax.Array]:
    masks = {}
    for role, classes in sets.items():
        mask = np.zeros(num_classes, np.float32)
        mask[_members(f"role '{role}'", np.atleast_1d(classes), num_classes)] = 1
        masks[role] = jnp.asarray(mask)
    return masks
