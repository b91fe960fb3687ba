"""Precision, recall, density, coverage: by hand, by exact expectations, by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from dng_jax.errors import InputError
from dng_jax.metrics import precision_recall as pr
from dng_jax.metrics import wilson


def column(*values):
    return np.array(values, np.float64)[:, None]


def test_one_dimension_by_hand():
    # Nearest real neighbours (k = 1): radii 1, 1, 2, 4 about 0, 1, 3, 7.
    real = column(0, 1, 3, 7)
    # Balls [-1, 1], [0, 2], [1, 5], [3, 11]; closed, so that 1 and 5 belong to theirs.
    generated = column(-2, 0.5, 5, 12)
    assert pr.Manifold.of(real, 1).holds(generated).tolist() == [0, 2, 2, 0]
    found = pr.precision_and_recall(generated, real, k=1)
    assert (found.precision.count, found.precision.total) == (2, 4)
    assert (found.precision.low, found.precision.high) == wilson(2, 4)
    assert found.density == 4 / 4
    assert found.coverage == 1.0
    # Generated radii 2.5, 2.5, 4.5, 7: balls to [-4.5, .5], [-2, 3], [.5, 9.5], [5, 19].
    assert found.recall.value == 1.0
    narrow = pr.precision_and_recall(column(0.5, 0.6, 0.8), real, k=1)
    # Generated balls [.4, .6], [.5, .7], [.6, 1.0]: only 1 lies in one, at its very end.
    assert narrow.precision.value == 1.0
    assert narrow.recall.count == 1
    assert narrow.coverage == 0.5


def test_identical_disjoint_and_repeated_points():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 6))
    same = pr.precision_and_recall(x, x)
    assert (same.precision.value, same.recall.value, same.coverage) == (1, 1, 1)
    far = pr.precision_and_recall(x + 100, x)
    assert (far.precision.value, far.recall.value, far.density, far.coverage) == (0, 0, 0, 0)
    # All balls of five copies of one point have radius 0 and still hold that point.
    copies = np.repeat(x[:1], 5, axis=0)
    assert pr.precision_and_recall(copies, copies).precision.value == 1
    # A generator with one mode: every sample is real, all real ones but that are missed.
    one = pr.precision_and_recall(x[:1] + 1e-6 * rng.normal(size=(40, 6)), x)
    assert (one.precision.value, one.recall.count) == (1, 1)


def test_brute_force():
    rng = np.random.default_rng(1)
    real, made, k = rng.normal(size=(30, 3)), 0.8 * rng.normal(size=(25, 3)) + 0.4, 4

    def distance(u, v):
        return np.sqrt(((u - v) ** 2).sum())

    def radii(points):
        return [
            sorted(distance(p, q) for j, q in enumerate(points) if j != i)[k - 1]
            for i, p in enumerate(points)
        ]

    r_real, r_made = radii(real), radii(made)
    held = np.array(
        [[distance(x, y) <= r for y, r in zip(real, r_real, strict=True)] for x in made]
    )
    back = np.array(
        [[distance(y, x) <= r for x, r in zip(made, r_made, strict=True)] for y in real]
    )
    found = pr.precision_and_recall(made, real, k)
    assert found.precision.value == held.any(axis=1).mean()
    assert found.recall.value == back.any(axis=1).mean()
    assert found.density == pytest.approx(held.sum() / (k * 25))
    assert found.coverage == held.any(axis=0).mean()
    assert 0 < found.precision.value < 1
    assert 0 < found.recall.value < 1


def test_equal_gaussians_have_the_density_and_coverage_of_ranks():
    rng, runs, m, n, k = np.random.default_rng(2), 200, 40, 60, 3
    found = [
        pr.precision_and_recall(rng.normal(size=(n, 5)), rng.normal(size=(m, 5)), k)
        for _ in range(runs)
    ]
    miss = np.prod([(m - 1 - i) / (m + n - 1 - i) for i in range(k)])
    for values, exact in (
        ([f.density for f in found], 1.0),
        ([f.coverage for f in found], 1 - miss),
    ):
        assert abs(np.mean(values) - exact) < 4 * np.std(values) / np.sqrt(runs)
        assert np.std(values) / np.sqrt(runs) < 0.02


def test_truncated_and_shifted_distributions():
    rng = np.random.default_rng(3)
    whole, half = rng.normal(size=(1500, 2)), rng.normal(size=(1500, 2))
    half[:, 0] = -np.abs(half[:, 0])
    # Half a Gaussian: all of it is real, half of the real is made. And the other way round.
    lost = pr.precision_and_recall(half, whole)
    assert lost.precision.value > 0.95
    assert lost.recall.value == pytest.approx(0.5, abs=0.05)
    stray = pr.precision_and_recall(whole, half)
    assert stray.precision.value == pytest.approx(0.5, abs=0.05)
    assert stray.recall.value > 0.95
    # Uniform on [0, 1] and on [s, 1 + s] share 1 - s.
    a, b = rng.random((2000, 1)), 0.3 + rng.random((2000, 1))
    shifted = pr.precision_and_recall(b, a)
    assert shifted.precision.value == pytest.approx(0.7, abs=0.03)
    assert shifted.recall.value == pytest.approx(0.7, abs=0.03)


def test_streams_cut_anyhow_equal_the_batch(monkeypatch):
    rng = np.random.default_rng(4)
    real, made = rng.normal(size=(60, 4)), rng.normal(size=(80, 4)).astype(np.float32)
    batch = pr.precision_and_recall(made, real)
    monkeypatch.setattr(pr, "CELLS", 500)
    zero = pr.PRDC.zero(real)
    parts = [zero.update(made[50:]), zero.update(made[:7]).update(made[7:7]), zero]
    stream = parts[0].merge(parts[1]).merge(parts[2]).update(made[7:50])
    assert stream.result() == batch
    light = pr.PRDC.zero(pr.Manifold.of(real), recall=False).update(made[:30])
    light = light.update(made[30:])
    assert light.buffer is None
    assert light.result().recall is None
    assert light.result().precision == batch.precision
    assert (light.result().density, light.result().coverage) == (batch.density, batch.coverage)


X = np.arange(8.0).reshape(4, 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pr.precision_and_recall(X, X, k=4), "k = 4 and 4"),
        (lambda: pr.precision_and_recall(X[:3], X), "k = 3 and 3"),
        (lambda: pr.precision_and_recall(X, X, k=0), "k = 0"),
        (lambda: pr.precision_and_recall(X[:, :1], X), "[N, 2]"),
        (lambda: pr.PRDC.zero(X, 1).merge(pr.PRDC.zero(X + 1, 1)), "different real"),
        (lambda: pr.PRDC.zero(X, 1, recall=False).merge(pr.PRDC.zero(X, 1)), "recall"),
        (lambda: pr.PRDC.zero(X, 1, recall=False).result(), "at least one sample"),
        (lambda: pr.PRDC.zero(X, 1, limit=3).update(X), "limit is 3"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError) as error:
        call()
    assert words in str(error.value)
