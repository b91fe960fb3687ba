"""The sampler: whose noise is whose, pieces and resuming, devices, failures, what is kept."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dng_jax
from dng_jax import (
    InputError,
    NonFiniteError,
    check_finite,
    guidance,
    initial_noise,
    mixtures,
    posterior,
    run_chunks,
    sample,
    sample_chunks,
    sample_keys,
    sampling,
    schedules,
    steps,
)
from tests.helpers import Log, tiny

TABLE = steps.ddpm(schedules.linear(), 7)
RULE = guidance.dynamic_negative(posterior.pair(0.2), 2.0)
SHAPE = (2, 2)


@pytest.fixture(scope="module")
def whole(keys):
    x = initial_noise(keys, SHAPE, TABLE)
    return sample(tiny, TABLE, RULE, keys, x, save=("x", "denoised"))


def test_step_is_the_row_applied_to_the_guided_prediction(whole, keys):
    # A hand-driven chain: x' = c_x x + c_eps eps + std z with z = normal(fold_in(key, index)).
    x = np.asarray(whole.trace["x"], np.float64)
    x = np.concatenate([x, np.asarray(whole.x, np.float64)[None]])
    for i in range(7):
        row = steps.StepRow(*(float(c[i]) for c in TABLE))
        eps = {k: x[i] / np.sqrt(1 + s * x[i] ** 2) for k, s in (("base", 0.9), ("negative", 1.0))}
        scale = np.asarray(whole.trace["lambda"][i], np.float64)[:, None, None]
        guided = eps["base"] - scale * (eps["negative"] - eps["base"])
        z = np.stack([jax.random.normal(jax.random.fold_in(key, i), SHAPE) for key in keys])
        expected = row.c_x * x[i] + row.c_eps * guided + row.std * z
        np.testing.assert_allclose(x[i + 1], expected, atol=2e-6 * (1 + np.abs(x[i]).max()))
        denoised = (x[i] - row.sigma * guided) / row.alpha
        np.testing.assert_allclose(whole.trace["denoised"][i], denoised, atol=1e-3 / row.alpha / 50)
    np.testing.assert_allclose(whole.trace["denoised"][-1], whole.x, atol=1e-6)


def test_trace_holds_scalars_of_the_rule_and_what_is_asked_for(whole, keys):
    assert {k: v.shape for k, v in whole.trace.items()} == {
        "lambda": (7, 8),
        "posterior": (7, 8),
        "x": (7, 8, 2, 2),
        "denoised": (7, 8, 2, 2),
    }
    p = np.asarray(whole.trace["posterior"], np.float64)
    np.testing.assert_allclose(p[0], 0.2, rtol=1e-6)
    np.testing.assert_allclose(whole.trace["lambda"], 2 * p / (1 - p), rtol=1e-4)
    # the state is that after the last update, which the last row leaves as it was
    assert whole.state.shape == (8, 1)
    np.testing.assert_allclose(np.exp(whole.state[:, 0]), p[-1], rtol=1e-5)


def log_posterior_of(state, step):
    return {"state": state[:, 0], "level": 0 * state[:, 0] + step.row.logsnr}


def test_observe_sees_state_and_step(whole, keys):
    x = initial_noise(keys, SHAPE, TABLE)
    trace = sample(tiny, TABLE, RULE, keys, x, observe=log_posterior_of).trace
    np.testing.assert_allclose(np.exp(trace["state"]), whole.trace["posterior"], rtol=1e-5)
    np.testing.assert_allclose(trace["level"][:, 0], TABLE.logsnr, atol=1e-5)


def test_an_image_depends_on_its_own_key_alone(whole, keys):
    halves = []
    for part in (slice(0, 4), slice(4, 8)):
        x = initial_noise(keys[part], SHAPE, TABLE)
        halves.append(np.asarray(sample(tiny, TABLE, RULE, keys[part], x).x))
    np.testing.assert_allclose(np.concatenate(halves), whole.x, atol=2e-6)
    # numbered from anywhere
    later = sample_keys(0, 4, start=4)
    np.testing.assert_array_equal(jax.random.key_data(later), jax.random.key_data(keys[4:]))
    # and different samples have different noise
    assert np.unique(np.asarray(whole.x)[:, 0, 0]).size == 8


def test_initial_noise_has_the_variance_of_the_noisiest_level():
    keys = sample_keys(1, 4000)
    for schedule in (schedules.edm(20), schedules.linear()):
        table = steps.ddim(schedule, 5)
        x = np.asarray(initial_noise(keys, (2,), table), np.float64)
        power = schedule.alpha[-1] ** 2 + schedule.sigma[-1] ** 2
        assert x.var() / power == pytest.approx(1, abs=4 * np.sqrt(2 / x.size))


@pytest.mark.parametrize("chunk", [1, 3, 7, 50])
def test_pieces_are_the_whole(whole, keys, chunk):
    x = initial_noise(keys, SHAPE, TABLE)
    seen = []
    pieces = sample_chunks(tiny, TABLE, RULE, keys, x, chunk=chunk, save=("denoised", "x"))
    result = run_chunks(pieces, lambda p: seen.append((p.done, p.total)))
    assert seen == [(min(i + chunk, 7), 7) for i in range(0, 7, chunk)]
    np.testing.assert_allclose(result.x, whole.x, atol=2e-6)
    np.testing.assert_allclose(result.state, whole.state, atol=2e-5)
    assert set(result.trace) == set(whole.trace)
    for name, value in whole.trace.items():
        np.testing.assert_allclose(result.trace[name], value, atol=2e-4, rtol=2e-4)


def test_resuming_is_going_on(whole, keys):
    x = initial_noise(keys, SHAPE, TABLE)
    first = next(sample_chunks(tiny, TABLE, RULE, keys, x, chunk=3))
    # through the host, as a checkpoint would
    carry = jax.tree.map(np.asarray, first.carry)
    rest = run_chunks(sample_chunks(tiny, TABLE, RULE, keys, chunk=3, carry=carry))
    np.testing.assert_allclose(rest.x, whole.x, atol=2e-6)
    assert rest.trace["lambda"].shape == (4, 8)


EIGHT = """
import sys, jax, numpy as np, jax.numpy as jnp
from dng_jax import *
from dng_jax import guidance, posterior, schedules, steps, sweeps
slope = {"base": .9, "negative": 1.}
@jax.tree_util.Partial
def tiny(x, row, roles):
    return {r: x / jnp.sqrt(1 + slope[r] * x**2) for r in roles}
