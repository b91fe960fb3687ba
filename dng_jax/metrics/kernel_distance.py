r"""Kernel distance (KID): squared maximum mean discrepancy between two sets of features.

Binkowski et al. 2018 (arXiv 1801.01401), on Gretton et al. 2012. Samples x_i [n, d] generated,
y_l [m, d] real; kernel k(x, y) = (x.y/d + 1)^3; sums over distinct pairs make it unbiased, so that
it is 0 on average for equal distributions and may fall below 0:

    U(x) = sum_{i /= j} k(x_i, x_j) / n(n-1)
    MMD^2 = U(x) + U(y) - 2/(nm) sum_il k(x_i, y_l)

Unlike a Frechet distance it may be compared between different n. Two forms:

All pairs. Standard error by the jackknife over both sets, in closed form: with row sums
r_i = sum_{j /= i} k(x_i, x_j), c_i = sum_l k(x_i, y_l) and R, C their totals, leaving out x_i gives

    (R - 2 r_i)/((n-1)(n-2)) + U(y) - 2 (C - c_i)/((n-1) m)

and likewise for y; each set adds (n-1)/n times the sum of squares about the mean. Near equality,
where the first-order terms vanish, it overstates the error by up to sqrt(2) (Efron & Stein 1981).
Streaming: the features themselves (dng_jax.metrics.kept), 4 n d bytes.

Blocks. Samples are cut by their index into blocks of b, and x enters by pairs of one block only:

    mean_j U(x of block j) + U(y) - 2 mean_il k(x_i, y_l)        over the B complete blocks

unbiased too, noisier by the pairs it leaves out, and with bounded memory: a closed block is one
number, the reference keeps m sums, and only incomplete blocks hold features. Since an index says
where a sample belongs, the value does not depend on how the stream was cut, ordered or merged.
Error: spread of the blocks over B, plus the jackknife over y. Cost O(n m d) either way.

Known answer: for independent Gaussians x ~ N(a, A), y ~ N(b, B), s = x.y,

    E[s]   = a.b
    E[s^2] = (a.b)^2 + a'B a + b'A b + tr(A B)
    E[s^3] = (a.b)^3 + 3 (a.b) (a'B a + b'A b + tr(A B)) + 6 a'B A b
    E[k]   = 1 + 3 E[s]/d + 3 E[s^2]/d^2 + E[s^3]/d^3

the last of the third moments being the 6 of the 9 products of one mean and one covariance on each
side (E[xxx] = aaa + 3 placements of aA) in which the means stand in different places.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dng_jax.errors import InputError
from dng_jax.metrics.kept import feature_rows

CELLS = 1 << 23  # kernel values held at once: 64 MiB


@dataclass(frozen=True)
class KernelDistance:
    """MMD^2 (dimensionless) and its standard error, from `samples` against `reference` real ones.

    blocks: complete blocks behind it; 0 where all pairs were used.
    """

    value: float
    error: float
    samples: int
    reference: int
    blocks: int = 0


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


@dataclass(frozen=True, eq=False)
class KernelBlocks:
    """Block average in the making. Immutable: `update` and `merge` return a new one.

    closed: block -> its U(x) - 2 mean k(x, y); columns [m]: sum of k(x_i, y_l) over samples of
    closed blocks; open: block -> (which of its b places are filled [b], features [b, d]).
    """

    reference: KernelReference
    block: int
    columns: np.ndarray
    closed: dict[int, float] = field(default_factory=dict)
    open: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @classmethod
    def zero(cls, reference, block: int = 500) -> KernelBlocks:
        """Nothing seen yet; reference [m, d] or a KernelReference, blocks of `block` >= 2."""
        if block < 2:
            raise InputError(f"a block needs at least 2 samples, got {block}")
        reference = KernelReference.of(reference)
        return cls(reference, block, np.zeros(len(reference.rows)))

    def update(self, batch, first: int) -> KernelBlocks:
        """With samples number first, first + 1, ... added: features [N, d]. Each only once."""
        batch = feature_rows(batch, self.reference.features.shape[1])
        if first < 0:
            raise InputError(f"the number of the first sample must not be negative, got {first}")
        new = self._copy()
        for j in range(first // self.block, -(-(first + len(batch)) // self.block)):
            start = j * self.block
            low, high = max(start, first), min(start + self.block, first + len(batch))
            filled = np.zeros(self.block, bool)
            rows = np.zeros((self.block, batch.shape[1]))
            filled[low - start : high - start] = True
            rows[filled] = batch[low - first : high - first]
            new._absorb(j, filled, rows)
        return new

    def merge(self, other: KernelBlocks) -> KernelBlocks:
        """Both together; they must have one reference and block size, and no sample in common."""
        mine, theirs = self.reference.features, other.reference.features
        if self.block != other.block or not (mine is theirs or np.array_equal(mine, theirs)):
            raise InputError(
                f"cannot merge blocks of {self.block} and {other.block} samples, or blocks against "
                "different real features: start both with one KernelReference"
            )
        new = self._copy()
        for j in other.closed:
            new._refuse(j, j in new.closed or j in new.open)
        new.closed.update(other.closed)
        new.columns[:] += other.columns
        for j, (filled, rows) in other.open.items():
            new._absorb(j, filled, rows)
        return new

    def result(self) -> KernelDistance:
        """Over the complete blocks, of which there must be two; the others do not count."""
        blocks, m = len(self.closed), len(self.columns)
        if blocks < 2:
            raise InputError(
                f"the error of a block average needs two complete blocks of {self.block}, got "
                f"{blocks}: add samples, make blocks smaller, or take all pairs (kid)"
            )
        values = np.array([self.closed[j] for j in sorted(self.closed)])
        n = blocks * self.block
        variance = values.var(ddof=1) / blocks + _jackknife(self.reference.rows, self.columns, n)
        value = values.mean() + self.reference.mean
        return KernelDistance(float(value), float(np.sqrt(variance)), n, m, blocks)

    def _copy(self) -> KernelBlocks:
        return KernelBlocks(
            self.reference, self.block, self.columns.copy(), dict(self.closed), dict(self.open)
        )

    def _refuse(self, j: int, seen: bool) -> None:
        if seen:
            start = j * self.block
            raise InputError(
                f"a sample of {start}..{start + self.block - 1} comes twice: number the samples of "
                "all batches through"
            )

    def _absorb(self, j: int, filled: np.ndarray, rows: np.ndarray) -> None:
        # Changes the dicts and arrays of a copy that nobody else has seen.
        if j in self.open:
            before, held = self.open[j]
            self._refuse(j, bool(np.any(before & filled)))
            filled, rows = before | filled, np.where(filled[:, None], rows, held)
        self._refuse(j, j in self.closed)
        if not filled.all():
            self.open[j] = filled, rows
            return
        self.open.pop(j, None)
        own, (_, columns) = _self_rows(rows), _sums(rows, self.reference.features)
        b = self.block
        self.closed[j] = float(own.sum() / (b * (b - 1)) - 2 * columns.mean() / b)
        self.columns[:] += columns


def block_kid(features, reference, block: int = 500) -> KernelDistance:
    """Block average: features [n, d] in blocks of consecutive ones, n >= 2 block."""
    return KernelBlocks.zero(reference, block).update(features, 0).result()


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
