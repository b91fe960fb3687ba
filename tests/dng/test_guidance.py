"""Guidance rules: identities between them, and golden numbers re-derived in float64."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from dng_jax import InputError, Step, guidance, mixtures, posterior, sampling, schedules, steps

pytestmark = pytest.mark.usefixtures("quick_compilation")

CLASSES = (0.4, 0.1, 0.5)


@pytest.fixture
def images(denoise, table, keys, noise):
    """Runs a rule on the toy mixture and returns its final images."""

    def run(rule, with_denoiser=denoise, on=table):
        x = sampling.initial_noise(keys, (2, 2), on)
        return np.asarray(sampling.sample(with_denoiser, on, rule, keys, x).x)

    return run


def same(a, b, atol=2e-5):
    np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.parametrize(
    "rule",
    [
        guidance.classifier_free(0.0),
        guidance.negative_prompt(0.0),
        guidance.safe_latent(0.0),
        guidance.safe_latent_prompt(0.0),
        guidance.dynamic_negative(posterior.pair(0.3), 0.0),
        guidance.dynamic_negative(posterior.odds(0.3), 0.0),
        guidance.dynamic_negative(posterior.classes(3, [0]), 0.0, base="model"),
    ],
    ids=["cfg", "np", "sld", "sld-prompt", "pair", "odds", "classes"],
)
def test_scale_zero_is_the_base_model(rule, images):
    np.testing.assert_array_equal(images(rule), images(guidance.unguided()))


def test_a_drift_that_no_cap_holds_is_warned_of(recwarn):
    for harmless in (
        lambda: guidance.dynamic_negative(posterior.pair(0.2, drift=0.8), 5.0),
        lambda: guidance.dynamic_negative(posterior.odds(0.2, drift=1.0), 0.0),
        lambda: guidance.dynamic_negative(posterior.classes(3, [0], drift=1.0)),
    ):
        harmless()
    assert not recwarn
    for make in (posterior.pair, posterior.odds):
        with pytest.warns(UserWarning, match="a drift of 1 gives back .* at most 0.8"):
            guidance.dynamic_negative(make(0.2, drift=1.0), 5.0)


TWO, HALVES = jnp.array([0.1, 0.2]), jnp.array([0.5, 0.5])
KNOTS, THREE = jnp.array([-1.0, 1.0]), jnp.array([3.0])
TRACKER = posterior.pair(0.3)
KNOWN_OUTSIDE = {
    "tracker": lambda s: guidance.dynamic_negative(TRACKER, s),
    "scale": lambda s: guidance.sum_of(
        guidance.dynamic_negative(TRACKER, TWO), guidance.negative_prompt(s)
    ),
    "bounds": lambda s: guidance.interval(
        guidance.negative_prompt(s), sigma_min=TWO, sigma_max=HALVES
    ),
    "prior": lambda s: guidance.dynamic_negative(posterior.pair(TWO, negatives=("a", "b")), s),
    "priors": lambda s: guidance.dynamic_negative(posterior.classes(2, [0], prior=HALVES), s),
    "p": lambda s: guidance.dynamic_negative(posterior.pair(p_min=TWO[0], p_max=HALVES[0]), s),
    "table": lambda s: guidance.dynamic_negative(posterior.pair(temperature=(KNOTS, HALVES)), s),
}


@pytest.mark.parametrize("name", KNOWN_OUTSIDE)
def test_a_rule_can_be_made_inside_a_transformation(name):
    def made(s):
        return jax.tree.leaves(KNOWN_OUTSIDE[name](s))

    def total(s):
        return sum(jnp.where(jnp.isinf(leaf), 0.0, leaf).sum() for leaf in made(s))

    outside = made(3.0)
    for inside in (jax.jit(made)(3.0), jax.tree.map(lambda a: a[0], jax.lax.map(made, THREE))):
        jax.tree.map(np.testing.assert_array_equal, inside, outside)
    assert jax.grad(total)(3.0) == 1.0


@dataclasses.dataclass(frozen=True)
class Own:
    """A tracker of somebody else's, whose drift is his own affair."""

    drift: object
    roles = ("negative",)
    knows_allowed = False