assert len(jax.devices()) == 8
table = steps.ddpm(schedules.linear(), 7)
rules = [guidance.dynamic_negative(posterior.pair(.2), s) for s in range(8)]
keys = sample_keys(0, 8)
x = initial_noise(keys, (2, 2), table)
one = sample(tiny, table, rules[2], keys, x)
spread = sample(tiny, table, rules[2], *sweeps.distribute((keys, x)))
out = {"one": one.x, "spread": spread.x, "scale": spread.trace["lambda"],
       "devices": len(spread.x.sharding.device_set)}
for shard in ("samples", "settings"):
    r = sweep(tiny, table, rules, keys, x, mode="vmap", shard=shard)
    out[shard], out[shard + "_devices"] = r.x, len(r.x.sharding.device_set)
out["map"] = sweep(tiny, table, rules, keys, x, mode="map", shard="samples").x
apart = sweep(tiny, table, rules, keys, x, mode="map", shard="settings")
out["apart"], out["apart_devices"] = apart.x, len(apart.x.sharding.device_set)
paired = jnp.stack([keys] * 8), jnp.stack([x] * 8)
out["paired"] = sweep(tiny, table, rules, *paired, shard="settings", paired=True).x
some = jnp.arange(8) % 3 == 0
half = sweep(tiny, table, rules, *paired, shard="settings", paired=True, wanted=some).x
out["half"] = jnp.where(some[:, None, None, None], half, out["paired"])
out["unwanted"] = jnp.abs(half[~some]).max()
lowered = sweeps.lowered(tiny, table, rules, *paired, shard="settings", paired=True)
out["collectives"] = "all-" in lowered.compile().as_text()
out["plain"] = sweep(tiny, table, rules, keys, x, mode="vmap").x
mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Explicit,))
with jax.set_mesh(mesh):
    batch = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    out["explicit"] = sample(tiny, table, rules[2], *jax.device_put((keys, x), batch)).x
try:
    sweep(tiny, table, rules[:3], keys, x, mode="vmap", shard="settings")
except InputError as e:
    out["message"] = str(e)
