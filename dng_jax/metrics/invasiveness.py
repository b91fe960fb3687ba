r"""How much a rule changes what it had no reason to change, compared at equal removal.

At each scale of a rule, n samples that share their noise with the unguided ones:

    left      is what the related negative names still there?            bool [S, n]
    changed   of the image under the unrelated negative, which the unguided one never shows, the
              share that is no longer what the unguided image of the same noise is   [S, n]

A curve is changed over left, the unguided point (scale 0, nothing changed) among it. Two rules are
compared where they leave the same share l: each curve is read at l as in dng_jax.metrics.tradeoff,
and

    factor(l) = changed(reference at l) / changed(other at l)

above 1 where the other rule is the less invasive. Paired bootstrap: samples are redrawn with all
their outcomes, the same for both rules, both negatives and every scale, and the interval of the
factor is that of its draws; there is none where more than 2.5% of them do not come to the level.
A factor is `sparse`, its interval too narrow, where fewer than 5 samples are left or fewer than 5
in all are changed by the other rule, and `chord` where a curve was read between the unguided point
and its smallest scale: changed is concave over log left, so that the factor of a strong rule is
then too large. Where a curve passes a level more than once the least changed counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dng_jax.errors import InputError
from dng_jax.metrics.shares import SPARSE
from dng_jax.metrics.tradeoff import TAILS, read_at, resampled


@dataclass(frozen=True, eq=False)
class Outcomes:
    """left bool [S, n] and changed float [S, n] in [0, 1] at S scales; unguided bool [n]: whether
    the unguided samples show what is to be removed."""

    left: np.ndarray
    changed: np.ndarray
    unguided: np.ndarray

    def __post_init__(self) -> None:
        shapes = {self.left.shape, self.changed.shape, (len(self.left), *self.unguided.shape)}
        if len(shapes) > 1 or self.left.ndim != 2 or 0 in self.left.shape:
            raise InputError(
                f"outcomes need left and changed [S, n] and unguided [n], got {self.left.shape},"
                f" {self.changed.shape} and {self.unguided.shape}"
            )


@dataclass(frozen=True)
class Factor:
    """reference and other: shares changed where `level` is left; factor with its 95% interval.

    reached: whether both curves come to the level; what is not reached is NaN. sparse, chord: see
    the top of this file.
    """

    level: float
    reached: bool
    sparse: bool
    chord: bool
    reference: float
    other: float
    factor: float
    low: float
    high: float


@dataclass(frozen=True)
class Mean:
    """A mean over samples and its 95% interval, of the normal approximation, not below 0."""

    value: float
    low: float
    high: float


def mean(values: np.ndarray) -> Mean:
    """The mean of values [n] >= 0, n >= 2, such as shares changed."""
    values = np.asarray(values, np.float64)
    value, error = values.mean(), values.std(ddof=1) / np.sqrt(len(values))
    return Mean(float(value), float(max(0.0, value - 1.96 * error)), float(value + 1.96 * error))


def at_equal_removal(
    reference: Outcomes,
    other: Outcomes,
    levels: Sequence[float],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Factor]:
    """The factor at each level, a share left in (0, 1); both rules on the same noise.

    InputError for other levels, fewer than 100 resamples, or rules of different samples.
    """
    level = np.asarray(levels, np.float64)
    if level.ndim != 1 or not np.all((level > 0) & (level < 1)):
        raise InputError(f"levels must be shares strictly between 0 and 1, got {level.tolist()}")
    if resamples < 100:
        raise InputError(f"resamples must be at least 100, got {resamples}")
    n = len(reference.unguided)
    if not np.array_equal(reference.unguided, other.unguided):
        raise InputError("rules are compared on the same unguided samples: sample both alike")
    weights = np.concatenate(
        [np.ones((1, n), np.float32), resampled(np.random.default_rng(seed), resamples, n)]
    )
    (base, base_at, base_from), (mine, mine_at, mine_from) = (
        _read(o, weights, level) for o in (reference, other)
    )
    there = base_at & mine_at
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(there, base / mine, np.nan)
    found = []
    for i, share in enumerate(level):
        reached, draws = bool(there[0, i]), ratio[1:, i]
        known = draws[~np.isnan(draws)]
        low, high = np.nan, np.nan
        if reached and len(draws) - len(known) <= TAILS[0] * len(draws):
            low, high = np.quantile(known, TAILS, method="nearest")
        measured = (base[0, i], mine[0, i], ratio[0, i], low, high)
        numbers = (float(v) if reached else np.nan for v in measured)
        sparse = bool(min(share, mine[0, i]) * n < SPARSE)
        chord = bool(reached and (base_from[i] or mine_from[i]))
        found.append(Factor(float(share), reached, sparse, chord, *numbers))
    return found


def _read(outcomes: Outcomes, weights: np.ndarray, level: np.ndarray):
    # shares changed at the levels and whether the curve comes to them [1 + R, T], and whether the
    # curve as counted was read from its unguided point [T]
    n = weights.shape[1]
    left = np.concatenate([outcomes.unguided[None], outcomes.left]).astype(np.float32)
    changed = np.concatenate([np.zeros((1, n)), outcomes.changed]).astype(np.float32)
    leak, y = (weights @ a.T / n for a in (left, changed))
    read, _, reached, ends = read_at(
        leak.astype(np.float64),
        y.astype(np.float64),
        np.broadcast_to(level, (len(leak), len(level))),
        n,
    )
    return read, reached, (ends[0] == 0).any(axis=-1)
