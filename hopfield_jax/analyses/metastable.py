r"""Metastable states: minima that stand for several patterns, and how minima merge as beta falls.

How many patterns a minimum stands for is read off its weights:
hopfield_jax.analyses.sweeps.order_parameters (participation 1/sum p^2, entropy, and the least
number of weights that sum to .90).

Tree: every pattern is followed from a large beta downwards, each beta starting from the states of
the beta before. Two patterns whose states have met stay together from there on, so that the
labels over beta form a tree: its leaves are the patterns, its root the attractor of small beta.

Groups of an ultrametric set (the folder's sheet, section 7): the state of one group is a minimum in
a window of beta. Its lower end is followed down while the group holds more than half of the weight;
at its upper end the state stays a fixed point by symmetry but rho(J) passes 1. A state counts as
its group's only while the members' weights differ by less than 1/100.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError
from hopfield_jax.analyses.sweeps import order_parameters
from hopfield_jax.analyses.transition import Settled, edge, majority, settle
from hopfield_jax.distances import separation
from hopfield_jax.energy import Memory
from hopfield_jax.solvers.fixed_points import merge


class Window(NamedTuple):
    """Of G groups: low, high [G], betas between which the state of a group is a minimum (NaN where
    it was none at the beta given); unresolved bool [G], an end is only a bound from within."""

    low: np.ndarray
    high: np.ndarray
    unresolved: np.ndarray


class Tree(NamedTuple):
    """Minima from the patterns at S betas, largest beta first.

    betas [S]; label int [S, N]: which of the minima of this beta the pattern has come to, numbered
    by their first pattern; number int [S] of distinct minima; size [S, N]: participation of the
    minimum the pattern is in; energy [S, N]; order int [N]: patterns so sorted that those who meet
    first are neighbours; unsettled: list of (index of beta, pattern) in no certified minimum.
    """

    betas: np.ndarray
    label: np.ndarray
    number: np.ndarray
    size: np.ndarray
    energy: np.ndarray
    order: np.ndarray
    unsettled: list[tuple[int, int]]


def tree(memory: Memory, betas, *, tolerance: float | None = None) -> Tree:
    """Follows all patterns down through betas [S] (sorted here, largest first).

    Each comes with its N weights: for up to some 10^4 patterns, not for a million.
    """
    betas = np.sort(np.asarray(betas, np.float64))[::-1]
    if betas.size == 0:
        raise InputError("a tree needs at least one beta, got none")
    state = np.asarray(memory.patterns, np.float64)
    n = len(state)
    near = separation(memory.patterns)
    group = np.arange(n)
    labels, numbers, sizes, energies, unsettled = [], [], [], [], []
    for s, beta in enumerate(betas):
        # One row per minimum: patterns that have met share their state for good.
        rows, member = np.unique(group, return_inverse=True)
        end = settle(memory, state[rows], beta, tolerance=tolerance)
        met, _ = merge(end.state, near)
        first = np.full(int(np.max(met)) + 1, n)
        np.minimum.at(first, np.asarray(met), rows)
        group = first[np.asarray(met)][member]
        state = end.state[member]
        labels.append(group)
        numbers.append(len(np.unique(group[end.minimum[member]])))
        sizes.append(np.asarray(order_parameters(jnp.asarray(end.weights)).participation)[member])
        energies.append(end.energy[member])
        unsettled += [(s, int(i)) for i in np.flatnonzero(~end.minimum[member])]
    label = np.array(labels)
    # Sorting by the labels of small beta first puts whole branches side by side.
    order = np.lexsort(label)
    return Tree(
        betas, label, np.array(numbers), np.array(sizes), np.array(energies), order, unsettled
    )


def group_window(
    memory: Memory, groups, inside: float, *, relative: float = 1e-5, tolerance: float | None = None
) -> Window:
    """Lowest and highest beta at which the state of each group is a minimum.

    groups int [N]: group of each pattern, numbered from 0 without gaps; inside: a beta at which
    the states are minima. NaN for a group that has no minimum there. Searched over a factor of
    1,000 either way.
    """
    groups = np.asarray(groups, int)
    if groups.shape != (len(memory.patterns),):
        raise InputError(
            f"{len(memory.patterns)} patterns need one group each, got {list(groups.shape)}"
        )
    members = groups[None] == np.arange(groups.max() + 1)[:, None]
    x = np.asarray(memory.patterns, np.float64)
    most = majority(members)

    def whole(settled: Settled) -> np.ndarray:
        p = settled.weights
        spread = np.max(np.where(members, p, 0), axis=1) - np.min(np.where(members, p, 1), axis=1)
        return most(settled) & (spread < 0.01)

    starts = members / members.sum(axis=1, keepdims=True) @ x
    inside = float(inside)  # of any type of number
    ends = [
        edge(memory, starts, whole, inside, inside * factor, relative=relative, tolerance=tolerance)
        for factor in (1e-3, 1e3)
    ]
    return Window(ends[0].beta, ends[1].beta, ends[0].unresolved | ends[1].unresolved)
