"""Float types, JAX's settings, shapes that would broadcast, and seeds."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from dng_jax import (
    InputError,
    Stateless,
    guidance,
    initial_noise,
    metrics,
    mixtures,
    posterior,
    pytree,
    run_chunks,
    sample,
    sample_chunks,
    sample_keys,
    sampling,
    schedules,
    static,
    steps,
    sweep,
)
from dng_jax.metrics import forecasts, inversion, window
from dng_jax.rules import Step
from dng_jax.steps import StepRow
from tests.helpers import SWITCHES, switched, tiny

pytestmark = pytest.mark.usefixtures("quick_compilation")

TABLE = steps.ddpm(schedules.linear(), 5)
MIXTURE = mixtures.gaussians(np.eye(4), 0.3)
DENOISE = mixtures.mixture_denoiser(MIXTURE, {"negative": 0, "positive": [1]})
SET = np.linspace(-1, 1, 12).reshape(3, 2, 2)
RULES = {
    "cfg": guidance.classifier_free(2.0),
    "np": guidance.negative_prompt(0.5),
    "in-place": guidance.negative_in_place(2.0),
    "sld": guidance.safe_latent(0.5),
    "sld-prompt": guidance.safe_latent_prompt(2.0),
    "pair": guidance.dynamic_negative(posterior.pair(0.2, probes=1), 2.0),
    "odds": guidance.dynamic_negative(posterior.odds(0.2, drift=0.5, probes=1), 2.0),
    "classes": guidance.dynamic_negative(
        posterior.classes(4, [0], drift=0.5, delta=0.1, temperature=((-5.0, 5.0), (1.0, 0.5))), 2.0
    ),
    "oracle": guidance.dynamic_negative(posterior.oracle(MIXTURE, [0]), 1.0),
    "feedback": guidance.feedback_from_times(TABLE, 0.6, 0.4),
    "interval": guidance.interval(guidance.classifier_free(2.0), sigma_min=0.5),
    "recorder": guidance.recorder(("negative", "positive")),
    "images": guidance.sum_of(
        guidance.safe_denoiser(guidance.kernel_odds(SET, 2.0), 0.5),
        guidance.safety_flow(SET, 0.5, 2.0),
        guidance.sparse_repellency(SET, 2.0),
    ),
    "sum": guidance.sum_of(guidance.classifier_free(2.0), guidance.negative_prompt(0.5)),
}


def images(rule, dtype=None, denoise=DENOISE):
    keys = sample_keys(0, 4)
    x = initial_noise(keys, (2, 2), TABLE)
    return sample(denoise, TABLE, rule, keys, x if dtype is None else x.astype(dtype))


@pytest.fixture(scope="module")
def plain(quick_compilation):
    return functools.cache(lambda name: np.asarray(images(RULES[name]).x))


FEW = ("images", "pair", "classes", "feedback", "interval")  # the others are slow
SOME = [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in RULES]


@pytest.mark.parametrize("name", SOME)
def test_no_setting_of_jax_changes_an_image(name, plain):
    with switched(**SWITCHES):
        found = images(RULES[name])
        double = images(RULES[name], jnp.float64)
    assert found.x.dtype == jnp.float32
    np.testing.assert_allclose(found.x, plain(name), atol=1e-4)
    # the same noise in float64: what float32 rounds off is all that differs
    assert double.x.dtype == jnp.float64
    floats = [a for a in jax.tree.leaves(double.state) if jnp.issubdtype(a.dtype, jnp.floating)]
    assert all(a.dtype == jnp.float64 for a in floats)
    np.testing.assert_allclose(double.x, plain(name), atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_noise_runs_in_float32(dtype):
    rule = RULES["pair"]
    keys = sample_keys(0, 4)
    rough = initial_noise(keys, (2, 2), TABLE).astype(dtype)
    found, expected = (sample(DENOISE, TABLE, rule, keys, x) for x in (rough, rough.astype("f4")))
    assert found.x.dtype == jnp.float32
    np.testing.assert_array_equal(found.x, expected.x)
    pieces = run_chunks(sample_chunks(DENOISE, TABLE, rule, keys, rough, chunk=2))
    np.testing.assert_allclose(pieces.x, expected.x, atol=1e-5)
    swept = sweep(DENOISE, TABLE, [rule, rule], keys, rough)
    np.testing.assert_allclose(swept.x[1], expected.x, atol=1e-5)


def test_a_network_may_answer_in_half_precision():
    def half(x, row, roles):
        return {role: eps.astype(jnp.bfloat16) for role, eps in tiny(x, row, roles).items()}

    found, exact = (images(RULES["pair"], denoise=d).x for d in (half, tiny))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, rtol=0.1, atol=0.1)


@pytest.mark.slow
def test_replay_and_forward_evidence_under_every_setting():
    tracker = posterior.classes(4, [0])
    with switched(**SWITCHES):
        x_0 = np.zeros((3, 2, 2))
        evidence = posterior.forward_evidence(DENOISE, TABLE, tracker, x_0, sample_keys(0, 3))
        for held in (evidence, jax.tree.map(lambda a: a.astype(jnp.float64), evidence)):
            log_p = posterior.replay(tracker, held, TABLE, x_0)
            assert log_p.dtype == held.inner.dtype
            assert np.isfinite(np.asarray(log_p)).all()


# ----------------------------------------------------------------- what is no step of a chain

FEATURES = np.arange(36).reshape(12, 3) ** 2 % 16 / 4.0
FORECASTS = np.array([[2, 1, 1], [1, 2, 1], [1, 1, 6], [4, 4, 0]]) / np.array([[4], [4], [8], [8]])
OVER_TIME = np.stack([FORECASTS[::-1], FORECASTS])
LABELS = np.array([0, 1, 2, 0])
LEVELS = np.array([[0.75, 0.5, 0.25], [0.25, 0.5, 0.75]])
QUARTER, HALF, MOST = np.array(0.25), np.array(0.5), np.array(0.75)
HALVES = {
    "calibration": lambda a: vars(metrics.calibration(a(FORECASTS), LABELS)),
    "forecasts": lambda a: forecasts.class_forecasts(a(OVER_TIME), LABELS)["brier_over_time"],
    "posterior error": lambda a: forecasts.posterior_error(a(OVER_TIME)[0], a(OVER_TIME)[1]),
    "frechet": lambda a: metrics.frechet_from_features(a(FEATURES), a(FEATURES[:6])),
    "kid": lambda a: vars(metrics.kid(a(FEATURES), a(FEATURES[:6]))),
    "coverage": lambda a: metrics.precision_and_recall(a(FEATURES), a(FEATURES[:6])).coverage,
    "window": lambda a: window.accumulated(window.push(a(OVER_TIME[0]), a(FORECASTS))),
    "kl interval": lambda a: inversion.kl_interval(
        a(np.array([[8, 4, 4]])), a(np.array([[0.5, 0.25, 0.25]])), 0.05, resamples=20
    ),
    "levels": lambda a: schedules.Schedule(*a(LEVELS)).logsnr,
    "respace": lambda a: schedules.respace(schedules.Schedule(*a(LEVELS)), 2, "logsnr"),
    "linear": lambda a: schedules.linear(4, a(QUARTER), a(HALF)),
    "scaled": lambda a: schedules.scaled_linear(4, a(QUARTER), a(HALF)),
    "cosine": lambda a: schedules.cosine(4, a(QUARTER), a(MOST)),
    "edm": lambda a: schedules.edm(4, a(QUARTER), a(3 * HALF), a(4 * HALF)),
    "flow": lambda a: schedules.flow(4, a(MOST)),
    "ddim": lambda a: steps.ddim(schedules.linear(), 4, eta=a(HALF)),
    "temperature": lambda a: posterior.temperature((a(LEVELS[1]), a(LEVELS[0]))),
    "pair": lambda a: posterior.pair(a(QUARTER), delta=a(HALF), p_max=a(MOST)),
    "classes": lambda a: posterior.classes(4, [0], prior=a(np.full(4, 0.25))),
    "mixture": lambda a: mixtures.gaussians(a(FEATURES), a(QUARTER)).log_posterior(
        a(FEATURES), a(HALF), a(MOST)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("name", HALVES)
def test_measures_and_levels_in_half_precision_are_those_of_float32(name, kind):
    # numbers that every type holds exactly
    wanted = jax.tree.leaves(HALVES[name](np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a float64 cut short
        both = [HALVES[name](lambda x: np.asarray(x).astype(kind))]
        if kind != np.float64:
            with switched(**SWITCHES):
                both.append(HALVES[name](lambda x: jnp.asarray(np.asarray(x).astype(kind))))
    for found in both:
        for got, want in zip(jax.tree.leaves(found), wanted, strict=True):
            np.testing.assert_allclose(np.asarray(got, float), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_evidence_kept_in_half_precision_is_replayed_in_float32(kind):
    tracker = posterior.classes(4, [0])
    shapes = {
        "inner": (4, 2, 4),
        "expected": (4, 2, 4),
        "gram": (4, 2, 4, 4),
        "divergence": (4, 2, 4),
    }
    evidence = posterior.Evidence(
        **{name: np.full(shape, 0.25, kind) for name, shape in shapes.items()}
    )
    with switched(jax_numpy_dtype_promotion="strict"):
        log_p = posterior.replay(tracker, evidence, TABLE, np.zeros((2, 4)))
    assert log_p.dtype == jnp.float32
    np.testing.assert_allclose(jnp.exp(log_p).sum(axis=2), 1, rtol=1e-5)


# -------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: x[:, :1, :1], r"role 'base' has shape \(4, 1, 1\).*\(4, 2, 2\)"),
        (lambda x: jnp.float32(0), r"role 'base' has shape \(\).*\(4, 2, 2\)"),
        (lambda x: x[:1], r"role 'base' has shape \(1, 2, 2\).*\(4, 2, 2\)"),
        (lambda x: x.astype(int), "role 'base' is of type int32"),
    ],
)
def test_a_prediction_that_would_broadcast_is_refused(answer, message):
    with pytest.raises(InputError, match=message):
        images(guidance.unguided(), denoise=lambda x, row, roles: dict.fromkeys(roles, answer(x)))


def test_an_answer_without_a_role_is_refused():
    with pytest.raises(InputError, match=r"no prediction for role 'positive'.*it gave base"):
        images(RULES["cfg"], denoise=lambda x, row, roles: {"base": x})
    with pytest.raises(InputError, match="must return a dict"):
        images(RULES["cfg"], denoise=lambda x, row, roles: x)


@pytest.mark.parametrize("shape", [(0, 2, 2), (4, 0), ()])
def test_an_empty_batch_is_refused(shape):
    keys = sample_keys(0, shape[0]) if shape else sample_keys(0, 1)[0]
    with pytest.raises(InputError, match="at least one image"):
        sample(tiny, TABLE, guidance.unguided(), keys, jnp.zeros(shape))


@pytree
class TowardsInTurn(Stateless):
    """A rule of one's own: towards a role in every n-th step, its number a leaf."""

    scale: float
    role: str = static(default="positive")
    every: int = static(default=2)

    @property
    def roles(self):
        return ("base", self.role)

    def apply(self, state, step):
        turn = step.row.index % self.every == 0
        return turn * self.scale * (step.preds[self.role] - step.base), state, {}


