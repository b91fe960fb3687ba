r"""Do curves fall together over an abscissa? How much it leaves unexplained, and where each peaks.

Curve a: y_a [B] over x_a [B] > 0, each the mean of S repeats (seeds). Any other curve, interpolated
over log x, foretells it where their ranges overlap (Bhattacharjee & Seno 2001, J. Phys. A 34 6375,
with q = 2). With E_p the interpolation of curve p, over all ordered pairs (p, a) of a group and the
points of a inside the range of p:

    U = sum (y_a - E_p(x_a))^2 / (2 sum (y_a - mean y)^2)        summed over groups

mean y is that of the group's points in these sums. U is 0 for curves that are one, and 1 in
expectation for values that have nothing to do with x: two independent draws differ by twice their
variance in the mean square. It may exceed 1, where curves disagree about what is high.

    noise    the U to be expected of curves that are one but for independent errors of their means:
             sum se^2 / sum (y - mean y)^2 over the same points

Seeds that are shared between curves cancel, so that U may lie below its noise.
Intervals: bootstrap over the seeds, drawn jointly for all curves, since they share them. Redrawn
means are noisier than the means, which raises U and what a point loses against a top, so the draws
of these are laid around the value found (less their own mean); ends below 0 are 0. NumPy, float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dng_jax.errors import InputError

TAILS = (0.025, 0.975)
FINE = 201  # points of a smooth curve that are looked at
TOLERANCE = 0.01  # what a plateau may lose against its top


class Interval(NamedTuple):
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


class Collapse(NamedTuple):
    """U with its interval, and the U of noise alone; points: (point, foretelling curve) in it."""

    unexplained: Interval
    noise: float
    points: int


class Peak(NamedTuple):
    """Where a curve is highest, what it is there, how much less it is at a point of its own, and
    the ends of the range around the top in which it is less by at most TOLERANCE."""

    at: Interval
    value: Interval
    shortfall: Interval
    plateau: tuple[float, float]


class Common(NamedTuple):
    """The one x at which curves lose least on average against their own tops: mean, and worst."""

    at: Interval
    loss: Interval
    worst: float


def resampled(count: int, resamples: int, seed: int = 0) -> np.ndarray:
    """Weights [resamples, count] of a bootstrap over `count` repeats; each row sums to 1."""
    if count < 2:
        raise InputError(f"an interval over seeds needs at least 2 of them, got {count}")
    drawn = np.random.default_rng(seed).integers(count, size=(resamples, count))
    return (drawn[..., None] == np.arange(count)).mean(axis=1)


def collapse(x, y, groups: Sequence[Sequence[int]], weights: np.ndarray) -> Collapse:
    """How far the curves of each group fall together over x.

    x [A, B] > 0, rising along each curve; y [A, B, S]; groups: indices of curves, two or more that
    overlap; weights [R, S] of `resampled`. InputError where no two curves of any group overlap.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    pieces = [_operators(np.log(x), group) for group in groups]
    points = sum(len(chosen) for chosen, _ in pieces)
    if not points:
        raise InputError("no two curves overlap: compare curves over ranges that do")
    flat = y.reshape(-1, y.shape[2])
    means = _redrawn(flat, weights)
    squared, spread = np.zeros(means.shape[1]), np.zeros(means.shape[1])
    error = 0.0
    for chosen, foretold in pieces:
        values = means[chosen]
        squared += ((values - foretold @ means) ** 2).sum(axis=0)
        spread += ((values - values.mean(axis=0)) ** 2).sum(axis=0) if len(values) else 0
        error += float(flat[chosen].var(axis=1, ddof=1).sum() / flat.shape[1])
    return Collapse(_raised(squared / (2 * spread)), error / float(spread[0]), points)


