"""Roles of text-to-image models: weights by variant, and what a tracker makes of them."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax import (
    InputError,
    compatibility,
    denoisers,
    guidance,
    mixtures,
    posterior,
    sampling,
    schedules,
    steps,
    sweep,
)
from dng_jax.denoisers import branches, compaction
from dng_jax.denoisers.branches import VARIANTS, negative_roles, prompts_of
from tests.helpers import Counted, Log

pytestmark = pytest.mark.usefixtures("quick_compilation")

X = np.random.default_rng(0).normal(size=(3, 2, 2)).astype(np.float32)
RAW = {"empty": 1.0, "prompt": 10.0, "negative": 100.0, "negative:0": 100.0, "negative:1": 1000.0}
W = 3.0
# What the roles base, negative and reference are made of, by hand: u = 1, A = 10, B = 100.
CFG_A, CFG_B = -2.0 + 30.0, -2.0 + 300.0
ROWS = {
    "a": (CFG_A, 100.0, CFG_A),
    "b": (CFG_A, CFG_B, CFG_A),
    "c": (10.0, 100.0, 10.0),
    "d": (CFG_A, 100.0, 1.0),
    "nested": (CFG_A, CFG_B, CFG_A),
    "raw": (1.0, 100.0, 1.0),
}


@jax.tree_util.Partial
def scaled(x, row, roles):
    """eps = x times the number of the raw role."""
    return {role: RAW[role] * x for role in roles}


@pytest.mark.parametrize("variant", VARIANTS)
def test_roles_are_sums_of_raw_predictions(variant):
    found = branches(scaled, variant, W)
    roles = ("base", "negative", "reference", "empty", "positive")
    eps = found(X, None, roles)
    for role, factor in zip(roles, (*ROWS[variant], 1.0, 10.0), strict=True):
        np.testing.assert_allclose(eps[role], factor * X, rtol=1e-6, err_msg=role)
    assert VARIANTS[variant].reference == ("empty" if variant == "d" else "base")


def test_every_image_can_have_its_own_scale():
    each = branches(scaled, "b", jnp.array([1.0, W, 0.0]))(X, None, ("base", "negative"))
    for i, w in enumerate((1.0, W, 0.0)):
        alone = branches(scaled, "b", w)(X[i : i + 1], None, ("base", "negative"))
        for role, eps in alone.items():
            np.testing.assert_array_equal(each[role][i : i + 1], eps)


def test_no_more_is_asked_than_the_roles_are_made_of():
    log = Log()
    found = branches(Counted(scaled, (log,)), "b", W, negatives=negative_roles(2))
    for roles in (("base",), ("negative:1", "base"), ("empty",), ("positive", "negative:0")):
        found(X, None, roles)
    assert list(log) == [
        ("empty", "prompt"),
        ("empty", "prompt", "negative:1"),
        ("empty",),
        ("empty", "prompt", "negative:0"),
    ]
    assert found.calls(("base",)) is None


def test_one_program_serves_every_variant_and_scale(exact, table, keys, noise):
    log = Log()
    inner = mixtures.mixture_denoiser(
        mixtures.gaussians(exact.means, exact.scales, exact.classes, exact.weights),
        {"empty": [0, 1, 2], "prompt": [0, 1], "negative": [0]},
    )
    rule = guidance.dynamic_negative(posterior.pair(0.3, reference="reference"))

    @jax.jit
    def over_scales(w):
        one = branches(inner, "d", w)
        return sampling.sample(one, table, rule, keys, noise).x

    images = {}
    for variant in VARIANTS:
        for w in (1.0, 4.0):
            counted = branches(Counted(inner, (log,)), variant, w)
            images[variant, w] = sampling.sample(counted, table, rule, keys, noise).x
    assert len(log) == 1
    assert len({np.asarray(x).tobytes() for x in images.values()}) == 6  # at w = 1 a, b and c agree
    swept = jax.lax.map(over_scales, jnp.array([1.0, 4.0]))
    np.testing.assert_allclose(swept[1], images["d", 4.0], atol=1e-5)


@pytest.fixture(scope="module")
def prompted(mixture):
    """Prompt: classes 0 and 1; negative: class 0; the same prompt as a negative."""
    parts = {"empty": [0, 1, 2], "prompt": [0, 1], "negative": [0], "negative:0": [0, 1]}
    return mixtures.mixture_denoiser(mixture, parts)


@pytest.mark.parametrize("variant", VARIANTS)
def test_scale_zero_is_classifier_free_guidance_bit_by_bit(variant, prompted, table, keys, noise):
    roles = branches(prompted, variant, W)
    rule = guidance.dynamic_negative(posterior.pair(0.3, reference="reference"), 0.0)
    ours = sampling.sample(roles, table, rule, keys, noise)
    plain = sampling.sample(roles, table, guidance.unguided(), keys, noise)
    np.testing.assert_array_equal(ours.x, plain.x)
    if variant in ("a", "b", "d", "nested"):
        raw = branches(prompted, "raw", W)
        cfg = sampling.sample(raw, table, guidance.classifier_free(W), keys, noise)
        np.testing.assert_allclose(ours.x, cfg.x, atol=2e-5)


@pytest.mark.parametrize("make", [posterior.pair, posterior.odds])
def test_a_negative_that_is_the_prompt_keeps_the_prior(make, prompted, table, keys, noise):
    roles = branches(prompted, "b", W, negatives=("negative:0",))
    rule = guidance.dynamic_negative(make(0.3, negatives=("negative:0",)))
    found = sampling.sample(roles, table, rule, keys, noise)
    np.testing.assert_allclose(found.trace["posterior"], 0.3, atol=1e-6)


@pytest.mark.filterwarnings("ignore:this denoiser's negatives")
@pytest.mark.parametrize("make", [posterior.pair, posterior.odds])
def test_against_the_empty_prompt_p_is_the_share_of_the_negative(exact, prompted, make):
    # Along a chain that classifier-free guidance leads elsewhere: Bayes' rule holds on any.
    table, keys = steps.ddpm(schedules.linear(), 250), sampling.sample_keys(3, 64)
    prior = exact.weights[exact.classes == 0].sum() / exact.weights.sum()
    roles = branches(prompted, "d", 2.0)
    x = sampling.initial_noise(keys, (2, 2), table)
    error = {}
    for reference in ("empty", "base"):
        rule = guidance.dynamic_negative(make(prior, reference=reference), 0.0)
        found = sampling.sample(roles, table, rule, keys, x, save=("x",))
        late = slice(50, None, 40)
        truth = [
            exact.posterior(np.asarray(found.trace["x"][i]), table.alpha[i], table.sigma[i])[:, 0]
            for i in range(250)[late]
        ]
        error[reference] = np.abs(np.asarray(found.trace["posterior"])[late] - truth).mean()
    assert np.std(truth) > 0.1
    assert error["empty"] < 0.05
    assert error["base"] > 3 * error["empty"]


PLAIN, TOLD = (
    guidance.dynamic_negative(posterior.pair(0.3, reference=role), 0.0)
    for role in ("base", "reference")
)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_that_its_tracker_would_make_another_is_warned_of(variant):
    """And no other: with w traced, too, as in a sweep over w."""
    around = guidance.interval(guidance.sum_of(guidance.unguided(), PLAIN))
    mistaken = (PLAIN, around, guidance.recorder(("negative",)))
    right = (TOLD, guidance.negative_prompt(2.0), guidance.sum_of(guidance.unguided()))

    def check(w):
        roles = branches(scaled, variant, w)
        for rules, expected in ((right, 0), (mistaken, 3 if variant == "d" else 0)):
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                for rule in rules:
                    compatibility.warn_reference(roles, rule)
            assert len(found) == expected
            assert all("reference='reference'" in str(one.message) for one in found)
        return w

    check(W)
    jax.jit(check)(W)
    check(jnp.array([W, 1.0]))


def test_every_sampler_warns_of_it(prompted, table, keys, noise):
    roles = branches(prompted, "d", W)
    for run in (
        lambda: sampling.sample(roles, table, PLAIN, keys, noise),
        lambda: next(sampling.sample_chunks(roles, table, PLAIN, keys, noise, chunk=6)),
        lambda: sweep(roles, table, [PLAIN, PLAIN], keys, noise),
    ):
        with pytest.warns(UserWarning, match="scored against the role 'reference'"):
            run()


def test_prompts_of_a_variant():
    assert prompts_of("b", "a cat", "a hat") == {
        "empty": "",
        "prompt": "a cat",
        "negative": "a hat",
    }
    assert prompts_of("nested", "a cat", ("a hat", "fog")) == {
        "empty": "",
        "prompt": "a cat",
        "negative:0": "a cat, a hat",
        "negative:1": "a cat, fog",
    }
    assert prompts_of("nested", "", "a hat")["negative"] == "a hat"
    assert prompts_of("d", "a cat", {"fog": "mist"})["fog"] == "mist"


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_may_have_no_negative_prompt(variant):
    assert prompts_of(variant, "a cat", ()) == {"empty": "", "prompt": "a cat"}
    found = branches(scaled, variant, W, negatives=())
    np.testing.assert_allclose(found(X, None, ("base",))["base"], ROWS[variant][0] * X, rtol=1e-6)
    with pytest.raises(InputError, match="no role 'negative'"):
        found(X, None, ("negative",))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: branches(scaled, "e"), "unknown variant 'e'"),
        (lambda: branches(scaled, "b", np.inf), "guidance_scale must .*inf"),
        (lambda: branches(scaled, negatives=("empty",)), "cannot be named 'empty'"),
        (
            lambda: branches(scaled, "b", jnp.ones(2))(X, None, ("base",)),
            r"guidance_scale has shape \(2,\)",
        ),
        (lambda: branches(scaled, negatives=""), "at least one negative role"),
        (lambda: prompts_of("d", "a", {"empty": "x"}), "cannot be named 'empty'"),
        (lambda: prompts_of("d", "a", {"n": "x", "prompt": "y"}), "cannot be named 'prompt'"),
        (lambda: posterior.pair(0.2, reference=None), "name of a role, got None"),
        (lambda: posterior.odds(0.2, reference=3), "name of a role, got 3"),
        (lambda: posterior.odds(0.2, reference=""), "name of a role, got ''"),
        (lambda: guidance.recorder(("a",), reference=None), "name of a role, got None"),
        (lambda: guidance.recorder(("a",), reference="a"), "against itself"),
        (lambda: branches(scaled)(X, None, ("class:0",)), "no role 'class:0'"),
        (lambda: posterior.pair(0.2, reference="negative"), "against itself"),
        (lambda: posterior.odds(0.2, reference="negative"), "against itself"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def labelled(params, x, logsnr, label):
    """A Gaussian per label, N(mean, 0.5^2), at unit alpha^2 + sigma^2."""
    mean = jnp.array([0.0, 0.2, -0.3])[label][:, None, None]
    alpha2 = jax.nn.sigmoid(logsnr)[:, None, None]
    alpha, sigma2 = jnp.sqrt(alpha2), 1 - alpha2
    return params * jnp.sqrt(sigma2) * (x - alpha * mean) / (0.25 * alpha2 + sigma2)


def test_negatives_are_asked_for_on_demand(keys):
    """Raw predictions that no other role is made of are left out, image by image."""
    conditions = {"empty": 0, "prompt": 1, "negative": 2}
    network = denoisers.label_network(labelled, jnp.ones(()), 2, conditions)
    table = steps.ddpm(schedules.linear(), 10)
    tracker = posterior.pair(0.3, reference="reference")
    rule = guidance.dynamic_negative(tracker, 2.0, skip_below=0.35, every=4)
    x = sampling.initial_noise(keys, (2, 2), table)
    found = sampling.sample(branches(network, "d", W), table, rule, keys, x)
    whole = sampling.sample(branches(lambda *a: network(*a), "d", W), table, rule, keys, x)
    np.testing.assert_allclose(found.x, whole.x, atol=2e-5)
    np.testing.assert_array_equal(found.trace["asked"], whole.trace["asked"])
    # eight images are parts of one, so that what ran is what was asked for
    asked = np.asarray(found.trace["asked"]).mean(1)
    np.testing.assert_allclose(np.asarray(found.trace["run"]).mean(1), asked, atol=1e-6)
    assert 0.2 < asked.mean() < 0.9
    np.testing.assert_array_equal(whole.trace["run"], 1.0)
    ran = float(found.trace["run"].sum(0).mean())
    counted = compaction.evaluations(branches(network, "d", W), rule, 10, ran)
    assert counted == pytest.approx(20 + ran)


def test_what_another_role_is_made_of_is_asked_for_whole():
    log = Log()
    found = branches(Counted(scaled, (log,)), "b", W)
    wanted = {"negative": jnp.zeros(3, bool), "positive": jnp.ones(3, bool)}
    eps, ran = found.some(X, None, ("base", "negative", "positive"), wanted)
    assert set(ran) == {"negative"}
    np.testing.assert_allclose(eps["positive"], 10.0 * X, rtol=1e-6)
