r"""Trade-off curves averaged over forbidden sets, and rules compared at the same leak.

For forbidden set f, scale s and counts n_fsk of n samples: leak_fs the share in the forbidden
classes, KL_fs the forward divergence and rev_fs the reversed one, both less their first-order bias
(dng_jax.metrics.shares; uniform target). A curve holds the means over f.

Paired bootstrap. Sample i of a forbidden set starts from the same noise under every rule and scale,
so labels y_fsi are resampled by sample index, jointly for all of them:

    w_f ~ Multinomial(n, (1/n, ..., 1/n))      n*_fsk = sum_i w_fi [y_fsi = k]

with w_f drawn again for each f, since every f has noise of its own. Families named `independent`
(with other noise, or another n) get weights of their own. KL and rev are laid around their
estimates: draws less their mean, plus the estimate; like the estimates they may fall below 0. The
forbidden sets themselves are not redrawn: the intervals speak of these sets with other samples.
A point is `sparse` where an allowed class of one of its sets has fewer than 5 samples: its interval
of KL is then that of dng_jax.metrics.inversion, with no upper end where such a class has none, and
what is read from its draws (the comparisons below) is marked sparse too, because they are too
narrow.

Resampling cannot show a leak that did not happen, so the interval of a mean leak is Wilson's for
the pooled count; unequal strata only make it too wide. For the same reason a comparison at a leak
that rests on fewer than about five leaked samples has too narrow an interval.

Reading a curve at a leak l: between two neighbouring scales that l lies between, linear
interpolation in log(leak + 1/2n), so that a leak of 0 has a place; of several crossings the best
value counts. A curve that does not cross l is read at its point of nearest leak and marked as not
reached. KL is convex along such a curve, so that interpolation states it a little too high: choose
scales close to the leak in question, and add the unguided point where a curve should begin there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dng_jax.errors import InputError, choose, some_classes
from dng_jax.metrics.inversion import kl_interval
from dng_jax.metrics.shares import is_sparse, raw_and_bias, wilson

MEASURES = ("kl", "reversed")
Measure = Literal["kl", "reversed"]
TAILS = (0.025, 0.975)


@dataclass(frozen=True, eq=False)
class Draws:
    """What R resamples gave, [R, S] each; row r of all curves of one call belongs together."""

    leak: np.ndarray
    kl: np.ndarray
    reversed: np.ndarray


@dataclass(frozen=True, eq=False)
class Curve:
    """Means over F forbidden sets at each of S scales, with 95% intervals; *_by_class [F, S].

    leak in [0, 1]; kl and reversed in nats; frechet as it was given (NaN where it was not);
    samples: n of one forbidden set and scale. sparse [S]: see the top of this file; kl_high may
    then be infinite.
    """

    scales: list
    samples: int
    sparse: np.ndarray
    leak: np.ndarray
    leak_low: np.ndarray
    leak_high: np.ndarray
    kl: np.ndarray
    kl_low: np.ndarray
    kl_high: np.ndarray
    reversed: np.ndarray
    reversed_low: np.ndarray
    reversed_high: np.ndarray
    frechet: np.ndarray
    frechet_low: np.ndarray
    frechet_high: np.ndarray
    leak_by_class: np.ndarray
    kl_by_class: np.ndarray
    reversed_by_class: np.ndarray
    draws: Draws


@dataclass(frozen=True)
class Matched:
    """A curve at the reference's leak: its KL there, and by how much it exceeds the reference's.

    leak: where it was read; reached: whether that is the reference's leak; sparse: whether a point
    that was read is sparse.
    """

    leak: float
    reached: bool
    sparse: bool
    kl: float
    kl_low: float
    kl_high: float
    excess: float
    excess_low: float
    excess_high: float


@dataclass(frozen=True, eq=False)
class AtLevels:
    """A curve at L given leaks, all [L]; excess over a reference where one was given, else NaN.

    leak: where it was read; reached: whether that is the level (for excess, look at both curves);
    sparse: whether a point that was read is sparse.
    """

    level: np.ndarray
    leak: np.ndarray
    reached: np.ndarray
    sparse: np.ndarray
    kl: np.ndarray
    kl_low: np.ndarray
    kl_high: np.ndarray
    excess: np.ndarray
    excess_low: np.ndarray
    excess_high: np.ndarray


@dataclass(frozen=True)
class Area:
    """Mean excess of a curve's KL over the reference's along log leak, from leak_low to leak_high.

    sparse: whether a point of either curve is. All NaN where they have no leak in common.
    """

    leak_low: float
    leak_high: float
    excess: float
    excess_low: float
    excess_high: float
    sparse: bool


def curves(
    labels: Mapping[str, Sequence[np.ndarray]],
    forbidden: Sequence[Sequence[int]],
    classes: int,
    scales: Mapping[str, Sequence[Any]],
    *,
    frechet: Mapping[str, Any] | None = None,
    frechet_error: Mapping[str, Any] | None = None,
    independent: Collection[str] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Curve]:
    """One curve per family, from the labels of every single sample.

    labels[family][f]: integers [S, n] in 0..classes-1, f running over `forbidden` (tuples of
    classes); sample i of all families but the `independent` ones shares its noise, so they have one
    n. Samples of several seeds are concatenated along n. scales[family]: S labels of the points.
    frechet[family]: [F, S], frechet_error its standard errors (independent over F; the interval is
    +-1.96 of that of the mean). InputError where shapes or labels do not fit.
    """
    if resamples < 100:
        raise InputError(f"resamples must be at least 100, got {resamples}")
    stacks = {name: _labels(name, labels[name], len(forbidden), classes) for name in labels}
    if unknown := set(independent) - set(stacks):
        raise InputError(f"no labels of the independent families {sorted(unknown)}: drop them")
    groups = [[name for name in stacks if name not in independent]]
    groups = [g for g in groups if g] + [[name] for name in stacks if name in independent]
    sizes = {name: stacks[name].shape[2] for name in groups[0]} if groups else {}
    if len(set(sizes.values())) > 1:
        raise InputError(
            f"paired families need one number of samples, got {sizes}: "
            "name those with other noise as independent"
        )
    for name, stack in stacks.items():
        if len(scales[name]) != stack.shape[1]:
            raise InputError(
                f"{name} has {len(scales[name])} scales and labels of {stack.shape[1]}"
            )
    found: dict[str, list[tuple[np.ndarray, ...]]] = {name: [] for name in stacks}
    counts: dict[str, list[np.ndarray]] = {name: [] for name in stacks}
    masks = np.stack([_mask(banned, classes) for banned in forbidden])
    for f, allowed in enumerate(masks):
        for i, group in enumerate(groups):
            # A stream for every (set, group): one family more leaves the others' draws alone.
            rng = np.random.default_rng([seed, f, i])
            n = stacks[group[0]].shape[2]
            weights = resampled(rng, resamples, n)
            for name in group:
                redrawn = _weighted_counts(weights, stacks[name][f], classes)
                counted = _weighted_counts(np.ones((1, n), np.float32), stacks[name][f], classes)
                counts[name].append(counted[0])
                found[name].append(_points(np.concatenate([counted, redrawn]), allowed))
    return {
        name: _curve(
            list(scales[name]),
            stacks[name].shape[2],
            np.stack(counts[name], axis=1),
            masks,
            [np.stack(part) for part in zip(*found[name], strict=True)],
            None if frechet is None else frechet.get(name),
            None if frechet_error is None else frechet_error.get(name),
        )
        for name in stacks
    }


def matched(reference: Curve, other: Curve, at: int = 0, measure: Measure = "kl") -> Matched:
    """`other` at the leak of the reference's scale number `at`; both from one call of `curves`."""
    y, mean = _of(other, measure), _of(reference, measure)
    target, targets = reference.leak[[at]], reference.draws.leak[:, [at]]
    kl, leak, reached, points = read_at(other.leak, y[0], target, other.samples)
    sparse = bool(reference.sparse[at] or other.sparse[points].any())
    draws = read_at(other.draws.leak, y[1], targets, other.samples)[0]
    low, high = _around(kl, draws)
    excess = kl - mean[0][at]
    excess_low, excess_high = _around(excess, draws - mean[1][:, [at]])
    numbers = (kl, low, high, excess, excess_low, excess_high)
    return Matched(leak.item(), bool(reached.item()), sparse, *(v.item() for v in numbers))


