r"""Do curves fall together over an abscissa? How much it leaves unexplained, and where each peaks.

Curve a: y_a [B] over x_a [B] > 0, each the mean of S repeats (seeds). Any other curve, interpolated
over log x, foretells it where their ranges overlap (Bhattacharjee & Seno 2001, J. Phys. A 34 6375,
with q = 2). With E_p the interpolation of curve p, over all ordered pairs (p, a) of a group and the
points of a inside the range of p:

    U = sum (y_a - E_p(x_a))^2 / (2 sum (y_a - mean y)^2)        summed over groups

mean y is that of the group's points in these sums. U is 0 for curves that are one, and 1 in
expectation for values that have nothing to do with x: two independent draws differ by twice their
variance in the mean square. It may exceed 1, where curves disagree about what is high.

Abscissae are compared on the same points: (p, a, x_a) counts where x_a lies in the range of p over
every abscissa. So the sums differ by their E_p alone; else the abscissa over which curves overlap
least would be judged by their middles, where they may agree, and another by their ends.

    gain     U over the first abscissa less U over this one: above 0 where this one explains more
    noise    the U to be expected of curves that are one but for independent errors of their means:
             sum se^2 / sum (y - mean y)^2 over the same points

Seeds that are shared between curves cancel, so that U may lie below its noise.
Intervals: bootstrap over the seeds, drawn jointly for all curves and abscissae, since they share
them: those of a gain are paired. Redrawn means are noisier than the means, which raises U and what
a point loses against a top, so the draws of these, and of gains, are laid around the value found
(less their own mean); ends below 0 of what cannot be negative are 0. NumPy, float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
    """U and gain over each abscissa by name (no gain over the first), and the U of noise alone;
    points: (point, foretelling curve), the same over all."""

    unexplained: dict[str, Interval]
    gain: dict[str, Interval]
    noise: float
    points: int


class Peak(NamedTuple):
    """Where a curve is highest, what it is there, how much less it is at a point of its own, and
    the ends of the range around the top in which it is less by at most TOLERANCE; edge: it is
    highest at one of its ends, so that the top may lie beyond."""

    at: Interval
    value: Interval
    shortfall: Interval
    plateau: tuple[float, float]
    edge: bool


class Tops(NamedTuple):
    """Of several curves: geometric mean of where they are highest, means of what they are there and
    of what they lose at a point of their own, and how many are highest at an end."""

    at: Interval
    value: Interval
    shortfall: Interval
    edges: int


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


def collapse(
    xs: Mapping[str, Any], y, groups: Sequence[Sequence[int]], weights: np.ndarray
) -> Collapse:
    """How far the curves of each group fall together over each abscissa, on the same points.

    xs: abscissae by name, [A, B] > 0 each, rising along each curve; y [A, B, S]; groups: indices of
    curves, two or more that overlap; weights [R, S] of `resampled`. InputError where no two curves
    of any group overlap over all abscissae.
    """
    y = np.asarray(y, np.float64)
    ts = {name: np.log(np.asarray(x, np.float64)) for name, x in xs.items()}
    pieces = [_pairs(list(ts.values()), group) for group in groups]
    points = sum(len(at) for _, _, at in pieces)
    if not points:
        raise InputError("no two curves overlap: compare curves over ranges that do")
    size = y.shape[1]
    flat = y.reshape(-1, y.shape[2])
    means = _redrawn(flat, weights)
    spread, error = np.zeros(means.shape[1]), 0.0
    squared = {name: np.zeros(means.shape[1]) for name in ts}
    for p, a, at in pieces:
        if not len(at):
            continue
        chosen = a * size + at
        values = means[chosen]
        spread += ((values - values.mean(axis=0)) ** 2).sum(axis=0)
        error += float(flat[chosen].var(axis=1, ddof=1).sum() / flat.shape[1])
        for name, t in ts.items():
            squared[name] += ((values - _foretold(t, means, p, a, at)) ** 2).sum(axis=0)
    columns = {name: total / (2 * spread) for name, total in squared.items()}
    first, *others = columns
    return Collapse(
        {name: _raised(column) for name, column in columns.items()},
        {name: _around(columns[first] - columns[name]) for name in others},
        error / float(spread[0]),
        points,
    )


def peak(x, y, own: int, weights: np.ndarray) -> Peak:
    """Where y [B, S] over x [B] > 0 is highest, and what is lost at the point `own`.

    Of the smoothed means, since the highest of many noisy points would be too high. weights [R, S]
    of `resampled`.
    """
    at, curve, here = _smooth(x, y, own, weights)
    top, value = curve.argmax(axis=0), curve.max(axis=0)
    low = high = int(top[0])
    near = curve[:, 0] >= value[0] - TOLERANCE
    while low > 0 and near[low - 1]:
        low -= 1
    while high < FINE - 1 and near[high + 1]:
        high += 1
    ends = float(at[low]), float(at[high])
    lost, edge = _lost(value, here), int(top[0]) in (0, FINE - 1)
    return Peak(_interval(at[top]), _interval(value), _raised(lost), ends, edge)


def tops(x, y, own: int, weights: np.ndarray) -> Tops:
    """The peaks of curves y [A, B, S] over x [A, B] > 0 as one: see `peak`."""
    at, values, losses, edges = [], [], [], 0
    for own_x, own_y in zip(x, y, strict=True):
        fine, curve, here = _smooth(own_x, own_y, own, weights)
        top, value = curve.argmax(axis=0), curve.max(axis=0)
        at.append(np.log(fine[top]))
        values.append(value)
        losses.append(_lost(value, here))
        edges += int(top[0]) in (0, FINE - 1)
    return Tops(
        _interval(np.exp(np.mean(at, axis=0))),
        _interval(np.mean(values, axis=0)),
        _raised(np.mean(losses, axis=0)),
        edges,
    )


def _smooth(x, y, own: int, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # FINE points, the smoothed means there and of every resample, and those at x[own].
    t = np.log(np.asarray(x, np.float64))
    fine = np.linspace(t[0], t[-1], FINE)
    curves = smoother(t, np.append(fine, t[own])) @ _redrawn(y, weights)
    return np.exp(fine), curves[:-1], curves[-1]


def _lost(value: np.ndarray, here: np.ndarray) -> np.ndarray:
    # A point of one's own may lie between those looked at, and be a hair higher than all of them.
    return np.maximum(value - here, 0)


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
    value, low, high = _around(column)
    return Interval(value, max(low, 0.0), max(high, value))


def _around(column: np.ndarray) -> Interval:
    # Of a value and its resamples, laid around it.
    low, high = column[0] + np.quantile(column[1:] - column[1:].mean(), TAILS)
    return Interval(float(column[0]), float(low), float(high))


def _interval(column: np.ndarray) -> Interval:
    low, high = np.quantile(column[1:], TAILS)
    return Interval(float(column[0]), float(low), float(high))


def _pairs(
    ts: Sequence[np.ndarray], group: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # [P] each: foretelling curve p, curve a, and the index of a's point, in range over all of ts.
    found = [
        (p, a, at)
        for p in group
        for a in group
        if a != p
        for at in np.flatnonzero(
            np.all([(t[a] >= t[p, 0]) & (t[a] <= t[p, -1]) for t in ts], axis=0)
        )
    ]
    p, a, at = np.array(found, int).reshape(-1, 3).T
    return p, a, at


def _foretold(t: np.ndarray, means: np.ndarray, p, a, at) -> np.ndarray:
    # [P, R]: means [A B, R] of curve p over t [A, B], interpolated at the points `at` of curve a.
    size = t.shape[1]
    x = t[a, at]
    left = np.clip((t[p] <= x[:, None]).sum(axis=1) - 1, 0, size - 2)
    share = ((x - t[p, left]) / (t[p, left + 1] - t[p, left]))[:, None]
    return (1 - share) * means[p * size + left] + share * means[p * size + left + 1]
