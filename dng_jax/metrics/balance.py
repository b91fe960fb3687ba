r"""How even the allowed classes are: total variation, chi-square, effective number of classes.

Symbols as in dng_jax.metrics.shares: n_k counts, A the m allowed classes, n_A = sum_A n_k,
h_k = n_k / n_A, q the target over A (uniform, or given). The forbidden classes do not enter. The
divergences between h and q are in `ClassReport`; these say the same in other units:

    total variation     TV = 1/2 sum_A |h_k - q_k|              0..1: the share to be moved
    chi-square          X^2 = sum_A (n_k - n_A q_k)^2 / n_A q_k   m - 1 degrees of freedom
    effective classes   exp H(h), H = -sum_A h_k log h_k + (m-1)/2 n_A   (Miller & Madow 1955)

H less its bias may exceed log m by that correction, as an unbiased estimate of a number at its
bound has to. A perfect generator has TV > 0 too: n_k being binomial, with j = floor(n_A q_k) + 1,

    E|n_k - n_A q_k| = 2 j (1 - q_k) P(n_k = j)                         (de Moivre 1730)

gives its `expected_tv`. Interval of TV: parametric bootstrap from the smoothed shares, the spread
about its mean laid around TV less the bootstrap's bias, cut off at 0 and 1. TV has a kink where
h_k = q_k: a nominal 95% covers 91 to 96% where the imbalance is well above expected_tv, 85 to 90%
near it (simulated, 9 classes, n_A 500 to 8,000), and at perfect balance the interval lies too high.
Whether there is any imbalance is what p_value says.

Streaming: counts of batches add; `class_counts` of each, summed, are those of all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special  # not scipy.stats, which takes every job a second or two to import

from dng_jax.metrics.shares import SMOOTHING, checked


@dataclass(frozen=True)
class ClassBalance:
    """samples: those in allowed classes, n_A; total_variation with its interval; p_value of X^2.

    All NaN where n_A = 0. sparse: n_A q_k < 5 for some class, where p_value is not to be relied on.
    """

    samples: int
    total_variation: float
    low: float
    high: float
    expected_tv: float
    chi_square: float
    p_value: float
    effective_classes: float
    sparse: bool


def class_balance(
    counts,
    allowed,
    target=None,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> ClassBalance:
    """Evenness among the allowed classes; arguments and errors as `kl_divergence` has them."""
    counts, allowed, q, tail = checked(counts, allowed, target, confidence, resamples)
    inside = counts[allowed]
    n, m = int(inside.sum()), len(q)
    if n == 0:
        nan = np.nan
        return ClassBalance(0, nan, nan, nan, nan, nan, nan, nan, True)
    h = inside / n
    tv = _distance(h, q)
    parent = (inside + SMOOTHING) / (n + SMOOTHING * m)
    redrawn = _distance(np.random.default_rng(seed).multinomial(n, parent, size=resamples) / n, q)
    unbiased = tv - (redrawn.mean() - _distance(parent, q))
    low, high = np.clip(unbiased + np.quantile(redrawn - redrawn.mean(), [tail, 1 - tail]), 0, 1)
    some = q[q < 1]  # one class alone has no deviation
    j = np.floor(n * some) + 1
    log_choose = special.gammaln(n + 1) - special.gammaln(j + 1) - special.gammaln(n - j + 1)
    pmf = np.exp(log_choose + special.xlogy(j, some) + special.xlog1py(n - j, -some))
    expected = np.sum(2 * j * (1 - some) * pmf) / (2 * n)
    chi_square = float(np.sum((inside - n * q) ** 2 / (n * q)))
    entropy = special.entr(h).sum() + (m - 1) / (2 * n)
    return ClassBalance(
        n,
        float(tv),
        float(low),
        float(high),
        float(expected),
        chi_square,
        # One class alone is always balanced; chi2 has no 0 degrees of freedom.
        float(special.chdtrc(m - 1, chi_square)) if m > 1 else 1.0,
        float(np.exp(entropy)),
        bool((n * q).min() < 5),
    )


def _distance(h: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.abs(h - q).sum(axis=-1) / 2
