"""The exact model of scenes against all products of images, in float64, and its own identities."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from dng_jax import (
    InputError,
    guidance,
    initial_noise,
    mixtures,
    posterior,
    sample,
    sample_keys,
    schedules,
    steps,
)
from dng_jax.denoisers.branches import branches, prompts_of
from dng_jax.scenes import exact, images, prompts
from dng_jax.schedules import cosine

pytestmark = pytest.mark.usefixtures("quick_compilation")

SCALE = 0.15
PROMPTS = {"prompt": "even digits", "negative": "a four", "both": "even digits, a four"}
LEVELS = [(0.95, 0.312), (0.5, 0.866), (0.05, 0.999)]


@pytest.fixture(scope="module")
def pool():
    """Ten classes of one to three images, float64 [N, 8, 8, 1], and their labels."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), [2, 1, 3, 1, 2, 1, 1, 2, 1, 1])
    return rng.uniform(-1, 1, size=(len(labels), 8, 8, 1)), labels


@pytest.fixture(scope="module")
def model(pool):
    with jax.enable_x64(True):
        return exact.exact_scenes(
            PROMPTS, cell=exact.cell_mixture(*pool, scale=SCALE, dtype=jnp.float64)
        )


@pytest.fixture(scope="module")
def products(pool):
    """Every scene of two images: means [P, 128], labels [P, 2], log weights [P]."""
    x, labels = pool
    pairs = list(itertools.product(range(len(x)), repeat=2))
    scenes = np.stack([np.concatenate([x[i], x[j]], axis=1).ravel() for i, j in pairs])
    y = np.array([(labels[i], labels[j]) for i, j in pairs])
    sizes = np.bincount(labels)
    return scenes, y, -np.log(100 * sizes[y[:, 0]] * sizes[y[:, 1]])


@jax.jit
def values(model, x, alpha, sigma):
    """All that a model says of noised scenes, in one program: {role: value}, and p(a four)."""
    row = steps.ddpm(cosine(), 2)._replace(alpha=alpha, sigma=sigma)
    fours, given = prompts.tuples("a four", 2), tuple(model.prompts)

    def density(role):
        return model.log_density(x, alpha, sigma, role)

    log_p = {r: model.log_probability(x, alpha, sigma, fours, r) for r in given}
    return model(x, row, given), {r: density(r) for r in given}, log_p


def noised(products, alpha, sigma, count=6):
    rng = np.random.default_rng(1)
    clean = products[0][rng.integers(len(products[0]), size=count)]
    x = alpha * (clean + SCALE * rng.normal(size=clean.shape)) + sigma * rng.normal(
        size=clean.shape
    )
    return x.reshape(count, 8, 16, 1)


def brute(products, allowed, x, alpha, sigma):
    """log p_A [B], eps_A [B, ...] and log r [B, P], by every product that A allows."""
    means, y, log_w = products
    flat, v = x.reshape(len(x), -1), alpha**2 * SCALE**2 + sigma**2
    log_w = np.where(allowed[y[:, 0], y[:, 1]], log_w, -np.inf)
    log_w = log_w - logsumexp(log_w)
    gap = flat[:, None] - alpha * means[None]
    joint = log_w - np.sum(gap**2, axis=2) / (2 * v) - flat.shape[1] / 2 * np.log(2 * np.pi * v)
    log_p = logsumexp(joint, axis=1)
    r = np.exp(joint - log_p[:, None])
    eps = sigma / v * np.einsum("bp,bpd->bd", r, gap)
    return log_p, eps.reshape(x.shape), r


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_prompts_by_brute_force_over_all_products_of_images(model, products, alpha, sigma):
    x = noised(products, alpha, sigma)
    with jax.enable_x64(True):
        found = values(model, x, alpha, sigma)
    eps, log_density, log_four = jax.tree.map(np.asarray, found)
    fours = np.any(products[1] == 4, axis=1)
    for role, prompt in {"empty": "", **PROMPTS}.items():
        log_p, wanted, r = brute(products, prompts.tuples(prompt, 2), x, alpha, sigma)
        np.testing.assert_allclose(eps[role], wanted, atol=1e-10)
        np.testing.assert_allclose(log_density[role], log_p, rtol=1e-11)
        with np.errstate(divide="ignore"):
            wanted = np.log(r[:, fours].sum(axis=1))
        np.testing.assert_allclose(log_four[role], wanted, atol=1e-9)
    # p(B | A) p(A) = p(A and B), Bayes for densities
    np.testing.assert_allclose(
        log_density["both"] + np.log(0.09) - log_density["prompt"] - np.log(0.25),
        log_four["prompt"],
        atol=1e-9,
    )


