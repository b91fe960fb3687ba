"""Kernel distance: Gaussians in closed form, unbiasedness, errors, streams cut anyhow."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dng_jax.errors import InputError
from dng_jax.metrics import kernel_distance as kd
from dng_jax.metrics.buffer import FeatureBuffer


def gaussian(rng, d):
    root = rng.normal(size=(d, d)) / np.sqrt(d)
    return rng.normal(size=d), root @ root.T + 0.2 * np.eye(d)


def expected_kernel(a, A, b, B):
    """E[(x.y/d + 1)^3] as the module's sheet has it."""
    d, ab, AB = len(a), a @ b, A @ B
    second = a @ B @ a + b @ A @ b + np.trace(AB)
    third = ab**3 + 3 * ab * second + 6 * a @ B @ A @ b
    return 1 + 3 * ab / d + 3 * (ab**2 + second) / d**2 + third / d**3


def expected_mmd(a, A, b, B):
    same = expected_kernel(a, A, a, A) + expected_kernel(b, B, b, B)
    return same - 2 * expected_kernel(a, A, b, B)


def test_closed_form_is_the_integral():
    """Gauss-Hermite with 3 nodes per axis is exact for a polynomial of degree 3 in x and in y."""
    rng = np.random.default_rng(0)
    (a, A), (b, B) = gaussian(rng, 2), gaussian(rng, 2)
    node, weight = np.polynomial.hermite_e.hermegauss(3)
    weight = weight / weight.sum()
    total = 0.0
    for i in itertools.product(range(3), repeat=4):
        x = a + np.linalg.cholesky(A) @ node[list(i[:2])]
        y = b + np.linalg.cholesky(B) @ node[list(i[2:])]
        total += weight[list(i)].prod() * (x @ y / 2 + 1) ** 3
    assert expected_kernel(a, A, b, B) == pytest.approx(total, rel=1e-12)


def test_all_pairs_equal_a_double_loop_and_the_jackknife_leaves_one_out(monkeypatch):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(9, 3)) + 0.5
    monkeypatch.setattr(kd, "CELLS", 20)  # several chunks, the last one short

    def loop(x, y):
        def k(u, v):
            return (sum(p * q for p, q in zip(u, v, strict=True)) / 3 + 1) ** 3

        own = [np.mean([k(u, v) for u, v in itertools.permutations(z, 2)]) for z in (x, y)]
        return sum(own) - 2 * np.mean([[k(u, v) for v in y] for u in x])

    found = kd.kid(x, y)
    assert found.value == pytest.approx(loop(x, y), rel=1e-12)
    without_x = np.array([loop(np.delete(x, i, 0), y) for i in range(7)])
    without_y = np.array([loop(x, np.delete(y, i, 0)) for i in range(9)])
    variance = 6 * without_x.var() + 8 * without_y.var()
    assert found.error == pytest.approx(np.sqrt(variance), rel=1e-9)
    assert (found.samples, found.reference) == (7, 9)


def test_unbiased_with_honest_errors():
    rng = np.random.default_rng(2)
    (a, A), (b, B) = gaussian(rng, 4), gaussian(rng, 4)
    runs = 400
    roots = np.linalg.cholesky(A), np.linalg.cholesky(B)

    def draw(mean, root, n):
        return mean + rng.normal(size=(n, 4)) @ root.T

    apart = [kd.kid(draw(a, roots[0], 120), draw(b, roots[1], 90)) for _ in range(runs)]
    equal = [kd.kid(draw(a, roots[0], 120), draw(a, roots[0], 90)) for _ in range(runs)]
    truth = expected_mmd(a, A, b, B)
    assert truth > 0.5
    for found, exact in ((apart, truth), (equal, 0.0)):
        values = np.array([f.value for f in found])
        spread = values.std()
        assert abs(values.mean() - exact) < 4 * spread / np.sqrt(runs)
        stated = np.sqrt(np.mean([f.error**2 for f in found]))
        # At equality the jackknife overstates, by at most sqrt(2) and noise.
        assert 0.85 * spread < stated < (1.2 if exact else 1.7) * spread
    assert min(f.value for f in equal) < 0  # unbiased, so it has to fall below 0 at times


def test_one_large_estimate_lies_within_its_error():
    rng = np.random.default_rng(3)
    (a, A), (b, B) = gaussian(rng, 16), gaussian(rng, 16)
    x = rng.multivariate_normal(a, A, size=3000).astype(np.float32)
    y = rng.multivariate_normal(b, B, size=2500).astype(np.float32)
    truth = expected_mmd(a, A, b, B)
    found = kd.kid(x, y)
    assert abs(found.value - truth) < 3 * found.error
    assert found.error < 0.1 * truth


def test_streams_cut_anyhow_equal_the_batch():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(103, 5)), rng.normal(size=(40, 5)) + 0.3
    reference = kd.KernelReference.of(y)
    buffer = FeatureBuffer(5).update(x[60:])
    buffer = buffer.merge(FeatureBuffer(5).update(x[:1])).update(x[1:60])
    all_pairs = kd.kid(buffer.array(), reference)
    exact = kd.kid(x, y)
    assert all_pairs.value == pytest.approx(exact.value, rel=1e-12)
    assert all_pairs.error == pytest.approx(exact.error, rel=1e-12)


def test_buffered_features_are_copies_in_their_own_dtype():
    batch = np.ones((2, 3), np.float32)
    buffer = FeatureBuffer(3).update(batch)
    batch[:] = 7
    assert buffer.array().dtype == np.float32
    assert buffer.array().sum() == 6
    assert (buffer.count, FeatureBuffer(3).array().shape) == (2, (0, 3))


X = np.ones((4, 2))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kd.kid(X[:2], X), "generated samples, got 2"),
        (lambda: kd.kid(X, X[:2]), "real samples, got 2"),
        (lambda: kd.kid(X[:, :1], X), "[N, 2]"),
        (lambda: kd.kid(np.full((4, 2), np.nan), X), "sample 0"),
        (lambda: FeatureBuffer(2, limit=5).update(X).update(X), "limit is 5"),
        (lambda: FeatureBuffer(2).merge(FeatureBuffer(3)), "2 and 3"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError) as error:
        call()
    assert words in str(error.value)
