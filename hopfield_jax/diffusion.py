r"""The bridge to diffusion: a denoiser of finitely many images is a Hopfield update.

    x_t = alpha x_0 + sigma eps,   x_0 one of the patterns x_i (weight w_i), SNR = alpha^2/sigma^2

    E[x_0 | x_t] = sum_i p_i x_i,   p = softmax( log w_i - |x_t - alpha x_i|^2 / (2 sigma^2) )
                 = softmax( beta (x_i.xi - |x_i|^2/2) + log w_i ),   xi = x_t/alpha, beta = SNR

which is the update of the Euclidean energy at xi; for the state x_t itself, beta = alpha/sigma^2.
Patterns of one width s (a Gaussian mixture) only soften it: with v = alpha^2 s^2 + sigma^2,

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
                      z ~ N(0, 1): the resolved share below for two such Gaussians, where
                      E p^2 = W_c E[p | c]. From means and covariances alone.
    collapse          beta a = 2 log N, a = mean pair D_ij^2/2   (equidistant patterns)
    of single images  sum_{j != i} exp(-beta D_ij^2/4) = 1     (2 log(N-1) for equidistant
                      ones; the median over i is given)

hopfield.md section 5; evidence, window and the last are ours. The first four use that p(c|x_t)
moves when the noise no longer hides the means; nothing here knows of a network or of a sampler.

Measured, on T steps and B chains of a sampler, w = P(c), p = p(c | x_t):

    resolved share     R_t = mean p over chains that end in c - mean p over the others
    guidance           G_t = mean_b  sum_{s <= t} lambda_s |eps_c - eps_base| / (that at the end)

R_t is 0 while nothing is known and 1 when every chain has decided (Yates's discrimination slope).
Along exact unguided chains p is calibrated, and R_t = Var p / (w (1 - w)), the share of the label's
variance that x_t explains; in this form it does not depend on how many chains happened to end in c.
A window is where such a curve passes 10, 50 and 90%.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from dng_jax.errors import InputError
from dng_jax.mixtures import Mixture
from hopfield_jax.distances import mean_half_squared, squares
from hopfield_jax.energy import Memory, energy, update

LEVELS = (0.1, 0.5, 0.9)


def snr(alpha, sigma, scale=0.0):
    """alpha^2 / (alpha^2 scale^2 + sigma^2): the inverse temperature of the state x_t/alpha.

    scale: standard deviation of every pattern; 0 gives the signal-to-noise ratio itself.
    """
    return alpha**2 / (alpha**2 * scale**2 + sigma**2)


def inverse_temperature(alpha, sigma):
    """alpha / sigma^2: that of the state x_t, whose logits are then biased by -alpha |x_i|^2/2."""
    return alpha / sigma**2


def noise_of(beta, scale=0.0):
    """SNR = alpha^2/sigma^2 at which patterns of this width have inverse temperature beta.

    Infinite where beta exceeds 1/scale^2, which no noise level reaches.
    """
    rest = 1 / np.asarray(beta, np.float64) - np.asarray(scale, np.float64) ** 2
    with np.errstate(divide="ignore"):
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
    patterns = mixture.means[index].reshape(-1, mixture.means.shape[2])
    log_weights = mixture.log_weights[index].ravel()
    return Memory(
        patterns,
        -jnp.sum(patterns**2, axis=1) / 2,
        log_weights - jax.nn.logsumexp(log_weights),
        jnp.zeros((), patterns.dtype),
    )


def class_memories(mixture: Mixture) -> Memory:
    """One memory a class, stacked for vmap: patterns [K, M, d]; the weights of each sum to 1."""
    common_scale(mixture)
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
    variance = alpha**2 * scale**2 + sigma**2
    retrieved = update(memory_of(mixture), x / alpha, snr(alpha, sigma, scale))
    return (sigma**2 / variance) * retrieved + (alpha * scale**2 / variance) * x


def log_posterior(mixture: Mixture, x, alpha, sigma) -> jax.Array:
    """log p(c | x_t) [B, K] of x [B, d], from the energies of the classes and of all of them."""
    beta = snr(alpha, sigma, common_scale(mixture))
    state = x / alpha
    each = jax.vmap(lambda memory: energy(memory, state, beta))(class_memories(mixture))
    free = -beta * (each - energy(memory_of(mixture), state, beta))
    return free.T + jax.nn.logsumexp(mixture.log_weights, axis=1)


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
    return _increasing_root(lambda logsnr: float(q(logsnr)) - needed)


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
    found = []
    for square in squares(patterns, chosen):
        # Between 0, where the sum is N-1, and a beta at which even N-1 nearest ones give less.
        low = np.zeros(len(square))
        high = 4 * math.log(max(n - 1, 2)) / np.maximum(square.min(axis=1), 1e-300)
        for _ in range(40):
            middle = (low + high) / 2
            above = np.exp(-middle[:, None] * square / 4).sum(axis=1) > 1
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        found.append(high)
    return float(np.median(np.concatenate(found)))


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


def _increasing_root(f, low: float = -40.0, high: float = 40.0) -> float:
    """exp of the root of an increasing function of the logarithm; inf where it stays below 0."""
    if f(high) < 0:
        return math.inf
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if f(middle) < 0 else (low, middle)
    return math.exp((low + high) / 2)


# ---- measured ------------------------------------------------------------------------------------


class Window(NamedTuple):
    """log SNR where a curve that rises from 0 to 1 passes 10, 50 and 90%; NaN where it does not."""

    opens: float
    middle: float
    closes: float


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


def resolved(posterior, member) -> np.ndarray:
    """R_t [T] from p [T, B] and whether each chain ends in c, bool [B]; some must, and some not."""
    posterior, member = np.asarray(posterior, np.float64), np.asarray(member, bool)
    if posterior.ndim != 2 or member.shape != posterior.shape[1:]:
        raise InputError(
            f"resolved needs a posterior [T, B] and a mark for each chain [B], got"
            f" {list(posterior.shape)} and {list(member.shape)}"
        )
    if member.all() or not member.any():
        raise InputError(
            f"{member.sum()} of {member.size} chains end in the class: take more samples, so that"
            " there are some of both kinds"
        )
    return posterior[:, member].mean(axis=1) - posterior[:, ~member].mean(axis=1)


def accumulated(push) -> np.ndarray:
    """Share [T] of the whole guidance applied up to each step, from push >= 0 [T, B]."""
    push = np.asarray(push, np.float64)
    if push.ndim != 2 or push.size == 0 or not np.isfinite(push).all() or (push < 0).any():
        raise InputError(f"accumulated needs finite push >= 0 [T, B], got {list(push.shape)}")
    total = np.cumsum(push.mean(axis=1))
    if total[-1] == 0:
        raise InputError("no guidance was applied at any step: there is no window to measure")
    return total / total[-1]


def crossing(logsnr, curve, level: float) -> float:
    """log SNR where a curve [T] first reaches the level, linear in between; NaN where never."""
    logsnr, curve = np.asarray(logsnr, np.float64), np.asarray(curve, np.float64)
    if logsnr.shape != curve.shape or curve.ndim != 1:
        raise InputError(
            f"crossing needs logsnr and a curve of one length, got {list(logsnr.shape)} and"
            f" {list(curve.shape)}"
        )
    above = np.flatnonzero(curve >= level)
    if above.size == 0:
        return math.nan
    t = above[0]
    if t == 0:
        return float(logsnr[0])
    part = (level - curve[t - 1]) / (curve[t] - curve[t - 1])
    return float(logsnr[t - 1] + part * (logsnr[t] - logsnr[t - 1]))


def window_of(logsnr, curve) -> Window:
    """Where a curve [T] from about 0 to 1 passes 10, 50 and 90%, in log SNR [T], noise first."""
    return Window(*(crossing(logsnr, curve, level) for level in LEVELS))


def prior_of(mixture: Mixture, classes) -> float:
    """P(c), c the set of classes named."""
    return float(np.asarray(mixture.prior, np.float64)[np.asarray(classes, int)].sum())


def ends_in(mixture: Mixture, x, classes) -> np.ndarray:
    """Whether the most probable class of samples x [B, ...], free of noise, is among these, [B]."""
    nearest = np.asarray(mixture.log_posterior(x, 1.0, 0.0)).argmax(axis=1)
    return np.isin(nearest, np.asarray(classes, int))


def push(scale, gap) -> np.ndarray:
    """lambda_t |eps_c - eps_base| [T, B], the guidance that `accumulated` sums."""
    return np.asarray(scale, np.float64) * np.asarray(gap, np.float64)


def scale_doubles(logsnr, scale, prior: float, quantile: float = 0.9) -> float:
    """log SNR where this quantile of lambda_t [T, B] first reaches twice w/(1-w); NaN where never.

    w/(1-w), w the prior, is DNG's scale (lambda_0 = 1) while nothing is known.
    """
    high = np.quantile(np.asarray(scale, np.float64), quantile, axis=1)
    return crossing(logsnr, high * (1 - prior) / prior, 2.0)


class TrackingError(NamedTuple):
    """Mean of |tracked - exact| posterior over chains: over all steps, and at the last."""

    chain: float
    final: float


def tracking_error(tracked, exact) -> TrackingError:
    """Of posteriors tracked and exact, both [T, B]."""
    gap = np.abs(np.asarray(tracked, np.float64) - np.asarray(exact, np.float64))
    return TrackingError(float(gap.mean()), float(gap[-1].mean()))