def at_levels(
    curve: Curve,
    levels: Sequence[float],
    reference: Curve | None = None,
    measure: Measure = "kl",
) -> AtLevels:
    """A curve read at leaks in [0, 1], and its excess over a reference from the same `curves`."""
    level = np.asarray(levels, np.float64)
    if level.ndim != 1 or not np.all((level >= 0) & (level <= 1)):
        raise InputError(f"leak levels must be shares in [0, 1], got {level.tolist()}")
    y = _of(curve, measure)
    kl, leak, reached, points = read_at(curve.leak, y[0], level, curve.samples)
    sparse = curve.sparse[points].any(axis=-1)
    draws = read_at(curve.draws.leak, y[1], level, curve.samples)[0]
    excess = excess_low = excess_high = np.full_like(kl, np.nan)
    if reference is not None:
        base = _of(reference, measure)
        base_kl, _, _, points = read_at(reference.leak, base[0], level, reference.samples)
        excess, sparse = kl - base_kl, sparse | reference.sparse[points].any(axis=-1)
        base_draws = read_at(reference.draws.leak, base[1], level, reference.samples)[0]
        excess_low, excess_high = _around(excess, draws - base_draws)
    low, high = _around(kl, draws)
    return AtLevels(level, leak, reached, sparse, kl, low, high, excess, excess_low, excess_high)


