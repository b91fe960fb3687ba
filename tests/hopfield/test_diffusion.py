"""The bridge: a denoiser is a Hopfield update, class posteriors are energies, markers by hand."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax import guidance, initial_noise, mixtures, sample, sample_keys, schedules, steps
from dng_jax.errors import InputError
from dng_jax.metrics import window
from hopfield_jax import diffusion, patterns, theory
from hopfield_jax.energy import Memory, update

pytestmark = pytest.mark.usefixtures("quick_compilation")

LEVELS = [(0.9, 0.3), (0.4, 0.9165), (1.0, 5.0), (0.7, 0.2), (0.9995, 0.06)]
CLASSES = np.array([0, 1, 1, 2, 0, 2, 1])


def unequal(scale=0.0):
    """Seven patterns of unequal norms and weights in 5 dimensions, three classes, float64."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(7, 5)) * rng.uniform(0.4, 2, (7, 1))
    weights = rng.uniform(0.5, 2, 7)
    return mixtures.gaussians(x, scale, CLASSES, weights, dtype=jnp.float64)


def noised(mixture, alpha, sigma, count=12):
    rng = np.random.default_rng(3)
    x = np.asarray(mixture.means).reshape(-1, 5)[rng.integers(0, 7, count)]
    return jnp.asarray(alpha * x + sigma * rng.normal(size=(count, 5)))


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
@pytest.mark.parametrize("scale", [0.0, 0.3])
def test_the_denoiser_is_an_update_with_bias(double, alpha, sigma, scale):
    mixture = unequal(scale)
    x = noised(mixture, alpha, sigma)
    # The mixture's own denoiser, from its density: E[x_0|x] = (x + sigma^2 score)/alpha.
    score = jax.grad(lambda x: mixture.log_density(x, alpha, sigma).sum())(x)
    truth = (x + sigma**2 * score) / alpha
    found = diffusion.denoised(mixture, x, alpha, sigma)
    np.testing.assert_allclose(found, truth, atol=1e-12 * max(1, sigma**2 / alpha))
    if scale == 0:
        # The state x itself, at beta = alpha/sigma^2, with the bias of its own.
        memory = diffusion.memory_of(mixture)
        biased = Memory(memory.patterns, alpha * memory.bias, memory.log_weights, memory.constant)
        np.testing.assert_allclose(update(biased, x, alpha / sigma**2), found, atol=1e-12)


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
@pytest.mark.parametrize("scale", [0.0, 0.3])
def test_posteriors_are_boltzmann_factors_of_class_energies(double, alpha, sigma, scale):
    mixture = unequal(scale)
    x = noised(mixture, alpha, sigma)
    log_p = diffusion.log_posterior(mixture, x, alpha, sigma)
    np.testing.assert_allclose(log_p, mixture.log_posterior(x, alpha, sigma), atol=1e-10)
    beta, state = diffusion.snr(alpha, sigma, scale), x / alpha
    whole = update(diffusion.memory_of(mixture), state, beta)
    each = [update(diffusion.memory_of(mixture, [c]), state, beta) for c in range(3)]
    # sum_c p(c|x) update_c = update: score = sum_c p(c|x) score_c
    total = sum(jnp.exp(log_p[:, c, None]) * each[c] for c in range(3))
    np.testing.assert_allclose(total, whole, atol=1e-11)
    for c in range(3):
        slope = jax.grad(
            lambda s: diffusion.log_posterior(mixture, alpha * s, alpha, sigma)[:, c].sum()  # noqa: B023
        )(state)
        np.testing.assert_allclose(slope, beta * (each[c] - whole), atol=1e-9 * beta)


def test_signal_to_noise_and_beta_are_inverse_to_each_other():
    assert diffusion.snr(0.8, 0.5) == pytest.approx(2.56)
    assert diffusion.snr(0.8, 0.5, 0.25) == pytest.approx(0.64 / (0.04 + 0.25))
    assert diffusion.noise_of(diffusion.snr(0.8, 0.5, 0.25), 0.25) == pytest.approx(2.56)
    assert diffusion.noise_of(16.0, 0.25) == math.inf
    assert diffusion.noise_of(17.0, 0.25) == math.inf


def test_markers_of_equidistant_patterns():
    n, norm, angle = 12, 1.5, 1.2
    x = patterns.equidistant(n, n, norm, angle)
    half = norm**2 * (1 - math.cos(angle))
    found = diffusion.markers(mixtures.gaussians(x, 0.0, np.arange(n) % 3))
    # speciation of equidistant patterns is where the centroid loses stability, K = N
    assert found.speciation * half == pytest.approx(theory.characteristic(n).K_N, rel=1e-5)
    assert found.collapse * half == pytest.approx(2 * math.log(n), rel=1e-5)
    assert found.image_collapse * half == pytest.approx(2 * math.log(n - 1), rel=1e-5)
    # class means of four patterns each: a quarter of the squared distance, three of them
    assert found.class_speciation * half / 4 == pytest.approx(3, rel=1e-5)
    assert found.evidence is None
    wide = diffusion.markers(mixtures.gaussians(x, 0.1, np.arange(n) % 3))
    assert 1 / wide.speciation == pytest.approx(1 / found.speciation + 0.01, rel=1e-5)
    assert 1 / wide.collapse == pytest.approx(1 / found.collapse - 0.01, rel=1e-5)
    none = diffusion.markers(mixtures.gaussians(x, 2.0, np.arange(n) % 3))
    assert none.collapse == math.inf
    assert "collapse" not in none.logsnr()


