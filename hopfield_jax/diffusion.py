r"""The bridge to diffusion: a denoiser of finitely many images is a Hopfield update.

    x_t = alpha x_0 + sigma eps,   x_0 one of the patterns x_i (weight w_i), SNR = alpha^2/sigma^2

    E[x_0 | x_t] = sum_i p_i x_i,   p = softmax( log w_i - |x_t - alpha x_i|^2 / (2 sigma^2) )
                 = softmax( beta (x_i.xi - |x_i|^2/2) + log w_i ),   xi = x_t/alpha, beta = SNR

which is the update of the Euclidean energy at xi; for the state x_t itself, beta = alpha/sigma^2
and the logits are biased by -alpha |x_i|^2/2. Patterns of one width s (a Gaussian mixture) only
soften it: with v = alpha^2 s^2 + sigma^2,

    beta = alpha^2 / v,      E[x_0 | x_t] = (sigma^2 / v) update(xi) + (alpha s^2 / v) x_t

Energies of each class c alone (its patterns, P(c) = W_c in all) and of all of them give

    log p(c | x_t) = log W_c - beta (E_c(xi) - E(xi)),
    grad_xi log p(c | x_t) = beta (update_c(xi) - update(xi))

so the guidance of DNG is a difference of two Hopfield updates, weighed by a Boltzmann factor.

Where in SNR things are predicted to happen, N patterns in R^d, W_c = P(c), Sigma = Cov(x_0):

    speciation        SNR lambda_max(Sigma) = 1              (Biroli et al., arXiv 2402.18491)
    of the classes    SNR lambda_max(Sigma_B) = 1, Sigma_B = sum_c W_c (mu_c - mu)(mu_c - mu)^T
    evidence for c    q/2 = log (1 - W_c)/W_c, q = delta^T (Sigma_W + I/SNR)^-1 delta, where delta
                      is the difference of the means of c and of the rest, Sigma_W the pooled
                      covariance about them. For two Gaussians of one covariance, q/2 is the
                      mean log-likelihood ratio of a member of c: its posterior passes 1/2 there.
    window of c       R(q) = (E sigmoid(q/2 + sqrt(q) z + log W_c/(1 - W_c)) - W_c) / (1 - W_c),
                      z ~ N(0, 1): the resolved share (metrics.window) of two such Gaussians, where
                      E p^2 = W_c E[p | c]. From means and covariances alone.
    collapse          beta a = 2 log N, a = mean pair D_ij^2/2   (equidistant patterns)
    of single images  sum_{j != i} exp(-beta D_ij^2/4) = 1     (2 log(N-1) for equidistant
                      ones; the median over i is given)

Evidence, window and the last are derived here; for what was known of such transitions see Raya &
Ambrogioni (arXiv 2305.19693) and Ambrogioni (arXiv 2309.17290). The first four use that p(c|x_t)
moves when the noise no longer hides the means; nothing here knows of a network or of a sampler.
What a sampler's chains do is measured by dng_jax.metrics.window, on what `observer` records.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from dng_jax.errors import InputError
from dng_jax.mixtures import Mixture
from dng_jax.rules import chain_dtype, in_dtype
from hopfield_jax.distances import mean_half_squared, squares
from hopfield_jax.energy import Memory, energy, update


def snr(alpha, sigma, scale=0.0):
    """alpha^2 / (alpha^2 scale^2 + sigma^2): the inverse temperature of the state x_t/alpha.

    scale: standard deviation of every pattern; 0 gives the signal-to-noise ratio itself. Any shapes
    that broadcast: float64 in NumPy, unless one is of JAX.
    """
    levels = (alpha, sigma, scale)
    kinds = [chain_dtype(v) for v in levels if isinstance(v, jax.Array)]
    if kinds:
        dtype = max(kinds, key=lambda dtype: dtype.itemsize)
        alpha, sigma, scale = (jnp.asarray(v, dtype) for v in levels)
    else:
        alpha, sigma, scale = (np.asarray(v, np.float64) for v in levels)
    return alpha**2 / (alpha**2 * scale**2 + sigma**2)


def noise_of(beta, scale=0.0):
    """SNR = alpha^2/sigma^2 at which patterns of this width have inverse temperature beta.

    Infinite where beta exceeds 1/scale^2, which no noise level reaches.
    """
    with np.errstate(divide="ignore"):
        rest = 1 / np.asarray(beta, np.float64) - np.asarray(scale, np.float64) ** 2
        return np.where(rest > 0, 1 / np.maximum(rest, 0), np.inf)[()]


def memory_of(mixture: Mixture, classes=None) -> Memory:
    """The mixture's components as one Euclidean memory, [K M, d]; weights are the mixture's.

    classes: numbers of the classes to keep (default all); their weights are made to sum to 1.
    InputError unless all components have one width, which `snr` and `noise_of` take as `scale`.
    """
    common_scale(mixture)
    index = np.arange(mixture.num_classes) if classes is None else np.asarray(classes, int)
    if index.size == 0 or index.min() < 0 or index.max() >= mixture.num_classes:
        raise InputError(
            f"cannot remember classes {index.tolist()}: choose at least one of"
            f" 0..{mixture.num_classes - 1}"
        )
    mixture = in_dtype(mixture, chain_dtype(mixture.means))
    patterns = mixture.means[index].reshape(-1, mixture.means.shape[2])
    log_weights = mixture.log_weights[index].ravel()
    return Memory(
        patterns,
        -jnp.sum(patterns**2, axis=1) / 2,
        log_weights - jax.nn.logsumexp(log_weights),
        jnp.zeros((), patterns.dtype),
    )


def class_memories(mixture: Mixture) -> Memory:
    """One memory per class, stacked for vmap: patterns [K, M, d]; the weights of each sum to 1."""
    common_scale(mixture)
    mixture = in_dtype(mixture, chain_dtype(mixture.means))
    return Memory(
        mixture.means,
        -jnp.sum(mixture.means**2, axis=2) / 2,
        mixture.log_weights - jax.nn.logsumexp(mixture.log_weights, axis=1, keepdims=True),
        jnp.zeros(mixture.num_classes, mixture.means.dtype),
    )


def common_scale(mixture: Mixture) -> float:
    """The width that all components share; InputError where they differ."""
    present = np.isfinite(np.asarray(mixture.log_weights))
    scales = np.unique(np.asarray(mixture.scales)[present])
    if len(scales) != 1:
        raise InputError(
            f"a memory needs components of one width, these have {scales.min():g} to"
            f" {scales.max():g}: make the mixture with one scale"
        )
    return float(scales[0])


def denoised(mixture: Mixture, x, alpha, sigma) -> jax.Array:
    """E[x_0 | x_t] [B, d] of x [B, d], by one Hopfield update."""
    scale = common_scale(mixture)
    mixture, x, alpha, sigma = mixture.same_dtype(x, alpha, sigma)
    variance = alpha**2 * scale**2 + sigma**2
    retrieved = update(memory_of(mixture), x / alpha, snr(alpha, sigma, scale))
    return (sigma**2 / variance) * retrieved + (alpha * scale**2 / variance) * x


def log_posterior(mixture: Mixture, x, alpha, sigma) -> jax.Array:
    """log p(c | x_t) [B, K] of x [B, d], from the energies of the classes and of all of them."""
    scale = common_scale(mixture)
    mixture, x, alpha, sigma = mixture.same_dtype(x, alpha, sigma)
    beta = snr(alpha, sigma, scale)
    state = x / alpha
    each = jax.vmap(lambda memory: energy(memory, state, beta))(class_memories(mixture))
    free = -beta * (each - energy(memory_of(mixture), state, beta)[None])
    return free.T + jax.nn.logsumexp(mixture.log_weights, axis=1)[None]


# ---- predicted -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Markers:
    """Signal-to-noise ratios (alpha^2/sigma^2) at which something is predicted; inf for never.

    speciation, class_speciation, collapse, image_collapse: as in the file's docstring; evidence:
    for the set of classes asked about, None where none was.
    """

    speciation: float
    class_speciation: float
    evidence: float | None
    collapse: float
    image_collapse: float

    def logsnr(self) -> dict[str, float]:
        """The same as log(alpha^2/sigma^2), by name, without those that are None or infinite."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {k: math.log(v) for k, v in values.items() if v is not None and 0 < v < math.inf}


