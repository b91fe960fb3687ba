r"""Basins of attraction: which minimum a start falls to, and where the watershed lies.

    share of minimum k = P( the iteration from xi_0 ends in k ),   xi_0 = X^T q,  q ~ Dirichlet(a 1)

a = 1 is uniform over the simplex of weights; smaller a lies nearer to the patterns. Shares carry
Wilson intervals; starts that did not converge, or that ended in no certified minimum, are counted
apart and never given to a minimum.

Along the segment from one state to another, s in [0, 1], the watershed is found by bisection: the
largest s from which the iteration still returns to the first state's minimum. From the centroid
(p = 1/N) to a pattern (p = e_1) of an equidistant set the watershed is exactly m_u(K), the unstable
branch of hopfield_jax.theory (the folder's sheet, section 6).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dng_jax.errors import InputError
from dng_jax.metrics import wilson
from hopfield_jax.analyses.transition import Settled, settle
from hopfield_jax.distances import separation
from hopfield_jax.energy import Memory
from hopfield_jax.patterns import generator
from hopfield_jax.solvers.fixed_points import merge


class Basins(NamedTuple):
    """The minima that R starts reach, largest basin first.

    state [C, d] and weights [C, N] of each minimum; energy [C]; starts int [C], how many fell to
    it; share, low, high [C], of all R starts, with the 95% Wilson interval; owner int [C], the
    pattern that holds more than half of the minimum's weight, -1 where none does; label int [R],
    minimum of each start, -1 for none; unsettled int array, numbers of the starts that ended in no
    certified minimum.
    """

    state: np.ndarray
    weights: np.ndarray
    energy: np.ndarray
    starts: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray
    owner: np.ndarray
    label: np.ndarray
    unsettled: np.ndarray


def hull_starts(memory: Memory, count: int, seed: int = 0, concentration: float = 1.0):
    """Starts X^T q [count, d], q ~ Dirichlet(concentration), float64; draws count N numbers."""
    if count < 1:
        raise InputError(f"basins need at least one start, got {count}")
    if not (np.isfinite(concentration) and concentration > 0):
        raise InputError(f"the concentration must be a finite number > 0, got {concentration}")
    x = np.asarray(memory.patterns, np.float64)
    q = generator(seed).dirichlet(np.full(len(x), float(concentration)), size=count)
    return q @ x


def basins(memory: Memory, starts, beta: float, *, tolerance: float | None = None) -> Basins:
    """Sorts starts [R, d] by the minimum that they reach at beta.

    Costs N^2 d operations for the least distance of two patterns (hours for a million) and room for
    R N weights; `watershed` too.
    """
    found = settle(memory, starts, beta, tolerance=tolerance)
    return sort(memory, found)


def sort(memory: Memory, found: Settled) -> Basins:
    """Groups what starts came to; points within 1e-3 of the least distance are one."""
    rows = np.flatnonzero(found.minimum)
    label = np.full(len(found.minimum), -1)
    n, d = memory.patterns.shape
    if len(rows) == 0:
        empty = np.zeros(0)
        return Basins(
            state=np.zeros((0, d)),
            weights=np.zeros((0, n)),
            energy=empty,
            starts=empty.astype(int),
            share=empty,
            low=empty,
            high=empty,
            owner=empty.astype(int),
            label=label,
            unsettled=np.arange(len(label)),
        )
    group, _ = merge(found.state[rows], separation(memory.patterns))
    group = np.unique(np.asarray(group), return_inverse=True)[1]
    count = np.bincount(group)
    order = np.argsort(-count, kind="stable")
    rank = np.argsort(order)
    label[rows] = rank[group]
    first = np.array([rows[np.flatnonzero(group == g)[0]] for g in order])
    p = found.weights[first]
    low, high = wilson(count[order], len(label))
    return Basins(
        found.state[first],
        p,
        found.energy[first],
        count[order],
        count[order] / len(label),
        np.asarray(low),
        np.asarray(high),
        np.where(p.max(axis=1) > 0.5, p.argmax(axis=1), -1),
        label,
        np.flatnonzero(label < 0),
    )


class Watershed(NamedTuple):
    """position [R] on each segment; unresolved bool [R], rows where starts beyond it ended in no
    certified minimum, so that it is only a bound from the first state's side."""

    position: np.ndarray
    unresolved: np.ndarray


def watershed(
    memory: Memory, a, b, beta, *, resolution: float = 1e-4, tolerance: float | None = None
) -> Watershed:
    """Largest s [R] in [0, 1] for which (1-s) a + s b still falls to where a falls.

    a, b: states [R, d]; beta [] or [R]. s = 1 where b itself does; NaN where a ends in no certified
    minimum. One crossing is assumed on each segment.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 2:
        raise InputError(
            f"a watershed needs states a and b of one shape [R, d], got {list(a.shape)} and"
            f" {list(b.shape)}"
        )
    near = 1e-3 * separation(memory.patterns)
    home = settle(memory, a, beta, tolerance=tolerance)

    def returns(s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        end = settle(memory, a + s[:, None] * (b - a), beta, tolerance=tolerance)
        same = np.linalg.norm(end.state - home.state, axis=1) < near
        return end.minimum & same, end.minimum & ~same

    low, high = np.zeros(len(a)), np.ones(len(a))
    whole, other = returns(high)
    refuted = np.where(other, 1.0, np.inf)
    for _ in range(int(np.ceil(np.log2(1 / resolution)))):
        middle = (low + high) / 2
        back, other = returns(middle)
        refuted = np.where(other, np.minimum(middle, refuted), refuted)
        low, high = np.where(back, middle, low), np.where(back, high, middle)
    position = np.where(whole, 1.0, (low + high) / 2)
    return Watershed(
        np.where(home.minimum, position, np.nan),
        home.minimum & ~whole & (refuted - low > 4 * resolution),
    )
