r"""All heads of a transformer over several sequences: how cold each is, and in what regime.

Of L layers, H heads and S sequences, from the reports of hopfield_jax.attention, [L, H] each:

    beta_eff   median over sequences
    entropy    of attention after one step, in units of log T: mean over queries and sequences
    regime     what the queries retrieve, in most of the sequences (the colder at a tie):
               "one attractor"   they reach one proved minimum, all of them
               "metastable"      several, and the median one averages over 2 keys or more
               "single keys"     several, the median one of less than 2 keys (1/sum p^2)
               "not settled"     none of them reached a proved minimum

A single attractor may itself be one long key (norm bias). The rank correlation is Spearman's, over
heads; its interval is a bootstrap over heads.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from hopfield_jax.analyses.data_collapse import TAILS, Interval
from hopfield_jax.attention import HeadReport

REGIMES = ("not settled", "one attractor", "metastable", "single keys")  # ever colder
SINGLE = 2.0  # keys per state below which it is one key
RESAMPLES = 2000


class HeadMap(NamedTuple):
    """[L, H] each; symbols as in this file's head. agreement: share of the sequences with that
    regime. Medians over sequences: participation, keys per state at the minima; exist, the number
    of equidistant keys up to which such a beta_eff has pattern minima; K_s of as many equidistant
    keys as there are."""

    beta_eff: np.ndarray
    entropy: np.ndarray
    regime: np.ndarray
    agreement: np.ndarray
    participation: np.ndarray
    exist: np.ndarray
    K_s: np.ndarray


class Foretold(NamedTuple):
    """Heads of beta_eff above K_s and not above it, and how many of each settle at single keys."""

    above: int
    above_single: int
    below: int
    below_single: int


def regime(report: HeadReport) -> str:
    """The regime of one head on one sequence."""
    if report.minima == 0:
        return "not settled"
    if report.minima == 1:
        return "one attractor"
    return "single keys" if report.participation < SINGLE else "metastable"


def head_map(reports: Sequence[Sequence[Sequence[HeadReport]]]) -> HeadMap:
    """Reports [sequence][layer][head] as maps."""

    def gathered(value: Callable[[HeadReport], float]) -> np.ndarray:
        return np.array([[[value(r) for r in heads] for heads in layers] for layers in reports])

    seen = gathered(lambda r: REGIMES.index(regime(r)))
    counts = np.stack([(seen == i).sum(axis=0) for i in range(len(REGIMES))])
    colder_first = counts[::-1].argmax(axis=0)
    chosen = len(REGIMES) - 1 - colder_first
    return HeadMap(
        beta_eff=np.median(gathered(lambda r: r.beta_eff), axis=0),
        entropy=gathered(lambda r: r.entropy_step).mean(axis=0),
        regime=np.array(REGIMES)[chosen],
        agreement=counts.max(axis=0) / len(reports),
        participation=_settled_median(gathered(lambda r: r.participation)),
        exist=np.median(gathered(lambda r: r.exist), axis=0),
        K_s=np.median(gathered(lambda r: r.K_s), axis=0),
    )


def foretold(found: HeadMap) -> Foretold:
    """Whether heads retrieve single keys where as many equidistant keys would have their minima."""
    above, single = found.beta_eff > found.K_s, found.regime == "single keys"
    counts = (above, above & single, ~above, ~above & single)
    return Foretold(*(int(c.sum()) for c in counts))


def rank_correlation(a, b, seed: int = 0) -> Interval:
    """Spearman's correlation of a and b, of one value per head each, with its 95% interval."""
    a, b = np.ravel(a), np.ravel(b)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(a), size=(RESAMPLES, len(a)))
    ranks = [stats.rankdata(v[drawn], axis=1) for v in (a, b)]
    x, y = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    with np.errstate(invalid="ignore"):
        draws = (x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    low, high = np.nanquantile(draws, TAILS)
    return Interval(float(stats.spearmanr(a, b).statistic), float(low), float(high))


def _settled_median(values: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        # Of heads where nothing ever settled; their median is NaN, as it should be.
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return np.nanmedian(values, axis=0)