def markers(mixture: Mixture, classes=None) -> Markers:
    """Predictions for a mixture of one width. classes: the set whose posterior is asked about."""
    means, weights, labels, scale = _flat(mixture)
    centre = weights @ means
    spread = _covariance(means, weights, centre)
    class_means, class_weights = _by_class(means, weights, labels)
    between = _covariance(class_means, class_weights, centre)
    return Markers(
        speciation=1 / (_largest(spread) + scale**2),
        class_speciation=1 / _largest(between) if len(class_means) > 1 else math.inf,
        evidence=None if classes is None else evidence(mixture, classes),
        collapse=float(noise_of(collapse(means), scale)),
        image_collapse=float(noise_of(image_collapse(means), scale)),
    )


def evidence(mixture: Mixture, classes) -> float:
    """SNR where the posterior of a member of these classes is predicted to pass 1/2."""
    share, q = _discriminant(mixture, classes)
    needed = 2 * math.log((1 - share) / share)
    if needed <= 0:
        return 0.0  # the prior alone is above 1/2
    low, high = -40.0, 40.0  # log SNR
    if q(high) < needed:
        return math.inf
    if q(low) >= needed:
        return math.exp(low)
    return math.exp(brentq(lambda logsnr: float(q(logsnr)) - needed, low, high, xtol=1e-14))


