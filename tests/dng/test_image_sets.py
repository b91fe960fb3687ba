"""Sets of images as negatives: their denoiser, and the rules that push away from them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from dng_jax import (
    InputError,
    Step,
    denoisers,
    guidance,
    initial_noise,
    mixtures,
    posterior,
    sample,
    sample_keys,
    schedules,
    steps,
)
from dng_jax.guidance import image_kernel
from tests.conftest import SHAPE, Exact

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(3)
IMAGES = RNG.uniform(-1, 1, (5, *SHAPE)) * np.array([1, 2, 1, 1, 3])[:, None, None]
WIDTH = 0.7  # of kernels and radii: some images of the test lie inside, some outside


@pytest.fixture(scope="module")
def at():
    """A step at a noise level, with x and both predictions random; and x0 in float64."""
    row = jax.tree.map(lambda c: jnp.asarray(c[3]), steps.ddpm(schedules.linear(), 6))
    alpha, sigma = float(row.alpha), float(row.sigma)
    offsets = RNG.normal(size=(3, *SHAPE)) * np.array([0.3, 0.3, 2])[:, None, None]
    x0 = (IMAGES[[0, 1, 4]] + offsets).astype(np.float32)
    base, negative = RNG.normal(size=(2, 3, *SHAPE)).astype(np.float32)
    x = (alpha * x0 + sigma * base).astype(np.float32)
    step = Step(row, jnp.asarray(x), {"base": base, "negative": negative}, None, None)
    return step, (np.float64(x) - sigma * np.float64(base)) / alpha


def half(x, row, roles):
    return dict.fromkeys(roles, x / 2)


def moved_x0(rule, step, x0):
    """Where the guided prediction puts x0, float64."""
    delta, _, _ = rule.apply(rule.init_state(step.x), step)
    return x0 - float(step.row.sigma) / float(step.row.alpha) * np.asarray(delta, np.float64)


def squares(x0):
    return np.array([[np.sum((a - z) ** 2) for z in IMAGES] for a in x0])


def test_a_set_is_denoised_as_the_mixture_of_its_images(noise, table):
    both = denoisers.image_set(half, IMAGES, 0.2, role="set")
    row = jax.tree.map(lambda c: jnp.asarray(c[2]), table)
    found = jax.jit(lambda x, row: both(x, row, ("base", "set")))(noise, row)
    twin = Exact(IMAGES.reshape(5, -1), np.full(5, 0.2), np.zeros(5), np.ones(5))
    expected = twin.eps(noise, float(row.alpha), float(row.sigma))
    np.testing.assert_allclose(found["set"], expected, atol=2e-5)
    np.testing.assert_array_equal(found["base"], noise / 2)
    asked = denoisers.image_set(denoisers.separate_networks({"base": half}), IMAGES, 0.2)
    assert both.calls(("base",)) is None  # half does not say what it costs
    assert [asked.calls(roles) for roles in (("base", "negative"), ("negative",))] == [1, 0]


@pytest.mark.slow
def test_a_set_that_is_a_class_is_its_negative(exact, keys, noise, table):
    members = exact.means[exact.classes == 0].reshape(-1, *SHAPE)
    equal = mixtures.gaussians(exact.means, 0.2, exact.classes)
    inside = mixtures.mixture_denoiser(equal, {"negative": [0]})
    rule = guidance.dynamic_negative(posterior.pair(0.4), 1.0)
    one = sample(inside, table, rule, keys, noise)
    two = sample(denoisers.image_set(inside, members, 0.2), table, rule, keys, noise)
    np.testing.assert_allclose(one.x, two.x, atol=2e-5)
    np.testing.assert_allclose(one.trace["posterior"], two.trace["posterior"], atol=2e-5)


def test_safe_denoiser_with_the_exact_odds_is_dng_with_the_exact_posterior(
    denoise, exact, mixture, noise, table
):
    oracle = posterior.oracle(mixture, [0])
    safe, dynamic = guidance.safe_denoiser(oracle), guidance.dynamic_negative(oracle)

    @jax.jit
    def guided(row):
        step = Step(row, noise, denoise(noise, row, safe.roles), None, None)
        return step.base + safe.apply((), step)[0], step.base + dynamic.apply((), step)[0]

    for t in (1, 4):
        row = steps.StepRow(*(jnp.asarray(c[t]) for c in table))
        one, two = guided(row)
        np.testing.assert_allclose(one, two, atol=1e-5)
        # and the complement's own denoiser, by the textbook
        truth = exact.eps(noise, float(row.alpha), float(row.sigma), among=[1, 2])
        np.testing.assert_allclose(one, truth, atol=2e-4)


def test_safe_denoiser_with_a_kernel(at):
    step, x0 = at
    alpha, sigma = float(step.row.alpha), float(step.row.sigma)
    unsafe = (np.float64(step.x) - sigma * np.float64(step.preds["negative"])) / alpha
    b = 0.8 * np.exp(-squares(x0) / (2 * WIDTH**2)).sum(1)
    assert b.max() > 0.1 > b.min()
    rule = guidance.safe_denoiser(guidance.kernel_odds(IMAGES, WIDTH), 0.8)
    expected = x0 + b[:, None, None] * (x0 - unsafe)
    np.testing.assert_allclose(moved_x0(rule, step, x0), expected, rtol=1e-4, atol=1e-5)


def test_safety_flow_climbs_the_discrepancy(at):
    step, x0 = at

    def kernel_sum(a):
        return sum(np.exp(-np.sum((a - z) ** 2) / (2 * WIDTH**2)) for z in IMAGES)

    # guidance_scale = 2 lambda / h^2, and grad kernel_sum = -(1/h^2) Z [x - sum w z]
    tiny, expected = 1e-6, np.zeros_like(x0)
    for b in range(len(x0)):
        for i in np.ndindex(*SHAPE):
            up, down = x0[b].copy(), x0[b].copy()
            up[i] += tiny
            down[i] -= tiny
            slope = (kernel_sum(up) - kernel_sum(down)) / (2 * tiny)
            expected[b][i] = x0[b][i] - 0.6 * WIDTH**2 * slope
    assert np.abs(expected - x0).max() > 0.05
    found = moved_x0(guidance.safety_flow(IMAGES, 0.6, WIDTH), step, x0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_sparse_repellency_by_its_own_formula(at):
    step, x0 = at
    expected, touched = x0.copy(), 0
    for b, a in enumerate(x0):
        for z in IMAGES:
            distance = np.sqrt(np.sum((a - z) ** 2))
            expected[b] += 1.6 * max(WIDTH / distance - 1, 0) * (a - z)
            touched += distance < WIDTH
    assert 0 < touched < x0.shape[0] * len(IMAGES)
    found = moved_x0(guidance.sparse_repellency(IMAGES, WIDTH), step, x0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_one_ball_is_left_at_its_surface(at):
    step, x0 = at
    rule = guidance.sparse_repellency(x0[:1] + 0.1, 0.9, 1.0)
    distance = np.linalg.norm((moved_x0(rule, step, x0)[0] - x0[0] - 0.1).ravel())
    assert distance == pytest.approx(0.9, rel=1e-4)


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3)])
def test_a_sample_beside_an_image_is_left_at_the_surface(at, shape):
    image = RNG.uniform(-1, 1, (1, *shape)).astype(np.float32)
    x0 = image + 1e-5 * RNG.normal(size=(3, *shape)).astype(np.float32)
    row = at[0].row._replace(alpha=jnp.float32(1))
    step = Step(row, jnp.asarray(x0), {"base": jnp.zeros_like(x0)}, None, None)
    found = moved_x0(guidance.sparse_repellency(image, 2.0, 1.0), step, x0)
    np.testing.assert_allclose(np.linalg.norm((found - image).reshape(3, -1), axis=1), 2, rtol=1e-3)


def test_spell_in_the_exact_model_of_its_own_images_leaves_no_pixel_astray():
    images = RNG.uniform(-1, 1, (8, 8, 8, 1))
    table, keys = steps.ddpm(schedules.linear(), 8), sample_keys(1, 16)
    narrow = mixtures.mixture_denoiser(mixtures.patterns(images, [0] * 8, scale=1e-3))
    rule = guidance.sparse_repellency(images, 1.0)
    found = sample(narrow, table, rule, keys, initial_noise(keys, (8, 8, 1), table)).x
    assert np.abs(found).max() < 3


def rules_of(sigma_min):
    return [
        guidance.safe_denoiser(guidance.kernel_odds(IMAGES, WIDTH, sigma_min=sigma_min)),
        guidance.safety_flow(IMAGES, 1.0, WIDTH, sigma_min=sigma_min),
    ]


def test_below_the_critical_level_the_base_is_left_alone(at):
    step, _ = at
    level = float(step.row.sigma / step.row.alpha)
    for above, below in zip(rules_of(0.9 * level), rules_of(1.1 * level), strict=True):
        assert np.abs(above.apply((), step)[0]).max() > 0.01
        assert not np.any(below.apply((), step)[0])


def test_an_image_of_the_set_itself_gives_no_nan(at):
    step, _ = at
    preds = {role: jnp.zeros_like(step.x) for role in step.preds}
    row = step.row._replace(alpha=jnp.float32(1))
    centred = step._replace(row=row, preds=preds, x=jnp.asarray(IMAGES[:3], jnp.float32))
    for rule in (*rules_of(0.0), guidance.sparse_repellency(IMAGES, WIDTH)):
        assert np.isfinite(rule.apply((), centred)[0]).all()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: denoisers.image_set(print, [], 0.1), "at least one image"),
        (lambda: denoisers.image_set(print, IMAGES, 0.1, role="base"), "role 'base'"),
        (lambda: denoisers.image_set(print, IMAGES, -0.1), "scales >= 0"),
        (lambda: guidance.safety_flow(np.zeros((0, 2)), 1.0, 1.0), "N >= 1"),
        (lambda: guidance.sparse_repellency(np.full((1, 2), np.nan), 1.0), "finite"),
        (lambda: guidance.sparse_repellency(IMAGES, 0.0), "radius"),
        (lambda: guidance.kernel_odds(IMAGES, 0.0), "width"),
    ],
)
def test_what_makes_no_sense_is_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()


@pytest.mark.parametrize("width", [1e-6, 1.0, 1e6])
def test_the_kernel_mass_of_any_width_is_a_number(width):
    x0, images = RNG.normal(size=(3, 8, 8)), RNG.uniform(-1, 1, (20, 8, 8))
    found = jax.jit(image_kernel.log_mass)(
        jnp.asarray(x0, jnp.float32), jnp.asarray(images, jnp.float32), jnp.float32(width)
    )
    distances = np.sum((x0[:, None] - images) ** 2, axis=(2, 3))
    expected = logsumexp(-distances / (2 * width**2), axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_images_of_another_shape_are_refused(at):
    step, _ = at
    with pytest.raises(InputError, match=r"shape \(3,\), those sampled \(2, 2\)"):
        guidance.safety_flow(np.ones((2, 3)), 1.0, 1.0).apply((), step)


@pytest.mark.slow
def test_on_digits_a_set_of_patterns_is_removed_exactly():
    from dng_jax import data

    pixels, labels, info = data.load("digits")
    x = data.to_unit(pixels)
    chosen = np.flatnonzero(labels == 3)[:20]
    inside = np.isin(np.arange(len(x)), chosen)
    mixture = mixtures.patterns(x, (~inside).astype(int))
    both = denoisers.image_set(mixtures.mixture_denoiser(mixture), x[chosen], 0.15)
    rule = guidance.safe_denoiser(posterior.oracle(mixture, [0]))
    table, keys = steps.ddpm(schedules.linear(), 25), sample_keys(1, 64)
    noise = initial_noise(keys, info.shape, table)
    rest = mixtures.mixture_denoiser(mixture.restrict([1]))
    truth = sample(rest, table, guidance.unguided(), keys, noise)
    np.testing.assert_allclose(sample(both, table, rule, keys, noise).x, truth.x, atol=2e-3)
