"""Energy and update against extended precision, finite differences and their covariances."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax import InputError
from hopfield_jax import energy, memory

pytestmark = pytest.mark.usefixtures("quick_compilation")

BETAS = (1e-4, 1e-2, 1.0, 7.0, 1e3, 1e6)


def textbook(x, xi, beta, kind="dot", weights=None):
    """p, T and E of states [R, d] in extended precision."""
    x, xi = np.asarray(x, np.longdouble), np.asarray(xi, np.longdouble)
    w = np.ones(len(x), np.longdouble) if weights is None else np.asarray(weights, np.longdouble)
    w = w / w.sum()
    square = (x**2).sum(1)
    bias = -square / 2 if kind == "euclidean" else 0 * square
    constant = square.max() / 2 if kind == "dot" else 0
    s = xi @ x.T + bias
    top = s.max(1, keepdims=True)
    e = w * np.exp(beta * (s - top))
    total = e.sum(1, keepdims=True)
    p = e / total
    free = (top + np.log(total) / beta)[:, 0]
    return p, p @ x, (xi**2).sum(1) / 2 - free + constant


@pytest.fixture(scope="module")
def problem():
    """Nine patterns in 5 dimensions of unequal norms and weights, and six states."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 5)) * rng.uniform(0.5, 1.5, (9, 1)) / np.sqrt(5)
    return x, rng.normal(size=(6, 5)) * 0.5, rng.uniform(0.2, 3, 9)


@pytest.mark.parametrize("kind", ["dot", "euclidean"])
@pytest.mark.parametrize("beta", BETAS)
def test_energy_update_and_weights_from_tiny_to_huge_beta(problem, kind, beta):
    x, xi, w = problem
    p, image, value = textbook(x, xi, beta, kind, w)
    with jax.enable_x64(True):
        m = memory(x, kind, w)
        # exponents of beta s carry beta 1e-16, which p and T (not E) inherit
        slack = 1e-14 * (1 + beta)
        np.testing.assert_allclose(energy.energy(m, xi, beta), value.astype(float), atol=5e-15)
        np.testing.assert_allclose(energy.weights(m, xi, beta), p.astype(float), atol=slack)
        np.testing.assert_allclose(energy.update(m, xi, beta), image.astype(float), atol=slack)
        z = np.asarray(energy.logits(m, xi, beta), np.longdouble)
        z -= z.max(1, keepdims=True)
        np.testing.assert_allclose(
            (np.exp(z) / np.exp(z).sum(1, keepdims=True)).astype(float), p.astype(float), atol=slack
        )
    m = memory(x.astype(np.float32), kind, w)
    _, _, single = textbook(x.astype(np.float32), xi.astype(np.float32), beta, kind, w)
    got = energy.energy(m, jnp.asarray(xi, jnp.float32), beta)
    assert got.dtype == jnp.float32
    # the textbook form is wrong by 2e-4 and more at beta <= 1e-3
    np.testing.assert_allclose(got, single.astype(float), atol=6e-7)


def test_betas_fold_into_rows(problem):
    x, xi, _ = problem
    with jax.enable_x64(True):
        m = memory(x)
        betas = np.array([0.5, 3.0, 40.0])
        image, value = energy.update_and_energy(m, xi, betas[:, None])
        assert image.shape == (3, 6, 5)
        for k, beta in enumerate(betas):
            _, expected, e = textbook(x, xi, beta)
            np.testing.assert_allclose(image[k], expected.astype(float), atol=1e-14)
            np.testing.assert_allclose(value[k], e.astype(float), atol=1e-14)


def test_gradient_is_state_minus_update_by_autodiff_and_finite_differences(problem):
    x, xi, w = problem
    h = 1e-5
    with jax.enable_x64(True):
        for kind in ("dot", "euclidean"):
            m = memory(x, kind, w)
            for beta in (1e-3, 1.0, 30.0):
                g = energy.gradient(m, jnp.asarray(xi), beta)
                for block in (None, 4):
                    auto = jax.grad(lambda v: energy.energy(m, v, beta, block=block).sum())(  # noqa: B023
                        jnp.asarray(xi)
                    )
                    np.testing.assert_allclose(auto, g, atol=2e-13)
                for axis in range(5):
                    step = h * np.eye(5)[axis]
                    up, down = (textbook(x, xi + s * step, beta, kind, w)[2] for s in (1, -1))
                    # h^2 beta^2 / 6 of truncation
                    np.testing.assert_allclose(
                        g[:, axis], ((up - down) / (2 * h)).astype(float), atol=3e-8
                    )


