r"""Capacity: how many patterns keep a minimum of their own.

    C(beta) = share of patterns i whose minimum, followed down in beta from beta -> infinity, still
              exists at beta; it rises to 1 minus the share that norm bias leaves without any.

One onset per pattern is measured (hopfield_jax.analyses.transition.onsets), so the whole curve over
beta comes from one bisection: C(beta) is the distribution function of the onsets. They are compared
in beta_eff, where an equidistant set of N patterns would have all of them at K_s(N), the prediction
(how good it is: the folder's sheet, section 5).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dng_jax.errors import InputError
from hopfield_jax import theory
from hopfield_jax.analyses.transition import margins, onsets
from hopfield_jax.energy import Memory
from hopfield_jax.spectrum import beta_eff


class Capacity(NamedTuple):
    """Onsets of one set of N patterns.

    onset [N] in beta_eff, inf for a pattern without any minimum of its own, NaN where the search
    failed; predicted: K_s(N); scale: beta_eff / beta; biased: share of patterns that are no fixed
    point as beta -> infinity; unresolved int array: numbers of the patterns whose onset is only an
    upper bound, or NaN.
    """

    onset: np.ndarray
    predicted: float
    scale: float
    biased: float
    unresolved: np.ndarray

    def quantiles(self, q=(0.1, 0.5, 0.9)) -> np.ndarray:
        """Quantiles of the onsets known; infinite where too many patterns have none."""
        return np.quantile(self.onset[~np.isnan(self.onset)], q, method="inverted_cdf")


def measure(memory: Memory, *, relative: float = 1e-3, tolerance: float | None = None) -> Capacity:
    """Measures all onsets of one memory, of up to some 10^4 patterns (transition.onsets)."""
    scale = float(beta_eff(np.asarray(memory.patterns)))
    found = onsets(memory, relative=relative, tolerance=tolerance)
    onset = found.beta * scale
    return Capacity(
        onset,
        theory.spinodal(len(onset)).K,
        scale,
        float(np.mean(margins(memory) <= 0)),
        np.flatnonzero(found.unresolved | np.isnan(found.beta)),
    )


def share(onset, at) -> np.ndarray:
    """C(beta): share of patterns [S] with a minimum of their own at each beta_eff in `at` [S]."""
    onset = np.asarray(onset, np.float64).ravel()
    onset = np.sort(onset[~np.isnan(onset)])
    if onset.size == 0:
        raise InputError("a capacity needs at least one onset, got none")
    return np.searchsorted(onset, np.asarray(at, np.float64), side="right") / onset.size
