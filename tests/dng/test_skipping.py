"""Negatives asked for where they matter: the tracked posterior against a float64 replay, images
that do not depend on their batch, networks that are run on those who ask and counted."""

from __future__ import annotations

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax import (
    InputError,
    Stateless,
    compatibility,
    denoisers,
    guidance,
    posterior,
    sampling,
    schedules,
    steps,
    sweep,
)
from dng_jax.denoisers.compaction import on_some
from dng_jax.guidance.skipping import SKIPPING_SCALE_MAX
from dng_jax.posterior.jump import continued, kernel, nowhere
from tests.helpers import Counted, Log

pytestmark = pytest.mark.usefixtures("quick_compilation")

TABLE = steps.ddpm(schedules.linear(), 16)
DNG = guidance.dynamic_negative
MAKE = {"pair": posterior.pair, "odds": posterior.odds}


@pytest.fixture
def x(keys):
    return sampling.initial_noise(keys, (2, 2), TABLE)


MEANS = {"base": 0.0, "negative": -0.3, "second": 0.3}


@jax.tree_util.Partial
def gaussians(x, row, roles):
    """Exact for one Gaussian per role, N(mean, 0.5^2)."""
    variance = (0.5 * row.alpha) ** 2 + row.sigma**2
    return {role: row.sigma * (x - row.alpha * MEANS[role]) / variance for role in roles}


NETWORKS = denoisers.separate_networks(dict.fromkeys(MEANS, gaussians))


def seen(state, step):
    return {"at": step.x, "base": step.preds["base"], "negative": step.preds["negative"]}


def log_normal(x, mean, variance):
    return -((x - mean) ** 2).sum(1) / (2 * variance)


def replay(result, kind, prior, skip_below, every, delta):
    """The tracked p and who looks, [T, B], by conditioning Gaussians from the last look."""
    at, base, negative = (
        np.asarray(result.trace[n], np.float64).reshape(16, 8, 4)
        for n in ("at", "base", "negative")
    )
    alpha, sigma, k_var = (
        np.asarray(c, np.float64) for c in (TABLE.alpha, TABLE.sigma, TABLE.k_var)
    )
    log = np.log(prior) if kind == "pair" else np.log(prior / (1 - prior))
    low, high = (np.log(1e-6), np.log(0.99)) if kind == "pair" else np.log([1e-6, 1 / 1e-6])
    all_p, looks = np.zeros((16, 8)), np.zeros((16, 8), bool)
    for b in range(8):
        value, last, anchor = log, -np.inf, log
        for t in range(16):
            p = np.exp(value) if kind == "pair" else 1 / (1 + np.exp(-value))
            all_p[t, b] = p
            looks[t, b] = p >= skip_below or t - last >= every
            if looks[t, b]:
                last, anchor = t, value
            if t == 15:
                break
            # p(x_s | x_last, x_0) of the forward chain, x_0 as predicted at the last look
            a = alpha[last] / alpha[t + 1]
            g = sigma[last] ** 2 - a**2 * sigma[t + 1] ** 2
            variance = sigma[t + 1] ** 2 * g / sigma[last] ** 2

            def mean(eps, last=last, t=t, a=a, b=b):
                x_0 = (at[last, b] - sigma[last] * eps) / alpha[last]
                back = a * sigma[t + 1] ** 2 / sigma[last] ** 2
                return alpha[t + 1] * x_0 + back * (at[last, b] - alpha[last] * x_0)

            mu_b, mu_n = mean(base[last, b]), mean(negative[last, b])
            odds = min(np.exp(anchor), 99)
            against = mu_b if kind == "pair" else mu_b - odds * (mu_n - mu_b)
            here = at[t + 1, b][None]
            ratio = log_normal(here, mu_n, variance) - log_normal(here, against, variance)
            added = sum(delta / (2 * k_var[i]) for i in range(last, t + 1))
            value = np.clip(anchor + ratio[0] + added, low, high)
    return all_p, looks


ONCE_MORE = pytest.param("odds", marks=pytest.mark.slow)