@pytest.mark.parametrize("beta", BETAS)
def test_blocks_give_what_one_pass_gives(problem, beta):
    x, xi, w = problem
    w = np.where(np.arange(9) == 4, 0, w)  # a pattern of weight zero takes no part
    with jax.enable_x64(True):
        m = memory(x, "euclidean", w)
        image, value = energy.update_and_energy(m, xi, beta)
        for block in (1, 4):
            got, e = energy.update_and_energy(m, xi, beta, block=block)
            np.testing.assert_allclose(e, value, atol=3e-15)
            np.testing.assert_allclose(got, image, atol=1e-14 * (1 + beta))
        padded = energy.pad(m, 8)
        assert padded.patterns.shape == (16, 5)
        np.testing.assert_allclose(energy.energy(padded, xi, beta), value, atol=3e-15)
        np.testing.assert_allclose(padded.diameter, m.diameter, rtol=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [1e-4, 20.0, 1e6])
def test_hundred_thousand_patterns_by_blocks(beta):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(100_000, 8)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    xi = np.concatenate([x[:2], x[2:3] * 0.7])
    _, _, value = textbook(x, xi, beta)
    m = memory(x)
    image, e = energy.update_and_energy(m, xi, beta, block=8192)
    dense, e_dense = energy.update_and_energy(m, xi, beta)
    assert bool(jnp.isfinite(image).all())
    np.testing.assert_allclose(e, value.astype(float), atol=2e-6)
    np.testing.assert_allclose(e, e_dense, atol=2e-6)
    np.testing.assert_allclose(image, dense, atol=1e-5)
    if beta == 1e6:
        # states at (and towards) a pattern give that pattern; E = (1 - |xi|)^2/2 + log(N)/beta,
        # and x_i.xi for a unit pattern is |xi|
        np.testing.assert_allclose(image, x[:3], atol=1e-6)
        np.testing.assert_allclose(e, [1.15e-5, 1.15e-5, 0.045 + 1.15e-5], atol=1e-6)


def test_update_lowers_the_energy_by_half_the_square_of_its_step(problem):
    x, xi, w = problem
    with jax.enable_x64(True):
        for kind in ("dot", "euclidean"):
            m = memory(x, kind, w)
            for beta in (0.01, 1.0, 5.0, 100.0):
                image, e = energy.update_and_energy(m, xi, beta)
                drop = e - energy.energy(m, image, beta)
                assert bool((drop >= jnp.sum((image - xi) ** 2, axis=1) / 2 - 1e-14).all())


def test_rotation_translation_and_scale(problem):
    x, xi, w = problem
    rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))
    shift, s, beta = np.arange(5) - 1.5, 1.7, 4.0
    with jax.enable_x64(True):
        for kind in ("dot", "euclidean"):
            image, e = energy.update_and_energy(memory(x, kind, w), xi, beta)
            turned = energy.update_and_energy(memory(x @ rotation, kind, w), xi @ rotation, beta)
            np.testing.assert_allclose(turned[0], image @ rotation, atol=1e-14)
            np.testing.assert_allclose(turned[1], e, atol=1e-14)
            # E is quadratic in lengths: at beta / s^2 it is s^2 times as high
            scaled = energy.update_and_energy(memory(s * x, kind, w), s * xi, beta / s**2)
            np.testing.assert_allclose(scaled[0], s * image, atol=1e-14)
            np.testing.assert_allclose(scaled[1], s**2 * e, atol=1e-14)
            moved = energy.update_and_energy(memory(x + shift, kind, w), xi + shift, beta)
            if kind == "euclidean":
                np.testing.assert_allclose(moved[0], image + shift, atol=1e-13)
                np.testing.assert_allclose(moved[1], e, atol=1e-13)
            else:  # the dot-product energy knows an origin
                assert float(jnp.abs(moved[0] - image - shift).max()) > 0.1


