r"""A transformer's attention heads as Hopfield networks: how cold is each of them?

Keys k_j [T, d_head] are the patterns, a query q the state, and

    softmax(scale K q)                    attention weights = weights of one update at beta = scale
    q' = K^T softmax(scale K q)           that update (values other than keys only read it out)
    beta_eff = scale T/(T-1) tr Cov(K)    per head; K of hopfield_jax.theory at N = T

(Ramsauer et al. 2021, arXiv 2008.02217.) The usual scale is 1/sqrt(d_head). Keys of independent
entries of unit variance have beta_eff = sqrt(d_head), hence pattern minima for up to 158 keys at
d_head = 64 and lowest ones for up to 51; at 128 up to 2937 and 281 (theory.attention_limits). Keys
that resemble each other are hotter, whatever their norms: only their spread counts. But keys of
unequal norms are drawn to the longest ones (norm bias), which equidistant keys cannot show.

`phase` is what equidistant keys of that beta_eff would do; what these keys do is measured. From the
queries (or the keys themselves) the update is followed to minima
(hopfield_jax.solvers.fixed_points), and of the weights there

    participation    1 / sum_j p_j^2      how many keys a state averages over, from 1 to T

is reported after one step, which is what the layer computes, and at the minima. A minimum is only
what hopfield_jax.solvers.certificates proves to be one; the starts that reached none are counted as
not settled. Residuals are in units of the keys' spread (Memory.spread), so that a common part of
the keys, however large, changes nothing.

Every key is visible to every query: no causal mask, no rotary or other position added after the
projection. Keys [H, T, d_head] are arrays; hopfield_jax.projections computes them from stored
weights, hopfield_jax.encoders catches them in a whole model. With fewer key heads than query heads,
key head h serves the queries h H/H_k .. (h+1) H/H_k - 1.
float64 throughout, in JAX's x64 mode where states are followed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from dng_jax.errors import InputError
from hopfield_jax import theory
from hopfield_jax.analyses.sweeps import order_parameters
from hopfield_jax.distances import mean_half_squared, pairs
from hopfield_jax.energy import memory, weights
from hopfield_jax.projections import check_finite
from hopfield_jax.solvers.certificates import certify
from hopfield_jax.solvers.fixed_points import find_fixed_points, find_minima, merge

FINEST = 1e-12  # residual down to which a state without proof is followed


@dataclass(frozen=True)
class HeadReport:
    """One head of T keys; symbols as in this file's head.

    distinct_keys: T less the rows that repeat another; norm2: mean |k|^2; norm_bias: share of the
    keys that are no fixed point as the scale -> infinity, since another has the larger k_i.k_j.
    K_s, K_c, phase: of T equidistant keys; exist, lowest: numbers of such keys up to which this
    beta_eff has pattern minima, and lowest ones. starts: how many states were followed, unsettled:
    how many of them reached no proved minimum (they ran out of steps, or ended at a saddle or so
    near a fold that nothing is proved); minima: distinct proved ones that the others reached.
    entropy_step: of the weights after one step, in units of log T, mean over all starts.
    participation_step, participation: medians over all starts, and over the settled ones (NaN where
    none settled).
    """

    head: int
    tokens: int
    distinct_keys: int
    head_dim: int
    scale: float
    norm2: float
    norm_bias: float
    a: float
    beta_eff: float
    K_s: float
    K_c: float
    phase: str
    exist: float
    lowest: float
    starts: int
    entropy_step: float
    participation_step: float
    participation: float
    unsettled: int
    minima: int


def beta_eff(keys, scale: float | None = None) -> np.ndarray:
    """Effective inverse temperature of each head, [H], from keys [H, T, d_head]."""
    keys = _heads(keys, "keys")
    scale = _scale(scale, keys.shape[2])
    return scale * np.array([mean_half_squared(k) for k in keys])


def report(
    keys,
    queries=None,
    scale: float | None = None,
    *,
    starts: int = 256,
    tolerance: float = 1e-8,
    max_steps: int = 20_000,
) -> list[HeadReport]:
    """One report per key head, from keys [H, T, d_head] and queries [H or a multiple, T', d_head].

    scale: default 1/sqrt(d_head). Without queries the states start at the keys; of more than
    `starts` per head, that many are taken at even distances. tolerance: residual at which a proof
    is first tried, in units of the keys' spread; what it does not prove is followed to 1e-12,
    max_steps more at most. InputError for NaN, wrong ranks, one token, equal keys.
    """
    keys = _heads(keys, "keys")
    scale = _scale(scale, keys.shape[2])
    states = keys if queries is None else _heads(queries, "queries", least=1)
    if states.shape[2] != keys.shape[2]:
        raise InputError(
            f"keys have {keys.shape[2]} dimensions per head and queries {states.shape[2]}: "
            "they must agree"
        )
    if len(states) % len(keys):
        raise InputError(
            f"{len(states)} heads of queries cannot share {len(keys)} heads of keys evenly: "
            "check the numbers of heads"
        )
    grouped = states.reshape(len(keys), -1, keys.shape[2])
    return [
        _report(h, k, _spaced(s, starts), scale, tolerance, max_steps)
        for h, (k, s) in enumerate(zip(keys, grouped, strict=True))
    ]


def _report(
    head: int, k: np.ndarray, states: np.ndarray, scale: float, tolerance: float, max_steps: int
) -> HeadReport:
    tokens, dim = k.shape
    a = mean_half_squared(k)
    if not a > 0:
        raise InputError(f"all keys of head {head} are equal: pass tokens that differ")
    K = scale * a
    found = _retrieve(k, states, scale, tolerance, max_steps)
    settled = found.settled
    values = theory.characteristic(tokens)
    limits = theory.pattern_limits(K)
    distinct, copies = np.unique(k, axis=0, return_counts=True)
    return HeadReport(
        head=head,
        tokens=tokens,
        distinct_keys=len(distinct),
        head_dim=dim,
        scale=scale,
        norm2=float((k**2).sum(axis=1).mean()),
        norm_bias=float(copies[pairs(distinct).lead <= 0].sum() / tokens),
        a=a,
        beta_eff=K,
        K_s=values.K_s,
        K_c=values.K_c,
        phase=theory.phase(tokens, K),
        exist=limits.exist,
        lowest=limits.lowest,
        starts=len(states),
        entropy_step=float(found.entropy.mean() / math.log(tokens)),
        participation_step=float(np.median(found.step)),
        participation=float(np.median(found.end[settled])) if settled.any() else math.nan,
        unsettled=int((~settled).sum()),
        minima=len(merge(found.state[settled], math.sqrt(2 * a))[1]),
    )


class _Retrieved(NamedTuple):
    # Ends [R, d] of the starts; which are proved minima; entropies after one step; participations.
    state: np.ndarray
    settled: np.ndarray
    entropy: np.ndarray
    step: np.ndarray
    end: np.ndarray


def _retrieve(
    k: np.ndarray, states: np.ndarray, scale: float, tolerance: float, max_steps: int
) -> _Retrieved:
    with jax.enable_x64(True):
        network = memory(k, checked=False)
        found = find_minima(network, states, scale, tolerance=tolerance, max_steps=max_steps)
        end, settled = np.array(found.state), np.array(found.minimum)
        # The ghost of a minimum is within any tolerance; only a much finer one lets it pass.
        doubtful = np.flatnonzero(np.asarray(found.converged) & ~settled)
        if doubtful.size:
            finest = min(tolerance, FINEST)
            finer = find_fixed_points(
                network, end[doubtful], scale, tolerance=finest, max_steps=max_steps
            )
            end[doubtful] = finer.state
            proof = certify(network, finer.state, scale, tolerance=tolerance)
            settled[doubtful] = proof.minimum
        step, last = (order_parameters(weights(network, x, scale)) for x in (states, end))
    entropy, *kept = (np.asarray(v) for v in (step.entropy, step.participation, last.participation))
    return _Retrieved(end, settled, entropy, *kept)


def _spaced(states: np.ndarray, most: int) -> np.ndarray:
    if len(states) <= most:
        return states
    return states[np.round(np.linspace(0, len(states) - 1, most)).astype(int)]


def _heads(values, name: str, least: int = 2) -> np.ndarray:
    x = np.asarray(values, np.float64)
    if x.ndim != 3 or 0 in x.shape:
        raise InputError(f"{name} must have shape [heads, tokens, d_head], got {list(x.shape)}")
    if x.shape[1] < least:
        raise InputError(f"a head needs at least {least} {name}, got {x.shape[1]}")
    check_finite(x, name)
    return x


def _scale(scale: float | None, head_dim: int) -> float:
    scale = 1 / math.sqrt(head_dim) if scale is None else float(scale)
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f"the scale of attention must be a finite number > 0, got {scale:g}")
    return scale
