r"""Trade-off curves averaged over forbidden classes, and rules compared at the same leak.

For forbidden class f, scale s and counts n_fsk of n samples: leak_fs = n_fsf / n, KL_fs the forward
divergence less its first-order bias (dng_jax.metrics.shares). A curve holds the means over f.

Rules are compared at matched leak: with l* the reference's mean leak at its first scale, the other
curve is followed along its scales, and wherever it crosses l* between two neighbouring scales its
mean KL is read off by linear interpolation in log leak (1/2 sample added, so that a leak of 0 has a
place); of several crossings the best KL counts. A curve that does not cross l* is read at its point
of nearest leak and marked as not reached. KL is convex along such a curve, so that interpolation
between scales states it a little too high: choose scales close to the crossing.

Intervals: parametric bootstrap. All counts are redrawn from their smoothed shares, each forbidden
class and setting on its own, and everything is computed anew; the spread about the bootstrap's mean
is laid around the estimate (KL not cut off at 0). The classes themselves are not redrawn: the
interval speaks of these forbidden classes with other samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dng_jax.errors import InputError
from dng_jax.metrics.shares import SMOOTHING

RESAMPLES = 1000


@dataclass(frozen=True)
class Curve:
    """Means over forbidden classes at each of S scales, with 95% intervals.

    leak in [0, 1], kl in nats; draws_leak, draws_kl [R, S] the bootstrap's; samples n a point.
    """

    scales: list
    samples: int
    leak: np.ndarray
    leak_low: np.ndarray
    leak_high: np.ndarray
    kl: np.ndarray
    kl_low: np.ndarray
    kl_high: np.ndarray
    frechet: np.ndarray
    leak_by_class: np.ndarray
    kl_by_class: np.ndarray
    draws_leak: np.ndarray
    draws_kl: np.ndarray


@dataclass(frozen=True)
class Matched:
    """A curve at the reference's leak: its KL there, and by how much it exceeds the reference's.

    leak: where it was read; reached: whether that is the reference's leak.
    """

    leak: float
    reached: bool
    kl: float
    kl_low: float
    kl_high: float
    excess: float
    excess_low: float
    excess_high: float


def curve(
    counts: Sequence[np.ndarray],
    forbidden: Sequence[int],
    frechet: Sequence[np.ndarray],
    scales: Sequence[float | None],
    *,
    seed: int = 0,
) -> Curve:
    """From counts [F][S, K], one entry a forbidden class; all with the same number of samples."""
    n_fsk = np.asarray(counts, np.int64)
    totals = np.unique(n_fsk.sum(axis=2))
    if n_fsk.ndim != 3 or len(totals) != 1 or len(forbidden) != len(n_fsk):
        raise InputError(
            "a curve needs counts [F][S, K] with equal totals, one F a forbidden class"
        )
    n, k = int(totals[0]), n_fsk.shape[2]
    smoothed = (n_fsk + SMOOTHING) / (n + SMOOTHING * k)
    redrawn = np.random.default_rng(seed).multinomial(
        n, smoothed, size=(RESAMPLES, *smoothed.shape[:2])
    )
    leak, kl = _points(n_fsk, forbidden)
    true_leak, true_kl = _exact(smoothed, forbidden)
    draws_leak, draws_kl = _points(redrawn, forbidden)
    # Errors about the shares they were drawn from, laid around the estimate.
    errors_leak = draws_leak.mean(axis=1) - true_leak.mean(axis=0)
    errors_kl = draws_kl.mean(axis=1) - true_kl.mean(axis=0)
    mean_leak, mean_kl = leak.mean(axis=0), kl.mean(axis=0)
    low_high = (0.025, 0.975)
    leak_low, leak_high = mean_leak + np.quantile(errors_leak, low_high, axis=0)
    kl_low, kl_high = mean_kl + np.quantile(errors_kl, low_high, axis=0)
    return Curve(
        list(scales),
        n,
        mean_leak,
        np.maximum(leak_low, 0),
        leak_high,
        mean_kl,
        kl_low,
        kl_high,
        np.asarray(frechet, np.float64).mean(axis=0),
        leak,
        kl,
        np.maximum(mean_leak + errors_leak, 0),
        mean_kl + errors_kl,
    )


def matched(reference: Curve, other: Curve) -> Matched:
    """`other` at the leak of the reference's first scale."""
    floor = 0.5 / other.samples
    kl, at, reached = _read(other.leak, other.kl, float(reference.leak[0]), floor)
    draws = np.array(
        [
            _read(leak, y, target, floor)[0]
            for leak, y, target in zip(
                other.draws_leak, other.draws_kl, reference.draws_leak[:, 0], strict=True
            )
        ]
    )
    excess = draws - reference.draws_kl[:, 0]
    here = kl - float(reference.kl[0])
    low, high = kl + np.quantile(draws - draws.mean(), (0.025, 0.975))
    excess_low, excess_high = here + np.quantile(excess - excess.mean(), (0.025, 0.975))
    return Matched(
        at, reached, kl, float(low), float(high), here, float(excess_low), float(excess_high)
    )


def _read(leak, kl, target: float, floor: float) -> tuple[float, float, bool]:
    x, at = np.log(leak + floor), np.log(target + floor)
    crossings = [
        kl[i] + (kl[i + 1] - kl[i]) * (at - x[i]) / (x[i + 1] - x[i])
        for i in range(len(x) - 1)
        if x[i] != x[i + 1] and min(x[i], x[i + 1]) <= at <= max(x[i], x[i + 1])
    ]
    crossings += list(kl[x == at])
    if crossings:
        return float(min(crossings)), target, True
    nearest = np.abs(x - at)
    best = np.flatnonzero(nearest == nearest.min())
    i = best[np.argmin(kl[best])]
    return float(kl[i]), float(leak[i]), False


def _points(counts, forbidden):
    # counts [..., F, S, K] -> leak, bias-corrected KL [..., F, S]
    n, k = counts.sum(axis=-1), counts.shape[-1]
    shares = (counts + SMOOTHING) / (n + SMOOTHING * k)[..., None]
    _, kl = _exact(shares, forbidden)
    index = np.asarray(forbidden)[:, None, None]
    leak = (
        np.take_along_axis(counts, np.broadcast_to(index, (*counts.shape[:-1], 1)), -1)[..., 0] / n
    )
    return leak, kl - (k - 1) / (2 * n)


def _exact(shares, forbidden):
    # leak and KL(uniform on the allowed || shares) of known shares [..., F, S, K]
    k = shares.shape[-1]
    index = np.asarray(forbidden)
    allowed = (np.arange(k) != index[:, None]).astype(float)[:, None, :]
    kl = -np.log(k - 1) - (allowed * np.log(shares)).sum(axis=-1) / (k - 1)
    leak = ((1 - allowed) * shares).sum(axis=-1)
    return leak, kl
