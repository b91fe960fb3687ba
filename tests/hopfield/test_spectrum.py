"""beta_eff and the spectral report of any patterns, against pairs, random draws and iteration."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dng_jax.data import load
from dng_jax.errors import InputError
from hopfield_jax import distances, patterns, spectrum, theory
from tests.hopfield.helpers import logits, settle, softmax, update


def radius(x, beta, state, energy="dot"):
    p = softmax(beta * logits(x, state, energy))
    mean = p @ x
    return np.linalg.eigvalsh(beta * ((x.T * p) @ x - np.outer(mean, mean)))[-1]


@pytest.fixture(scope="module")
def digits():
    images, _, _ = load("digits", "all")
    return patterns.from_images(images[:100])


def test_beta_eff_is_the_mean_over_pairs_and_reduces_to_the_equidistant_one(digits):
    pairs = [((a - b) ** 2).sum() / 2 for i, a in enumerate(digits) for b in digits[:i]]
    assert spectrum.beta_eff(digits, 3.0) == pytest.approx(3 * np.mean(pairs), rel=1e-12)
    x = patterns.equidistant(7, 20, 3.0, 1.1, seed=0)
    betas = np.array([0.1, 2.0])
    expected = theory.effective(betas, 3.0, 1.1)
    np.testing.assert_allclose(spectrum.beta_eff(x, betas), expected, rtol=1e-12)
    # far from the origin the squares would cancel
    far = spectrum.beta_eff(x + 1e6)
    assert far == pytest.approx(theory.half_squared_distance(3.0, 1.1), rel=1e-8)


def test_report_of_equidistant_patterns_is_the_theory():
    N, norm, angle = 12, 2.0, 1.3
    a = float(theory.half_squared_distance(norm, angle))
    r = spectrum.report(patterns.equidistant(N, 15, norm, angle, seed=5))
    assert (r.N, r.d, r.energy) == (N, 15, "dot")
    assert r.a == pytest.approx(a)
    assert [r.D_min, r.D_max] == pytest.approx([math.sqrt(2 * a)] * 2)
    assert r.lambda_max == pytest.approx(a / N)
    assert r.effective_rank == pytest.approx(N - 1)
    np.testing.assert_allclose(r.separations, a)
    assert r.norm_bias == 0
    assert r.warning is None
    assert [r.beta_s * a, r.beta_c * a, r.beta_N * a] == pytest.approx(theory.characteristic(N))
    assert r.one_attractor == pytest.approx(2 / a)
    found = r.first_instability
    assert found.kind == "crossing"
    # the centroid's own: beta = 1/lambda_max(Cov) = N/a
    assert found.beta == pytest.approx(N / a, rel=1e-9)
    assert found.weight == pytest.approx(1 / N)


@pytest.mark.parametrize("energy", ["dot", "euclidean"])
def test_report_by_brute_force(energy, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK", 210)  # several blocks, and one that is not full
    x = np.random.default_rng(2).normal(size=(30, 5)) + 1.5
    r = spectrum.report(x, energy, follow=False)
    gram = x @ x.T
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    off = np.where(np.eye(30) > 0, np.inf, distance)
    assert r.D_max == pytest.approx(distance.max())
    assert r.D_min == pytest.approx(off.min())
    lead = np.diag(gram) - np.where(np.eye(30) > 0, -np.inf, gram).max(axis=1)
    expected = lead if energy == "dot" else off.min(axis=1) ** 2 / 2
    np.testing.assert_allclose(r.separations, expected, atol=1e-12)
    values = np.linalg.eigvalsh(np.cov(x.T, bias=True))
    assert r.lambda_max == pytest.approx(values[-1])
    assert r.effective_rank == pytest.approx(values.sum() ** 2 / (values**2).sum())
    assert r.first_instability is None
    # norm bias: exactly the rows that run away at a large beta
    gone = [i for i in range(30) if np.argmax(logits(x, x[i], energy)) != i]
    assert r.unreachable.tolist() == gone
    assert (r.warning is None) == (energy == "euclidean")
    if energy == "dot":
        assert 0 < len(gone) < 30
        assert f"{len(gone)} of 30 patterns (rows {gone[0]}" in r.warning


def test_the_bound_allows_one_attractor_only():
    rng = np.random.default_rng(1)
    for n in range(40):
        x = rng.normal(size=(rng.integers(2, 12), rng.integers(1, 6))) * rng.uniform(0.2, 3)
        beta = 0.98 * spectrum.report(x, follow=False).one_attractor
        weights = rng.dirichlet(np.full(len(x), 0.2), size=30)
        state = np.concatenate([x, weights @ x])
        for _ in range(1500):
            state = softmax(beta * state @ x.T) @ x
        assert np.ptp(state, axis=0).max() < 1e-6 * np.abs(x).max(), n
    # and is sharp: two points, beta D^2 > 4, have two
    x = np.array([[1.0, 0.3], [-1.0, 0.3]])
    assert spectrum.report(x).one_attractor == 1
    assert spectrum.report(x).first_instability.beta == pytest.approx(1, rel=1e-9)
    assert np.abs(settle(x, 1.05, x[0]) - settle(x, 1.05, x[1])).max() > 0.5


@pytest.mark.parametrize("seed", [1, 4, 5, 7])
def test_the_first_instability_of_random_patterns_is_where_iteration_breaks_off(seed):
    x = patterns.random(seed, 12, 24)
    found = spectrum.first_instability(x)
    # the state is a fixed point, and rho(J) there is what is said
    assert np.abs(update(x, found.beta, found.state) - found.state).max() < 1e-9
    assert radius(x, found.beta, found.state) == pytest.approx(found.radius, abs=1e-6)
    state, largest = x.mean(axis=0), 0.0
    steps = np.concatenate([np.geomspace(0.1, 0.96, 40), np.linspace(0.965, 0.999, 35)])
    if found.kind == "crossover":
        steps = np.concatenate([steps, np.linspace(1, 1.05, 50), np.geomspace(1.06, 4, 40)])
    for beta in found.beta * steps:
        new = settle(x, beta, state)
        moved, state = np.linalg.norm(new - state), new
        largest = max(largest, radius(x, beta, state))
        assert moved < 0.15, "the branch breaks off earlier"
    if found.kind == "crossing":
        assert 0.9 < largest < 1
        assert np.linalg.norm(state - found.state) < 0.1
        # a thousandth beyond, the state runs away
        assert np.linalg.norm(settle(x, 1.001 * found.beta, state) - state) > 0.25
    else:
        assert largest == pytest.approx(found.radius, abs=2e-3)


def test_crossings_and_crossovers_both_occur():
    kinds = [spectrum.first_instability(patterns.random(seed, 12, 24)).kind for seed in range(8)]
    assert {"crossing", "crossover"} == set(kinds)


def test_the_euclidean_branch_ignores_where_the_origin_lies():
    x = np.random.default_rng(6).normal(size=(8, 3))
    a, b = (spectrum.first_instability(x + shift, "euclidean") for shift in (0.0, 50.0))
    assert a.kind == b.kind
    assert a.beta == pytest.approx(b.beta, rel=1e-6)
    np.testing.assert_allclose(a.state + 50, b.state, atol=1e-5)
    # equal norms: both energies have the same landscape
    x = patterns.random(8, 9, 4)
    dot, euclidean = (spectrum.first_instability(x, energy) for energy in ("dot", "euclidean"))
    assert dot.beta == pytest.approx(euclidean.beta, rel=1e-8)


def test_scale_and_rotation_covariance():
    x = np.random.default_rng(3).normal(size=(10, 4))
    q, _ = np.linalg.qr(np.random.default_rng(9).normal(size=(4, 4)))
    a, b = spectrum.report(x), spectrum.report(2.5 * x @ q)
    for name in ("beta_s", "beta_c", "beta_N", "one_attractor"):
        assert getattr(b, name) == pytest.approx(getattr(a, name) / 2.5**2, rel=1e-9)
    assert b.first_instability.kind == a.first_instability.kind
    assert b.first_instability.beta == pytest.approx(a.first_instability.beta / 2.5**2, rel=1e-6)


def test_ultrametric_branches_split_between_groups_first():
    x = patterns.ultrametric(4, 4, 1, 0.8, 0, seed=0)
    found = spectrum.first_instability(x)
    _, between = theory.ultrametric_scales(4, 1, 0.8, 0)
    assert found.kind == "crossing"
    assert found.beta == pytest.approx(4 / between, rel=1e-9)


@pytest.mark.parametrize(("N", "d", "golden"), [(16, 64, 5.276), (64, 512, 6.944)])
def test_onset_of_random_unit_vectors_is_that_of_equidistant_ones(N, d, golden):
    onsets = []
    for seed in range(4 if N == 16 else 1):
        x = patterns.random((seed, N), N, d)
        gram, a = x @ x.T, distances.mean_half_squared(x)
        low, high = np.full(N, 3.0), np.full(N, 12.0)  # in beta_eff, every pattern on its own
        for _ in range(11):
            middle = (low + high) / 2
            p = np.eye(N)
            for _ in range(400):
                p = softmax((middle / a)[:, None] * p @ gram)
            held = np.diag(p) > 0.5
            low, high = np.where(held, low, middle), np.where(held, middle, high)
        onsets += list(high)
    assert np.median(onsets) == pytest.approx(golden, rel=0.01)
    assert np.median(onsets) == pytest.approx(theory.spinodal(N).K, rel=0.03)


def test_digits_are_norm_biased_until_they_are_normalised(digits):
    raw = spectrum.report(digits)
    assert raw.norm_bias > 0.05
    assert "norm bias" in raw.warning
    unit = spectrum.report(patterns.from_images(digits, "unit"))
    assert unit.norm_bias == 0
    for r in (raw, unit):
        assert r.one_attractor < r.beta_s < r.beta_c < r.beta_N
        assert r.first_instability.radius <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: spectrum.report([[1.0, 2.0]]), "N = 1"),
        (lambda: spectrum.report(np.eye(3), "cosine"), "unknown energy 'cosine'"),
        (lambda: spectrum.first_instability(np.ones((2, 2))), "rows 0 and 1 .* equal"),
        (lambda: spectrum.beta_eff(np.full((3, 2), np.nan)), "NaN"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.slow
def test_degenerate_spectra_on_every_processor():
    # OpenBLAS's kernels for AVX-512 on Intel round such that LAPACK's syevr gives up on these.
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists() or "avx512f" not in cpuinfo.read_text():
        pytest.skip("needs a processor with AVX-512")
    code = """
import numpy as np
from dng_jax.metrics import Moments
from hopfield_jax import patterns, spectrum
for n in range(2, 17):
    for extra in range(4):
        x = patterns.equidistant(n, n + extra, 2.0, 1.3, seed=5)
        found = spectrum.report(x).first_instability
        assert n < 3 or abs(found.beta * spectrum.beta_eff(x) / n - 1) < 1e-9, (n, found)
        features = Moments.zero(n + extra).update(x)
        assert features.distance(features) < 1e-6
print("all")
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"OPENBLAS_CORETYPE": "SkylakeX"},
        capture_output=True,
        text=True,
    )
    assert run.stdout == "all\n", run.stderr[-500:]
