"""Generate and reject: which samples are kept, and how much of the forbidden is left among them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dng_jax import (
    InputError,
    guidance,
    initial_noise,
    posterior,
    sample,
    sample_keys,
    schedules,
    steps,
)
from dng_jax.experiments import problems, rejection, rule_builders, rule_specs
from dng_jax.experiments.generating import Draw, generate
from dng_jax.experiments.rule_specs import TrackerOptions
from dng_jax.experiments.source import Source

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_a_block_draws_the_factor_and_no_rounding_adds_a_sample():
    assert [rejection.block(f) for f in (1.0, 1.1, 1.2, 1.001, 3.0)] == [100, 110, 120, 101, 300]
    assert rejection.cost(1.2) == 1.2
    assert rejection.needed(1.2, 101) == 240


@settings(max_examples=30, deadline=None)
@given(
    factor=st.sampled_from((1.0, 1.05, 1.2, 2.5)), count=st.integers(1, 350), seed=st.integers(0, 9)
)
def test_kept_images_do_not_depend_on_how_many_are_asked_for(factor, count, seed):
    p = np.random.default_rng(seed).random(rejection.needed(factor, 400))
    every = rejection.kept(p, factor, 400)
    assert np.all(np.diff(every) > 0)
    np.testing.assert_array_equal(rejection.kept(p, factor, count), every[:count])
    size = rejection.block(factor)
    for block in range(4):
        chosen = every[100 * block : 100 * (block + 1)] - size * block
        assert 0 <= chosen.min() <= chosen.max() < size
        own = p[size * block : size * (block + 1)]
        thrown = np.setdiff1d(np.arange(size), chosen)
        if len(thrown):
            assert own[chosen].max() <= own[thrown].min()


def test_the_leak_of_a_perfect_detector_is_the_theory():
    rng = np.random.default_rng(0)
    for share, factor in ((0.1, 1.05), (0.1, 1.2), (0.3, 1.2)):
        count = 40_000
        forbidden = rng.random(rejection.needed(factor, count)) < share
        leak = forbidden[rejection.kept(forbidden, factor, count)].mean()
        assert leak == pytest.approx(rejection.expected_leak(share, factor), abs=0.004)
    assert rejection.expected_leak(0.1, 1.0) == pytest.approx(0.1)
    assert rejection.expected_leak(0.1, 3.0) < 1e-12


def test_too_few_samples_and_factors_below_one_are_refused():
    with pytest.raises(InputError, match="101 kept samples need the posterior of 240"):
        rejection.kept(np.zeros(239), 1.2, 101)
    with pytest.raises(InputError, match=r"1 to 100 samples per kept one, got 0\.5"):
        rejection.rejection(guidance.unguided(), 0.5)


@pytest.mark.slow
def test_what_a_calibrated_posterior_keeps_leaks_what_it_says(mixture, denoise):
    # p(F | x_t) is a martingale: over any choice made by the last level, its mean there is the
    # mean of p(F | x_0).
    table, keys = steps.ddpm(schedules.linear(), 60), sample_keys(3, 2400)
    rule = guidance.dynamic_negative(posterior.oracle(mixture, [0], negative="class:0"), 0.0)
    x = initial_noise(keys, (2, 2), table)
    result = sample(denoise, table, rule, keys, x)
    at_last = np.asarray(result.trace["posterior"][-1])
    chosen = rejection.kept(at_last, 1.2, 2000)
    at_end = np.exp(np.asarray(mixture.log_posterior(result.x, 1.0, 0.0)))[:, 0]
    error = at_end[chosen].std() / np.sqrt(2000)
    # the classes hardly overlap, so that the tracker is nearly perfect
    ideal = rejection.expected_leak(at_end.mean(), 1.2)
    assert at_end[chosen].mean() == pytest.approx(ideal, abs=0.01)
    assert abs(at_end[chosen].mean() - at_last[chosen].mean()) < 4 * error + 2e-3


@pytest.fixture(scope="module")
def digits():
    return problems.make("digits", ("0",), Source("exact"))


def built(problem, *words):
    specs = [rule_specs.parse(word) for word in words]
    return [rule_builders.build(s, problem, TrackerOptions(), "ddpm", 8) for s in specs]


@pytest.mark.slow
def test_the_exact_tracker_throws_out_what_it_has_room_for(digits):
    table = digits.table("ddpm", 8)
    (rule,) = built(digits, "reject:exact=1.05")
    found = generate(digits, table, rule, Draw(200, 4))
    plain = generate(digits, table, guidance.unguided(), Draw(210, 4))
    forbidden = (plain.labels[0] == 0).reshape(2, 105).sum(axis=1)
    assert np.all(forbidden > 5)
    expected = np.maximum(0, forbidden - 5)
    np.testing.assert_array_equal((found.labels[0] == 0).reshape(2, 100).sum(axis=1), expected)


@pytest.mark.slow
def test_trackers_and_factors_share_one_run_and_no_image_depends_on_the_batch(digits):
    table = digits.table("ddpm", 8)
    rules = built(digits, "reject:pair=1.2", "reject:exact=1")
    together = generate(digits, table, rules, Draw(130, 4, batch=240))
    cut = generate(digits, table, rules, Draw(130, 4, batch=80, keep=7))
    assert together.labels.shape == (2, 130)
    assert cut.images.shape == (2, 7, 8, 8, 1)
    np.testing.assert_array_equal(together.labels, cut.labels)
    np.testing.assert_allclose(together.images[:, :7], cut.images, atol=1e-4)
    assert cut.trace["posterior"].shape == (2, 8, 7)
    assert together.features.shape[:2] == (2, 130)
    # at factor 1 nothing is thrown away: the unguided samples, block after block
    unguided = generate(digits, table, guidance.unguided(), Draw(210, 4))
    np.testing.assert_array_equal(together.labels[1], unguided.labels[0, :130])


def test_a_rejection_has_the_roles_of_its_detector(digits):
    (rule,) = built(digits, "reject:pair=1.2")
    assert rule.roles == ("base", "negative:0")
    assert rule.factor == 1.2
