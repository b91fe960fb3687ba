r"""Frechet distance between Gaussians fitted to two sets of features.

Symbols: m_i mean [d], C_i covariance [d, d] (divided by N - 1). Units: squared feature units.
Dowson & Landau 1982; as a score of generated images, Heusel et al. 2017 (arXiv 1706.08500):

    d^2 = |m_1 - m_2|^2 + tr( C_1 + C_2 - 2 (C_1 C_2)^{1/2} )

C_1 C_2 is not symmetric and its matrix root can come out complex. With R_i = C_i^{1/2},

    tr (C_1 C_2)^{1/2} = tr (R_1 C_2 R_1)^{1/2} = sum of the singular values of R_1 R_2

the middle form through eigenvalues of a symmetric matrix, the last without ever taking the root
of an eigenvalue that is 0 up to rounding (which would turn 1e-16 into 1e-8, d times over).

Streaming moments (Chan, Golub & LeVeque 1983), S = sum_i (x_i - m)(x_i - m)^T, D = m_b - m_a:

    n = n_a + n_b      m = m_a + D n_b/n      S = S_a + S_b + D D^T n_a n_b/n

The estimate is biased upwards by an amount that grows with d/N, and with N <= d the covariance is
singular: compare only distances measured with the same N, and state it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from dng_jax.errors import InputError
from dng_jax.metrics.kept import feature_rows


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean [d] and sum of squared deviations [d, d] (float64) of the features seen so far.

    Immutable: `update` and `merge` return a new one.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def zero(cls, features: int) -> Moments:
        """Nothing seen yet; features = d >= 1."""
        if features < 1:
            raise InputError(f"features must be at least 1, got {features}")
        return cls(0, np.zeros(features), np.zeros((features, features)))

    def update(self, batch) -> Moments:
        """With a batch [N, d] of finite features added (N may be 0); InputError otherwise."""
        batch = feature_rows(batch, len(self.mean)).astype(np.float64)
        if len(batch) == 0:
            return self
        mean = batch.mean(axis=0)
        centred = batch - mean
        return self.merge(Moments(len(batch), mean, centred.T @ centred))

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets together; InputError where their widths differ."""
        if self.mean.shape != other.mean.shape:
            raise InputError(
                f"cannot merge moments of {len(self.mean)} and {len(other.mean)} features"
                ": use one feature extractor for both"
            )
        n = self.count + other.count
        if n == 0:
            return self
        gap = other.mean - self.mean
        mean = self.mean + gap * (other.count / n)
        spread = np.outer(gap, gap) * (self.count * other.count / n)
        return Moments(n, mean, self.scatter + other.scatter + spread)

    @property
    def covariance(self) -> np.ndarray:
        """[d, d], divided by count - 1. InputError with fewer than two samples."""
        if self.count < 2:
            raise InputError(f"a covariance needs at least two samples, got {self.count}")
        return self.scatter / (self.count - 1)

    def distance(self, other: Moments) -> float:
        """Frechet distance to the Gaussian of the other set."""
        return frechet_distance(self.mean, self.covariance, other.mean, other.covariance)

    def distances(self, features, rows) -> np.ndarray:
        """Frechet distances to bootstrap resamples features[rows[i]], [R]; rows int [R, n].

        Equal to `distance` to 1e-6 of the traces, at a seventh of its cost: the root of this set's
        covariance is taken once, and tr (root C root)^(1/2) needs eigenvalues alone.
        """
        root, trace = _root(self.covariance, len(self.mean), "the covariance")
        features = np.asarray(features, np.float64)
        out = []
        for chosen in np.asarray(rows):
            other = Moments.zero(len(self.mean)).update(features[chosen])
            covariance = other.covariance
            overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariance @ root), 0)).sum()
            gap = np.sum((self.mean - other.mean) ** 2)
            out.append(max(0.0, gap + trace + np.trace(covariance) - 2 * overlap))
        return np.array(out)

    def distance_errors(self, features, resamples: int, seed) -> np.ndarray:
        """Bootstrap standard errors [S] of the distances to S sets of features [S, n, d].

        Samples are redrawn by their number, alike in all sets; resamples >= 2, seed: a number or
        several.
        """
        n = features.shape[1]
        rows = np.random.default_rng(seed).integers(n, size=(resamples, n))
        return np.array([np.std(self.distances(f, rows), ddof=1) for f in features])


def frechet_distance(mean1, cov1, mean2, cov2) -> float:
    """Squared Frechet distance, float64, >= 0.

    mean1, mean2: [d]; cov1, cov2: [d, d] symmetric and positive semi-definite up to rounding.
    InputError for other shapes, numbers that are not finite, or a matrix that is no covariance.
    """
    mean1, mean2 = np.asarray(mean1, np.float64), np.asarray(mean2, np.float64)
    if mean1.ndim != 1 or mean1.shape != mean2.shape:
        raise InputError(
            f"the means must be two vectors of one length, got {list(mean1.shape)} "
            f"and {list(mean2.shape)}"
        )
    if not np.all(np.isfinite(mean1)) or not np.all(np.isfinite(mean2)):
        raise InputError(
            "a mean holds a number that is not finite: leave out the samples behind it"
        )
    root1, trace1 = _root(cov1, len(mean1), "cov1")
    root2, trace2 = _root(cov2, len(mean2), "cov2")
    overlap = linalg.svdvals(root1 @ root2).sum()
    gap = np.sum((mean1 - mean2) ** 2)
    return max(0.0, float(gap + trace1 + trace2 - 2 * overlap))


def frechet_from_features(a, b) -> float:
    """Frechet distance between features a [N, d] and b [M, d], N, M >= 2."""
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 2 or b.ndim != 2:
        raise InputError(
            f"features must have shape [N, d], got {list(a.shape)} and {list(b.shape)}"
            ": flatten each image to a row"
        )
    return Moments.zero(a.shape[1]).update(a).distance(Moments.zero(b.shape[1]).update(b))


def _root(cov, features: int, name: str) -> tuple[np.ndarray, float]:
    """Symmetric square root [d, d] and trace of a covariance."""
    cov = np.asarray(cov, np.float64)
    if cov.shape != (features, features):
        raise InputError(f"{name} must have shape [{features}, {features}], got {list(cov.shape)}")
    if not np.all(np.isfinite(cov)):
        raise InputError(
            f"{name} holds a number that is not finite: leave out the samples behind it"
        )
    scale = np.abs(cov).max()
    if np.abs(cov - cov.T).max() > 1e-5 * scale:
        raise InputError(
            f"{name} is not symmetric: pass a covariance, not a root or a factor of it"
        )
    # Not scipy's eigh: LAPACK's syevr behind it fails on some spectra of equal eigenvalues.
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    # 1e-5 lets covariances in that were summed in float32; below it the sign is rounding.
    if values[0] < -1e-5 * max(values[-1], scale):
        raise InputError(
            f"{name} has the negative eigenvalue {values[0]:.3g}: pass a covariance matrix"
        )
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T, float(np.trace(cov))
