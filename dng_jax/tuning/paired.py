r"""Whether one setting is better than another on seeds that neither was chosen by.

    d_s = f(a, s) - f(b, s),   s = 1 .. n         f minimised; both with the same start, batches,
                                                  noise and held-out images of seed s
    mean d -+ t max(sd(d), u) / sqrt(n)           t: the 97.5% quantile of Student's distribution
                                                  with n - 1 degrees of freedom (Student 1908)

What a seed does to both alike cancels in d_s. With the two or three seeds that one can afford the
interval is wide, t = 12.7 and 4.3.

u, the least standard deviation, is the step that f moves in: 1 / n_held of the error of n_held
images, 0 of a loss. Values that are rounded to it can be equal, sd = 0, without being certain.
NumPy, float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BETTER, WORSE, UNDECIDED = "better", "worse", "undecided"


@dataclass(frozen=True)
class Mean:
    """A mean with its 95% interval."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Of a difference that is negative where the first one is better."""
        return BETTER if self.high < 0 else WORSE if self.low > 0 else UNDECIDED


def mean(values: Sequence[float], least: float) -> Mean:
    """The mean of n >= 2 finite values, with Student's interval; least: u >= 0, in their unit."""
    from scipy import stats  # half a second that a command line does not need

    n, middle = len(values), float(np.mean(values))
    deviation = max(np.std(values, ddof=1), least)
    half = float(stats.t.ppf(0.975, n - 1) * deviation / np.sqrt(n))
    return Mean(middle, middle - half, middle + half)


def difference(first: Sequence[float], second: Sequence[float], least: float) -> Mean:
    """As `mean`, of d: values that belong together in pairs, n >= 2 of each, all finite."""
    return mean([a - b for a, b in zip(first, second, strict=True)], least)
