r"""Kernel distance (KID): squared maximum mean discrepancy between two sets of features.

Binkowski et al. 2018 (arXiv 1801.01401), on Gretton et al. 2012. Samples x_i [n, d] generated,
y_l [m, d] real; kernel k(x, y) = (x.y/d + 1)^3; sums over distinct pairs make it unbiased, so that
it is 0 on average for equal distributions and may fall below 0:

    U(x) = sum_{i /= j} k(x_i, x_j) / n(n-1)
    MMD^2 = U(x) + U(y) - 2/(nm) sum_il k(x_i, y_l)

Unlike a Frechet distance it may be compared between different n.

Standard error by the jackknife over both sets, in closed form: with row sums
r_i = sum_{j /= i} k(x_i, x_j), c_i = sum_l k(x_i, y_l) and R, C their totals, leaving out x_i gives

    (R - 2 r_i)/((n-1)(n-2)) + U(y) - 2 (C - c_i)/((n-1) m)

and likewise for y; each set adds (n-1)/n times the sum of squares about the mean. Near equality,
where the first-order terms vanish, it overstates the error by up to sqrt(2) (Efron & Stein 1981).
Streaming: the features themselves (dng_jax.metrics.buffer), 4 n d bytes. Cost O(n m d).

Known answer: for independent Gaussians x ~ N(a, A), y ~ N(b, B), s = x.y,

    E[s]   = a.b
    E[s^2] = (a.b)^2 + a'B a + b'A b + tr(A B)
    E[s^3] = (a.b)^3 + 3 (a.b) (a'B a + b'A b + tr(A B)) + 6 a'B A b
    E[k]   = 1 + 3 E[s]/d + 3 E[s^2]/d^2 + E[s^3]/d^3

the last of the third moments being the 6 of the 9 products of one mean and one covariance on each
side (E[xxx] = aaa + 3 placements of aA) in which the means stand in different places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dng_jax.errors import InputError
from dng_jax.metrics.buffer import feature_rows

CELLS = 1 << 23  # kernel values held at once: 64 MiB


@dataclass(frozen=True)
class KernelDistance:
    """MMD^2 (dimensionless), its standard error, numbers of generated and of real samples."""

    value: float
    error: float
    samples: int
    reference: int


@dataclass(frozen=True, eq=False)
class KernelReference:
    """Real features [m, d] float64 and their row sums [m], computed once for many comparisons."""

    features: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, features) -> KernelReference:
        """Of features [m, d], m >= 3; returns a KernelReference as it is."""
        if isinstance(features, KernelReference):
            return features
        features = _enough(features, None, "real")
        return cls(features, _self_rows(features))

    @property
    def mean(self) -> float:
        """U(y)."""
        m = len(self.rows)
        return float(self.rows.sum() / (m * (m - 1)))


def kid(features, reference) -> KernelDistance:
    """Over all pairs: features [n, d], reference [m, d] or a KernelReference; n, m >= 3."""
    real = KernelReference.of(reference)
    x = _enough(features, real.features.shape[1], "generated")
    n, m = len(x), len(real.rows)
    own = _self_rows(x)
    rows, columns = _sums(x, real.features)
    value = own.sum() / (n * (n - 1)) + real.mean - 2 * columns.sum() / (n * m)
    variance = _jackknife(own, rows, m) + _jackknife(real.rows, columns, n)
    return KernelDistance(float(value), float(np.sqrt(variance)), n, m)


def _enough(features, width: int | None, kind: str) -> np.ndarray:
    features = feature_rows(features, width).astype(np.float64)
    if len(features) < 3:
        raise InputError(
            f"a kernel distance needs at least three {kind} samples, got {len(features)}"
        )
    return features


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    k = x @ y.T / x.shape[1] + 1
    return k * k * k


def _sums(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of k(x_i, y_l) over l [n] and over i [m]."""
    rows, columns = np.empty(len(x)), np.zeros(len(y))
    chunk = max(1, CELLS // len(y))
    for i in range(0, len(x), chunk):
        k = _kernel(x[i : i + chunk], y)
        rows[i : i + chunk] = k.sum(axis=1)
        columns += k.sum(axis=0)
    return rows, columns


def _self_rows(x: np.ndarray) -> np.ndarray:
    return _sums(x, x)[0] - ((x * x).sum(axis=1) / x.shape[1] + 1) ** 3


def _jackknife(own: np.ndarray, cross: np.ndarray, others: int) -> float:
    """Variance from one set of n: own and cross its row sums [n], `others` the other's size."""
    n = len(own)
    without = (own.sum() - 2 * own) / ((n - 1) * (n - 2))
    without -= 2 * (cross.sum() - cross) / ((n - 1) * others)
    return (n - 1) * float(without.var())
