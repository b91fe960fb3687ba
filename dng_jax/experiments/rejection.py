r"""Rejection: unguided samples, the likeliest to be forbidden thrown away.

An unguided chain carries a tracker along, which guides nothing. Its final posterior p of the
forbidden set, at the last level that is scored, ranks the samples. Sample number s of the unguided
chains is cut into blocks by its number,

    block j      samples j D, ..., j D + D - 1        D = ceil(factor K),  K = KEPT
    kept         the K of them with the lowest p (of equals the earlier), in the order of s
    image i      the (i mod K)-th kept one of block i div K
    cost         D / K chains per kept image

so that image i depends on the seed, the first number, i and the factor, and never on how many are
asked for or how they are batched. Blocks are large because a small one cannot reject more than
D - K samples, however many forbidden ones fall into it.

With a tracker that ranks every forbidden sample above every other one, and a share q of forbidden
samples, F ~ Bin(D, q) of a block are forbidden and D - K can go:

    E leak = E max(0, F - (D - K)) / K                                             (expected_leak)

which is 0 for factor >> 1/(1-q) but for chance, and q at factor 1. With any tracker whose p is
calibrated, E leak = E mean of p over the kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dng_jax.errors import InputError

if TYPE_CHECKING:
    from dng_jax.rules import Rule

KEPT = 100
FACTOR_MAX = 100.0


@dataclass(frozen=True)
class Rejection:
    """detector: a rule that guides nothing and whose info has the "posterior" of what is
    forbidden; factor: samples drawn per kept one. Make it with `rejection`."""

    detector: Rule
    factor: float

    @property
    def roles(self) -> tuple[str, ...]:
        """The predictions that a step needs."""
        return self.detector.roles


def rejection(detector: Rule, factor: float) -> Rejection:
    """Generate and reject; factor from 1 (everything is kept) to 100."""
    if not 1 <= factor <= FACTOR_MAX:
        raise InputError(
            f"a rejection draws 1 to {FACTOR_MAX:g} samples per kept one, got {factor:g}"
        )
    return Rejection(detector, float(factor))


def block(factor: float) -> int:
    """D: samples drawn for a block of KEPT."""
    # Less a rounding: 1.2 * 100 may come out above 120.
    return math.ceil(factor * KEPT - 1e-6)


def cost(factor: float) -> float:
    """D / K: chains per kept image."""
    return block(factor) / KEPT


def needed(factor: float, count: int) -> int:
    """Samples to draw for `count` kept ones: whole blocks."""
    return block(factor) * -(-count // KEPT)


def kept(p, factor: float, count: int) -> np.ndarray:
    """Which samples are images 0..count-1: int [count], ascending, from p [N] with N >= needed."""
    size, whole = block(factor), needed(factor, count)
    p = np.asarray(p)
    if p.ndim != 1 or len(p) < whole:
        raise InputError(f"{count} kept samples need the posterior of {whole}, got {list(p.shape)}")
    ranked = np.argsort(p[:whole].reshape(-1, size), axis=1, kind="stable")
    in_block = np.sort(ranked[:, :KEPT], axis=1)
    return (in_block + size * np.arange(len(in_block))[:, None]).ravel()[:count]


def expected_leak(share: float, factor: float) -> float:
    """Leak of a tracker that ranks every forbidden sample above all others, see the file's top.

    share: q in [0, 1], of forbidden samples among the unguided ones.
    """
    from scipy import stats  # half a second that a command line does not need

    size = block(factor)
    surplus = np.arange(1, KEPT + 1)
    chance = stats.binom.pmf(size - KEPT + surplus, size, share)
    return float(np.sum(surplus * chance) / KEPT)