np.savez(sys.argv[1], **{k: np.asarray(v) for k, v in out.items()})
"""


@pytest.mark.slow
def test_eight_devices_give_the_images_of_one(eight_devices, whole):
    got = eight_devices(EIGHT)
    assert (got["devices"], got["samples_devices"], got["settings_devices"]) == (8, 8, 8)
    assert got["apart_devices"] == 8
    assert not got["collectives"]
    assert got["unwanted"] == 0
    np.testing.assert_allclose(got["one"], whole.x, atol=2e-6)
    np.testing.assert_allclose(got["spread"], whole.x, atol=2e-6)
    np.testing.assert_allclose(got["explicit"], whole.x, atol=2e-6)
    np.testing.assert_allclose(got["scale"], whole.trace["lambda"], rtol=1e-4)
    for name in ("samples", "settings", "map", "apart", "paired", "half"):
        np.testing.assert_allclose(got[name], got["plain"], atol=1e-5)
    np.testing.assert_allclose(got["plain"][2], whole.x, atol=1e-5)
    assert "3" in str(got["message"])
    assert "8 devices" in str(got["message"])


def poisoned(x, row, roles):
    sick = (row.index >= 2) & (jnp.arange(len(x)) == 5)
    return {role: jnp.where(sick[:, None, None], jnp.nan, 0.5 * x) for role in roles}


def test_nan_is_reported_with_step_and_sample(keys):
    x = initial_noise(keys, SHAPE, TABLE)
    result = sample(poisoned, TABLE, guidance.unguided(), keys, x)
    bad = np.asarray(result.bad_step)
    assert bad[5] == 2
    assert np.all(np.delete(bad, 5) >= 7)
    with pytest.raises(NonFiniteError, match=r"sample 5 .* step 2.*1 of 8 samples"):
        check_finite(result, 7)
    done = []
    with pytest.raises(NonFiniteError, match=r"sample 5 .* step 2"):
        run_chunks(
            sample_chunks(poisoned, TABLE, guidance.unguided(), keys, x, chunk=2),
            lambda p: done.append(p.done),
        )
    assert done == [2]  # stopped by the piece that holds step 2
    check_finite(sample(tiny, TABLE, guidance.unguided(), keys, x), 7)


# ------------------------------------------------------------------------------------ warnings

DDIM = steps.ddim(schedules.linear(), 7)


@pytest.mark.parametrize(
    "rule",
    [
        RULE,
        guidance.interval(RULE),
        guidance.sum_of(guidance.classifier_free(1.0), RULE),
        guidance.dynamic_negative(posterior.odds(0.2)),
    ],
)
def test_deterministic_table_without_probe_warns(rule, keys):
    x = initial_noise(keys, SHAPE, TABLE)
    with pytest.warns(UserWarning, match=r"divergence probe.*probes=1"):
        next(sample_chunks(tiny, DDIM, rule, keys, x, chunk=7))


def test_nothing_else_warns(keys, mixture):
    from dng_jax.compatibility import check_table

    probed = guidance.dynamic_negative(posterior.pair(0.2, probes=1))
    exact = guidance.dynamic_negative(posterior.oracle(mixture, [0]))
    quiet = [(TABLE, RULE), (steps.ddpm_paper(schedules.linear()), RULE), (DDIM, probed)]
    quiet += [(DDIM, exact), (DDIM, guidance.classifier_free(1.0))]
    quiet += [(steps.ddim(schedules.linear(), 7, eta=1.0), RULE)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for table, rule in quiet:
            check_table(table, rule)


def past(x):
    return sampling.start(RULE, x)._replace(done=8)


LABELS = mixtures.mixture_denoiser(mixtures.gaussians(np.eye(4), 1.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda k, x: sample(tiny, TABLE, RULE, k, x, save=("denoise",)), "'denoise'.*'denoised'"),
        (lambda k, x: sample(3, TABLE, RULE, k, x), "denoise must be callable"),
        (lambda k, x: next(sample_chunks(tiny, TABLE, RULE, k, x, chunk=0)), "got 0"),
        (lambda k, x: next(sample_chunks(tiny, TABLE, RULE, k, carry=past(x))), "8 steps.*of 7"),
        (lambda k, x: next(sample_chunks(tiny, TABLE, RULE, k)), "initial noise"),
        (lambda k, x: next(sample_chunks(tiny, TABLE, RULE, k, x, carry=past(x))), "either"),
        (lambda k, x: sample(LABELS, TABLE, RULE, k, x), "no role 'negative'.*it has base"),
        (lambda k, x: run_chunks(iter(())), "nothing left"),
    ],
)
def test_bad_input_is_named(make, message, keys):
    with pytest.raises(InputError, match=message):
        make(keys, initial_noise(keys, SHAPE, TABLE))


class Total:
    """A pytree that does not compare."""

    def __init__(self, value):
        self.value = value


jax.tree_util.register_pytree_node(Total, lambda t: ((t.value,), None), lambda _, c: Total(*c))


@dng_jax.pytree
class Adding(dng_jax.Stateless):
    first: jax.Array
    roles = ("base",)

    def init_state(self, x):
        return Total(jnp.zeros(len(x), self.first.dtype))

    def apply(self, state, step):
        return jnp.zeros_like(step.x), state, {}

    def update(self, state, step, move):
        return Total(state.value + 0.5)


def test_a_state_may_be_of_any_class_and_never_loses_its_fraction(keys):
    x = initial_noise(keys, SHAPE, TABLE)
    state = sample(tiny, TABLE, Adding(jnp.float32(0)), keys, x).state
    np.testing.assert_array_equal(state.value, np.full(len(x), 3.5))
    with pytest.raises(InputError, match="counts in whole numbers in init_state and in fractions"):
        sample(tiny, TABLE, Adding(jnp.int32(0)), keys, x)


@dng_jax.pytree
class Scaled:
    scale: float
    seen: Log = dng_jax.static()

    def __call__(self, x, row, roles):
        self.seen.append(roles)
        return dict.fromkeys(roles, x * self.scale)


def test_fractions_of_a_denoiser_are_data_and_true_is_not_one(keys):
    x, seen = initial_noise(keys, SHAPE, TABLE), Log()
    draws = [sample(Scaled(s, seen), TABLE, guidance.unguided(), keys, x).x for s in (0.1, 0.2)]
    assert len(seen) == 1
    assert np.abs(draws[0] - draws[1]).max() > 1e-3
    kinds = [sampling.as_pytree(Scaled(s, seen)).program for s in (True, 1)]
    assert kinds[0] != kinds[1]