@pytest.mark.slow
def test_a_rule_of_ones_own_runs_sweeps_and_is_limited():
    always = TowardsInTurn(2.0, every=1)
    np.testing.assert_allclose(images(always).x, images(RULES["cfg"]).x, atol=1e-5)
    keys = sample_keys(0, 4)
    x = initial_noise(keys, (2, 2), TABLE)
    swept = sweep(DENOISE, TABLE, [TowardsInTurn(0.0), TowardsInTurn(2.0)], keys, x)
    np.testing.assert_allclose(swept.x[0], images(guidance.unguided()).x, atol=1e-5)
    assert np.abs(np.asarray(swept.x[1] - swept.x[0])).max() > 1e-2
    never = guidance.interval(always, sigma_min=1e6)  # it does not say, so it is the base
    np.testing.assert_allclose(images(never).x, images(guidance.unguided()).x, atol=1e-5)


class Mine(Stateless):
    """A rule that returns what a case says."""

    roles = ("base",)

    def __init__(self, apply, update):
        self.apply = apply or (lambda state, step: (0 * step.x, state, {}))
        self.update = update or (lambda state, step, move: state)


jax.tree_util.register_static(Mine)


@pytest.mark.parametrize(
    ("apply", "update", "message"),
    [
        (lambda s, step: (0.0, s, {}), None, r"Mine returned a delta of shape \(\)"),
        (
            lambda s, step: (0 * step.x, s, {"p": step.x[0, 0]}),
            None,
            r"info 'p' of the rule Mine has shape \(2,\).*each of the 4 images",
        ),
        (None, lambda s, step, move: step.x, "Mine returned a state of another shape"),
    ],
)
def test_a_rule_of_ones_own_that_returns_other_shapes_is_named(apply, update, message):
    with pytest.raises(InputError, match=message):
        images(Mine(apply, update))