@pytest.mark.parametrize("drift", [np.zeros(3), [0.1], np.zeros(0), None, TRACKER.temperature])
def test_a_drift_of_any_kind_makes_a_rule(drift, recwarn):
    guidance.dynamic_negative(Own(drift), 2.0)
    assert not recwarn
    with pytest.warns(UserWarning, match="a drift of 0.9 gives back"):
        guidance.dynamic_negative(Own(np.array([0.0, 0.9])), 2.0)


def test_scale_one_is_the_condition(images):
    same(images(guidance.classifier_free(1.0)), images(guidance.unguided("positive")))
    same(images(guidance.negative_in_place(1.0)), images(guidance.unguided("positive")))


def test_negative_prompt_is_cfg_of_negative_weight(images):
    same(
        images(guidance.negative_prompt(0.7)),
        images(guidance.classifier_free(-0.7, positive="negative")),
    )


def test_negatives_add_up(images):
    two = guidance.negative_prompt(0.4, negatives=("negative", "positive"))
    parts = guidance.sum_of(
        guidance.negative_prompt(0.4), guidance.negative_prompt(0.4, negatives=("positive",))
    )
    same(images(two), images(parts))


def test_in_place_is_cfg_with_the_negative_for_a_base(images, mixture):
    swapped = mixtures.mixture_denoiser(mixture, {"base": [0], "positive": [1]})
    same(
        images(guidance.negative_in_place(2.5)),
        images(guidance.classifier_free(2.5), with_denoiser=swapped),
        atol=1e-4,
    )


@pytest.mark.parametrize("make", [posterior.pair, posterior.odds])
def test_frozen_posterior_is_negative_prompting(make, images):
    # temperature 0 and delta 0 leave p at its prior: lambda = lambda_0 p/(1-p)
    rule = guidance.dynamic_negative(make(0.3, temperature=0.0), 2.0)
    same(images(rule), images(guidance.negative_prompt(2.0 * 0.3 / 0.7)))


def test_frozen_posterior_of_classes_weighs_the_forbidden(images):
    prior = np.array([0.3, 0.2, 0.5])
    tracker = posterior.classes(3, [0, 1], prior=prior, temperature=0.0)
    rule = guidance.dynamic_negative(tracker, 1.5, base="model")
    each = [
        guidance.negative_prompt(1.5 * prior[k] / 0.5, negatives=(f"class:{k}",)) for k in (0, 1)
    ]
    same(images(rule), images(guidance.sum_of(*each)))


