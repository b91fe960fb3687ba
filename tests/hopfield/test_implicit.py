"""Derivatives of a minimum against finite differences of the minimum itself, in float64."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hopfield_jax import memory
from hopfield_jax.solvers.implicit import minimum

pytestmark = pytest.mark.usefixtures("quick_compilation")


def settled(x, xi, beta, weights):
    """The minimum of the Euclidean energy by 4000 updates in NumPy."""
    bias = -(x**2).sum(1) / 2
    for _ in range(4000):
        z = beta * (x @ xi + bias) + np.log(weights)
        p = np.exp(z - z.max())
        xi = p @ x / p.sum()
    return xi


@pytest.mark.slow
def test_derivatives_in_beta_patterns_and_weights():
    rng = np.random.default_rng(0)
    x, w, beta, h = rng.normal(size=(6, 4)) * 0.6, rng.uniform(0.5, 2, 6), 3.5, 1e-5
    start = x[0]
    probe = rng.normal(size=4)  # the gradient of probe . xi*
    with jax.enable_x64(True):

        def value(x, w, beta):
            return jnp.dot(probe, minimum(memory(x, "euclidean", w), start, beta))

        here = minimum(memory(x, "euclidean", w), start, beta)
        np.testing.assert_allclose(here, settled(x, start, beta, w), atol=1e-12)
        got = jax.jit(jax.grad(value, argnums=(0, 1, 2)))(jnp.asarray(x), jnp.asarray(w), beta)

        def slope(dx, dw, db):
            up = settled(x + h * dx, start, beta + h * db, w + h * dw)
            down = settled(x - h * dx, start, beta - h * db, w - h * dw)
            return probe @ (up - down) / (2 * h)

        units = np.eye(24).reshape(24, 6, 4)
        by_x = np.array([slope(u, 0, 0) for u in units]).reshape(6, 4)
        by_w = np.array([slope(0, u, 0) for u in np.eye(6)])
        assert np.abs(by_x).max() > 0.1
        np.testing.assert_allclose(got[0], by_x, atol=1e-8)
        np.testing.assert_allclose(got[1], by_w, atol=1e-8)
        np.testing.assert_allclose(got[2], slope(0, 0, 1), atol=1e-8)
        # forwards too, and a start elsewhere in the basin changes nothing
        forward = jax.jvp(
            lambda b: value(jnp.asarray(x), jnp.asarray(w), b), (jnp.asarray(beta),), (1.0,)
        )[1]
        np.testing.assert_allclose(forward, slope(0, 0, 1), atol=1e-8)
        by_start = jax.grad(lambda s: minimum(memory(x), s, beta)[0])(jnp.asarray(start))
        np.testing.assert_array_equal(by_start, np.zeros(4))


@pytest.mark.slow
def test_a_branch_of_equidistant_patterns_and_its_end():
    # m = p1 - p2 on the pattern branch: dm/dK by the inverse of K(u), u = log(p1/p2), N = 16
    n, u = 16, np.array([4.0, 4.5, 5.5])  # K_s is at u = 3.88

    def strength(u):
        return u * (np.exp(u) + n - 1) / np.expm1(u)

    def overlap(u):
        return np.expm1(u) / (np.exp(u) + n - 1)

    h = 1e-6
    exact = (overlap(u + h) - overlap(u - h)) / (strength(u + h) - strength(u - h))
    with jax.enable_x64(True):
        m = memory(np.eye(n))

        def order(beta, tolerance):
            xi = minimum(m, m.patterns[0], beta, tolerance=tolerance)
            return xi[0] - xi[1]

        follow = jax.jit(jax.vmap(jax.value_and_grad(order), in_axes=(0, None)))
        values, slopes = follow(jnp.asarray(strength(u)), 4e-15)
        np.testing.assert_allclose(values, overlap(u), atol=1e-12)
        np.testing.assert_allclose(slopes, exact, rtol=1e-7)
        # energies have no such end: dE/dbeta at a minimum is its partial derivative
        assert bool((slopes[:-1] > slopes[1:]).all())
        # 1e-7 below K_s the update creeps past p1 = .7639 with a residual of 5e-7 and rho = .998:
        # no minimum, hence no derivative. With a tolerance that no ghost meets it goes on to m = 0.
        ghost = 5.189035508065551 * (1 - 1e-7)
        ends, slopes = follow(jnp.asarray([ghost, 5.1942, 6.0]), 1e-6)
        assert np.isnan(ends).tolist() == np.isnan(slopes).tolist() == [True, False, False]
        assert float(ends[1]) > 0.74
        np.testing.assert_allclose(follow(jnp.full(3, ghost), 4e-15)[0], 0, atol=1e-8)


@pytest.mark.slow
def test_no_derivative_where_there_is_no_minimum():
    centroid = np.full(4, 0.25, np.float32)
    m = memory(np.eye(4))
    assert bool(jnp.isnan(minimum(m, centroid, 5.0)).all())  # a maximum, K > N
    np.testing.assert_allclose(minimum(m, centroid, 3.0), centroid, atol=1e-6)
    # K_s = 3.2187 for four patterns: 5e-4 below, 20 steps do not pass the ghost
    x = dataclasses.replace(m).patterns[0]
    assert bool(jnp.isnan(minimum(m, x, 3.2182, max_steps=20, method="picard")).all())
    np.testing.assert_allclose(minimum(m, x, 3.2182), centroid, atol=1e-5)
