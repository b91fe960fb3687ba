r"""Precision and recall of generated features, and density and coverage.

Kynkaanniemi et al. 2019 (arXiv 1904.06991): a set of points stands for the union of the balls about
each of them that reach to its k-th nearest neighbour in the same set (itself not counted).

    precision   share of the n generated samples inside the real manifold       (quality)
    recall      share of the m real samples inside the generated manifold       (variety)

Naeem et al. 2020 (arXiv 2002.09797), from the real balls alone and so less moved by outliers:

    density     mean number of real balls that hold a generated sample, over k      0 .. m/k
    coverage    share of the real balls that hold any generated sample              0 .. 1

A ball is closed; distances are Euclidean, taken as sums of squared differences in float64, so that
equal points have distance 0 and no way of cutting the stream changes a decision. For equal
continuous distributions, ranks alone give E[density] = 1 and

    E[coverage] = 1 - prod_{i=0}^{k-1} (m - 1 - i)/(m + n - 1 - i)            -> 1 - 2^-k at m = n

while precision and recall depend on the distribution. Compare only equal n, m and k.

Intervals are Wilson's and hold the manifold fixed: precision's speaks of other generated samples
against these real ones, recall's of other real samples against these generated ones.

Streaming: against a fixed real manifold, precision and density are sums and coverage is one
minimal distance per real sample, O(m) memory however long the stream. Recall needs the radii of the
generated samples, which later ones shrink, and so their features (dng_jax.metrics.buffer).
Cost: three times n m d squared differences, about 1 ns each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.distance import cdist

from dng_jax.errors import InputError
from dng_jax.metrics.buffer import LIMIT, FeatureBuffer, feature_rows
from dng_jax.metrics.shares import Share, share

CELLS = 1 << 22  # distances held at once: 32 MiB


@dataclass(frozen=True)
class PrecisionRecall:
    """The four scores; recall is None where no features were kept. reference: m."""

    precision: Share
    recall: Share | None
    density: float
    coverage: float
    samples: int
    reference: int
    k: int


@dataclass(frozen=True, eq=False)
class Manifold:
    """Points [m, d] float64 and the squared radii [m] of their balls."""

    features: np.ndarray
    squared_radii: np.ndarray
    k: int

    @classmethod
    def of(cls, features, k: int = 3) -> Manifold:
        """Balls to the k-th nearest neighbour; features [m, d] with m > k >= 1."""
        x = feature_rows(features).astype(np.float64)
        if k < 1 or len(x) <= k:
            raise InputError(
                f"balls to the k-th neighbour need k >= 1 and more than k samples, "
                f"got k = {k} and {len(x)} samples"
            )
        radii = np.empty(len(x))
        for i, distances in _chunks(x, x):
            # Place 0 is the point itself, or a twin at the same distance 0.
            radii[i : i + len(distances)] = np.partition(distances, k, axis=1)[:, k]
        return cls(x, radii, k)

    def holds(self, points) -> np.ndarray:
        """[N] int64: how many of the balls hold each of the points [N, d]."""
        points = feature_rows(points, self.features.shape[1])
        return self._look(points)[0]

    def _look(self, points) -> tuple[np.ndarray, np.ndarray]:
        """Balls that hold each point [N]; squared distance of the nearest point [m]."""
        balls = np.zeros(len(points), np.int64)
        nearest = np.full(len(self.features), np.inf)
        for i, distances in _chunks(points.astype(np.float64), self.features):
            balls[i : i + len(distances)] = (distances <= self.squared_radii).sum(axis=1)
            nearest = np.minimum(nearest, distances.min(axis=0))
        return balls, nearest


@dataclass(frozen=True, eq=False)
class PRDC:
    """Generated samples against a real manifold. Immutable: `update`, `merge` return a new one.

    count n; inside: of them in the real manifold; balls: real balls that hold them, summed;
    nearest [m]: squared distance from each real sample to the nearest; buffer: their features, or
    None without recall.
    """

    real: Manifold
    count: int
    inside: int
    balls: int
    nearest: np.ndarray
    buffer: FeatureBuffer | None

    @classmethod
    def zero(cls, real, k: int = 3, *, recall: bool = True, limit: int = LIMIT) -> PRDC:
        """Nothing seen yet; real [m, d] features, or a Manifold (whose k then holds)."""
        real = real if isinstance(real, Manifold) else Manifold.of(real, k)
        m, d = real.features.shape
        return cls(
            real, 0, 0, 0, np.full(m, np.inf), FeatureBuffer(d, limit=limit) if recall else None
        )

    def update(self, batch) -> PRDC:
        """With generated features [N, d] added."""
        batch = feature_rows(batch, self.real.features.shape[1])
        balls, nearest = self.real._look(batch)
        return replace(
            self,
            count=self.count + len(batch),
            inside=self.inside + int((balls > 0).sum()),
            balls=self.balls + int(balls.sum()),
            nearest=np.minimum(self.nearest, nearest),
            buffer=None if self.buffer is None else self.buffer.update(batch),
        )

    def merge(self, other: PRDC) -> PRDC:
        """Both together; InputError unless both have one real manifold and both keep, or not."""
        same = self.real is other.real or (
            self.real.k == other.real.k and np.array_equal(self.real.features, other.real.features)
        )
        if not same or (self.buffer is None) != (other.buffer is None):
            raise InputError(
                "cannot merge PRDCs with different real samples, k, or only one with recall: "
                "start both from one PRDC.zero"
            )
        return replace(
            self,
            count=self.count + other.count,
            inside=self.inside + other.inside,
            balls=self.balls + other.balls,
            nearest=np.minimum(self.nearest, other.nearest),
            buffer=None
            if self.buffer is None or other.buffer is None
            else self.buffer.merge(other.buffer),
        )

    def result(self, confidence: float = 0.95) -> PrecisionRecall:
        """The scores so far; more than k samples with recall, at least one without."""
        m, k = len(self.nearest), self.real.k
        recall = None
        if self.buffer is not None:
            generated = Manifold.of(self.buffer.array(), k)
            found = int((generated.holds(self.real.features) > 0).sum())
            recall = share(found, m, confidence)
        return PrecisionRecall(
            share(self.inside, self.count, confidence),
            recall,
            self.balls / (k * self.count),
            float(np.mean(self.nearest <= self.real.squared_radii)),
            self.count,
            m,
            k,
        )


def precision_and_recall(features, real, k: int = 3, confidence: float = 0.95) -> PrecisionRecall:
    """Generated features [n, d] against real [m, d] (or a Manifold); n, m > k."""
    features = feature_rows(features)
    return PRDC.zero(real, k, limit=len(features)).update(features).result(confidence)


def _chunks(x: np.ndarray, y: np.ndarray):
    size = max(1, CELLS // len(y))
    for i in range(0, len(x), size):
        yield i, cdist(x[i : i + size], y, "sqeuclidean")