def test_scale_is_capped():
    x = jnp.ones((1, 3))
    preds = {"base": x, "negative": 2 * x, "class:0": 2 * x, "class:1": -x}
    step = Step(None, x, preds, None, None)
    rule = guidance.dynamic_negative(posterior.odds(0.9), 5.0, scale_max=3.0)
    delta, _, info = rule.apply(rule.init_state(x), step)
    assert float(info["lambda"][0]) == pytest.approx(3.0)
    np.testing.assert_allclose(delta, -3.0, rtol=1e-5)
    # base "mixture": eps_b = p n + (1-p) a = 1.7 for p = .9, then the same -3 (n - eps_b)
    tracker = posterior.classes(2, [0], prior=[0.9, 0.1])
    rule = guidance.dynamic_negative(tracker, 5.0, scale_max=3.0)
    eps, _, _ = rule.apply(rule.init_state(x), step._replace(preds=preds | {"base": 0 * x}))
    np.testing.assert_allclose(eps, 1.7 - 3 * (2 - 1.7), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_mixture_base_is_the_model_where_the_posterior_is_exact(scale, denoise, mixture):
    # base = sum_k p_k eps_k holds with the exact p: put it into the tracker's state.
    table = steps.ddpm(schedules.linear(), 30)
    tracker = posterior.classes(3, [0, 1], prior=CLASSES)
    for i in (5, 15, 22):
        row = jax.tree.map(lambda c, i=i: jnp.asarray(c[i]), table)
        x, _ = mixture.draw(sampling.sample_keys(i, 8), (2, 2))
        x = row.alpha * x + row.sigma * sampling.initial_noise(
            sampling.sample_keys(9, 8), (2, 2), table
        )
        state = mixture.log_posterior(x, row.alpha, row.sigma)
        preds = denoise(x, row, ("base", "class:0", "class:1", "class:2"))
        step = Step(row, x, preds, None, None)
        deltas = [
            guidance.dynamic_negative(tracker, scale, base=base).apply(state, step)[0]
            for base in ("model", "mixture")
        ]
        # p/(1-p) amplifies the rounding of the base's prediction in the one form
        odds = np.exp(np.asarray(tracker.view(state, step).log_odds, float))
        tolerance = 3e-6 * (1 + scale * np.minimum(odds, 99))[:, None, None]
        gap = np.abs(np.asarray(deltas[0] - deltas[1], float))
        keep = (odds < 50)[:, None, None]
        assert keep.any()
        assert np.all((gap < tolerance) | ~keep)


# ------------------------------------------------------------------------------ exact posterior


def test_exact_posterior_guidance_is_sampling_the_complement(mixture, keys):
    denoise = mixtures.mixture_denoiser(mixture, {"negative": [0, 1]})
    rest = mixtures.mixture_denoiser(mixture.restrict([2]))
    rule = guidance.dynamic_negative(posterior.oracle(mixture, [0, 1]), 1.0)
    for table in (steps.ddpm(schedules.linear(), 12), steps.ddim(schedules.linear(), 12)):
        x = sampling.initial_noise(keys, (2, 2), table)
        guided = sampling.sample(denoise, table, rule, keys, x)
        truth = sampling.sample(rest, table, guidance.unguided(), keys, x)
        # 1/(1-p) amplifies float32 where the forbidden classes are likely; the chain contracts
        np.testing.assert_allclose(guided.x, truth.x, atol=3e-4)
        plain = sampling.sample(denoise, table, guidance.unguided(), keys, x)
        assert np.abs(np.asarray(plain.x - truth.x)).max() > 0.3


@pytest.mark.slow
def test_exact_posterior_on_digits():
    data = load_digits()
    mixture = mixtures.patterns(data.images[:600] / 8 - 1, data.target[:600])
    denoise = mixtures.mixture_denoiser(mixture, {"negative": [0, 3]})
    rest = mixtures.mixture_denoiser(mixture.restrict([1, 2, 4, 5, 6, 7, 8, 9]))
    rule = guidance.dynamic_negative(posterior.oracle(mixture, [0, 3]), 1.0)
    table = steps.ddpm(schedules.linear(), 25)
    keys = sampling.sample_keys(4, 24)
    x = sampling.initial_noise(keys, (8, 8), table)
    guided = sampling.sample(denoise, table, rule, keys, x)
    truth = sampling.sample(rest, table, guidance.unguided(), keys, x)
    np.testing.assert_allclose(guided.x, truth.x, atol=2e-3)
    plain = sampling.sample(denoise, table, guidance.unguided(), keys, x)
    changed = np.abs(np.asarray(plain.x - truth.x)).max((1, 2)) > 0.5
    assert 2 <= changed.sum() <= 20  # a fifth of the mass is forbidden


# ------------------------------------------------------------------------------- golden numbers


def scripted(rng, roles, count, shape=(2, 3)):
    """Predictions that depend on the step alone, [count, B, ...] a role."""
    return {role: rng.normal(size=(count, *shape)).astype(np.float32) for role in roles}


def walk(rule, preds, count, shape=(2, 3)):
    """The deltas of a stateful rule that never looks at x, over the first steps."""
    table = steps.ddpm(schedules.linear(), 20)
    x = jnp.zeros(shape)
    state, deltas = rule.init_state(x), []
    for i in range(count):
        row = jax.tree.map(lambda c, i=i: jnp.asarray(c[i]), table)
        step = Step(row, x, {k: jnp.asarray(v[i]) for k, v in preds.items()}, None, None)
        delta, state, _ = rule.apply(state, step)
        deltas.append(np.asarray(delta))
    return np.stack(deltas)


def test_sld_without_a_prompt_over_several_steps():
    rng = np.random.default_rng(0)
    preds = scripted(rng, ("base", "negative"), 6)
    preds["negative"] = preds["base"] + 0.01 * preds["negative"]  # so that the mask has values
    preds["negative"][:, 0, 0] = preds["base"][:, 0, 0] + 1.0
    rule = guidance.safe_latent(3.0, scale=100, threshold=0.004, momentum_scale=0.2)
    got = walk(rule, preds, 6)
    v, used = 0.0, set()
    for i in range(6):
        b, n = (preds[k][i].astype(np.float64) for k in ("base", "negative"))
        d = b - n
        m = np.where(d < 0.004, np.minimum(1, 100 * np.abs(d)), 0)
        used |= {0 if q == 0 else 1 if q == 1 else 0.5 for q in m.ravel()}
        g = -m * d + 0.2 * v
        v = 0.1 * v + 0.9 * g
        np.testing.assert_allclose(got[i], -3.0 * g, rtol=1e-4, atol=1e-6)
    assert used == {0, 0.5, 1}


# arXiv 2211.05105, table of configurations: warm-up, s_S, threshold, s_m, beta_m
PAPER = {
    "medium": (10, 1000, 0.01, 0.3, 0.4),
    "strong": (7, 2000, 0.025, 0.5, 0.7),
    "max": (0, 5000, 1.0, 0.5, 0.7),
}


@pytest.mark.parametrize("preset", PAPER)
def test_sld_presets_of_its_paper(preset):
    rng = np.random.default_rng(1)
    warmup, s_s, threshold, s_m, beta_m = PAPER[preset]
    preds = scripted(rng, ("base", "positive", "negative"), 13)
    preds["positive"] = preds["negative"] + 5e-4 * preds["positive"]
    w = 7.5
    got = walk(guidance.safe_latent_prompt(w, preset=preset), preds, 13)
    v = 0.0
    for i in range(13):
        u, p, s = (preds[k][i].astype(np.float64) for k in ("base", "positive", "negative"))
        # the scale sees the float32 difference of two predictions near 1: 1e-7/5e-4 of it
        mu = np.where(p - s < threshold, np.minimum(1, s_s * np.abs(p - s)), 0)
        gamma = mu * (s - u) + s_m * v
        v = beta_m * v + (1 - beta_m) * gamma
        expected = w * (p - u - (gamma if i >= warmup else 0))
        np.testing.assert_allclose(got[i], expected, rtol=2e-4, atol=5e-3)
    changed = guidance.safe_latent_prompt(w, preset=preset, warmup=3)
    assert float(changed.warmup) == 3
    assert float(changed.scale) == s_s


def test_feedback_over_a_chain(denoise, exact, keys):
    table = steps.ddpm(schedules.linear(), 8)
    pi, tau, off, most, cap = 0.7, 0.4, -0.15, 6.0, 1.0
    rule = guidance.feedback(
        pi, temperature=tau, offset=off, scale_max=most, log_ratio_max=cap, positive="positive"
    )
    x = sampling.initial_noise(keys, (2, 2), table)
    result = sampling.sample(denoise, table, rule, keys, x, save=("x",))
    xs = [*np.asarray(result.trace["x"], np.float64), np.asarray(result.x, np.float64)]
    low = np.log((1 - pi) * most / (most - 1))
    log_r, seen = np.zeros(8), []
    for i in range(8):
        row = [float(c[i]) for c in table]
        row = steps.StepRow(*row)
        r = np.exp(log_r)
        scale = r / (r - (1 - pi))
        np.testing.assert_allclose(result.trace["log_ratio"][i], log_r, atol=2e-4)
        np.testing.assert_allclose(result.trace["lambda"][i], scale, rtol=2e-3)
        seen.append(log_r)
        u = exact.eps(xs[i], row.alpha, row.sigma)
        c = exact.eps(xs[i], row.alpha, row.sigma, [1])
        if i == 7:
            guided = (xs[i] - row.sigma * (u + scale[:, None, None] * (c - u))) / row.alpha
            np.testing.assert_allclose(guided, xs[8], atol=2e-3)
            break
        gap = [((xs[i + 1] - row.k_x * xs[i] - row.k_eps * e) ** 2).sum((1, 2)) for e in (c, u)]
        log_r = np.clip(log_r - tau / (2 * row.k_var) * (gap[0] - gap[1]) + off, low, cap)
    seen = np.array(seen[1:])
    assert np.any((seen > low) & (seen < cap))


def test_feedback_from_activation_times():
    # the rule's sheet, by hand for pi = .9, lambda_ref = 3: log(.1 * 1.5) = -1.897120
    table = steps.ddpm(schedules.linear(), 51)
    rule = guidance.feedback_from_times(table, 0.75, 0.5, pi=0.9)
    offset = np.log(0.15) / (0.25 * 51)
    assert float(rule.offset) == pytest.approx(offset, rel=1e-6)
    assert float(rule.offset) == pytest.approx(-1.897120 / 12.75, rel=1e-5)
    # position t1 N = 25.5 from the clean end, where row 50 is position 0
    middle = (float(table.k_var[25]) + float(table.k_var[24])) / 2
    assert float(rule.temperature.values[0]) == pytest.approx(
        abs(2 * middle * offset / 10), rel=1e-5
    )
    assert float(rule.scale_max) == 10


@pytest.mark.parametrize(("t1", "tau"), [(0.429, 0.01733), (0.492, 0.0545)])
def test_feedback_from_times_has_the_temperatures_of_the_authors_program(t1, tau):
    table = steps.euler_ancestral(schedules.edm(64))
    rule = guidance.feedback_from_times(table, 0.556, t1, pi=0.999)
    assert float(rule.temperature.values[0]) == pytest.approx(tau, rel=3e-3)


def test_the_folder_exports_factories_not_the_classes_behind_them():
    for name in guidance.__all__:
        assert callable(getattr(guidance, name))
        assert not isinstance(getattr(guidance, name), type)


# --------------------------------------------------------------------------------- composition


def test_sum_adds_deltas(images, denoise):
    x = jnp.asarray(np.random.default_rng(2).normal(size=(3, 2, 2)), jnp.float32)
    row = jax.tree.map(lambda c: jnp.asarray(c[3]), steps.ddpm(schedules.linear(), 6))
    rules = [
        guidance.classifier_free(2.0),
        guidance.safe_latent(1.5),
        guidance.dynamic_negative(posterior.pair(0.3), 4.0),
    ]
    both = guidance.sum_of(*rules)
    preds = denoise(x, row, both.roles)
    step = Step(row, x, preds, None, None)
    total, state, info = both.apply(both.init_state(x), step)
    parts = [rule.apply(rule.init_state(x), step)[0] for rule in rules]
    np.testing.assert_allclose(total, np.sum(parts, axis=0), rtol=1e-5, atol=1e-6)
    assert set(info) == {"lambda:2", "posterior:2"}
    assert len(state) == 3
    same(images(guidance.sum_of(rules[0])), images(rules[0]))


def test_sum_of_rules_without_a_base_keeps_one_image(images):
    # each returns a whole prediction when alone; at scale 0 both are the unguided image
    part = guidance.dynamic_negative(posterior.classes(3, [0], prior=CLASSES, temperature=0.0), 0.0)
    frozen = np.asarray(CLASSES)
    assert part.roles == ("class:0", "class:1", "class:2")
    towards = guidance.sum_of(
        *(guidance.classifier_free(frozen[k], positive=f"class:{k}") for k in range(3))
    )
    same(images(part), images(towards))
    twice = guidance.sum_of(
        *(guidance.classifier_free(2 * frozen[k], positive=f"class:{k}") for k in range(3))
    )
    same(images(guidance.sum_of(part, part)), images(twice), atol=5e-5)


def test_outside_its_interval_cfg_is_the_condition(images, table):
    rule = guidance.classifier_free(3.0)
    ratio = table.sigma / table.alpha
    low, high = float(ratio[3]) * 1.01, float(ratio[0]) * 0.99  # rows 1 and 2 are inside
    condition, full = guidance.unguided("positive"), rule
    cut = guidance.interval(rule, sigma_min=low, sigma_max=high)
    x = jnp.ones((2, 2))
    preds = {"base": x, "positive": 2 * x}
    for i in range(6):
        row = jax.tree.map(lambda c, i=i: jnp.asarray(c[i]), table)
        delta, _, _ = cut.apply((), Step(row, x, preds, None, None))
        assert float(delta[0, 0]) == (3.0 if i in (1, 2) else 1.0)
    same(images(guidance.interval(rule)), images(full))
    same(images(guidance.interval(rule, sigma_min=1e3)), images(condition))


NEVER = {"sigma_min": 1e6}
WANTED, BASE = guidance.unguided("positive"), guidance.unguided()


@pytest.mark.parametrize(
    ("rule", "outside"),
    [
        (guidance.classifier_free(3.0), WANTED),
        (guidance.negative_in_place(3.0), WANTED),
        (guidance.safe_latent_prompt(3.0), WANTED),
        (guidance.feedback(0.9), WANTED),
        (guidance.unguided("positive"), WANTED),
        (guidance.recorder(("negative",), guidance.classifier_free(3.0)), WANTED),
        (guidance.interval(guidance.classifier_free(3.0)), WANTED),
        (guidance.negative_prompt(3.0), BASE),
        (guidance.safe_latent(3.0), BASE),
        (guidance.dynamic_negative(posterior.pair(0.3), 3.0), BASE),
        (
            guidance.sum_of(guidance.classifier_free(3.0), guidance.negative_prompt(0.5)),
            WANTED,
        ),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_what_a_rule_falls_back_to(rule, outside, images):
    same(images(guidance.interval(rule, **NEVER)), images(outside))


@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_a_level_at_a_bound_is_inside_above_and_outside_below(precision):
    # sigma_min < sigma <= sigma_max, for bounds read off the schedule or off the table
    schedule = schedules.linear(64)
    table = steps.ddpm(schedule)
    levels = (schedule.sigma / schedule.alpha)[::-1].astype(precision)
    if precision == np.float32:
        levels = table.sigma / table.alpha
    ones = jnp.ones((64, 1))
    preds = {"base": ones, "positive": 2 * ones}

    def inside(bounds):
        def one(row, level):
            rule = guidance.interval(guidance.classifier_free(3.0), **{bounds: level})
            step = Step(row, ones[:1], {k: v[:1] for k, v in preds.items()}, None, None)
            return rule.apply((), step)[0][0, 0] == 3.0

        return jax.jit(jax.vmap(one))(jax.tree.map(jnp.asarray, table), levels)

    assert np.all(inside("sigma_max"))
    assert not np.any(inside("sigma_min"))


SCALES = (0.0, 0.5, 2.0)
PER_IMAGE = {
    "cfg": guidance.classifier_free,
    "np": guidance.negative_prompt,
    "in-place": guidance.negative_in_place,
    "sld": guidance.safe_latent,
    "sld-prompt": guidance.safe_latent_prompt,
    "pair": lambda s: guidance.dynamic_negative(posterior.pair(0.3), s),
    "classes": lambda s: guidance.dynamic_negative(posterior.classes(3, [0]), s),
    "feedback": lambda s: guidance.feedback(0.5 + s / 5),
    "cap": lambda s: guidance.dynamic_negative(posterior.pair(0.3), 9.0, scale_max=s),
    "interval": lambda s: guidance.interval(guidance.classifier_free(3.0), sigma_min=s),
}


FEW = ("cfg", "pair", "interval")  # of one kind each; the others are slow
SOME = [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in PER_IMAGE]


@pytest.mark.parametrize("name", SOME)
def test_a_number_per_image_is_each_image_with_its_own(name, denoise, table, keys, noise):
    rule = PER_IMAGE[name]
    together = sampling.sample(denoise, table, rule(np.array(SCALES)), keys[:3], noise[:3]).x
    alone = jax.vmap(
        lambda s, k, x: sampling.sample(denoise, table, rule(s), k[None], x[None]).x[0]
    )(jnp.array(SCALES), keys[:3], noise[:3])
    same(together, alone, atol=5e-5)
    with pytest.raises(InputError, match=r"shape \(2,\).*each of the 3 images"):
        sampling.sample(denoise, table, rule(np.array([0.5, 0.6])), keys[:3], noise[:3])
    with pytest.raises(InputError, match=r"must be a number.*shape \(3, 1, 1\)"):
        rule(np.array(SCALES)[:, None, None])


def test_tracker_runs_outside_the_interval(denoise, table, keys, noise):
    tracker = posterior.pair(0.3)
    off = guidance.interval(guidance.dynamic_negative(tracker, 5.0), sigma_min=1e3)
    alone = guidance.dynamic_negative(tracker, 0.0)
    a, b = (sampling.sample(denoise, table, rule, keys, noise) for rule in (off, alone))
    np.testing.assert_allclose(a.trace["posterior"], b.trace["posterior"], rtol=1e-5)
    assert np.ptp(np.asarray(a.trace["posterior"])) > 0.01


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: guidance.dynamic_negative(posterior.pair(), -1.0), "guidance_scale.*-1.0"),
        (lambda: guidance.dynamic_negative(posterior.pair(), scale_max=-2), "scale_max.*-2"),
        (lambda: guidance.dynamic_negative(posterior.pair(), base="mixture"), "classes"),
        (lambda: guidance.dynamic_negative(posterior.pair(), base="none"), "'none'"),
        (lambda: guidance.classifier_free(float("nan")), "guidance_scale.*nan"),
        (lambda: guidance.negative_prompt(1.0, negatives=()), "at least one"),
        (lambda: guidance.safe_latent(1.0, momentum_beta=1.2), "momentum_beta.*1.2"),
        (lambda: guidance.safe_latent_prompt(preset="weak"), "'weak'"),
        (lambda: guidance.safe_latent_prompt(momentum=0.1), "'momentum'"),
        (lambda: guidance.feedback(1.0), "pi.*1.0"),
        (lambda: guidance.feedback(0.5, scale_max=1.0), "scale_max.*1.0"),
        (
            lambda: guidance.feedback_from_times(steps.ddpm(schedules.linear(), 9), 1.0, 0.5),
            "t0.*1.0",
        ),
        (lambda: guidance.interval(guidance.unguided(), sigma_min=2, sigma_max=1), "2 and 1"),
        (lambda: guidance.sum_of(), "at least one"),
        (lambda: guidance.classifier_free("strong"), "guidance_scale must be a number.*strong"),
        (lambda: guidance.negative_prompt(1.0, negatives=("a", "b", "a")), "'a' is named twice"),
        (lambda: guidance.recorder(("a", "a")), "'a' is named twice"),
        (lambda: posterior.pair(negatives=("a", "a")), "'a' is named twice"),
        (lambda: posterior.classes(2, [0], concepts=("a", "a")), "'a' is named twice"),
        (lambda: posterior.pair(p_min=0.9, p_max=0.1), "p_min must lie below p_max, got 0.9"),
        (lambda: posterior.pair(delta=[1.0, 2.0]), "delta must be a number"),
        (lambda: posterior.pair(temperature=np.ones(3)), "temperature must be a number"),
        (lambda: posterior.classes(2, [0.7]), "0.7"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("log_odds", [-200.0, -3.0, 0.0, 4.0, 9.0, 30.0, 200.0])
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 5.0])
def test_mixture_form_never_turns_towards_what_is_forbidden(log_odds, scale):
    # eps = a + p (1 - lambda_0)(n - a) by hand: at lambda_0 = 1 it is a, however sure the tracker.
    rule = guidance.dynamic_negative(posterior.classes(2, [0]), scale)
    x = jnp.zeros((1, 1))
    preds = {"class:0": jnp.full((1, 1), 10.0), "class:1": jnp.full((1, 1), -10.0)}
    row = jax.tree.map(lambda c: c[0], steps.ddpm(schedules.linear(), 3))
    state = jax.nn.log_softmax(jnp.array([[log_odds, 0.0]]))
    delta, _, info = rule.apply(state, Step(row, x, preds, None, None))
    p = 1 / (1 + np.exp(-np.float64(log_odds)))
    assert float(delta[0, 0]) == pytest.approx(-10 + p * (1 - scale) * 20, abs=1e-4)
    assert np.isfinite(float(info["lambda"][0]))
