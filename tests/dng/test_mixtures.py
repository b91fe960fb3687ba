"""The exactly solvable model against float64 loops, finite differences and its own identities."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax import InputError, mixtures, sampling, schedules, steps

pytestmark = pytest.mark.usefixtures("quick_compilation")

LEVELS = [(0.9, 0.3), (0.4, 0.9165), (1.0, 5.0), (0.7, 0.3), (0.9995, 0.03)]


def points(exact, alpha, sigma, count=16):
    """Points of the noised mixture, float32."""
    rng = np.random.default_rng(3)
    m = rng.integers(len(exact.means), size=count)
    clean = exact.means[m] + exact.scales[m, None] * rng.normal(size=(count, 4))
    return (alpha * clean + sigma * rng.normal(size=clean.shape)).astype(np.float32)


@jax.jit
def values(mixture, x, alpha, sigma):
    """All of a mixture at noised points, in one program: log density, posterior, joint, eps."""
    level = (x, alpha, sigma)
    eps, log_posterior = mixture.class_eps(*level)
    density, joint = mixture.log_density(*level), mixture.log_class_joint(*level)
    return density, mixture.log_posterior(*level), joint, eps, log_posterior


@jax.jit
def score_of(mixture, x, alpha, sigma):
    return jax.grad(lambda x: mixture.log_density(x, alpha, sigma).sum())(x)


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_densities_posteriors_and_denoisers_by_brute_force(mixture, exact, alpha, sigma):
    x = points(exact, alpha, sigma)
    density, log_posterior, found, eps, _ = values(mixture, x, alpha, sigma)
    np.testing.assert_allclose(density, exact.log_density(x, alpha, sigma), atol=1e-4)
    np.testing.assert_allclose(
        np.exp(log_posterior),
        exact.posterior(x, alpha, sigma),
        rtol=2e-4,  # logits of several hundred at the lowest noise: 1e-7 of them
        atol=1e-7,
    )
    joint = np.stack([exact.log_density(x, alpha, sigma, [k]) for k in range(3)], axis=1)
    np.testing.assert_allclose(found, joint, rtol=1e-5, atol=1e-4)
    for k in range(3):
        np.testing.assert_allclose(eps[:, k], exact.eps(x, alpha, sigma, [k]), atol=1e-4)


def test_score_is_the_gradient_of_the_log_density_in_float64(exact):
    with jax.enable_x64(True):
        mixture = mixtures.gaussians(
            exact.means, exact.scales, exact.classes, exact.weights, dtype=jnp.float64
        )
        for alpha, sigma in LEVELS:
            x = jnp.asarray(points(exact, alpha, sigma), jnp.float64)
            _, _, _, eps, log_posterior = values(mixture, x, alpha, sigma)
            # an independent denoiser, to 1e-10 in double precision
            for k in range(3):
                np.testing.assert_allclose(eps[:, k], exact.eps(x, alpha, sigma, [k]), atol=1e-10)
            score_k, p = -eps / sigma, jnp.exp(log_posterior)
            score = score_of(mixture, x, alpha, sigma)
            # score = sum_k p(k|x) score_k
            np.testing.assert_allclose(jnp.einsum("bk,bkd->bd", p, score_k), score, atol=1e-8)
            # grad log p(k|x) = score_k - score, by central differences of the NumPy twin
            h = 1e-5
            for axis in range(4):
                up, down = np.array(x), np.array(x)
                up[:, axis] += h
                down[:, axis] -= h
                slope = (
                    np.log(exact.posterior(up, alpha, sigma))
                    - np.log(exact.posterior(down, alpha, sigma))
                ) / (2 * h)
                expected = score_k[:, :, axis] - score[:, None, axis]
                # h^2 times third derivatives of order 1/sigma^4, and 1e-13/h of rounding
                np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-4)


def test_log_density_integrates_to_one():
    mixture = mixtures.gaussians([[-0.5], [0.8], [0.1]], [0.1, 0.3, 0.2], [0, 0, 1], [1, 2, 3])
    x = jnp.linspace(-8, 8, 4001)[:, None]
    for alpha, sigma in [(0.9, 0.4), (0.2, 1.0)]:
        density = jnp.exp(mixture.log_density(x, alpha, sigma))
        assert float(density.sum() * 0.004) == pytest.approx(1, abs=1e-5)
        inside = jnp.exp(mixture.log_class_joint(x, alpha, sigma)[:, 1])
        assert float(inside.sum() * 0.004) == pytest.approx(0.5, abs=1e-5)


def test_patterns_without_width_are_a_softmax_over_the_data():
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (6, 2, 2))
    mixture = mixtures.patterns(images, [0, 1, 1, 2, 0, 1], scale=0.0)
    alpha, sigma = 0.95, 0.35
    x = rng.normal(size=(9, 2, 2)).astype(np.float32)
    flat = images.reshape(6, 4)
    logits = -((x.reshape(9, 1, 4) - alpha * flat) ** 2).sum(-1) / (2 * sigma**2)
    r = np.exp(logits - logits.max(1, keepdims=True))
    r /= r.sum(1, keepdims=True)
    denoise = mixtures.mixture_denoiser(mixture)
    row = steps.ddpm(schedules.linear(), 1)._replace(alpha=alpha, sigma=sigma)
    eps = denoise(x, row, ("base",))["base"]
    np.testing.assert_allclose((x - sigma * eps) / alpha, (r @ flat).reshape(9, 2, 2), atol=3e-6)
    assert eps.shape == (9, 2, 2)


def test_denoiser_of_every_role(denoise, exact):
    alpha, sigma = 0.8, 0.6
    x = points(exact, alpha, sigma).reshape(-1, 2, 2)
    row = steps.ddpm(schedules.linear(), 1)._replace(alpha=alpha, sigma=sigma)
    roles = {"base": [0, 1, 2], "class:1": [1], "negative": [0], "allowed": [1, 2]}
    preds = denoise(x, row, tuple(roles))
    assert set(preds) == set(roles)
    for role, members in roles.items():
        np.testing.assert_allclose(preds[role], exact.eps(x, alpha, sigma, members), atol=5e-6)


def test_restricted_mixture_has_the_weights_of_its_classes(mixture, exact):
    rest = mixture.restrict([1, 2])
    np.testing.assert_allclose(mixture.prior, [2.5 / 6, 0.5 / 6, 3 / 6], rtol=1e-6)
    np.testing.assert_allclose(rest.prior, [0.5 / 3.5, 3 / 3.5], rtol=1e-6)
    x = points(exact, 0.8, 0.6)
    p = exact.posterior(x, 0.8, 0.6)[:, 1:]
    np.testing.assert_allclose(
        np.exp(rest.log_posterior(x, 0.8, 0.6)), p / p.sum(1, keepdims=True), rtol=1e-5
    )


@pytest.mark.parametrize("sigma", [0.05, 0.02, 0.01])
def test_low_noise_posterior_between_two_near_patterns(sigma):
    # 64 pixels, |x|^2 ~ 20, |mu_1 - mu_2| = 2 sigma: the distances are near |x|^2/sigma^2 times
    # their difference, so a float32 sum of squares has no digit left at sigma = .01.
    rng = np.random.default_rng(1)
    mu = rng.uniform(-1, 1, 64)
    direction = rng.normal(size=64)
    direction /= np.linalg.norm(direction)
    means = np.stack([mu, mu + 2 * sigma * direction]).astype(np.float32)
    mixture = mixtures.gaussians(means, 0.0)
    x = (mu + sigma * direction * np.array([[0.5], [1.0], [1.4]])).astype(np.float32)
    wide = means.astype(np.float64)
    squares = ((x[:, None].astype(np.float64) - wide) ** 2).sum(2)
    truth = (squares[:, 1] - squares[:, 0]) / (2 * sigma**2)
    log_p = np.asarray(mixture.log_posterior(x, 1.0, sigma), np.float64)
    # rounding of <x, mu>/sigma^2 in float32: a few ulp of 20/sigma^2
    np.testing.assert_allclose(
        log_p[:, 0] - log_p[:, 1], truth, atol=4 * 6e-8 * (mu @ mu) / sigma**2
    )


def uneven(block, d=12, counts=(1, 9, 4), scales=None):
    """Classes of 1, 9 and 4 components, so that blocks of one class hold padding alone."""
    rng = np.random.default_rng(4)
    n = sum(counts)
    scales = 0.15 if scales is None else rng.uniform(0.1, 0.4, n)
    labels = np.repeat(np.arange(len(counts)), counts)
    means = rng.uniform(-1, 1, (n, d)).astype(np.float32)
    return mixtures.gaussians(means, scales, labels, rng.uniform(1, 2, n), block=block)


@pytest.mark.parametrize(
    ("counts", "block", "size", "width", "scales"),
    [((1, 9, 4), 8, 3, 9, None), ((1, 10, 3), 13, 4, 12, "of all widths")],
)
def test_blocks_of_components_change_nothing_but_rounding(counts, block, size, width, scales):
    whole, blocked = (uneven(b, counts=counts, scales=scales) for b in (None, block))
    assert whole.block is None
    assert (blocked.block, blocked.means.shape[1]) == (size, width)
    x = np.random.default_rng(5).normal(size=(5, 12)).astype(np.float32)
    for alpha, sigma in [(0.9, 0.3), (0.05, 1.0), (1.0, 0.0)]:
        for found, expected in zip(
            values(blocked, x, alpha, sigma), values(whole, x, alpha, sigma), strict=True
        ):
            # logits of several hundred at the lowest noise: 1e-7 of them
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-4)


def test_blocks_have_derivatives_and_survive_a_restriction():
    whole, blocked = uneven(None), uneven(8)
    assert blocked.restrict([1, 2]).block == blocked.block
    x = np.random.default_rng(5).normal(size=(5, 12)).astype(np.float32)
    score, expected = score_of(blocked, x, 0.9, 0.3), score_of(whole, x, 0.9, 0.3)
    np.testing.assert_allclose(score, expected, rtol=2e-5, atol=2e-5)


def test_many_components_are_taken_in_blocks_by_default():
    many = mixtures.gaussians(np.zeros((9000, 1)), 0.1, np.arange(9000) % 2)
    assert (many.block, many.means.shape) == (1500, (2, 4500, 1))
    few = mixtures.gaussians(np.zeros((8192, 1)), 0.1, np.arange(8192) % 2)
    assert few.block is None


@pytest.mark.parametrize(("alpha", "sigma"), [(0.99, 0.1), (0.6, 0.8), (0.1, 0.995)])
def test_a_mixture_of_the_size_of_cifar_in_float64(exact, alpha, sigma):
    # d = 3,072: logits reach |mu|^2/v = 30,000 at the lowest noise, 2e-3 of float32's rounding
    rng = np.random.default_rng(6)
    means = (rng.uniform(-1, 1, (1, 3072)) + rng.uniform(-0.2, 0.2, (24, 3072))).astype(np.float32)
    labels = np.arange(24) % 3
    twin = type(exact)(means.astype(np.float64), np.full(24, 0.15), labels, np.ones(24))
    mixture = mixtures.patterns(means, labels, block=9)
    # between two patterns of different classes, where the posterior is decided by differences
    clean = (means[:4] + means[1:5]) / 2
    x = (alpha * clean + sigma * rng.normal(size=clean.shape)).astype(np.float32)
    _, _, _, eps, log_posterior = values(mixture, x, alpha, sigma)
    truth = np.log(np.maximum(twin.posterior(x, alpha, sigma), 1e-300))
    likely = truth > -30
    assert likely.sum() > len(x)
    np.testing.assert_allclose(np.asarray(log_posterior)[likely], truth[likely], atol=2e-2)
    p = np.exp(log_posterior)
    np.testing.assert_allclose(p, np.exp(truth), atol=5e-3)
    mean = np.einsum("bk,bkd->bd", p, eps)
    np.testing.assert_allclose(mean, twin.eps(x, alpha, sigma), atol=2e-3)


def test_draws_have_the_moments_of_the_mixture(mixture, exact):
    n = 20_000
    x, k = mixture.draw(sampling.sample_keys(3, n), (2, 2))
    assert x.shape == (n, 2, 2)
    assert k.dtype == jnp.int32
    weights = exact.weights / exact.weights.sum()
    share = np.bincount(np.asarray(k), minlength=3) / n
    p = np.array([weights[exact.classes == c].sum() for c in range(3)])
    assert np.all(np.abs(share - p) < 4 * np.sqrt(p * (1 - p) / n))
    x = np.asarray(x).reshape(n, 4)
    mean = weights @ exact.means
    variance = weights @ (exact.means**2 + exact.scales[:, None] ** 2) - mean**2
    assert np.all(np.abs(x.mean(0) - mean) < 4.5 * np.sqrt(variance / n))
    assert np.all(np.abs(x.var(0) / variance - 1) < 4.5 * np.sqrt(2 / n))
    # within a class: scales are standard deviations
    one = x[np.asarray(k) == 1]
    assert one.std(0).mean() == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: m.restrict([]), "at least one class"),
        (lambda m: m.restrict([3]), "3"),
        (lambda m: m.restrict([-1]), "-1"),
        (lambda m: mixtures.mixture_denoiser(m, {"negative": [3]}), r"'negative'.*\[3\]"),
        (lambda m: mixtures.mixture_denoiser(m, {"negative": []}), "'negative'"),
        (lambda m: mixtures.gaussians([[0.0], [1.0]], -0.1), "scales >= 0"),
        (lambda m: mixtures.gaussians([[0.0], [1.0]], np.nan), "scales >= 0"),
        (lambda m: mixtures.gaussians([[0.0], [1.0]], 0.1, weights=[1, 0]), "weights > 0"),
        (lambda m: mixtures.gaussians([[0.0], [np.inf]], 0.1), "finite"),
        (lambda m: mixtures.gaussians([[0.0], [1.0]], 0.1, classes=[0, 2]), r"\[0, 2\]"),
        (lambda m: mixtures.gaussians([[0.0], [1.0]], 0.1, classes=[0, 1, 1]), "3"),
        (lambda m: mixtures.gaussians([[0.0], [1.0]], 0.1, weights=[1, 1, 1]), "3"),
        (lambda m: mixtures.gaussians([[0.0], [1.0]], 0.1, block=0), "block = 0"),
        (lambda m: m.log_density(jnp.zeros((1, 5)), 1.0, 1.0), "4 dimensions.*has 5"),
    ],
)
def test_bad_input_is_named(make, message, mixture):
    with pytest.raises(InputError, match=message):
        make(mixture)


def test_the_means_of_unequal_classes_take_what_the_largest_takes():
    labels = np.repeat([0, 1, 2], [90, 5, 5])
    held = mixtures.patterns(np.zeros((100, 6)), labels).means
    assert held.shape == (3, 90, 6)
    assert mixtures.bytes_of_means(labels, 6) == 2 * held.nbytes