def test_the_prediction_is_the_gradient_of_the_log_density(model, products):
    alpha, sigma = LEVELS[1]
    x = noised(products, alpha, sigma)
    with jax.enable_x64(True):
        both = {"prompt": model.prompts["both"], "empty": model.prompts["empty"]}
        both = exact.ExactScenes(model.cell, both)
        density = jax.jit(lambda x: both.log_density(x, alpha, sigma, "prompt").sum())
        score = jax.grad(density)(x)
        eps, _, _ = values(model, x, alpha, sigma)
    np.testing.assert_allclose(eps["both"], -sigma * np.asarray(score), atol=1e-10)


def test_what_a_prompt_excludes_has_no_probability(model, products):
    with jax.enable_x64(True):
        x, seven = noised(products, *LEVELS[1]), prompts.tuples("a seven", 2)
        assert np.all(model.log_probability(x, *LEVELS[1], seven, "prompt") == -np.inf)


def test_a_contradiction_stands_for_what_satisfies_most_of_it(model):
    with jax.enable_x64(True):
        changed = model.with_prompts({"prompt": "even digits, a seven"})
        weights = np.asarray(changed.prompts["prompt"])
    allowed = prompts.tuples("even digits", 2) | prompts.tuples("a seven", 2)
    np.testing.assert_allclose(np.exp(weights), allowed / 44, rtol=1e-6)


def test_clean_scenes_of_the_digits_are_read_as_their_labels():
    x, labels = images.scenes(2, 64, sample_keys(0, 1)[0])
    model = exact.exact_scenes()
    noise = SCALE * jax.random.normal(sample_keys(1, 1)[0], x.shape)
    np.testing.assert_array_equal(jax.jit(model.classify)(x + noise), labels)


def test_what_cannot_be_a_cell_is_refused(model):
    with pytest.raises(InputError, match="scale of the images of a cell must be above 0, got 0"):
        exact.cell_mixture(scale=0)
    with pytest.raises(InputError, match="ten classes that are equally likely"):
        exact.exact_scenes(cell=mixtures.gaussians(np.eye(64)[:3], 0.1))
    with pytest.raises(InputError, match="unknown phrase 'a cat'"):
        model.with_prompts({"prompt": "a cat"})


def test_scenes_and_prompts_of_another_number_of_cells_are_refused():
    model, x = exact.exact_scenes(cells=2), jnp.zeros((1, 8, 24, 1))
    with pytest.raises(InputError, match="scenes of 3 cells for a model of 2"):
        model.log_density(x, 1.0, 0.1)
    with pytest.raises(InputError, match=r"shape \[10\]: it must be \[10, 10\]"):
        model.log_probability(x[:, :, :16], 1.0, 0.1, prompts.tuples("a four", 1))
    with pytest.raises(InputError, match="give both, or neither"):
        exact.cell_mixture(np.zeros((10, 8, 8, 1)))


def test_a_phrase_that_is_repeated_counts_once():
    once, twice = (
        exact.exact_scenes({"prompt": text}).prompts["prompt"]
        for text in ("even digits, a seven", "even digits, even digits and a seven")
    )
    np.testing.assert_array_equal(once, twice)


def test_what_is_wanted_is_removed_and_what_is_unrelated_left_alone():
    """The claim of DNG for prompts: as few fours as negative prompting leaves, and less than half
    of what it changes where the negative, a seven, is in no scene of the prompt."""
    table = steps.ddpm(schedules.respace(cosine(), 15))
    keys = sample_keys(0, 192)
    noise = initial_noise(keys, (8, 16, 1), table)
    tracker = posterior.pair(prompts.share("a four", "", 2), reference="reference")
    rules = {
        "unguided": guidance.negative_prompt(0.0),
        "np": guidance.negative_prompt(1.0),
        "dng": guidance.dynamic_negative(tracker, 2.0),
    }
    model = exact.exact_scenes()

    def drawn(negative):
        told = model.with_prompts(prompts_of("d", "even digits", negative))
        roles = branches(told, "d", 3.0)
        return {
            name: np.asarray(model.classify(sample(roles, table, rule, keys, noise).x))
            for name, rule in rules.items()
        }

    left = {name: (x == 4).any(1).mean() for name, x in drawn("a four").items()}
    other = drawn("a seven")
    changed = {name: (x != other["unguided"]).mean() for name, x in other.items()}
    assert left["unguided"] > 0.3
    assert left["dng"] <= left["np"] < 0.5 * left["unguided"]
    assert changed["dng"] < 0.5 * changed["np"]