def test_evidence_of_two_gaussians():
    delta, s, w = 3.0, 0.4, 0.2
    mixture = mixtures.gaussians([[0.0], [delta]], s, [0, 1], [w, 1 - w])
    snr = diffusion.evidence(mixture, [0])
    assert 1 / snr == pytest.approx(delta**2 / (2 * math.log(4)) - s**2, rel=1e-5)
    assert diffusion.evidence(mixture, [1]) == 0  # the prior says so already
    # there, half of the members of class 0 have a posterior above 1/2
    z = np.random.default_rng(0).normal(size=(4001, 2))
    x = s * z[:, :1] + z[:, 1:] / math.sqrt(snr)
    log_p = np.asarray(mixture.log_posterior(x.astype(np.float32), 1.0, snr**-0.5))
    assert np.mean(log_p[:, 0] > math.log(0.5)) == pytest.approx(0.5, abs=4 * 0.5 / 63)


def test_the_predicted_window_is_exact_for_two_gaussians():
    delta, s, w = 3.0, 0.4, 0.2
    mixture = mixtures.gaussians([[0.0], [delta]], s, [0, 1], [w, 1 - w])
    logsnr = np.array([-12.0, -2.0, 0.0, 12.0])
    found = diffusion.predicted_share(mixture, [0], logsnr)
    assert found[0] < 1e-4
    rng = np.random.default_rng(0)
    n = 40_000
    label = rng.random(n) > w
    for t, level in enumerate(logsnr):
        sigma = math.exp(-level / 2)
        x = delta * label + s * rng.normal(size=n) + sigma * rng.normal(size=n)
        log_p = np.asarray(mixture.log_posterior(x[:, None].astype(np.float32), 1.0, sigma))
        share = window.resolved(np.exp(log_p[None, :, 0]), ~label)[0]
        assert found[t] == pytest.approx(share, abs=0.02)
    # symmetric in what is called the class
    np.testing.assert_allclose(diffusion.predicted_share(mixture, [1], logsnr), found, atol=1e-6)


def test_what_is_observed_along_a_sampler(mixture, denoise, table, keys, noise):
    result = sample(
        denoise,
        table,
        guidance.unguided(),
        keys,
        noise,
        save=("x",),
        observe=diffusion.observer(mixture, [0, 2]),
    )
    for t in (0, len(table.index) - 1):
        x, level = result.trace["x"][t], (table.alpha[t], table.sigma[t])
        log_p = mixture.log_posterior(x, *level)
        both = np.exp(log_p[:, 0]) + np.exp(log_p[:, 2])
        np.testing.assert_allclose(result.trace["exact"][t], both, rtol=1e-4, atol=1e-6)
        rest = mixtures.mixture_denoiser(mixture, {"two": [0, 2]})
        row = jax.tree.map(lambda column, t=t: column[t], table)
        eps = rest(x, row, ("two", "base"))
        gap = np.linalg.norm((eps["two"] - eps["base"]).reshape(len(x), -1), axis=1)
        np.testing.assert_allclose(result.trace["gap"][t], gap, atol=2e-4)


def test_priors_and_ends_of_chains_by_hand(double):
    mixture, scale, classes = unequal(0.3), 0.3, (0, 2)
    weights, means = (np.exp(mixture.log_weights), np.asarray(mixture.means))
    prior = diffusion.prior_of(mixture, classes)
    assert prior == pytest.approx(sum(weights[c].sum() for c in classes), rel=1e-12)

    rng = np.random.default_rng(4)
    x = rng.normal(size=(30, 5))
    square = ((x[:, None, None] - means[None]) ** 2).sum(axis=3)
    likely = (weights * np.exp(-square / (2 * scale**2))).sum(axis=2).argmax(axis=1)
    ends = diffusion.ends_in(mixture, x, classes)
    assert ends.tolist() == [c in classes for c in likely]
    assert 0 < ends.sum() < 30


def test_chains_resolve_two_gaussians_where_the_closed_form_says():
    # Where both classes are Gaussians of one width the predicted window is exact, so that real
    # chains may differ from it by their number and by the steps' length alone.
    delta, s, w = 4.0, 0.5, 0.3
    mixture = mixtures.gaussians([[0.0], [delta]], s, [0, 1], [w, 1 - w])
    denoise = mixtures.mixture_denoiser(mixture, {"zero": [0]})
    table = steps.ddpm(schedules.linear(), 100)
    keys = sample_keys(0, 4000)
    noise = initial_noise(keys, (1,), table)
    observe = diffusion.observer(mixture, [0])
    chains = sample(denoise, table, guidance.unguided(), keys, noise, observe=observe)
    member = diffusion.ends_in(mixture, chains.x, [0])
    known = window.resolved(chains.trace["exact"], member)
    logsnr = np.asarray(table.logsnr, np.float64)
    exact = diffusion.predicted_share(mixture, [0], logsnr)
    np.testing.assert_allclose(known, exact, atol=0.03)
    found, truth = (window.window_of(logsnr, c) for c in (known, exact))
    np.testing.assert_allclose(found, truth, atol=0.1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: diffusion.memory_of(mixtures.gaussians([[0.0], [1.0]], [0.1, 0.2])),
            "one width, these have 0.1 to 0.2",
        ),
        (
            lambda: diffusion.memory_of(mixtures.gaussians([[0.0], [1.0]], 0.1), [2]),
            r"classes \[2\]: choose at least one of 0..1",
        ),
        (
            lambda: diffusion.evidence(mixtures.gaussians([[0.0], [1.0]], 0.1), [0, 1]),
            "proper subset",
        ),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
