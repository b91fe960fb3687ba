"""Whether a tracked posterior stood at a clamp, where evidence moves it no more.

    pair    low: p_min, times the number of negatives          high: p_max
    odds    low: the least log-odds of all negatives at once   high: the cap on the odds in guidance

In many dimensions (latents of 512 pixels have 16,384) one step at temperature 1 and without an
offset takes p from its prior to a clamp, and lambda_t to 0 or to its cap whatever the image is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from dng_jax.posterior.odds import Odds
from dng_jax.posterior.pair import Pair


class Clamps(NamedTuple):
    """The least and the largest total posterior that a tracker can show."""

    low: float
    high: float

    def shares(self, p: Any) -> dict[str, np.ndarray]:
        """Shares float [B] of the steps after the first at which p [T, B] stood at either; NaN
        where there is one step alone. The first shows the prior."""
        later = np.asarray(p, np.float64)[1:]
        if not len(later):
            nothing = np.full(later.shape[1], np.nan)
            return {"low": nothing, "high": nothing}
        # p went through logarithms in float32.
        low, high = later <= self.low * (1 + 1e-3), later >= self.high * (1 - 1e-5)
        return {"low": low.mean(0), "high": high.mean(0)}


def clamps_of(rule: Any) -> Clamps | None:
    """Those of a rule's tracker, limited to an interval or not; None for a rule without one of pair
    or odds."""
    while not hasattr(rule, "tracker") and hasattr(rule, "rule"):
        rule = rule.rule
    tracker = getattr(rule, "tracker", None)
    if isinstance(tracker, Pair):
        low = len(tracker.concepts) * np.exp(float(tracker.log_p_min))
        return Clamps(low, float(np.exp(float(tracker.log_p_max))))
    if isinstance(tracker, Odds):
        least, cap = float(tracker.log_odds_min), float(tracker.log_odds_max)
        return Clamps(
            float(expit(least + np.log(len(tracker.concepts)))), float(expit(min(cap, -least)))
        )
    return None
