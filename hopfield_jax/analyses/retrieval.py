r"""Retrieval from corrupted patterns, against beta.

    noise    q = x_i + level M z / sqrt(d),  z ~ N(0, I), M the root mean square norm of patterns
    mask     q = x_i with a share `level` of its entries, drawn for each query, set to `fill`

    error    |xi - x_i| / M,  xi the state after one update, or after as many as it takes
    found    xi is a certified minimum within half of x_i's distance to the nearest other pattern

With the Euclidean energy one update at beta = 1/sigma^2, sigma = level M / sqrt(d), is the
posterior mean E[x | q] (hopfield_jax.diffusion with alpha = 1): no other beta has a smaller mean
square error after one step. Iterating to the end gives the best guess at one pattern instead.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from dng_jax.errors import InputError, choose
from hopfield_jax.analyses.transition import MAX_STEPS, default_tolerance
from hopfield_jax.distances import nearest
from hopfield_jax.energy import Memory, block_size, update
from hopfield_jax.patterns import generator
from hopfield_jax.solvers.fixed_points import find_minima

CORRUPTIONS = ("noise", "mask")
Corruption = Literal["noise", "mask"]


class Retrieved(NamedTuple):
    """Over L levels, S betas and Q queries per level.

    error, one_step [L, S]: root mean square relative error, at the end and after one update;
    found [L, S]: share of queries that end at their own pattern; unsettled [L, S]: share that ends
    in no certified minimum.
    """

    error: np.ndarray
    one_step: np.ndarray
    found: np.ndarray
    unsettled: np.ndarray


def rms_norm(patterns) -> float:
    """M, the root mean square norm of patterns [N, d]."""
    return float(np.sqrt(np.mean(np.sum(np.asarray(patterns, np.float64) ** 2, axis=1))))


def corrupt(
    patterns, which, level: float, kind: Corruption = "noise", *, seed: int = 0, fill: float = 0.0
) -> np.ndarray:
    """Corrupted copies [Q, d], float64, of the patterns numbered `which` [Q].

    level: relative norm of the noise, >= 0, or the share of masked entries, in [0, 1].
    """
    choose(kind, CORRUPTIONS, "corruption")
    x = np.asarray(patterns, np.float64)[np.asarray(which, int)]
    level = float(level)
    if not (np.isfinite(level) and level >= 0 and (kind == "noise" or level <= 1)):
        limits = ">= 0" if kind == "noise" else "in [0, 1]"
        raise InputError(f"the level of {kind} must be {limits}, got {level}")
    rng = generator(seed)
    if kind == "noise":
        return x + level * rms_norm(patterns) * rng.normal(size=x.shape) / np.sqrt(x.shape[1])
    order = rng.random(x.shape).argsort(axis=1)
    return np.where(order < round(level * x.shape[1]), fill, x)


def posterior_mean_beta(patterns, level: float) -> float:
    """beta = 1/sigma^2 of noise of this level."""
    if not level > 0:
        raise InputError(f"a level of noise must be > 0 to have a beta, got {level}")
    return np.asarray(patterns).shape[1] / (float(level) * rms_norm(patterns)) ** 2


def retrieve(memory: Memory, which, queries, betas, *, tolerance: float | None = None) -> Retrieved:
    """Retrieves queries [L, Q, d] of the patterns numbered `which` [Q] at every beta [S].

    All L x S x Q of them are rows of one batch.
    """
    queries = np.asarray(queries, np.float64)
    which, betas = np.asarray(which, int), np.asarray(betas, np.float64)
    if queries.ndim != 3 or queries.shape[1] != len(which):
        raise InputError(
            f"queries must be [levels, {len(which)}, d], one per pattern asked for, got"
            f" {list(queries.shape)}"
        )
    levels, count, d = queries.shape
    shape = (levels, len(betas), count)
    starts = np.broadcast_to(queries[:, None], (*shape, d)).reshape(-1, d)
    beta = np.broadcast_to(betas[None, :, None], shape).ravel()
    x = np.asarray(memory.patterns, np.float64)
    truth = np.broadcast_to(x[which], (*shape, d)).reshape(-1, d)
    once = update(memory, starts.astype(memory.dtype), beta, block=block_size(memory))
    end = find_minima(
        memory, starts, beta, tolerance=tolerance or default_tolerance(memory), max_steps=MAX_STEPS
    )
    minimum = np.asarray(end.minimum).reshape(shape)
    half = nearest(x, which) / 2
    apart = np.linalg.norm(np.asarray(end.state) - truth, axis=1).reshape(shape)
    norm = rms_norm(x)
    return Retrieved(
        np.sqrt(np.mean(apart**2, axis=2)) / norm,
        np.sqrt(np.mean(np.sum((np.asarray(once) - truth) ** 2, axis=1).reshape(shape), axis=2))
        / norm,
        np.mean(minimum & (apart < half), axis=2),
        1 - np.mean(minimum, axis=2),
    )