def area(
    reference: Curve,
    other: Curve,
    between: tuple[float, float] | None = None,
    measure: Measure = "kl",
    points: int = 65,
) -> Area:
    """Area between two curves over log leak, divided by its width; both from one call of `curves`.

    between: leaks; by default all that both curves cover. Trapezoidal rule on `points` leaks.
    """
    floor = 0.5 / min(reference.samples, other.samples)
    low, high = between or (
        max(reference.leak.min(), other.leak.min()),
        min(reference.leak.max(), other.leak.max()),
    )
    sparse = bool(reference.sparse.any() or other.sparse.any())
    if not low < high:
        return Area(np.nan, np.nan, np.nan, np.nan, np.nan, sparse)
    leaks = np.geomspace(low + floor, high + floor, points) - floor
    weight = np.ones(points)
    weight[[0, -1]] = 0.5
    weight /= weight.sum()

    def excess(pick) -> np.ndarray:
        (leak, y), (base_leak, base) = pick(other), pick(reference)
        above = read_at(leak, y, leaks, other.samples)[0] @ weight
        return above - read_at(base_leak, base, leaks, reference.samples)[0] @ weight

    here = excess(lambda c: (c.leak, _of(c, measure)[0]))
    draws = excess(lambda c: (c.draws.leak, _of(c, measure)[1]))
    below, above = (bound.item() for bound in _around(here, draws))
    return Area(float(low), float(high), here.item(), below, above, sparse)


def _curve(scales, n, counts, masks, parts, frechet, frechet_error) -> Curve:
    # counts [S, F, K], allowed classes masks [F, K]; parts: leak, kl, reversed [F, 1 + R, S], the
    # first row of each as counted
    leak, kl, rev = (part.mean(axis=0) for part in parts)
    sets, points = len(parts[0]), len(scales)
    pooled = np.rint(leak[0] * sets * n)
    score, error = (
        np.full((sets, points), np.nan) if v is None else np.asarray(v, np.float64)
        for v in (frechet, frechet_error)
    )
    if score.shape != (sets, points) or error.shape != (sets, points):
        raise InputError(f"frechet must have shape [{sets}, {points}], got {list(score.shape)}")
    spread = 1.96 * np.sqrt((error**2).sum(axis=0)) / sets
    draws = Draws(leak[1:], *(v[0] + v[1:] - v[1:].mean(axis=0) for v in (kl, rev)))
    leak_low, leak_high = wilson(pooled, np.full(points, sets * n))
    kl_low, kl_high = np.quantile(draws.kl, TAILS, axis=0)
    rev_low, rev_high = np.quantile(draws.reversed, TAILS, axis=0)
    sparse = np.any(is_sparse(np.where(masks, counts, np.inf)), axis=1)
    if sparse.any():
        target = masks / masks.sum(axis=1, keepdims=True)
        ends = kl_interval(counts[sparse], target, TAILS[0])
        kl_low[sparse] = np.minimum(ends[0], kl[0, sparse])
        kl_high[sparse] = np.maximum(ends[1], kl[0, sparse])
    return Curve(
        scales=scales,
        samples=n,
        sparse=sparse,
        leak=leak[0],
        leak_low=leak_low,
        leak_high=leak_high,
        kl=kl[0],
        kl_low=kl_low,
        kl_high=kl_high,
        reversed=rev[0],
        reversed_low=rev_low,
        reversed_high=rev_high,
        frechet=score.mean(axis=0),
        frechet_low=score.mean(axis=0) - spread,
        frechet_high=score.mean(axis=0) + spread,
        leak_by_class=parts[0][:, 0],
        kl_by_class=parts[1][:, 0],
        reversed_by_class=parts[2][:, 0],
        draws=draws,
    )


