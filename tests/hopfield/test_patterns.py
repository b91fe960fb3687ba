"""Pattern sets: inner products as promised, and every bad set named in one sentence."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dng_jax.errors import InputError
from hopfield_jax import patterns


@pytest.mark.parametrize(
    ("N", "d", "norm", "angle"),
    [(2, 2, 1.0, math.pi / 2), (5, 9, 3.0, 0.4), (6, 6, 0.2, 1.7), (64, 128, 1.0, math.pi / 2)],
)
@pytest.mark.parametrize("seed", [None, 4])
def test_equidistant_sets_have_one_norm_and_one_angle(N, d, norm, angle, seed):
    x = patterns.equidistant(N, d, norm, angle, seed)
    assert x.shape == (N, d)
    assert x.dtype == np.float64
    gram = x @ x.T / norm**2
    np.testing.assert_allclose(gram, np.where(np.eye(N) > 0, 1, math.cos(angle)), atol=2e-14)
    # without a rotation, right angles give the unit vectors themselves
    if seed is None and angle == math.pi / 2:
        np.testing.assert_allclose(x, norm * np.eye(N, d), atol=1e-15)


@pytest.mark.parametrize("N", [2, 3, 7])
def test_the_simplex_fits_into_one_dimension_less(N):
    angle = math.acos(-1 / (N - 1))
    for d in (N - 1, N, N + 3):
        x = patterns.equidistant(N, d, 2.0, angle, seed=0)
        assert x.shape == (N, d)
        np.testing.assert_allclose(x.sum(axis=0), 0, atol=1e-7)
        expected = 4 * np.where(np.eye(N) > 0, 1, -1 / (N - 1))
        np.testing.assert_allclose(x @ x.T, expected, atol=1e-12)
    with pytest.raises(InputError, match=f"need at least {N} dimensions, got d = {N - 1}"):
        patterns.equidistant(N, N - 1, 1.0, angle - 0.1)


@pytest.mark.parametrize(
    ("G", "k", "M2", "c1", "c0"), [(4, 4, 1, 0.8, 0), (3, 2, 2.0, 0.5, -0.4), (2, 1, 1, 0.3, -1)]
)
def test_ultrametric_inner_products(G, k, M2, c1, c0):
    x = patterns.ultrametric(G, k, M2, c1, c0, seed=1, d=G * k + 2)
    group = np.arange(G * k) // k
    expected = np.where(group[:, None] == group, c1, c0).astype(float)
    expected[np.diag_indices(G * k)] = M2
    np.testing.assert_allclose(x @ x.T, expected, atol=1e-7 if c0 == -1 else 1e-13)


def test_random_patterns_are_reproducible_and_isotropic():
    x = patterns.random(3, 4000, 8, norm=2.0)
    assert np.array_equal(x, patterns.random(3, 4000, 8, norm=2.0))
    assert not np.array_equal(x, patterns.random((3, 1), 4000, 8, norm=2.0))
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 2.0, rtol=1e-14)
    # E[x x^T] = M^2/d I; an entry's standard error is about M^2 sqrt(2)/d/sqrt(N) = .011
    np.testing.assert_allclose(x.T @ x / 4000, 0.5 * np.eye(8), atol=0.05)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=0.05)


def test_images_become_rows():
    images = np.array([[[0, 255], [51, 0]], [[255, 0], [0, 0]], [[0, 0], [102, 51]]], np.uint8)
    x = patterns.from_images(images[..., None])
    np.testing.assert_allclose(x, [[0, 1, 0.2, 0], [1, 0, 0, 0], [0, 0, 0.4, 0.2]])
    unit = patterns.from_images(images, "unit")
    np.testing.assert_allclose(unit, x / np.linalg.norm(x, axis=1, keepdims=True))
    centred = patterns.from_images(images, "centred-unit")
    c = x - x.mean(axis=0)
    np.testing.assert_allclose(centred, c / np.linalg.norm(c, axis=1, keepdims=True))
    np.testing.assert_array_equal(patterns.from_images(x), x)


def test_check_returns_float64_and_leaves_values_alone():
    x = np.array([[1, 0], [0, 2]], np.float32)
    out = patterns.check(x)
    assert out.dtype == np.float64
    np.testing.assert_array_equal(out, x)
    assert patterns.check([[1, 2], [2, 1]]).shape == (2, 2)


X = np.random.default_rng(0).normal(size=(9, 4))


def changed(*rows, value):
    out = X.copy()
    out[list(rows)] = value
    return out


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: patterns.check(changed(3, value=np.nan)), "^row 3 of the patterns holds NaN"),
        (lambda: patterns.check(changed(2, 5, value=np.inf)), "^rows 2, 5 of the patterns hold"),
        (lambda: patterns.check(changed(*range(8), value=np.nan)), r"4, \.\.\. \(8 of them\)"),
        (lambda: patterns.check(changed(7, value=0.0)), "^row 7 .* nothing but zeros"),
        (lambda: patterns.check(changed(1, 6, value=[1, -0.0, 0, 2])), "rows 1 and 6 .* equal"),
        (lambda: patterns.check([[1, 0.0], [2, 3], [1, -0.0]]), "rows 0 and 2 .* equal"),
        (lambda: patterns.check(X[0]), r"matrix \[N, d\], got shape \[4\]"),
        (lambda: patterns.check(X.reshape(3, 3, 4)), r"got shape \[3, 3, 4\]: flatten"),
        (lambda: patterns.check(X[:1]), "at least 2 patterns, got N = 1"),
        (lambda: patterns.check(X[:, :0]), "at least one dimension"),
        (lambda: patterns.check(X + 1j), "real numbers"),
        (lambda: patterns.check([["a", "b"], ["c", "d"]]), "real numbers"),
        (lambda: patterns.check([[1, 2], [3]]), "real numbers"),
        (lambda: patterns.equidistant(1, 4), "got N = 1"),
        (lambda: patterns.equidistant(4, 3), "need at least 4 dimensions, got d = 3"),
        (lambda: patterns.equidistant(4, 8, norm=0.0), "norm .* got 0"),
        (lambda: patterns.equidistant(4, 8, angle=2.5), r"\(0, 1.91063\] radians, got 2.5"),
        (lambda: patterns.equidistant(4, 8, angle=0.0), "got 0"),
        (lambda: patterns.random(0, 4, 2, norm=np.nan), "got nan"),
        (lambda: patterns.random(0, 1, 2), "got N = 1"),
        (lambda: patterns.random(0, 8, 1), "are equal"),
        (lambda: patterns.ultrametric(4, 4, 1, 0.2, 0.3), "norm2 > within > between"),
        (lambda: patterns.ultrametric(4, 4, 1, 0.2, -0.9), r"raise `between` to at least -0.13"),
        (lambda: patterns.ultrametric(1, 4, 1, 0.2, 0), "at least 2 groups"),
        (lambda: patterns.ultrametric(2, 2, 1, 0.2, 0, d=3), "at least 4 dimensions, got d = 3"),
        (lambda: patterns.from_images(X, "units"), "did you mean 'unit'"),
        (lambda: patterns.from_images(X[0]), r"\[N, ...\], got \[4\]"),
    ],
)  # fmt: skip
def test_bad_input_is_named_in_one_sentence(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
