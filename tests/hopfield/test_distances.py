"""Distances and leads of patterns against all pairs, near the origin and far from it."""

from __future__ import annotations

import numpy as np
import pytest

from hopfield_jax import distances, patterns


@pytest.fixture(params=[0.0, 1e5], ids=["near", "far"])
def sets(request):
    x = np.random.default_rng(0).normal(size=(23, 5)) * np.linspace(0.2, 2, 23)[:, None]
    return x, x + request.param


@pytest.mark.parametrize("block", [2**23, 60])
def test_pairs_are_those_of_a_loop(sets, block, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK", block)
    x, moved = sets
    apart = np.linalg.norm(x[:, None] - x[None], axis=2)
    others = np.where(np.eye(23, dtype=bool), np.inf, apart)
    found = distances.pairs(moved, -np.sum(moved**2, axis=1) / 2)
    np.testing.assert_allclose(found.nearest, others.min(axis=1), rtol=1e-8)
    np.testing.assert_allclose(found.farthest, apart.max(axis=1), rtol=1e-8)
    assert distances.separation(moved) == pytest.approx(others.min(), rel=1e-8)
    # Euclidean leads, up to the rounding of a bias of 1e10
    np.testing.assert_allclose(found.lead, others.min(axis=1) ** 2 / 2, atol=2e-5)
    square = np.concatenate(list(distances.squares(moved, [3, 0, 22, 8])))
    np.testing.assert_allclose(square, others[[3, 0, 22, 8]] ** 2, rtol=1e-8)


def test_leads_of_the_dot_energy_are_those_of_the_products():
    x = np.random.default_rng(1).normal(size=(23, 5)) * np.linspace(0.2, 2, 23)[:, None]
    gram = x @ x.T
    other = np.where(np.eye(23, dtype=bool), -np.inf, gram).max(axis=1)
    expected = np.diag(gram) - other
    assert (expected < 0).any()
    np.testing.assert_allclose(distances.pairs(x).lead, expected, atol=1e-12)


def test_the_mean_of_pairs(sets):
    x, moved = sets
    half = [((a - b) ** 2).sum() / 2 for i, a in enumerate(x) for b in x[:i]]
    assert distances.mean_half_squared(moved) == pytest.approx(np.mean(half), rel=1e-8)
    equal = patterns.equidistant(7, 20, 3.0, 1.1)
    assert distances.mean_half_squared(equal) == pytest.approx(9 * (1 - np.cos(1.1)), rel=1e-12)
