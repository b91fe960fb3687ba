"""How good a tracked posterior is, at the end of a chain and along it.

Symbols: T steps, B chains, K classes; p [T, B, K] the tracked probability of each class (of each
class by itself, so its sum over k need not be 1), y [B] the class that came out, q the exact
posterior.

    binary     K events per chain, "class k comes out", forecast by p_k (they exclude one another,
               so intervals over them are a little wide)
    vector     p / sum_k p_k as a forecast of y
    error      mean over B and K of |p - q|,  brier: of (p_k - [y = k])^2,  per step
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dng_jax.metrics.calibration import calibration, reliability
from dng_jax.metrics.shares import is_sparse


class PosteriorError(NamedTuple):
    """mean |p - q| at the last step with its standard error, and over the whole chain."""

    final: float
    final_error: float
    chain: float


def class_forecasts(
    p: np.ndarray, labels: np.ndarray, exact: np.ndarray | None = None
) -> dict[str, Any]:
    """Figures of the forecasts p [T, B, K] of labels int [B], see the top of this file.

    exact: q [T, B, K]; given it, the error over time is against q, else against the labels. Keys:
    binary, p_of_true_class, reliability, vector, sparse (whether a class came out less than five
    times), and error_over_time or brier_over_time [T].
    """
    last, event = p[-1], labels[:, None] == np.arange(p.shape[2])
    found: dict[str, Any] = {
        "binary": calibration(last.ravel(), event.ravel()),
        "p_of_true_class": float(last[event].mean()),
        "reliability": reliability(last.ravel(), event.ravel()),
        "vector": calibration(last / last.sum(axis=1, keepdims=True), labels),
        "sparse": bool(is_sparse(event.sum(axis=0))),
    }
    if exact is None:
        return found | {"brier_over_time": ((p - event) ** 2).mean(axis=(1, 2))}
    return found | {"error_over_time": np.abs(p - exact).mean(axis=(1, 2))}


def posterior_error(p: np.ndarray, exact: np.ndarray) -> PosteriorError:
    """Of the probability p [T, B] of one event against the exact one [T, B]."""
    gap = np.abs(p - exact)
    final = gap[-1]
    return PosteriorError(
        float(final.mean()), float(final.std() / np.sqrt(len(final))), float(gap.mean())
    )
