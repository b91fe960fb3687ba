r"""Which settings no other one beats, and an order of all of them.

values [N, M], all minimised; violation [N] >= 0, 0 where every constraint is kept. Constrained
domination (Deb et al. 2002, NSGA-II): i dominates j

    where i keeps the constraints and j does not,
    where neither does and i violates them less,
    where both do and  i <= j in every value, i < j in at least one

ranks: 0 for what nothing dominates, 1 for what only rank 0 does, and so on. Crowding distance of a
setting within its rank: the sum over values of the gap between its two neighbours, as a share of
the whole range; infinite at the ends.
"""

from __future__ import annotations

import numpy as np

from dng_jax.errors import InputError


def dominates(values, violation=None) -> np.ndarray:
    """bool [N, N]: whether i dominates j. InputError for shapes that do not fit, or NaN."""
    values, violation = _checked(values, violation)
    a, b = values[:, None], values[None]
    better = (a <= b).all(axis=-1) & (a < b).any(axis=-1)
    both = (violation[:, None] == 0) & (violation[None] == 0)
    return np.where(both, better, violation[:, None] < violation[None])


def front(values, violation=None) -> np.ndarray:
    """Numbers [F] of the settings that nothing dominates, by their first value; of equals the first
    one alone."""
    values, violation = _checked(values, violation)
    _, first = np.unique(np.c_[values, violation], axis=0, return_index=True)
    first = np.sort(first)
    beaten = dominates(values[first], violation[first]).any(axis=0)
    found = first[~beaten]
    return found[np.lexsort(values[found].T[::-1])]


def ranks(values, violation=None) -> np.ndarray:
    """int [N], 0 for the best."""
    beats = dominates(values, violation)
    rank, left, level = np.zeros(len(beats), int), np.ones(len(beats), bool), 0
    while left.any():
        best = left & ~(beats & left[:, None]).any(axis=0)
        rank[best] = level
        left &= ~best
        level += 1
    return rank


def crowding(values) -> np.ndarray:
    """Crowding distances [N] of one rank's values [N, M]."""
    values, _ = _checked(values, None)
    distance = np.zeros(len(values))
    for column in values.T:
        order = np.argsort(column, kind="stable")
        sorted_ = column[order]
        span = sorted_[-1] - sorted_[0]
        distance[order[[0, -1]]] = np.inf
        if span > 0:
            distance[order[1:-1]] += (sorted_[2:] - sorted_[:-2]) / span
    return distance


def order(values, violation=None) -> np.ndarray:
    """Numbers [N] of all settings, best first: by rank, and within one the least crowded first."""
    values, violation = _checked(values, violation)
    rank = ranks(values, violation)
    distance = np.zeros(len(values))
    for level in np.unique(rank):
        distance[rank == level] = crowding(values[rank == level])
    return np.lexsort((-distance, rank))


def spread(values, count: int) -> np.ndarray:
    """Numbers of `count` settings of a front that stand for it: the most crowded ones are left out
    one by one. values [F, M]; int [min(count, F)], ascending."""
    values, _ = _checked(values, None)
    kept = np.arange(len(values))
    while len(kept) > count:
        kept = np.delete(kept, np.argmin(crowding(values[kept])))
    return kept


def _checked(values, violation) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(values, np.float64)
    violation = np.zeros(len(values)) if violation is None else np.asarray(violation, np.float64)
    if values.ndim != 2 or violation.shape != values.shape[:1]:
        raise InputError(
            f"a front needs values [N, M] and violations [N], got {list(values.shape)} and"
            f" {list(violation.shape)}"
        )
    if np.isnan(values).any() or np.isnan(violation).any():
        raise InputError("a front needs numbers, and some are NaN: leave their settings out")
    return values, violation
