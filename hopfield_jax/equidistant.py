r"""The exact curves of equidistant patterns, sampled over K for figures and comparisons.

hopfield_jax.theory solves single points; here are, over K = beta_eff and within a range of it,

    branches          the k = 1 states: K_1(u), order parameter m(u), energy above the centroid's;
                      stable for u > u_s (rising K), unstable below
    number of minima  1 below K_s, N + 1 up to N, N from there on
    weight            p_1 of the pattern's minimum, 1/N where there is none
    watershed         m of the unstable branch: 1 below K_s, where the centroid attracts all; NaN
                      from N on, where it attracts nothing
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hopfield_jax import theory


class Branch(NamedTuple):
    """A piece of the k = 1 branch: K, m and energy above the centroid's in D^2/2, each [P]."""

    stable: bool
    K: np.ndarray
    m: np.ndarray
    energy: np.ndarray


def branches(n: int, low: float, high: float, points: int = 400) -> list[Branch]:
    """The stable and the unstable piece where they enter low <= K <= high; either may be absent."""
    low, high, turn = float(low), float(high), theory.spinodal_u(n)
    pieces = []
    # K_1(u) >= u bounds u; the square crowds points at the turn, where K hardly moves.
    for stable, end in ((True, max(high, turn) + 1), (False, 1e-6)):
        u = turn + (end - turn) * np.linspace(0, 1, points) ** 2
        ends = [theory.branch(n, 1, k) for k in (low, high)]
        u = np.sort(np.concatenate([u, *ends]))
        u = u[(u >= turn) if stable else (u <= turn)]
        u = u[u > 0]
        k = theory.k_of_u(u, 1, n)
        inside = (k >= low * (1 - 1e-12)) & (k <= high * (1 + 1e-12))
        if inside.sum() > 1:
            u, k = u[inside], k[inside]
            energy = theory.energy_above_centroid(u, 1, n)
            pieces.append(Branch(stable, k, theory.m_of_u(u, 1, n), energy))
    return pieces


def number_of_minima(n: int, K) -> np.ndarray:
    """1, N + 1 or N, int, shape of K."""
    exact = theory.characteristic(n)
    k = np.asarray(K, np.float64)
    if n == 2:
        return np.where(k <= 2, 1, 2)
    return np.select([k < exact.K_s, k < exact.K_N], [1, n + 1], n)


def weight(n: int, K) -> np.ndarray:
    """p_1 of the pattern's minimum at K [S], 1/N where there is none."""

    def one(k: float) -> float:
        found = theory.branch(n, 1, k)
        return float(theory.weights_of_u(found[-1], 1, n)[0]) if found else 1 / n

    return np.array([one(k) for k in np.asarray(K, np.float64)])


def watershed(n: int, K) -> np.ndarray:
    """m of the unstable branch at K [S]; 1 below K_s, NaN from N on."""

    def one(k: float) -> float:
        found = theory.branch(n, 1, k)
        if not found:
            return 1.0
        return float(theory.m_of_u(found[0], 1, n)) if k < n else math.nan

    return np.array([one(k) for k in np.asarray(K, np.float64)])


def weight_of(n: int, m):
    """p_1 of a k = 1 state whose order parameter p_1 - p_2 is m, shape of m."""
    return (1 + (n - 1) * np.asarray(m, np.float64)) / n