@pytest.mark.parametrize("delta", [0.0, 0.004, -0.002])
@pytest.mark.parametrize("kind", ["pair", ONCE_MORE])
def test_unseen_steps_are_one_jump_of_bayes_rule(kind, delta, keys, x):
    rule = DNG(MAKE[kind](0.4, delta=delta), 2.0, skip_below=0.15, every=4)
    result = sampling.sample(gaussians, TABLE, rule, keys, x, observe=seen)
    p, looks = replay(result, kind, 0.4, 0.15, 4, delta)
    asked = np.asarray(result.trace["asked"])
    np.testing.assert_array_equal(asked, looks)
    np.testing.assert_allclose(result.trace["posterior"], p, rtol=2e-3, atol=2e-5)
    assert asked[0].all()
    assert 0.3 < asked.mean() < 0.95
    lonely = (asked[1:-1] == 0).any(axis=0)
    assert lonely.any()


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAKE)
def test_looking_at_every_step_is_the_plain_rule(kind, keys, x):
    tracker = MAKE[kind]([0.3, 0.2], negatives=("negative", "second"), temperature=0.5, offset=0.1)
    capped = DNG(tracker, 0.5, scale_max=SKIPPING_SCALE_MAX)
    plain = sampling.sample(gaussians, TABLE, capped, keys, x)
    every = sampling.sample(gaussians, TABLE, DNG(tracker, 0.5, skip_below=0.5, every=1), keys, x)
    np.testing.assert_allclose(every.x, plain.x, atol=5e-4)
    np.testing.assert_allclose(every.trace["posterior"], plain.trace["posterior"], atol=5e-4)
    np.testing.assert_array_equal(every.trace["asked"], 2.0)
    assert "asked" not in plain.trace


@pytest.mark.parametrize("name", ["ddpm", "ddpm-paper", "beta", "edm", "flow"])
def test_the_kernel_of_a_jump_is_that_of_one_step(name, x):
    makes = {
        "beta": lambda: steps.ancestral(schedules.linear(), 9, scoring_variance="beta"),
        "edm": lambda: steps.euler_ancestral(schedules.edm(20), 9),
        "flow": lambda: steps.ddim(schedules.flow(), 9, eta=1.0),
    }
    table = makes.get(name, lambda: steps.TABLES[name](schedules.linear(), 9))()
    tracker = posterior.pair(0.1)
    rows = [jax.tree.map(lambda c, i=i: jnp.asarray(c[i]), table) for i in range(9)]
    jump = nowhere(tracker, x)
    jump = jump.__class__(**{**vars(jump), "alpha": jump.alpha * rows[2].alpha,
                             "sigma": 0 * jump.sigma + rows[2].sigma})  # fmt: skip
    for row in rows[2:7]:
        jump = continued(jump, row)
    found = kernel(jump, rows[6])
    alpha, sigma = (np.asarray(c, np.float64) for c in (table.alpha, table.sigma))
    a = alpha[2] / alpha[7]
    g = sigma[2] ** 2 - (a * sigma[7]) ** 2
    variance = g if name == "beta" else sigma[7] ** 2 * g / sigma[2] ** 2
    for value, wanted in ((found.k_x, 1 / a), (found.k_eps, -g / (a * sigma[2])),
                          (found.k_var, variance)):  # fmt: skip
        np.testing.assert_allclose(value, wanted, rtol=2e-5)
    for row in rows[7:]:
        jump = continued(jump, row)
    assert np.isinf(kernel(jump, rows[8]).k_var).all()


SKIP = DNG(posterior.pair(0.4), 2.0, skip_below=0.45, every=4)


@pytest.fixture(scope="module")
def together(keys):
    x = sampling.initial_noise(keys, (2, 2), TABLE)
    return sampling.sample(NETWORKS, TABLE, SKIP, keys, x)


def test_an_image_does_not_depend_on_its_batch(together, keys, x):
    for i in (0, 5):
        part = slice(i, i + 1)
        alone = sampling.sample(NETWORKS, TABLE, SKIP, keys[part], x[part])
        np.testing.assert_allclose(alone.x, together.x[part], atol=2e-5)
        np.testing.assert_array_equal(alone.trace["asked"], together.trace["asked"][:, part])


def test_a_denoiser_that_cannot_leave_out_images_gives_the_same(together, keys, x):
    whole = sampling.sample(gaussians, TABLE, SKIP, keys, x)
    np.testing.assert_allclose(whole.x, together.x, atol=2e-5)
    np.testing.assert_array_equal(whole.trace["asked"], together.trace["asked"])
    np.testing.assert_array_equal(whole.trace["run"], 1.0)
    # eight images: parts of one
    ran = np.asarray(together.trace["asked"]).mean(axis=1)
    np.testing.assert_allclose(together.trace["run"], np.repeat(ran[:, None], 8, 1), atol=1e-6)
    assert ran.mean() < 0.9