def peak(x, y, own: int, weights: np.ndarray) -> Peak:
    """Where y [B, S] over x [B] > 0 is highest, and what is lost at the point `own`.

    Of the smoothed means, since the highest of many noisy points would be too high. weights [R, S]
    of `resampled`.
    """
    t = np.log(np.asarray(x, np.float64))
    fine = np.append(np.linspace(t[0], t[-1], FINE), t[own])
    curves = smoother(t, fine) @ _redrawn(y, weights)
    curve, here = curves[:-1], curves[-1]
    top, value = curve.argmax(axis=0), curve.max(axis=0)
    low = high = int(top[0])
    near = curve[:, 0] >= value[0] - TOLERANCE
    while low > 0 and near[low - 1]:
        low -= 1
    while high < FINE - 1 and near[high + 1]:
        high += 1
    at = np.exp(fine)
    ends = float(at[low]), float(at[high])
    # `own` may lie between the points that were looked at, and be a hair higher than all of them.
    lost = np.maximum(value - here, 0)
    return Peak(_interval(at[top]), _interval(value), _raised(lost), ends)


def common(x, y, weights: np.ndarray) -> Common:
    """The x > 0 that serves all curves y [A, B, S] over x [A, B] best, where all of them are known.

    What a curve loses there: its smoothed top less its smoothed value; each resample has its own
    best x. InputError where no x lies in the range of all curves.
    """
    t, y = np.log(np.asarray(x, np.float64)), np.asarray(y, np.float64)
    low, high = t[:, 0].max(), t[:, -1].min()
    if not low < high:
        raise InputError("no value lies in the ranges of all curves: compare curves that overlap")
    shared = np.linspace(low, high, FINE)
    losses = []
    for a, own in zip(t, y, strict=True):
        means = _redrawn(own, weights)
        top = (smoother(a, np.linspace(a[0], a[-1], FINE)) @ means).max(axis=0)
        losses.append(top - smoother(a, shared) @ means)
    loss = np.mean(losses, axis=0)
    best = loss.argmin(axis=0)
    worst = max(float(own[best[0], 0]) for own in losses)
    return Common(_interval(np.exp(shared)[best]), _raised(loss.min(axis=0)), worst)


def smoother(t: np.ndarray, at: np.ndarray) -> np.ndarray:
    """[Q, B], which takes values at t [B], rising, to a smooth curve at `at` [Q].

    A line through the neighbours, weighted by a Gaussian as wide as the mean distance of points.
    """
    away = t - at[:, None]
    weight = np.exp(-0.5 * (away * (len(t) - 1) / (t[-1] - t[0])) ** 2)
    s0, s1, s2 = ((weight * away**k).sum(axis=1, keepdims=True) for k in range(3))
    return weight * (s2 - s1 * away) / (s0 * s2 - s1**2)


def _redrawn(y, weights: np.ndarray) -> np.ndarray:
    # Means [B, 1 + R] of y [B, S]: as they are, and of every resample.
    y = np.asarray(y, np.float64)
    return np.concatenate([y.mean(axis=1, keepdims=True), y @ weights.T], axis=1)


def mean(y, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of y [..., S] over its seeds, and the ends of the interval, each [...]."""
    y = np.asarray(y, np.float64)
    low, high = np.quantile(y @ weights.T, TAILS, axis=-1)
    return y.mean(axis=-1), low, high


def _raised(column: np.ndarray) -> Interval:
    # Of a value >= 0 and its resamples, which noise has raised.
    low, high = column[0] + np.quantile(column[1:] - column[1:].mean(), TAILS)
    return Interval(float(column[0]), float(max(low, 0)), float(max(high, column[0])))


def _interval(column: np.ndarray) -> Interval:
    low, high = np.quantile(column[1:], TAILS)
    return Interval(float(column[0]), float(low), float(high))


def _operators(t: np.ndarray, group: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    # Of t [A, B]: indices [P] into the flattened curves, and the matrix [P, A B] that foretells
    # their values from another curve's. Interpolation is linear in what is interpolated.
    curves, size = t.shape
    chosen, rows = [], []
    for p in group:
        for a in group:
            if a == p:
                continue
            inside = np.flatnonzero((t[a] >= t[p, 0]) & (t[a] <= t[p, -1]))
            left = np.clip(np.searchsorted(t[p], t[a, inside], "right") - 1, 0, size - 2)
            share = (t[a, inside] - t[p, left]) / (t[p, left + 1] - t[p, left])
            block = np.zeros((len(inside), curves * size))
            at = np.arange(len(inside))
            block[at, p * size + left] = 1 - share
            block[at, p * size + left + 1] = share
            rows.append(block)
            chosen.append(a * size + inside)
    return np.concatenate(chosen), np.concatenate(rows)
