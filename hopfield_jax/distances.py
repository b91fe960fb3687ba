r"""Distances of patterns to each other, and what the logit of each leads by; by blocks of rows.

    c_i = x_i - mean                           centred first: smaller squares cancel less
    D_ij^2 = |c_i|^2 + |c_j|^2 - 2 c_i.c_j
    a      = mean over pairs of D_ij^2 / 2  =  sum_i |c_i|^2 / (N-1)  =  N/(N-1) tr Cov

Lead of pattern i: of its own field s_j(xi) = x_j.xi + b_j at xi = x_i over the best other one,

    s_i(x_i) - max_{j != i} s_j(x_i)  =  min_{j != i} ( |c_i|^2 - c_i.c_j + h_i - h_j ),
    h = b + c.mean

It is min_j D_ij^2 / 2 with the bias -|x|^2/2 of the Euclidean energy, and may be negative without.
All pairs cost N^2 d operations (hours for a million patterns) and 64 MB. NumPy, float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

BLOCK = 2**23  # inner products at a time


class Pairs(NamedTuple):
    """Per pattern [N]: distance to the nearest other one and to the farthest, lead."""

    nearest: np.ndarray
    farthest: np.ndarray
    lead: np.ndarray


def mean_half_squared(patterns) -> float:
    """a of patterns [N, d]."""
    c = _centred(patterns)[0]
    return float(np.vdot(c, c)) / (len(c) - 1)


def pairs(patterns, bias=0.0) -> Pairs:
    """Patterns [N, d], N >= 2, against each other; bias [N] or one number, of the leads."""
    c, mean = _centred(patterns)
    level = np.asarray(bias, np.float64) + c @ mean
    level = level - level.mean()
    square = np.sum(c**2, axis=1)
    out = Pairs(*np.empty((3, len(c))))
    for rows in _blocks(np.arange(len(c)), len(c)):
        own = (np.arange(len(rows)), rows)
        inner = c[rows] @ c.T
        far = np.maximum(square[rows, None] + square - 2 * inner, 0)
        far[own] = 0
        out.farthest[rows] = np.sqrt(far.max(axis=1))
        far[own] = np.inf
        out.nearest[rows] = np.sqrt(far.min(axis=1))
        gap = (square + level)[rows, None] - inner - level
        gap[own] = np.inf
        out.lead[rows] = gap.min(axis=1)
    return out


def squares(patterns, which) -> Iterator[np.ndarray]:
    """D_ij^2 of the patterns i in which [W] to all, block by block [., N]; infinite for j = i."""
    c, _ = _centred(patterns)
    square = np.sum(c**2, axis=1)
    for rows in _blocks(np.asarray(which), len(c)):
        far = np.maximum(square[rows, None] + square - 2 * c[rows] @ c.T, 0)
        far[np.arange(len(rows)), rows] = np.inf
        yield far


def nearest(patterns, which) -> np.ndarray:
    """Distances [W] of the patterns in which [W] to the nearest other one."""
    return np.sqrt(np.concatenate([far.min(axis=1) for far in squares(patterns, which)]))


def separation(patterns) -> float:
    """The least distance of two patterns: the yardstick for merging fixed points."""
    return float(nearest(patterns, np.arange(len(patterns))).min())


def _centred(patterns) -> tuple[np.ndarray, np.ndarray]:
    x = np.asarray(patterns, np.float64)
    mean = x.mean(axis=0)
    return x - mean, mean


def _blocks(rows: np.ndarray, width: int) -> Iterator[np.ndarray]:
    size = max(1, BLOCK // width)
    return (rows[start : start + size] for start in range(0, len(rows), size))
