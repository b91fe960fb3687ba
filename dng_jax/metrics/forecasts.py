"""How good a tracked posterior is, at the end of a chain and along it.

Symbols: T steps, B chains, K classes; p [T, B, K] the tracked probability of each class (of each
class by itself, so its sum over k need not be 1), y [B] the class that came out, q the exact
posterior.

    binary     K events per chain, "class k comes out", forecast by p_k (they exclude one another,
               so intervals over them are a little wide)
    vector     p / sum_k p_k as a forecast of y
    error      mean over B and K of |p - q|,  brier: of (p_k - [y = k])^2,  per step
    AUC        chance that p_k of an event that happens is above that of one that does not, a tie
               being half (Mann & Whitney 1947): how well p ranks, whatever its scale

    log-odds   log p/(1-p) less log q/(1-q), where neither is decided: cut off at +-reach

Intervals of NLL, ECE and AUC: value -+ 1.96 standard deviations over bootstrap resamples of whole
chains (their K events depend on one another), cut off where no value can be.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dng_jax.metrics.calibration import NLL_FLOOR, calibration, reliability
from dng_jax.metrics.shares import is_sparse


class Score(NamedTuple):
    """A figure and its 95% interval."""

    value: float
    low: float
    high: float


class PosteriorError(NamedTuple):
    """mean |p - q| at the last step with its standard error, and over the whole chain."""

    final: float
    final_error: float
    chain: float


class LogOddsError(NamedTuple):
    """Tracked less exact log-odds, both cut off at +-reach, in nats.

    error: mean magnitude over the chain, bias: mean, each with its 95% interval over images;
    over_time [T] and bias_over_time [T]: means over images at each level.
    """

    error: Score
    bias: Score
    over_time: np.ndarray
    bias_over_time: np.ndarray


def class_forecasts(
    p: np.ndarray, labels: np.ndarray, exact: np.ndarray | None = None
) -> dict[str, Any]:
    """Figures of the forecasts p [T, B, K] of labels int [B], see the top of this file.

    exact: q [T, B, K]; given it, the error over time is against q, else against the labels. Keys:
    binary, scores, p_of_true_class, reliability, vector, sparse (whether a class came out less than
    five times), and error_over_time or brier_over_time [T].
    """
    p, labels = np.asarray(p, np.float64), np.asarray(labels)
    last, event = p[-1], labels[:, None] == np.arange(p.shape[2])
    found: dict[str, Any] = {
        "binary": calibration(last.ravel(), event.ravel()),
        "scores": event_scores(last, event),
        "p_of_true_class": float(last[event].mean()),
        "reliability": reliability(last.ravel(), event.ravel()),
        "vector": calibration(last / last.sum(axis=1, keepdims=True), labels),
        "sparse": bool(is_sparse(event.sum(axis=0))),
    }
    if exact is None:
        return found | {"brier_over_time": ((p - event) ** 2).mean(axis=(1, 2))}
    return found | {"error_over_time": np.abs(p - exact).mean(axis=(1, 2))}


def event_scores(
    p: np.ndarray, event: np.ndarray, *, bins: int = 15, resamples: int = 300, seed: int = 0
) -> dict[str, Score]:
    """nll, ece and auc of the forecasts p [B, K] of events [B, K] (bool), with intervals.

    AUC is NaN where every event happens, or none does.
    """
    p, event = np.asarray(p, np.float64), np.asarray(event, bool)
    chains, events = p.shape
    happened = np.where(event, p, 1 - p)
    surprise = -np.log(np.maximum(happened, NLL_FLOOR)).sum(axis=1)
    bin_of = np.clip((p * bins).astype(int), 0, bins - 1)
    values, rank = np.unique(p, return_inverse=True)
    rank = rank.reshape(p.shape)

    def figures(weight: np.ndarray) -> tuple[float, float, float]:
        each = np.repeat(weight[:, None], events, axis=1).ravel()
        gap = np.bincount(bin_of.ravel(), each * (event - p).ravel(), bins)
        yes, no = (
            np.bincount(rank.ravel(), each * e.ravel(), len(values)) for e in (event, ~event)
        )
        pairs = yes.sum() * no.sum()
        auc = yes @ (np.cumsum(no) - no / 2) / pairs if pairs else np.nan
        return weight @ surprise / each.sum(), np.abs(gap).sum() / each.sum(), float(auc)

    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(chains, np.full(chains, 1 / chains), size=resamples)
    spread = 1.96 * np.std([figures(weight) for weight in drawn.astype(np.float64)], axis=0)
    found = figures(np.ones(chains))
    ends = {"nll": np.inf, "ece": 1.0, "auc": 1.0}
    return {
        name: Score(value, max(0.0, value - half), min(high, value + half))
        for (name, high), value, half in zip(ends.items(), found, spread.tolist(), strict=True)
    }


def log_odds_error(tracked: np.ndarray, exact: np.ndarray, reach: float) -> LogOddsError:
    """Of log-odds [T, B] of one event against the exact ones [T, B].

    reach: beyond it an event is as good as decided; what a tracker says further out is not counted,
    or the hundreds of nats of a decided image would hide what leads to the decision.
    """
    tracked, exact = (np.clip(np.asarray(a, np.float64), -reach, reach) for a in (tracked, exact))
    gap = tracked - exact

    def over_images(value: np.ndarray) -> Score:
        each = value.mean(axis=0)
        mean, half = each.mean(), 1.96 * each.std(ddof=1) / np.sqrt(len(each))
        return Score(float(mean), float(mean - half), float(mean + half))

    error = over_images(np.abs(gap))
    return LogOddsError(
        error._replace(low=max(0.0, error.low)),
        over_images(gap),
        np.abs(gap).mean(axis=1),
        gap.mean(axis=1),
    )


def posterior_error(p: np.ndarray, exact: np.ndarray) -> PosteriorError:
    """Of the probability p [T, B] of one event against the exact one [T, B]."""
    gap = np.abs(np.asarray(p, np.float64) - np.asarray(exact, np.float64))
    final = gap[-1]
    return PosteriorError(
        float(final.mean()), float(final.std() / np.sqrt(len(final))), float(gap.mean())
    )
