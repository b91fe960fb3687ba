r"""Shares of classes among generated images: how much leaks, and how even the rest is.

Symbols: n_k counts of the K classes, n = sum_k n_k, A the set of m allowed classes,
n_A = sum_{A} n_k; q the target over A (uniform, or given), g the generator's true shares,
h_k = g_k / sum_A g its shares among the allowed classes. Divergences are in nats.

Interval of a share (Wilson 1927), z the normal quantile, p = k/n:

    [ p + z^2/2n -+ z sqrt( p(1-p)/n + z^2/4n^2 ) ] / (1 + z^2/n)

Three divergences, each 0 for a perfect generator:

    forward       KL(q || g) = sum_A q_k log(q_k / g_k)    leaking costs: a balanced 10-class
                                                           generator scores ln(10/9) = .1054
    renormalised  KL(q || h)                               evenness of what is allowed
    reversed      KL(h || q)                               the same, seen from the generator

Estimates: forward from (n_k + a)/(n + aK), renormalised from (n_k + a)/(n_A + am), with a = 1/2
(Jeffreys), since an empty class would make them infinite; reversed from n_k/n_A as it is, since
0 log 0 = 0.

Bias to first order: with ghat_k = (n_k + a)/(n + aK), E[ghat_k] - g_k = a(1 - K g_k)/n and
Var[ghat_k] = g_k(1 - g_k)/n, so that

    E[-log ghat_k] + log g_k  =  -(a - a K g_k)/(n g_k) + (1 - g_k)/(2 n g_k)
    bias = sum_k q_k (...)    =  [ (1/2 - a) sum_A q_k/g_k + aK - 1/2 ] / n

At a = 1/2 the unknown g drops out, whatever q is (the reason for this constant):

    forward (K-1)/(2n)        renormalised (m-1)/(2 n_A)        reversed (m-1)/(2 n_A)

the last being Miller & Madow's (1955) term of the plug-in entropy. `corrected` = raw - bias; it
may fall below 0, because an unbiased estimate of a number near 0 has to. First order is good
where every allowed class has several samples; `sparse` says that one has fewer than 5.

Intervals: parametric bootstrap. Counts are redrawn from the smoothed shares, and the spread of
the redrawn estimates about the divergence of those shares is laid around `corrected`; like it, an
end may fall below 0. Of sparse counts this is the interval of the reversed form alone, which has no
logarithm of a rare class; for the other two it misses the truth (ten classes, 16 samples: covering
0 to 35%, and 0 to 60% at any n where a class is rare). Theirs is then that of
dng_jax.metrics.inversion, which covers (93 to 99% at n = 16 to 1024), and has no upper end,
infinity, where an allowed class has no sample at all. Every interval holds its own estimate.
Seeded, so a report repeats to the last digit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from dng_jax.errors import InputError, choose
from dng_jax.metrics.inversion import kl_interval

SMOOTHING = 0.5
SPARSE = 5  # samples in a class below which first order says little
FORMS = ("forward", "renormalised", "reversed")
Form = Literal["forward", "renormalised", "reversed"]


@dataclass(frozen=True)
class Share:
    """count of total, its share in [0, 1], and the Wilson interval (low, high) of that share."""

    value: float
    low: float
    high: float
    count: int
    total: int


@dataclass(frozen=True)
class Divergence:
    """A divergence in nats: as counted, less its first-order bias, and an interval of the latter.

    sparse: an allowed class has fewer than 5 samples, so the correction is not to be relied on, and
    the interval is another, wide one: high is infinite where an allowed class has none.
    All four numbers are NaN where no sample at all fell into an allowed class (not `forward`).
    """

    raw: float
    corrected: float
    low: float
    high: float
    bias: float
    sparse: bool


@dataclass(frozen=True)
class ClassReport:
    """What the counts [K] of one run say: leak, and the three divergences from the target."""

    samples: int
    leak: Share
    forward: Divergence
    renormalised: Divergence
    reversed: Divergence


def wilson(k, n, confidence: float = 0.95):
    """Wilson's interval for k successes in n trials.

    k, n: numbers or arrays that broadcast, 0 <= k <= n. Returns (low, high): two floats, or two
    float64 arrays. n = 0 gives (0, 1). InputError for k outside [0, n] or confidence outside
    (0, 1).
    """
    k, n = np.broadcast_arrays(np.asarray(k, np.float64), np.asarray(n, np.float64))
    if not np.all((k >= 0) & (k <= n)):
        raise InputError(f"wilson needs 0 <= k <= n, got k = {k.tolist()} and n = {n.tolist()}")
    z2 = special.ndtri(0.5 + _confidence(confidence) / 2) ** 2
    # Multiplied through by n, so that n = 0 needs no special case: it is (0, z^2) / z^2.
    centre = k + z2 / 2
    half = np.sqrt(z2 * (k * (n - k) / np.maximum(n, 1) + z2 / 4))
    # The ends are exactly 0 and 1 at k = 0 and k = n; rounding would put them just outside.
    low = np.where(k == 0, 0.0, (centre - half) / (n + z2))
    high = np.where(k == n, 1.0, (centre + half) / (n + z2))
    return (float(low), float(high)) if low.ndim == 0 else (low, high)


def share(k: int, n: int, confidence: float = 0.95) -> Share:
    """k of n as a Share. InputError unless 0 <= k <= n and n >= 1."""
    if n < 1:
        raise InputError(f"a share needs at least one sample, got n = {n}")
    low, high = wilson(k, n, confidence)
    return Share(k / n, low, high, int(k), int(n))


def class_counts(labels, classes: int) -> np.ndarray:
    """Counts [K] (int64) of integer labels [N] in 0..classes-1; InputError for any other label."""
    labels = np.asarray(labels)
    if labels.size and not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"labels must be integers, got {labels.dtype}: take an argmax first")
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        raise InputError(
            f"labels must lie in 0..{classes - 1}, got {labels.min()}..{labels.max()}: "
            "pass the classifier's number of classes"
        )
    return np.bincount(labels.astype(np.int64).ravel(), minlength=classes)


def forbidden_share(counts, allowed, confidence: float = 0.95) -> Share:
    """Share of samples in the classes that are not allowed.

    counts: [K] whole numbers >= 0, at least one sample. allowed: [K] bool, at least one True.
    """
    counts, allowed = _counts(counts), _allowed(allowed, len(counts))
    return share(int(counts[~allowed].sum()), int(counts.sum()), confidence)


def kl_divergence(
    counts,
    allowed,
    target=None,
    form: Form = "forward",
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Divergence:
    """Divergence between a target over the allowed classes and the generated shares, in nats.

    counts: [K] whole numbers >= 0, at least one sample. allowed: [K] bool, at least one True.
    target: None for uniform, or [K] numbers > 0 on the allowed classes (0 elsewhere), normalised
    here. form: see the top of this file. InputError for anything else.
    """
    choose(form, FORMS, "form of the divergence")
    counts, allowed, q, tail = checked(counts, allowed, target, confidence, resamples)
    sparse = bool(is_sparse(counts[allowed]))
    seen = np.ones_like(allowed) if form == "forward" else allowed
    total = int(counts[seen].sum())
    if total == 0:
        return Divergence(np.nan, np.nan, np.nan, np.nan, np.nan, sparse)
    raw, bias = (float(v) for v in raw_and_bias(counts, allowed, q, form))
    parent = (counts + SMOOTHING) * seen
    parent /= parent.sum()
    redrawn = np.random.default_rng(seed).multinomial(total, parent, size=resamples)
    errors = raw_and_bias(redrawn, allowed, q, form)[0] - bias - _exact(q, parent[allowed], form)
    low, high = np.quantile(errors, [tail, 1 - tail])
    corrected = raw - bias
    if sparse and form != "reversed":
        target = np.zeros(allowed.shape)
        target[allowed] = q
        ends = kl_interval((counts * seen)[None], target[None], tail, seed=seed)
        low, high = (float(end) - corrected for end in ends)
    # Laid the same way round, not mirrored: the estimates are skewed to the right, and mirrored
    # intervals then miss on the high side more than twice as often as they should (simulated).
    low, high = corrected + min(float(low), 0.0), corrected + max(float(high), 0.0)
    return Divergence(raw, corrected, low, high, bias, sparse)


def is_sparse(inside) -> np.ndarray:
    """Whether one of the allowed classes' counts [..., m] is below 5, [...]."""
    return np.min(inside, axis=-1) < SPARSE


