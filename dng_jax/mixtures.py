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

Of many components so many are taken at a time, of every class as many (`Mixture.block`), and the
sums of a class are carried on with a running reference c = max l so far:

    mass_k = sum_m e^{l_km - c},   lse_m l_km = c + log mass_k,   r_km = e^{l_km - c} / mass_k

which is the same to rounding. Beside the means, 4 K M d bytes, and a copy of one block of them, a
batch then needs 4 B block K bytes for its logits in the place of 4 B M K, and 4 B K d for eps_k.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError, find
from dng_jax.rules import chain_dtype, class_roles, in_dtype, static
from dng_jax.steps import StepRow

# Standard deviation of a pattern's Gaussian in every pixel, the same in every dimension d: where a
# component's own width counts (alpha s = sigma) is then the same level of every data set.
PATTERN_SCALE = 0.15
BLOCK = 4096  # components taken at a time where there are many


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mixture:
    """Gaussian mixture with classes. Make it with `gaussians` or `patterns`.

    means [K, M, d]; log_weights [K, M], -inf where padded, normalised over all components;
    scales [K, M], standard deviation of each component, >= 0. block: how many components of each
    class are taken at a time, a divisor of M; None for all at once.
    Images of any shape [B, ...] with prod(...) = d are accepted and returned.
    """

    means: jax.Array
    log_weights: jax.Array
    scales: jax.Array
    block: int | None = static(default=None)

    @property
    def num_classes(self) -> int:
        return self.means.shape[0]

    @property
    def prior(self) -> jax.Array:
        """Class probabilities, [K]."""
        return jnp.exp(jax.nn.logsumexp(self.log_weights, axis=1))

    def log_class_joint(self, x, alpha, sigma) -> jax.Array:
        """log p(k, x_t) for every class, [B, K]; a proper density in x."""
        log_mass, common = self._log_mass(x, alpha, sigma)
        return log_mass.T + common[:, None]

    def log_density(self, x, alpha, sigma) -> jax.Array:
        """log p_t(x), [B]."""
        return jax.nn.logsumexp(self.log_class_joint(x, alpha, sigma), axis=1)

    def log_posterior(self, x, alpha, sigma) -> jax.Array:
        """log p(k | x_t), [B, K]."""
        log_mass, _ = self._log_mass(x, alpha, sigma)
        return jax.nn.log_softmax(log_mass.T, axis=1)

    def class_eps(self, x, alpha, sigma) -> tuple[jax.Array, jax.Array]:
        """eps_k for every class [B, K, ...] and log p(k | x_t) [B, K], from one pass."""
        self, x, alpha, sigma = self.same_dtype(x, alpha, sigma)
        level = self._level(x, alpha, sigma)
        steepness = sigma / level.variance
        if self.block is None:
            logits = _logits(self.means, level)
            log_mass = jax.nn.logsumexp(logits, axis=2)
            r = jax.nn.softmax(logits, axis=2) * steepness[:, None, :]
            weight = r.sum(axis=2)
            pull = jnp.einsum("kbm,kmd->bkd", r, self.means, precision="highest")
        else:
            log_mass, (weight, pull) = self._sums(level, self.block, steepness)
        eps = weight.T[:, :, None] * level.flat[:, None, :] - alpha * pull
        log_posterior = jax.nn.log_softmax(log_mass.T, axis=1)
        return eps.reshape(x.shape[0], self.num_classes, *x.shape[1:]), log_posterior

    def restrict(self, classes: Sequence[int]) -> Mixture:
        """The mixture of the named classes alone, weights renormalised."""
        index = _members("a restricted mixture", classes, self.num_classes)
        log_weights = self.log_weights[index]
        return Mixture(
            self.means[index],
            log_weights - jax.nn.logsumexp(log_weights),
            self.scales[index],
            self.block,
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

    def _level(self, x, alpha, sigma) -> _Level:
        # |x|^2 enters only through the differences of 1/v, which vanish for equal scales: at low
        # noise the terms it would otherwise cancel against cost all digits of float32.
        flat = x.reshape(x.shape[0], -1)
        d = flat.shape[1]
        if d != self.means.shape[2]:
            raise InputError(
                f"the mixture lives in {self.means.shape[2]} dimensions, an image of x has {d}"
            )
        v = alpha**2 * self.scales**2 + sigma**2
        v_ref = jnp.max(v)
        square = jnp.sum(self.means**2, axis=2)
        norm = jnp.sum(flat**2, axis=1)
        bias = self.log_weights - alpha**2 * square / (2 * v) - d / 2 * jnp.log(v / v_ref)
        common = -norm / (2 * v_ref) - d / 2 * jnp.log(2 * jnp.pi * v_ref)
        return _Level(flat, alpha, v, v_ref, bias, norm, common)

    def _log_mass(self, x, alpha, sigma):
        # lse_m l_km [K, B] less a part common to all components, [B]
        self, x, alpha, sigma = self.same_dtype(x, alpha, sigma)
        level = self._level(x, alpha, sigma)
        if self.block is None:
            return jax.nn.logsumexp(_logits(self.means, level), axis=2), level.common
        return self._sums(level, self.block)[0], level.common

    def _sums(self, level: _Level, block: int, steepness=None) -> tuple[jax.Array, list[jax.Array]]:
        # Block by block: lse_m l_km [K, B]; and, given y [K, M], sum_m r_km y_km [K, B] and
        # sum_m r_km y_km mu_km [B, K, d].
        flat = level.flat
        lowest = jnp.finfo(flat.dtype).min

        def add(carry, start):
            def part(a):
                return jax.lax.dynamic_slice_in_dim(a, start, block, axis=1)

            means = part(self.means)
            some = level._replace(variance=part(level.variance), bias=part(level.bias))
            logits = _logits(means, some)
            peak, mass, sums = carry
            highest = jnp.maximum(peak, jax.lax.stop_gradient(jnp.max(logits, axis=2)))
            shrink = jnp.exp(peak - highest)
            e = jnp.exp(logits - highest[:, :, None])
            mass = mass * shrink + e.sum(axis=2)
            if steepness is not None:
                e = e * part(steepness)[:, None, :]
                weight, pull = sums
                gain = jnp.einsum("kbm,kmd->bkd", e, means, precision="highest")
                sums = [weight * shrink + e.sum(axis=2), pull * shrink.T[:, :, None] + gain]
            return (highest, mass, sums), None

        # every carry is made from x, so that vmap and explicit sharding see its axes
        zero = jnp.broadcast_to(level.norm * 0, (self.num_classes, len(flat)))
        none = [] if steepness is None else [zero, zero.T[:, :, None] + flat[:, None, :] * 0]
        starts = jnp.arange(0, self.means.shape[1], block)
        (peak, mass, sums), _ = jax.lax.scan(add, (zero + lowest, zero, none), starts)
        if sums:
            sums = [sums[0] / mass, sums[1] / mass.T[:, :, None]]
        return peak + jnp.log(mass), sums


class _Level(NamedTuple):
    # x as rows [B, d] at one noise level, and what logits are made of there: v and bias [K, M],
    # the largest v, |x|^2 [B], and the part of the log density that all components share [B]
    flat: jax.Array
    alpha: jax.Array
    variance: jax.Array
    largest: jax.Array
    bias: jax.Array
    norm: jax.Array
    common: jax.Array


def _logits(means, level: _Level) -> jax.Array:
    # l_km [K, B, M] of those means less the common part
    v = level.variance
    inner = jnp.einsum("bd,kmd->kbm", level.flat, means, precision="highest")
    excess = (1 / level.largest - 1 / v)[:, None, :] * level.norm[None, :, None] / 2
    return level.alpha * inner / v[:, None, :] + level.bias[:, None, :] + excess


def gaussians(
    means, scales, classes=None, weights=None, dtype=jnp.float32, block: int | None = None
) -> Mixture:
    """A mixture of N isotropic Gaussians.

    means [N, ...] (flattened to d); scales a number or [N], >= 0; classes [N] int from 0 without
    gaps, default one class per component; weights [N] > 0, default equal, normalised here. block:
    about how many components of all classes together to take at a time, at least 1; default all up
    to 8192, else 4096.
    """
    n = len(means)
    means = np.asarray(means).reshape(n, -1)
    if means.dtype != np.float32:  # which is kept: of large sets a double is a gigabyte
        means = means.astype(np.float64)
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
    width, block = _blocks(len(members), max(map(len, members)), block)
    shape = (len(present), width)
    out_means = np.zeros((*shape, means.shape[1]), means.dtype)
    out_scales = np.ones(shape)
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
        block,
    )


def patterns(
    images, labels, scale: float = PATTERN_SCALE, dtype=jnp.float32, block: int | None = None
) -> Mixture:
    """Data as a mixture: one component per image [N, ...], class labels [N], equal weights.

    block: as in `gaussians`.
    """
    return gaussians(images, scale, classes=labels, dtype=dtype, block=block)


def bytes_of_means(labels: np.ndarray, dimension: int) -> int:
    """Memory for the means of `patterns`, on their way and where they stay: every class is padded
    to the largest. labels int [N], without gaps."""
    members = np.bincount(labels)
    return 2 * 4 * len(members) * int(members.max()) * dimension


def _blocks(num_classes: int, widest: int, block: int | None) -> tuple[int, int | None]:
    # M, padded to whole blocks, and the components of each class in one; as even as they can be
    if block is not None and block < 1:
        raise InputError(f"a mixture takes at least 1 component at a time, got block = {block}")
    total = num_classes * widest
    if block is None:
        block = BLOCK if total > 2 * BLOCK else total
    if total <= block:
        return widest, None
    size = -(-widest // -(-total // block))
    return size * -(-widest // size), size


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