# --------------------------------------------------------------------------------------- seeds


def test_small_seeds_are_the_keys_of_jax():
    for seed in (0, 1, 2**31, 2**32 - 1):
        data = jax.random.key_data(sampling.root_key(seed))
        np.testing.assert_array_equal(data, jax.random.key_data(jax.random.key(seed)))


def test_all_64_bits_of_a_seed_count():
    seeds = (0, 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1)
    data = {tuple(np.asarray(jax.random.key_data(sampling.root_key(s))).tolist()) for s in seeds}
    assert len(data) == len(seeds)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "0", True, None])
def test_other_seeds_are_refused(seed):
    with pytest.raises(InputError, match=r"whole number from 0 to 2\^64 - 1, got"):
        sample_keys(seed, 3)


@pytest.mark.parametrize(("count", "start"), [(-1, 0), (2, -1), (1, 2**32)])
def test_numbers_of_samples_are_32_bits(count, start):
    with pytest.raises(InputError, match="numbered 0"):
        sample_keys(0, count, start)


def test_the_default_generator_of_jax_is_not_what_keys_are(plain):
    with switched(jax_default_prng_impl="rbg"):
        np.testing.assert_array_equal(images(RULES["pair"]).x, plain("pair"))


@pytest.mark.parametrize("kind", ["rbg", "unsafe_rbg"])
def test_keys_that_depend_on_their_batch_are_refused(kind):
    keys = jax.random.split(jax.random.key(0, impl=kind), 4)
    with pytest.raises(InputError, match=f"threefry2x32, got {kind}"):
        sample(tiny, TABLE, guidance.unguided(), keys, jnp.zeros((4, 2)))
    with pytest.raises(InputError, match=f"got {kind}"):
        initial_noise(keys, (2,), TABLE)