def test_weights_of_equal_small_terms_sum_to_one_in_single_precision():
    # one field above 31 (or 4999) equal ones: summed one after the other, all err the same way
    for n in (32, 5000):
        betas = np.linspace(5, 15, 64, dtype=np.float32)
        m = memory(np.eye(n, 3, dtype=np.float32), checked=False)  # all the others are zero
        p = np.asarray(energy.weights(m, np.eye(1, 3), betas), np.float64)
        assert np.abs(p.sum(axis=1) - 1).max() < 4e-7
        exact = 1 / (1 + (n - 1) * np.exp(-betas.astype(np.float64)))
        np.testing.assert_allclose(p[:, 0], exact, rtol=2e-6)


@pytest.mark.slow
def test_both_energies_agree_for_equal_norms():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(6, 4))
    x *= 1.3 / np.linalg.norm(x, axis=1, keepdims=True)
    xi = rng.normal(size=(5, 4))
    with jax.enable_x64(True):
        dot, euclidean = memory(x), memory(x, "euclidean")
        np.testing.assert_allclose(
            energy.energy(dot, xi, 3.0), energy.energy(euclidean, xi, 3.0), atol=1e-14
        )
        np.testing.assert_allclose(
            energy.update(dot, xi, 3.0), energy.update(euclidean, xi, 3.0), atol=1e-14
        )
        assert float(dot.scale) == pytest.approx(1.3, abs=1e-14)
        widest = np.linalg.norm(x[:, None] - x[None], axis=2).max()
        assert widest <= float(dot.diameter) <= 2 * widest


@pytest.mark.parametrize("kind", ["dot", "euclidean"])
def test_the_origin_can_be_moved_to_the_mean(kind):
    rng = np.random.default_rng(8)
    far = np.array([5, 0, 0, -3])
    x, xi = rng.normal(size=(6, 4)) + far, rng.normal(size=(5, 4)) + far
    w = rng.uniform(0.5, 2, 6)
    with jax.enable_x64(True):
        given = energy.pad(memory(x, kind, w), 8)
        moved, mean = energy.centred(given)
        np.testing.assert_allclose(mean, x.mean(axis=0), atol=1e-14)
        np.testing.assert_allclose(
            energy.energy(moved, xi - mean, 2.0), energy.energy(given, xi, 2.0), atol=1e-12
        )
        np.testing.assert_allclose(
            energy.update(moved, xi - mean, 2.0) + mean, energy.update(given, xi, 2.0), atol=1e-12
        )
        # padding is no pattern: neither the mean nor the spread knows of it
        assert bool((moved.patterns[6:] == 0).all())
        spread = np.sqrt(((x - x.mean(axis=0)) ** 2).sum() / 6)
        np.testing.assert_allclose([given.spread, moved.spread], spread, rtol=1e-14)


def test_dtypes():
    assert memory(np.eye(3)).dtype == jnp.float32
    assert memory([[1, 0], [0, 1]]).dtype == jnp.float32
    with jax.enable_x64(True):
        assert memory(np.eye(3)).dtype == jnp.float64
        assert memory(np.eye(3, dtype=np.float32)).dtype == jnp.float32
        assert energy.update(memory(np.eye(3)), np.ones(3), 2).dtype == jnp.float64


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: memory(np.ones(3)), r"rows \[N, d\], got shape \(3,\)"),
        (lambda: memory(np.array([[1.0, np.nan], [0, 1]])), "row 0 of the patterns holds NaN"),
        (lambda: memory([[1.0, np.nan]], checked=False), "hold NaN or infinity"),
        (lambda: memory([[1.0, 2.0]]), "at least 2 patterns, got N = 1"),
        (lambda: memory(jnp.eye(4, 2)), "rows 2, 3 of the patterns hold nothing but zeros"),
        (lambda: memory([[1, 2], [3, 4], [1, 2 + 1e-9]]), "rows 0 and 2 of the patterns are equal"),
        (lambda: memory(np.eye(2), "cosine"), "unknown energy 'cosine'"),
        (lambda: memory(np.eye(2), weights=[1, 2, 3]), r"2 patterns got weights of shape \(3,\)"),
        (lambda: memory(np.eye(2), weights=[1, -2]), "weights of patterns must be"),
        (lambda: energy.check_beta(0.0), "got 0.0"),
        (lambda: energy.check_beta([1.0, -3.0]), "got -3.0"),
        (lambda: energy.check_beta(np.inf), "got inf"),
        (lambda: energy.fields(memory(np.eye(3)), jnp.ones((4, 2))), "3 dimensions, the states 2"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