def resampled(rng: np.random.Generator, resamples: int, n: int) -> np.ndarray:
    """Weights of n samples in each resample, float32 [resamples, n]: how often each was thrown."""
    # Multinomial(n, 1/n) by throwing n indices: numpy's own draws n binomials, 10 times slower.
    thrown = rng.integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    counts = np.bincount(thrown.ravel(), minlength=resamples * n)
    return counts.reshape(resamples, n).astype(np.float32)


def _weighted_counts(weights, labels, classes) -> np.ndarray:
    # weights [R, n], labels [S, n] -> [R, S, K]; float32 holds whole numbers up to 2^24 exactly
    one_hot = (labels.T[:, :, None] == np.arange(classes)).astype(np.float32)
    counts = weights @ one_hot.reshape(len(one_hot), -1)
    return counts.reshape(len(weights), len(labels), classes).astype(np.float64)


def _points(counts: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # counts [R, S, K] -> leak, corrected forward and reversed KL [R, S]
    q = np.full(allowed.sum(), 1 / allowed.sum())
    leak = counts[..., ~allowed].sum(axis=-1) / counts.sum(axis=-1)
    forward, bias = raw_and_bias(counts, allowed, q, "forward")
    rev, rev_bias = raw_and_bias(counts, allowed, q, "reversed")
    return leak, forward - bias, rev - rev_bias


def read_at(leak, y, target, samples) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Curves read at leaks, as the top of this file says.

    leak, y [..., S], target [..., T] -> [..., T]: y there, the leak it was read at, whether that is
    the target; and [..., T, 2] the numbers of the points it was read from.
    """
    floor = 0.5 / samples
    # The target's log by the same rounding as the curve's: a point equal to it must be found.
    x, at = np.log(leak + floor)[..., None, :], np.log(target + floor)[..., :, None]
    y, leak = y[..., None, :], leak[..., None, :]
    step = np.diff(x)
    t = (at - x[..., :-1]) / np.where(step == 0, np.nan, step)
    crossing = np.where((t >= 0) & (t <= 1), y[..., :-1] + np.diff(y) * t, np.inf)
    on_point = np.where(x == at, y, np.inf)
    candidates = np.concatenate([on_point, crossing], axis=-1)
    best = candidates.min(axis=-1)
    reached = np.isfinite(best)
    gap = np.abs(x - at)
    near = np.where(gap == gap.min(axis=-1, keepdims=True), y, np.inf)
    i = near.argmin(axis=-1)[..., None]
    at_nearest = np.take_along_axis(np.broadcast_to(leak, near.shape), i, -1)[..., 0]
    target = np.broadcast_to(target, best.shape)
    pick, size = candidates.argmin(axis=-1)[..., None], leak.shape[-1]
    ends = np.where(pick < size, [0, 0], [-size, 1 - size]) + pick
    return (
        np.where(reached, best, near.min(axis=-1)),
        np.where(reached, target, at_nearest),
        reached,
        np.where(reached[..., None], ends, i),
    )


def _around(here: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = here + np.quantile(draws - draws.mean(axis=0), TAILS, axis=0)
    return low, high


def _of(curve: Curve, measure: str) -> tuple[np.ndarray, np.ndarray]:
    choose(measure, MEASURES, "measure")
    return getattr(curve, measure), getattr(curve.draws, measure)


def _mask(banned: Sequence[int], classes: int) -> np.ndarray:
    allowed = np.ones(classes, bool)
    allowed[list(some_classes(banned, classes))] = False
    return allowed


def _labels(name: str, parts: Sequence[np.ndarray], sets: int, classes: int) -> np.ndarray:
    shapes = {np.shape(part) for part in parts}
    if len(parts) != sets or len(shapes) != 1 or len(shape := shapes.pop()) != 2 or 0 in shape:
        raise InputError(
            f"{name} needs labels [S, n] of one shape for each of {sets} forbidden sets, "
            f"got {[list(np.shape(part)) for part in parts]}"
        )
    stack = np.asarray(parts)
    if not np.issubdtype(stack.dtype, np.integer) or stack.min() < 0 or stack.max() >= classes:
        raise InputError(
            f"the labels of {name} must be integers in 0..{classes - 1}, "
            f"got {stack.dtype} {stack.min()}..{stack.max()}"
        )
    return stack