@pytest.mark.slow
def test_it_can_be_swept_and_mapped_over(together, keys, x):
    rules = [DNG(posterior.pair(0.4), s, skip_below=b, every=e)
             for s, b, e in ((2.0, 0.45, 4), (1.0, 0.9, 8))]  # fmt: skip
    for mode in ("map", "vmap"):
        result = sweep(NETWORKS, TABLE, rules, keys, x, mode=mode)
        np.testing.assert_allclose(result.x[0], together.x, atol=2e-5)
        asked = np.asarray(result.trace["asked"])
        np.testing.assert_array_equal(asked[0], together.trace["asked"])
        assert asked[1].sum() < asked[0].sum()


@pytest.mark.slow
def test_it_can_be_differentiated(keys, x):
    def mean_square(scale):
        rule = DNG(posterior.pair(0.4), scale, skip_below=0.15, every=4)
        return jnp.square(sampling.sample(NETWORKS, TABLE, rule, keys, x).x).mean()

    slope = jax.grad(mean_square)(0.5)
    secant = (mean_square(0.501) - mean_square(0.499)) / 0.002
    assert abs(slope) > 1e-4
    np.testing.assert_allclose(slope, secant, rtol=0.05, atol=1e-4)


@pytest.mark.parametrize("wanting", [0, 5, 13, 19])
def test_a_network_is_run_on_those_who_ask(wanting):
    sizes: list[int] = []

    def ask(part):
        jax.debug.callback(functools.partial(sizes.append, len(part)))
        return part**3

    x = jnp.arange(38.0).reshape(19, 2)
    wanted = jnp.zeros(19, bool).at[jnp.arange(wanting) * 7 % 19].set(True)
    answers, ran = jax.jit(functools.partial(on_some, ask))(x, wanted)
    jax.effects_barrier()
    np.testing.assert_allclose(np.asarray(answers)[np.asarray(wanted)], (x**3)[wanted])
    # parts of a sixteenth, rounded up: 2
    assert ran == {0: 0, 5: 6, 13: 14, 19: 19}[wanting]
    assert sum(sizes) == ran


def test_a_sum_asks_where_one_of_its_rules_does(keys, x):
    skipping = DNG(posterior.pair(0.4), 1.0, skip_below=0.2, every=5)
    other = DNG(posterior.pair(0.4), 1.0, skip_below=0.3, every=2)
    second = DNG(posterior.pair(0.4, negatives=("second",)), skip_below=0.3)
    both = guidance.sum_of(skipping, other)
    assert both.on_demand == ("negative",)
    assert guidance.sum_of(skipping, second).on_demand == ("negative", "second")
    assert guidance.sum_of(skipping, guidance.negative_prompt(0.1)).on_demand == ()
    assert guidance.interval(both).on_demand == ("negative",)
    assert guidance.recorder(("negative",), both).on_demand == ()
    assert guidance.recorder(("second",), both).on_demand == ("negative",)
    limited = guidance.interval(both, sigma_max=5.0)
    result = sampling.sample(NETWORKS, TABLE, limited, keys, x)
    asked = np.asarray(result.trace["asked"])
    assert set(np.unique(asked)) == {0.0, 1.0}
    # the other never misses two steps running
    assert (asked[1:] + asked[:-1] > 0).all()


def test_plain_rules_are_asked_as_ever(keys, x):
    log = Log()
    sampling.sample(Counted(gaussians, (log,)), TABLE, DNG(posterior.pair(0.4)), keys, x)
    assert list(log) == [("base", "negative")]