def test_a_setting_with_which_a_seed_means_other_images_is_refused():
    keys = sample_keys(0, 4)
    with switched(jax_threefry_partitionable=False):
        with pytest.raises(InputError, match="JAX_THREEFRY_PARTITIONABLE"):
            sample_keys(0, 4)
        with pytest.raises(InputError, match="JAX_THREEFRY_PARTITIONABLE"):
            sample(tiny, TABLE, guidance.unguided(), keys, jnp.zeros((4, 2)))


def test_a_mixture_is_told_other_classes():
    told = DENOISE.with_conditions({"negative": 2, "positive": (0, 3)})
    made = mixtures.mixture_denoiser(MIXTURE, {"negative": [2], "positive": [0, 3]})
    x, row = jnp.ones((2, 4)), jax.tree.map(lambda c: jnp.asarray(c[2]), TABLE)
    for role in ("negative", "positive"):
        np.testing.assert_array_equal(told(x, row, [role])[role], made(x, row, [role])[role])
    with pytest.raises(InputError, match=r"role 'negative' names classes \[4\]"):
        DENOISE.with_conditions({"negative": 4})


# ---------------------------------------------------------------------------------------- jobs


@pytest.mark.slow
@pytest.mark.parametrize(
    # Strict promotion of types is a matter of the library alone: Flax's own layers do not bear it.
    "setting",
    ["JAX_ENABLE_X64=1", "JAX_DEBUG_NANS=1"],
)
def test_the_smallest_case_of_every_job_under_a_setting_of_jax(setting, tmp_path):
    name, _, value = setting.partition("=")
    environment = {**os.environ, name: value, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.jobs.switches", str(tmp_path)],
        env=environment | {"JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=900,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert len(lines) == 18, done.stdout[-3000:]
    assert all(line.endswith(": fine") for line in lines), done.stdout[-3000:]


def test_a_bound_read_off_a_schedule_is_its_level_in_float64_too():
    schedule = schedules.respace(schedules.linear(), 12)
    table = steps.ddpm(schedule, 12)
    sigma = schedule.sigma / schedule.alpha
    rule = guidance.interval(guidance.negative_prompt(1.0), sigma_min=sigma[2], sigma_max=sigma[9])
    with switched(jax_enable_x64=True):
        x = jnp.ones((2, 3), jnp.float64)
        guided = []
        for row in zip(*map(np.asarray, table), strict=True):
            step = Step(StepRow(*row), x, {"base": x, "negative": 2 * x}, None, None)
            guided.append(bool(np.any(np.asarray(rule.apply(rule.init_state(x), step)[0]))))
    assert guided == [3 <= level <= 9 for level in range(11, -1, -1)]


@pytest.mark.parametrize("seed", [np.array(0.5), np.float32(1), True, "1", None, -1, 2**64])
def test_a_seed_is_a_whole_number_of_64_bits(seed):
    with pytest.raises(InputError, match="a seed must be a whole number"):
        sample_keys(seed, 1)