def predicted_share(mixture: Mixture, classes, logsnr) -> np.ndarray:
    """R at log SNR [T], in [0, 1]: the share of the label's variance predicted to be resolved."""
    share, q = _discriminant(mixture, classes)
    q = q(np.asarray(logsnr, np.float64))[..., None]
    z = np.linspace(-8, 8, 401)
    normal = np.exp(-(z**2) / 2)
    p = expit(q / 2 + np.sqrt(q) * z + math.log(share / (1 - share)))
    return (p @ (normal / normal.sum()) - share) / (1 - share)


def _discriminant(mixture: Mixture, classes):
    """W_c, and q as a function of log SNR (any shape)."""
    means, weights, labels, scale = _flat(mixture)
    inside = np.isin(labels, classes)
    share = float(weights[inside].sum())
    if not (inside.any() and not inside.all()):
        raise InputError("evidence needs some classes but not all of them: name a proper subset")
    groups = [(means[g], weights[g] / weights[g].sum()) for g in (inside, ~inside)]
    centres = [w @ m for m, w in groups]
    covariances = [_covariance(m, w, c) for (m, w), c in zip(groups, centres, strict=True)]
    within = share * covariances[0] + (1 - share) * covariances[1]
    within += scale**2 * np.eye(len(within))
    values, vectors = np.linalg.eigh(within)
    square = (vectors.T @ (centres[0] - centres[1])) ** 2

    def q(logsnr):
        noise = np.exp(-np.asarray(logsnr))[..., None]
        return np.sum(square / (np.maximum(values, 0) + noise), axis=-1)

    return share, q


def collapse(patterns) -> float:
    """beta at which beta a = 2 log N, a the mean half squared distance of pairs of patterns."""
    return 2 * math.log(len(patterns)) / mean_half_squared(patterns)


def image_collapse(patterns, most: int = 400) -> float:
    """Median over images of the beta at which sum_{j != i} exp(-beta D_ij^2/4) = 1.

    Taken over at most `most` images, evenly spaced in the order given.
    """
    n = len(patterns)
    chosen = np.unique(np.linspace(0, n - 1, min(n, most)).astype(int))

    def separates(square: np.ndarray) -> float:
        # Between 0, where the sum is N-1, and a beta at which even N-1 nearest ones give less.
        others = square[np.isfinite(square)] / 4
        high = math.log(n) / max(others.min(), 1e-300)
        return float(brentq(lambda b: np.exp(-b * others).sum() - 1, 0, high, xtol=1e-14 * high))

    return float(np.median([separates(row) for part in squares(patterns, chosen) for row in part]))


def _flat(mixture: Mixture):
    """means [N, d], weights [N] summing to 1, class of each [N], the common width; float64."""
    scale = common_scale(mixture)
    log_weights = np.asarray(mixture.log_weights, np.float64)
    present = np.isfinite(log_weights)
    means = np.asarray(mixture.means, np.float64)[present]
    weights = np.exp(log_weights[present])
    return means, weights / weights.sum(), np.nonzero(present)[0], scale


def _by_class(means, weights, labels):
    shares = np.array([weights[labels == c].sum() for c in np.unique(labels)])
    centres = [weights[labels == c] @ means[labels == c] for c in np.unique(labels)]
    return np.array(centres) / shares[:, None], shares


def _covariance(points, weights, centre) -> np.ndarray:
    return (points - centre).T @ (weights[:, None] * (points - centre))


def _largest(covariance: np.ndarray) -> float:
    return float(np.linalg.eigvalsh(covariance)[-1])


# ---- measured ------------------------------------------------------------------------------------


def prior_of(mixture: Mixture, classes) -> float:
    """P(c), c the set of classes named."""
    return float(np.asarray(mixture.prior, np.float64)[np.asarray(classes, int)].sum())


def ends_in(mixture: Mixture, x, classes) -> np.ndarray:
    """Whether the most probable class of samples x [B, ...], free of noise, is among these, [B]."""
    nearest = np.asarray(mixture.log_posterior(x, 1.0, 0.0)).argmax(axis=1)
    return np.isin(nearest, np.asarray(classes, int))


def observer(mixture: Mixture, classes):
    """For `dng_jax.sample(observe=...)`: at every step, exact values of B chains at x_t.

    "exact": p(c | x_t), [B]; "gap": |eps_c - eps_base|, [B], c the set of classes named.
    """
    index = np.asarray(classes, int)

    def observe(state, step):
        eps, log_p = mixture.class_eps(step.x, step.row.alpha, step.row.sigma)
        flat = eps.reshape(*eps.shape[:2], -1)
        inside = log_p[:, index]

        def mean(log_weights, values):
            p = jax.nn.softmax(log_weights, axis=1)
            return jnp.einsum("bk,bkd->bd", p, values, precision="highest")

        gap = mean(inside, flat[:, index]) - mean(log_p, flat)
        return {"exact": jnp.exp(inside).sum(axis=1), "gap": jnp.linalg.norm(gap, axis=1)}

    return observe
