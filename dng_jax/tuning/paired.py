r"""Whether one setting is better than another on seeds that neither was chosen by.

    d_s = f(a, s) - f(b, s),   s = 1 .. n         f minimised; both with the same start, batches,
                                                  noise and split of the images, of seed s
    mean d -+ t max(sd(d), u) sqrt(1/n + r)       r = n_test / n_train of the split; t: the 97.5%
                                                  quantile of Student's distribution with n - 1
                                                  degrees of freedom

What a seed does to both alike cancels in d_s. The d_s are not independent: the parts held out
overlap, and the parts trained on still more. With c the correlation of any two,

    E sd^2 = (1 - c) V,    Var mean d = (1/n + (1 - 1/n) c) V = (1/n + c / (1 - c)) E sd^2

for V = Var d_s. c is not known; the corrected resampled t-interval (Nadeau and Bengio, "Inference
for the generalization error", Machine Learning 52, 2003) takes c = n_test / (n_test + n_train),
which makes c / (1 - c) = r. Student's own interval, r = 0, finds differences where there are none
more often than in 5%, the more seeds the more often (Dietterich, Neural Computation 10, 1998).
However many the seeds, half the width stays above t sd sqrt(r): they draw on the same images.

The interval is about the mean of d over other images of the same kind, n_train of them to train on,
and over the start, batches and noise: not about the images at hand, nor about trainings on more. It
is an approximation. With the two or three seeds that one can afford it is wide, t = 12.7 and 4.3.

u, the least standard deviation, is the step that f moves in: 1 / n_test of the error of n_test
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


def mean(values: Sequence[float], share: float, least: float = 0.0) -> Mean:
    """The mean of n >= 2 finite values with its interval; share: r >= 0; least: u >= 0, in the
    unit of the values."""
    from scipy import stats  # half a second that a command line does not need

    n, middle = len(values), float(np.mean(values))
    deviation = max(np.std(values, ddof=1), least)
    half = float(stats.t.ppf(0.975, n - 1) * deviation * np.sqrt(1 / n + share))
    return Mean(middle, middle - half, middle + half)


def difference(
    first: Sequence[float], second: Sequence[float], share: float, least: float = 0.0
) -> Mean:
    """As `mean`, of d: values that belong together in pairs, n >= 2 of each, all finite."""
    return mean([a - b for a, b in zip(first, second, strict=True)], share, least)
