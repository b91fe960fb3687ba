r"""Sets of patterns: the rows x_i in R^d, i = 1..N, that a network stores.

    equidistant   x_i.x_j = M^2 cos theta,  |x_i| = M        -1/(N-1) <= cos theta < 1
    ultrametric   |x|^2 = M^2, c1 within a group, c0 between; G groups of k
    random        uniform on the sphere of radius M
    images        flattened; raw, of unit norm, or centred and of unit norm

Ultrametric (and, as N groups of one, equidistant) rows are the symmetric square root of the Gram
matrix. With W = I - A, B = A - C, C, the projections onto deviations within groups, onto group
means and onto the mean (A averages over groups, C over everything), in closed form:

    G = lambda_w W + lambda_b B + lambda_m C,      X = sqrt(lambda_w) W + ...
    lambda_w = M^2 - c1,   lambda_b = M^2 + (k-1) c1 - k c0,   lambda_m = lambda_b + N c0

All functions return NumPy float64 [N, d] that has passed `check`, and none draws on global state.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from dng_jax.errors import InputError, choose

NORMALISATIONS = ("none", "unit", "centred-unit")
BLOCK = 65_536
Normalisation = Literal["none", "unit", "centred-unit"]


def check(patterns) -> np.ndarray:
    """The patterns as float64 [N, d], N >= 2, d >= 1.

    Raises InputError for anything that is no matrix of finite real numbers, for N = 1, and for
    rows that are zero or equal to another row, by their indices.
    """
    x = real_numbers(patterns)
    if x.ndim != 2:
        raise InputError(
            f"patterns must be a matrix [N, d], got shape {list(x.shape)}: "
            "flatten each pattern to one row"
        )
    if x.shape[1] == 0:
        raise InputError(f"patterns must have at least one dimension, got shape {list(x.shape)}")
    if len(x) < 2:
        raise InputError(f"a landscape needs at least 2 patterns, got N = {len(x)}")
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if bad.size:
        raise InputError(f"{rows(bad)} NaN or infinity: patterns must be finite numbers")
    zero = np.flatnonzero(~x.any(axis=1))
    if zero.size:
        raise InputError(f"{rows(zero)} nothing but zeros: drop what is empty")
    if (pair := _equal(x)) is not None:
        raise InputError(
            f"rows {pair[0]} and {pair[1]} of the patterns are equal: drop one, or merge them "
            "and give the pattern twice the weight"
        )
    return x


def real_numbers(patterns) -> np.ndarray:
    """The patterns as float64, of any shape; InputError for what is no array of real numbers."""
    try:
        raw = np.asarray(patterns)
        if np.iscomplexobj(raw):
            raise TypeError("complex")
        return raw.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            "patterns must be real numbers, a matrix [N, d] with one pattern per row"
        ) from error


def equidistant(
    N: int,
    d: int | None = None,
    norm: float = 1.0,
    angle: float = math.pi / 2,
    seed: int | None = None,
) -> np.ndarray:
    """N patterns of one norm and one angle between any two, [N, d]; d = None takes N.

    angle in (0, arccos(-1/(N-1))], in radians; the largest is a regular simplex about the origin,
    which fits into d = N - 1. seed: turns the set by a random rotation of R^d.
    """
    if N < 2:
        raise InputError(f"a landscape needs at least 2 patterns, got N = {N}")
    norm, angle = float(norm), float(angle)
    if not (math.isfinite(norm) and norm > 0):
        raise InputError(f"the norm of patterns must be a finite number > 0, got {norm:g}")
    widest = math.acos(-1 / (N - 1))
    if not 0 < angle <= widest + 1e-9:
        raise InputError(
            f"{N} patterns can have equal angles in (0, {widest:.6g}] radians, got {angle:g}"
        )
    cosine = max(math.cos(angle), -1 / (N - 1))
    x = _square_root(N, 1, norm**2, norm**2 * cosine, norm**2 * cosine)
    if d == N - 1 and abs(1 + (N - 1) * cosine) < 1e-9 * N:
        x = x @ _helmert(N)
    return check(_place(x, d, seed))


def generator(seed) -> np.random.Generator:
    """numpy.random.default_rng of a seed; InputError for a negative number among them."""
    try:
        return np.random.default_rng(seed)
    except (ValueError, TypeError):
        raise InputError(f"a seed must be a whole number >= 0, got {seed!r}") from None


def random(seed, N: int, d: int, norm: float = 1.0) -> np.ndarray:
    """N independent patterns, uniform on the sphere of radius `norm` in R^d.

    seed: whatever numpy.random.default_rng takes: an integer, several, or a generator.
    """
    if not (math.isfinite(norm) and norm > 0):
        raise InputError(f"the norm of patterns must be a finite number > 0, got {norm:g}")
    if N < 2 or d < 1:
        raise InputError(f"random patterns need N >= 2 and d >= 1, got N = {N}, d = {d}")
    x = generator(seed).normal(size=(N, d))
    return check(float(norm) * x / np.linalg.norm(x, axis=1, keepdims=True))


def ultrametric(
    groups: int,
    per_group: int,
    norm2: float = 1.0,
    within: float = 0.8,
    between: float = 0.0,
    d: int | None = None,
    seed: int | None = None,
) -> np.ndarray:
    """groups * per_group patterns, group by group, [N, d >= N]; d = None takes N.

    norm2 = |x|^2 > within > between, the inner products within and between groups. InputError,
    too, where no vectors have such inner products. seed: a random rotation.
    """
    norm2, within, between = float(norm2), float(within), float(between)
    if groups < 2 or per_group < 1:
        raise InputError(
            f"an ultrametric set needs at least 2 groups of 1 pattern, got {groups} of {per_group}"
        )
    if not norm2 > within > between:
        raise InputError(
            "an ultrametric set needs norm2 > within > between, "
            f"got {norm2:g}, {within:g}, {between:g}"
        )
    return check(_place(_square_root(groups, per_group, norm2, within, between), d, seed))


def from_images(images, normalise: Normalisation = "none") -> np.ndarray:
    """Images [N, ...] as rows [N, d], d = prod(...).

    Integers (pixels 0..255) are divided by 255; floats stay as they are. "unit": every row to norm
    1; "centred-unit": the mean image is subtracted first.
    """
    choose(normalise, NORMALISATIONS, "normalisation")
    images = np.asarray(images)
    if images.ndim < 2:
        raise InputError(f"images must have shape [N, ...], got {list(images.shape)}")
    x = images.reshape(len(images), -1)
    x = x / 255 if np.issubdtype(x.dtype, np.integer) else x.astype(np.float64)
    if normalise == "centred-unit":
        x = x - check(x).mean(axis=0)
    x = check(x)
    if normalise != "none":
        x = check(x / np.linalg.norm(x, axis=1, keepdims=True))
    return x


def rows(index: np.ndarray, limit: int = 5) -> str:
    """'row 3 of the patterns holds' or 'rows 3, 4, ... (9 of them) of the patterns hold'."""
    if len(index) == 1:
        return f"row {index[0]} of the patterns holds"
    named = ", ".join(str(i) for i in index[:limit])
    more = f", ... ({len(index)} of them)" if len(index) > limit else ""
    return f"rows {named}{more} of the patterns hold"


def _equal(x: np.ndarray) -> tuple[int, int] | None:
    # Sorted by a hash of the bytes, since sorting a million rows takes ten times longer; rows of
    # one hash are then compared as they are. + 0 makes -0 a 0.
    odd = np.random.default_rng(0).integers(2**63, size=x.shape[1], dtype=np.uint64) * 2 + 1
    hashes = np.empty(len(x), np.uint64)
    for start in range(0, len(x), BLOCK):
        bits = (x[start : start + BLOCK] + 0.0).view(np.uint64)
        hashes[start : start + BLOCK] = ((bits ^ (bits >> np.uint64(32))) * odd).sum(axis=1)
    _, which, count = np.unique(hashes, return_inverse=True, return_counts=True)
    seen: dict[bytes, int] = {}
    for i in np.flatnonzero(count[which] > 1):
        first = seen.setdefault((x[i] + 0.0).tobytes(), int(i))
        if first != i:
            return first, int(i)
    return None


def _square_root(groups: int, k: int, norm2: float, within: float, between: float) -> np.ndarray:
    N = groups * k
    inner = norm2 - within if k > 1 else 0.0
    outer = norm2 + (k - 1) * within - k * between
    whole = outer + N * between
    if whole < -1e-9 * N * norm2:
        raise InputError(
            f"no {N} vectors have these inner products (norm2 {norm2:g}, within {within:g}, "
            f"between {between:g}): raise `between` to at least "
            f"{-(norm2 + (k - 1) * within) / (N - k):g}"
        )
    r_w, r_b, r_m = (math.sqrt(max(v, 0.0)) for v in (inner, outer, whole))
    x = np.full((N, N), (r_m - r_b) / N)
    for g in range(groups):
        x[g * k : (g + 1) * k, g * k : (g + 1) * k] += (r_b - r_w) / k
    x[np.diag_indices(N)] += r_w
    return x


def _place(x: np.ndarray, d: int | None, seed: int | None) -> np.ndarray:
    # Into R^d, and turned there by the QR of a Gaussian matrix: d x n of it are enough.
    n = x.shape[1]
    d = n if d is None else d
    if d < n:
        raise InputError(f"{len(x)} such patterns need at least {n} dimensions, got d = {d}")
    if seed is None:
        return np.pad(x, ((0, 0), (0, d - n)))
    q, r = np.linalg.qr(generator(seed).normal(size=(d, n)))
    return x @ (q * np.sign(np.diag(r))).T


def _helmert(N: int) -> np.ndarray:
    # [N, N-1], orthonormal columns orthogonal to the vector of ones
    out = np.zeros((N, N - 1))
    for j in range(1, N):
        out[:j, j - 1] = 1 / math.sqrt(j * (j + 1))
        out[j, j - 1] = -j / math.sqrt(j * (j + 1))
    return out