REFUSED = {
    "needs the tracker pair or odds": lambda: DNG(posterior.classes(3, [0]), skip_below=0.1),
    "skip_below needs .* an ancestral table": lambda: DNG(posterior.pair(probes=1), skip_below=0.1),
    "a drift is given back": lambda: DNG(posterior.pair(drift=0.5), skip_below=0.1),
    "every must be a whole number, got 2.5": lambda: DNG(
        posterior.pair(), skip_below=0.1, every=2.5
    ),
    "every must lie between 1": lambda: DNG(posterior.pair(), skip_below=0.1, every=0),
    "skip_below must lie above 0": lambda: DNG(posterior.pair(), skip_below=0.0),
    "skip_below must lie between 0 and 1": lambda: DNG(posterior.pair(), skip_below=1.5),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_skipped_is_refused(said):
    with pytest.raises(InputError, match=said):
        REFUSED[said]()


def test_a_deterministic_table_is_refused_in_the_same_words(keys, x):
    with pytest.raises(InputError) as probed:
        DNG(posterior.pair(probes=1), skip_below=0.1)
    table = steps.ddim(schedules.linear(), 16)
    limited = guidance.interval(guidance.sum_of(guidance.unguided(), SKIP))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for run in (
            lambda: sampling.sample(gaussians, table, SKIP, keys, x),
            lambda: sampling.sample(gaussians, table, limited, keys, x),
            lambda: next(sampling.sample_chunks(gaussians, table, SKIP, keys, x)),
            lambda: sweep(gaussians, table, [SKIP, SKIP], keys, x),
        ):
            with pytest.raises(InputError) as refused:
                run()
            assert str(refused.value) == str(probed.value)
        half_noise = steps.ddim(schedules.linear(), 16, eta=0.8)
        compatibility.check_table(half_noise, limited)


@dataclasses.dataclass(frozen=True)
class Wants(Stateless):
    """A rule whose masks do not fit its roles."""

    masks: tuple[str, ...]
    kind: type = bool
    on_demand: tuple[str, ...] = ("negative",)
    roles = ("base", "negative")

    def apply(self, state, step):
        return jnp.zeros_like(step.x), state, {}

    def wants(self, state, row):
        count = 3 if self.kind is bool else 8
        return dict.fromkeys(self.masks, jnp.ones(count, self.kind))


jax.tree_util.register_dataclass(Wants, [], ["masks", "kind", "on_demand"])


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Wants(()), "wants of the rule Wants must return a mask, bool"),
        (Wants(("second",)), "wants of the rule Wants must return a mask, bool"),
        (Wants(("negative",)), "wants of the rule Wants must return a mask, bool"),
        (Wants(("negative",), float), "wants of the rule Wants must return a mask, bool"),
        (Wants(("base",), on_demand=("base",)), "roles of its own other than base"),
        (Wants(("second",), on_demand=("second",)), "roles of its own other than base"),
    ],
)
def test_masks_that_do_not_fit_are_refused(rule, said, keys, x):
    with pytest.raises(InputError, match=said):
        sampling.sample(gaussians, TABLE, rule, keys, x)


EIGHT = """
import sys, jax, numpy as np
from dng_jax import *
from dng_jax import denoisers, guidance, posterior, schedules, steps, sweeps
def network(mean):
    def denoise(x, row, roles):
        variance = 0.25 * row.alpha**2 + row.sigma**2
        return {r: row.sigma * (x - row.alpha * mean) / variance for r in roles}
    return jax.tree_util.Partial(denoise)
both = denoisers.separate_networks({"base": network(0.0), "negative": network(-0.3)})
table = steps.ddpm(schedules.linear(), 12)
tracker = posterior.pair(.2)
rules = [guidance.dynamic_negative(tracker, s, skip_below=.25, every=3) for s in (1., 2.)]
keys = sample_keys(0, 16)
x = initial_noise(keys, (2, 2), table)
one = sample(both, table, rules[1], keys, x)
spread = sample(both, table, rules[1], *sweeps.distribute((keys, x)))
out = {"one": one.x, "spread": spread.x, "asked": one.trace["asked"],
       "spread_asked": spread.trace["asked"], "devices": len(spread.x.sharding.device_set)}
program = sweeps.lowered(both, table, rules, keys, x, shard="samples").compile().as_text()
out["moved"] = [program.count(f" {op}(") for op in ("all-gather", "all-to-all",
                                                   "collective-permute", "all-reduce")]
out["run"] = spread.trace["run"]
for mode in ("map", "vmap"):
    out[mode] = sweep(both, table, rules, keys, x, mode=mode, shard="samples").x[1]
mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Explicit,))
with jax.set_mesh(mesh):
    batch = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    explicit = sample(both, table, rules[1], *jax.device_put((keys, x), batch))
    out |= {"explicit": explicit.x, "explicit_run": explicit.trace["run"]}
np.savez(sys.argv[1], **{k: np.asarray(v) for k, v in out.items()})
"""


@pytest.mark.slow
def test_eight_devices_give_the_images_of_one(eight_devices):
    got = eight_devices(EIGHT)
    assert got["devices"] == 8
    for name in ("spread", "map", "vmap", "explicit"):
        np.testing.assert_allclose(got[name], got["one"], atol=2e-5)
    np.testing.assert_array_equal(got["asked"], got["spread_asked"])
    assert 0.3 < got["asked"].mean() < 0.9
    # Each device looks at its own two images in parts of one; the count alone is sent.
    assert got["moved"].tolist() == [0, 0, 0, 1]
    for name in ("run", "explicit_run"):
        np.testing.assert_allclose(got[name].mean(1), got["asked"].mean(1), atol=1e-6)
