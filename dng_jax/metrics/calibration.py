r"""How far predicted probabilities can be believed.

Two kinds of forecast, told apart by the shape of p:

    p [N, K], outcome [N] labels 0..K-1      rows sum to 1; y_ik = 1 where outcome_i = k
    p [N],    outcome [N] events (bool)      probability that the event happens

Scores (means over N; logarithms natural):

    NLL        -log p_i(what happened)                             0 .. inf, nats
    Brier      sum_k (p_ik - y_ik)^2    or    (p_i - y_i)^2        0 .. 2  or  0 .. 1 (Brier 1950)
    agreement  [argmax_k p_ik = outcome_i]    or    [(p_i >= 1/2) = outcome_i]
    ECE        sum_b (N_b/N) |observed_b - mean p_b|     (Guo et al. 2017, arXiv 1706.04599)

The reliability curve bins the forecasts by p: for classes by the probability of the most probable
one, the event being that it is right; for events by p itself. One class k of many is read as the
event p[:, k], outcome == k. ECE is of the order sqrt(bins/N) even for a perfect forecaster; give N
beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dng_jax.errors import InputError, choose
from dng_jax.metrics.shares import wilson

NLL_FLOOR = 1e-12


@dataclass(frozen=True, eq=False)
class Reliability:
    """One entry per bin [B]: mean predicted p, observed share, count, Wilson interval of the share.

    edges [B + 1]. An empty bin has NaN for mean_p and observed, and the interval (0, 1).
    """

    mean_p: np.ndarray
    observed: np.ndarray
    count: np.ndarray
    low: np.ndarray
    high: np.ndarray
    edges: np.ndarray


@dataclass(frozen=True)
class Calibration:
    """The four scores of one set of forecasts, and how many there were.

    nll_error: standard error of nll; agreement_low, agreement_high: 95% Wilson interval.
    """

    samples: int
    nll: float
    nll_error: float
    brier: float
    agreement: float
    agreement_low: float
    agreement_high: float
    ece: float


def nll(p, outcome) -> float:
    """Mean negative log-likelihood in nats.

    Probabilities are floored at 1e-12, so that one forecast of exactly 0 for what happened costs
    27.6 nats instead of making the mean infinite.
    """
    return float(_surprise(p, outcome).mean())


def _surprise(p, outcome) -> np.ndarray:
    p, outcome = _forecasts(p, outcome)
    if p.ndim == 1:
        p = np.stack([1 - p, p], axis=1)
    happened = p[np.arange(len(p)), outcome]
    return -np.log(np.maximum(happened, NLL_FLOOR))


def brier(p, outcome) -> float:
    """Mean squared error of the probabilities: 0..2 for classes, 0..1 for events."""
    p, outcome = _forecasts(p, outcome)
    if p.ndim == 1:
        return float(np.mean((p - outcome) ** 2))
    return float(np.mean(np.sum((p - np.eye(p.shape[1])[outcome]) ** 2, axis=1)))


def agreement(p, outcome) -> float:
    """Share of forecasts whose most probable outcome happened, 0..1."""
    p, outcome = _forecasts(p, outcome)
    return float(np.mean(_binary(p, outcome)[1] if p.ndim == 2 else (p >= 0.5) == (outcome == 1)))


def reliability(
    p,
    outcome,
    bins: int = 15,
    *,
    binning: Literal["width", "mass"] = "width",
    confidence: float = 0.95,
) -> Reliability:
    """Reliability curve with `bins` bins: of equal width on [0, 1], or holding equal numbers.

    With "mass", ties can make fewer bins than asked for.
    """
    choose(binning, ("width", "mass"), "binning")
    if bins < 1:
        raise InputError(f"bins must be at least 1, got {bins}")
    p, event = _binary(*_forecasts(p, outcome))
    if binning == "width":
        edges = np.linspace(0, 1, bins + 1)
    else:
        edges = np.unique(np.quantile(p, np.linspace(0, 1, bins + 1)))
        edges = np.array([0.0, 1.0]) if len(edges) < 2 else edges
    bins = len(edges) - 1
    # The last bin is closed on the right, so that p = 1 is counted.
    where = np.clip(np.searchsorted(edges, p, side="right") - 1, 0, bins - 1)
    count = np.bincount(where, minlength=bins)
    hits = np.bincount(where, weights=event, minlength=bins)
    filled = np.where(count > 0, count, np.nan)
    mean_p = np.bincount(where, weights=p, minlength=bins) / filled
    low, high = wilson(hits, count, confidence)
    return Reliability(mean_p, hits / filled, count, low, high, edges)


def expected_calibration_error(p, outcome, bins: int = 15) -> float:
    """Mean distance |observed - predicted| over equal-width bins, weighted by count; 0..1."""
    curve = reliability(p, outcome, bins)
    return float(np.nansum(curve.count * np.abs(curve.observed - curve.mean_p)) / curve.count.sum())


def calibration(p, outcome, bins: int = 15) -> Calibration:
    """All four scores at once.

    p: [N, K] rows summing to 1 within 1e-3, or [N], all in [0, 1]. outcome: [N] labels 0..K-1, or
    [N] events (bool, or 0 and 1). InputError for anything else; this holds for the whole file.
    """
    surprise, share = _surprise(p, outcome), agreement(p, outcome)
    low, high = wilson(round(share * len(surprise)), len(surprise))
    return Calibration(
        len(surprise),
        float(surprise.mean()),
        float(surprise.std() / np.sqrt(len(surprise))),
        brier(p, outcome),
        share,
        low,
        high,
        expected_calibration_error(p, outcome, bins),
    )


def _binary(p: np.ndarray, outcome: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Forecasts as events [N]: for classes, that the most probable one is right."""
    return (p, outcome) if p.ndim == 1 else (p.max(axis=1), p.argmax(axis=1) == outcome)


def _forecasts(p, outcome) -> tuple[np.ndarray, np.ndarray]:
    p, outcome = np.asarray(p, np.float64), np.asarray(outcome)
    if p.ndim not in (1, 2) or len(p) == 0 or outcome.shape != p.shape[:1]:
        raise InputError(
            "calibration needs p [N, K] or [N] and outcome [N] with N >= 1, "
            f"got shapes {list(p.shape)} and {list(outcome.shape)}"
        )
    # Written so that NaN fails too. 1e-6 is the rounding of a float32 softmax.
    if not np.all((p >= -1e-6) & (p <= 1 + 1e-6)):
        raise InputError(
            f"probabilities must lie in [0, 1], got {p.min():.4g}..{p.max():.4g}: "
            "apply a softmax to logits"
        )
    if outcome.dtype == bool:
        outcome = outcome.astype(np.int64)
    classes = p.shape[1] if p.ndim == 2 else 2
    if not np.issubdtype(outcome.dtype, np.integer) or not np.all(
        (outcome >= 0) & (outcome < classes)
    ):
        raise InputError(
            f"outcome must hold integers in 0..{classes - 1}, got {outcome.dtype} "
            f"{outcome.min()}..{outcome.max()}"
        )
    if p.ndim == 2 and not np.allclose(p.sum(axis=1), 1, atol=1e-3):
        worst = int(np.argmax(np.abs(p.sum(axis=1) - 1)))
        raise InputError(
            f"each row of p must sum to 1, row {worst} sums to {p[worst].sum():.4g}: normalise it"
        )
    return np.clip(p, 0, 1), outcome
