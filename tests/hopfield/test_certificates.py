"""Spectra against the covariance written out and the exact equidistant theory; certificates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax import InputError
from hopfield_jax import memory, patterns, theory
from hopfield_jax.solvers import certificates
from tests.hopfield.helpers import softmax

pytestmark = pytest.mark.usefixtures("quick_compilation")


def jacobian(x, xi, beta):
    """beta Cov_p of one state [d], by a loop over patterns."""
    p = softmax(beta * x @ xi)
    mu = p @ x
    return beta * sum(q * np.outer(v - mu, v - mu) for q, v in zip(p, x, strict=True))


def subset_state(n, k, u):
    """K, p and p1, p2 of the k-subset state of n orthonormal patterns, by u = log(p1 / p2)."""
    strength = u * (k * np.exp(u) + n - k) / np.expm1(u)
    p2 = 1 / (k * np.exp(u) + n - k)
    return strength, np.where(np.arange(n) < k, np.exp(u) * p2, p2), np.exp(u) * p2, p2


@pytest.mark.parametrize("shape", [pytest.param((4, 7), marks=pytest.mark.slow), (9, 5)])
def test_jacobian_and_its_spectrum(shape):
    rng = np.random.default_rng(0)
    x, xi = rng.normal(size=shape), rng.normal(size=(3, shape[1])) * 0.4
    v, beta, h = rng.normal(size=(3, shape[1])), np.array([0.3, 1.0, 2.5]), 1e-6
    with jax.enable_x64(True):
        m = memory(x)
        pushed = certificates.jvp(m, xi, v, beta)
        values = certificates.spectrum(m, xi, beta)
        radius = certificates.spectral_radius(m, xi, beta, 400)
        assert values.shape == (3, min(shape))
        for r in range(3):
            j = jacobian(x, xi[r], beta[r])
            np.testing.assert_allclose(pushed[r], j @ v[r], atol=1e-13)
            update = [softmax(beta[r] * x @ (xi[r] + s * h * v[r])) @ x for s in (1, -1)]
            np.testing.assert_allclose(pushed[r], (update[0] - update[1]) / (2 * h), atol=1e-8)
            exact = np.linalg.eigvalsh(j)[::-1]
            np.testing.assert_allclose(values[r], exact[: min(shape)], atol=1e-13)
            np.testing.assert_allclose(radius[r], exact[0], rtol=1e-7)
        # too few iterations give too little, never too much
        few = certificates.spectral_radius(m, xi, beta, 2)
        assert bool((few <= values[:, 0] * (1 + 1e-12)).all())
        assert bool((few >= 0.5 * values[:, 0]).all())


@pytest.mark.parametrize(("n", "k"), [(6, 1), (6, 2), (6, 3), (6, 5)])
def test_spectrum_and_index_of_every_subset_state(n, k):
    with jax.enable_x64(True):
        m = memory(np.eye(n))
        for u in (0.7, 2.0, 4.0):
            strength, p, p1, p2 = subset_state(n, k, u)
            np.testing.assert_allclose(softmax(strength * p), p, atol=1e-15)
            expected = np.sort(
                [strength * p1] * (k - 1)
                + [strength * p2] * (n - k - 1)
                + [strength * n * p1 * p2, 0]
            )[::-1]
            np.testing.assert_allclose(certificates.spectrum(m, p, strength), expected, atol=1e-13)
            found = certificates.certify(m, p[None], strength)
            assert float(found.residual[0]) < 1e-15
            np.testing.assert_allclose(found.spectral_radius[0], expected[0], atol=1e-13)
            assert int(found.morse_index[0]) == (expected > 1).sum()
            # two and more patterns together are a saddle at every beta; one alone where u > u_s
            assert bool(found.minimum[0]) == (expected[0] < 1) == (k == 1 and u > 3)


def test_centroid_loses_stability_at_n():
    n = 5
    centroid = np.full((3, n), 1 / n)
    with jax.enable_x64(True):
        found = certificates.certify(memory(np.eye(n)), centroid, [n - 1e-3, n, n + 1e-3])
        np.testing.assert_allclose(found.spectral_radius, [1 - 2e-4, 1, 1 + 2e-4], atol=1e-14)
        assert found.minimum.tolist() == [True, False, False]
        assert int(found.morse_index[0]) == 0
        assert int(found.morse_index[2]) == n - 1


@pytest.mark.slow
def test_a_ghost_with_a_small_residual_is_no_minimum():
    # 64 patterns, just below K_s = 6.9245846: the update creeps past where the minimum was
    # before it falls to the centroid, with rho < 1 on the way in.
    x, beta = np.eye(64), 6.9245846 - 1e-3
    xi, states = x[0], []
    while xi[0] > 0.5:
        states.append(xi)
        xi = softmax(beta * xi)
    residual = np.linalg.norm(np.diff([*states, xi], axis=0), axis=1)
    with jax.enable_x64(True):
        found = certificates.certify(memory(x), np.array(states), beta, tolerance=1e-3)
        lulled = np.asarray((found.residual < 1e-3) & (found.spectral_radius < 1))
        np.testing.assert_allclose(found.residual, residual / np.sqrt(63 / 64), atol=1e-15)
        assert lulled.sum() > 20  # what residual and radius alone would have passed
        assert not bool(found.minimum.any())
        # on the other side of K_s the same words are true
        beta += 2e-3
        for _ in range(700):
            xi = states[0] = softmax(beta * states[0])
        found = certificates.certify(memory(x), xi[None], beta, tolerance=1e-6)
        assert bool(found.minimum[0])
        assert 0.9 < float(found.spectral_radius[0]) < 1


def test_what_is_certified_is_there():
    # Random states near and far, no tolerance at all: wherever the inequality holds, the update
    # must contract from there to a minimum inside the ball of radius log(1/rho) / (beta D).
    rng = np.random.default_rng(4)
    x = rng.normal(size=(8, 8))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    beta = 9.0
    sizes = 10.0 ** rng.uniform(-4, 0, (256, 1))
    xi = np.tile(x, (32, 1)) + sizes * rng.normal(size=(256, 8))
    with jax.enable_x64(True):
        m = memory(x)
        found = certificates.certify(m, xi, beta, tolerance=np.inf)
        proved = np.asarray(found.minimum)
        end = xi.copy()
        for _ in range(3000):
            end = softmax(beta * end @ x.T) @ x
        rho = np.asarray(found.spectral_radius)
        ball = np.log(1 / rho) / (beta * float(m.diameter))
        assert 10 < proved.sum() < 250
        assert (np.linalg.norm(end - xi, axis=1) < ball)[proved].all()
        assert bool(certificates.certify(m, end[proved], beta).minimum.all())


@pytest.mark.slow
def test_certificates_at_huge_beta_in_single_precision():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(40, 16)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    found = certificates.certify(memory(x), x, 1e6)
    assert bool(found.minimum.all())
    np.testing.assert_allclose(found.spectral_radius, 0, atol=1e-6)
    halfway = (x[:1] + x[1:2]) / 2
    assert not bool(certificates.certify(memory(x), halfway, 1e6).minimum[0])


@pytest.mark.slow
def test_large_problems_are_certified_by_the_trace(monkeypatch):
    monkeypatch.setattr(certificates, "LARGEST_FORM", 6)
    with jax.enable_x64(True):
        n = 7
        m = memory(np.eye(n))
        strength, p, p1, p2 = subset_state(n, 1, 4.5)
        found = certificates.certify(m, np.stack([p, np.full(n, 1 / n)]), strength)
        # trace = K n p1 p2 + (n - 2) K p2 < 1 at the pattern, K (n - 1)/n > 1 at the centroid,
        # which is a minimum all the same: what is not proved is not claimed
        assert strength * (n * p1 * p2 + (n - 2) * p2) < 1 < strength * (n - 1) / n
        assert found.minimum.tolist() == [True, False]
        assert found.morse_index.tolist() == [0, -1]
        np.testing.assert_allclose(
            found.spectral_radius, [strength * n * p1 * p2, strength / n], rtol=1e-9
        )


@pytest.mark.parametrize("n", [16, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("offset", "least"), [(0, 0.9), (10, 0.7), (100, 0.1)])
def test_single_precision_claims_nothing_that_double_refutes(n, offset, least):
    # Along the way past the spinodals of equidistant patterns, up to 100 diameters from the origin:
    # there the logits, beta |x|^2 / 2 = 5e4, hold two digits of what tells minima from ghosts
    norm, rng = 30.0, np.random.default_rng(n)
    limit = theory.spinodal(n).K
    way = rng.normal(size=n)
    x = patterns.equidistant(n, seed=1) + offset * way / np.linalg.norm(way)
    x = (norm * x).astype(np.float32)
    exact = x.astype(np.float64)
    c = exact - exact.mean(axis=0)
    field = (c**2).sum(axis=1) / 2
    states, betas = [], []
    for off in (-1e-2, -3e-3, -1e-3, -1e-4, -1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1):
        beta, p = np.float32(limit * (1 + off) / norm**2), np.eye(n)[0]
        for step in range(400):
            p = softmax(np.float64(beta) * (c @ (c.T @ p) - field))
            if step in (3, 6, 10, 15, 20, 30, 40, 60, 90, 130, 200, 300, 399):
                states.append(p @ exact)
                betas.append(beta)
    states, betas = np.array(states, np.float32), np.array(betas)
    options = {"tolerance": np.inf}
    single = certificates.certify(memory(x, "euclidean"), states, betas, **options)
    with jax.enable_x64(True):
        known = memory(exact, "euclidean")
        double = certificates.certify(known, states.astype(float), betas.astype(float), **options)
    claimed, true = np.asarray(single.minimum), np.asarray(double.minimum)
    assert not (claimed & ~true).any()
    assert claimed.sum() >= least * true.sum()
    assert true.sum() > 40 < (~true).sum()


def test_bad_temperatures_are_named():
    with pytest.raises(InputError, match=r"got -1.0"):
        certificates.certify(memory(np.eye(2)), jnp.eye(2), -1.0)
    with pytest.raises(InputError, match=r"rows \[R, 2\] as the patterns are, got shape \(2,\)"):
        certificates.certify(memory(np.eye(2)), jnp.ones(2), 1.0)