def raw_and_bias(counts, allowed, q, form: Form) -> tuple[np.ndarray, np.ndarray]:
    """Any number of divergences at once: as counted, and their first-order bias, both [...].

    counts [..., K] as numbers >= 0, allowed [K] bool, q [m] the target over the allowed classes,
    all taken as they are; `kl_divergence` is the form that checks them.
    """
    inside = counts[..., allowed]
    cells = counts if form == "forward" else inside
    total, k = cells.sum(axis=-1, keepdims=True), cells.shape[-1]
    if form == "reversed":
        raw = special.rel_entr(inside / total, q).sum(axis=-1)
    else:
        raw = (q * np.log(q * (total + SMOOTHING * k) / (inside + SMOOTHING))).sum(axis=-1)
    return raw, (k - 1) / (2 * total[..., 0])


def class_report(
    counts,
    allowed,
    target=None,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> ClassReport:
    """Leak and all three divergences; arguments and errors as `kl_divergence` has them."""

    def kl(form: Form) -> Divergence:
        return kl_divergence(
            counts,
            allowed,
            target,
            form,
            confidence=confidence,
            resamples=resamples,
            seed=seed,
        )

    leak = forbidden_share(counts, allowed, confidence)
    return ClassReport(leak.total, leak, kl("forward"), kl("renormalised"), kl("reversed"))


def checked(
    counts, allowed, target, confidence: float, resamples: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Counts [K] int64, allowed [K], target q [m] summing to 1, tail (1 - confidence)/2."""
    if resamples < 100:
        raise InputError(f"resamples must be at least 100, got {resamples}")
    counts, tail = _counts(counts), (1 - _confidence(confidence)) / 2
    allowed = _allowed(allowed, len(counts))
    return counts, allowed, _target(target, allowed), tail


def _confidence(value: float) -> float:
    if not 0 < value < 1:
        raise InputError(f"confidence must lie strictly between 0 and 1, got {value}: try 0.95")
    return value


def _counts(counts) -> np.ndarray:
    counts = np.asarray(counts)
    if counts.ndim != 1 or not np.all((counts >= 0) & (counts == np.floor(counts))):
        raise InputError(f"counts must be a vector of whole numbers >= 0, got {counts.tolist()}")
    if counts.sum() < 1:
        raise InputError(
            f"the counts of {len(counts)} classes hold no sample: generate at least one"
        )
    return counts.astype(np.int64)


def _allowed(allowed, classes: int) -> np.ndarray:
    allowed = np.asarray(allowed)
    # Class indices converted to bool would be a mask too, of the wrong classes.
    if allowed.dtype != bool or allowed.shape != (classes,) or not allowed.any():
        raise InputError(
            f"allowed must be a mask of {classes} booleans, at least one of them true, "
            f"got {allowed.tolist()}"
        )
    return allowed


def _target(target, allowed: np.ndarray) -> np.ndarray:
    """The target over the allowed classes only, [m], summing to 1."""
    q = allowed.astype(np.float64) if target is None else np.asarray(target, np.float64)
    if q.shape != allowed.shape or not np.all(np.isfinite(q)) or not np.array_equal(q > 0, allowed):
        raise InputError(
            f"target must hold {len(allowed)} numbers, above 0 on the allowed classes and 0 on "
            f"the others, got {q.tolist()}: adjust allowed or the target"
        )
    return q[allowed] / q.sum()


def _exact(q: np.ndarray, g: np.ndarray, form: Form) -> float:
    return float(special.rel_entr(g, q).sum() if form == "reversed" else (q * np.log(q / g)).sum())
