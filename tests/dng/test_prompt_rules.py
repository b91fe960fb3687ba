"""Rules of prompts against their formulas, written out on predictions that are given."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax import guidance, schedules, steps
from dng_jax.denoisers.branches import branches, negative_roles
from dng_jax.errors import InputError
from dng_jax.experiments import prompt_rules
from dng_jax.experiments.rule_specs import TrackerOptions
from dng_jax.rules import Step

W, LENGTH, SHAPE = 3.0, 12, (2, 2, 3)
TABLE = steps.ddpm(schedules.linear(), LENGTH)
LEVELS = np.asarray(TABLE.sigma / TABLE.alpha)


def built(text, negatives=1, w=W, **changes):
    (spec,) = prompt_rules.parse_all([text])
    roles = negative_roles(negatives) if negatives else ()
    return prompt_rules.build(spec, roles, "d", w, **changes)


def raw(negatives, seed=0):
    """u, A and the negatives at every step, close enough that SLD's mask is between 0 and 1."""
    rng = np.random.default_rng(seed)
    names = ("empty", "prompt", *negative_roles(negatives))
    far = {name: rng.normal(size=(LENGTH, *SHAPE)).astype(np.float32) for name in names}
    return {name: far["empty"] + 5e-4 * far[name] for name in names}


def predicted(made, preds, negatives):
    """What the rule makes of raw predictions, [T, ...]."""
    rule, variant, _ = made
    weights = branches(lambda *a: {}, variant, W, negatives=negative_roles(negatives)).weights
    x = jnp.zeros(SHAPE)
    state, whole = rule.init_state(x), []
    for i in range(LENGTH):
        row = jax.tree.map(lambda c, i=i: jnp.asarray(c[i]), TABLE)
        roles = {
            role: sum(w * preds[name][i] for name, w in weights[role].items())
            for role in rule.roles
        }
        step = Step(row, x, roles, None, None)
        delta, state, _ = rule.apply(state, step)
        whole.append(np.asarray(step.base + delta))
    return np.stack(whole)


def sld_by_hand(preds, negatives, s):
    """w (A - u - s sum_k gamma_k) on top of u; "medium" of arXiv 2211.05105."""
    u, positive = (preds[n].astype(np.float64) for n in ("empty", "prompt"))
    v = dict.fromkeys(negative_roles(negatives), 0.0)
    whole = []
    for i in range(LENGTH):
        total = 0.0
        for role in v:
            b = preds[role][i].astype(np.float64)
            d = positive[i] - b
            mu = np.where(d < 0.01, np.minimum(1, 1000 * np.abs(d)), 0)
            gamma = mu * (b - u[i]) + 0.3 * v[role]
            v[role] = 0.4 * v[role] + 0.6 * gamma
            total = total + (gamma if i >= 10 else 0.0)
        whole.append(u[i] + W * (positive[i] - u[i] - s * total))
    return np.stack(whole)


@pytest.mark.parametrize(("negatives", "s"), [(1, 1.0), (1, 0.5), (2, 1.0), (2, 2.0)])
def test_sld_is_w_times_the_prompt_without_its_negatives(negatives, s):
    preds = raw(negatives)
    got = predicted(built(f"sld={s}", negatives), preds, negatives)
    wanted = sld_by_hand(preds, negatives, s)
    assert np.abs(wanted - sld_by_hand(preds, negatives, 0.0)).max() > 1e-4
    np.testing.assert_allclose(got, wanted, atol=3e-6)


def test_sld_of_strength_1_is_its_papers_rule():
    preds = raw(1)
    usual = prompt_rules.PromptRule(guidance.safe_latent_prompt(W), "raw")
    np.testing.assert_array_equal(predicted(built("sld=1"), preds, 1), predicted(usual, preds, 1))


@pytest.mark.parametrize(
    ("rule", "negatives"), [("sld=.7", 1), ("sld=.7", 2), ("inplace", 1), ("feedback=.9", 2)]
)
def test_outside_an_interval_rules_of_raw_predictions_are_the_prompt_alone(rule, negatives):
    preds = raw(negatives)
    low, high = float(LEVELS[7]) * 1.01, float(LEVELS[2]) * 0.99  # rows 3 to 6 are inside
    got = predicted(built(f"interval({low},{high},{rule})", negatives), preds, negatives)
    whole = predicted(built(rule, negatives), preds, negatives)
    inside = np.isin(np.arange(LENGTH), range(3, 7))
    np.testing.assert_allclose(got[~inside], preds["prompt"][~inside], atol=1e-6)
    np.testing.assert_array_equal(got[inside], whole[inside])


def test_in_place_is_cfg_from_the_negative_to_the_prompt():
    preds = raw(1)
    b, a = (preds[n].astype(np.float64) for n in ("negative", "prompt"))
    got = predicted(built("inplace"), preds, 1)
    np.testing.assert_allclose(got, b + W * (a - b), atol=3e-6)
    with pytest.raises(InputError, match=r"one negative in the place .* not 2: name them in one"):
        built("inplace", 2)


def test_feedback_starts_from_lambda_1_over_pi_and_needs_no_negative():
    # r = 1 at the beginning, so lambda = 1 / pi; base u, whatever the variant.
    preds = raw(1)
    u, a = (preds[n][0].astype(np.float64) for n in ("empty", "prompt"))
    made = built("feedback=.8", 0)
    assert made.variant == "raw"
    np.testing.assert_allclose(predicted(made, preds, 1)[0], u + (a - u) / 0.8, atol=1e-6)
    timed = built("feedback=.9,t0=.7,t1=.5", 0, table=TABLE).rule
    usual = guidance.feedback_from_times(TABLE, 0.7, 0.5)
    assert float(timed.offset) == float(usual.offset) != 0
    with pytest.raises(InputError, match="give both t0 and t1"):
        built("feedback=.9,t0=.7", 0)


def test_a_rule_without_a_scale_is_the_one_that_is_described():
    found = {str(spec) for spec in prompt_rules.parse_all(["np", "sld", "feedback", "dng"])}
    assert found == {"np=1", "sld=1", "feedback=0.9", "dng:pair=1"}


def test_a_negative_w_is_refused_by_its_option():
    with pytest.raises(InputError, match="sld=1 needs a --guidance-scale of 0 at least, got -2"):
        built("sld=1", w=-2.0)


def test_lambda_is_capped_but_in_the_papers_own_rule():
    assert float(built("dng:pair=5").rule.scale_max) == prompt_rules.SCALE_MAX == 10
    assert float(built("dng:odds=5,drift=.5").rule.scale_max) == 10
    assert np.isinf(float(built("dng:pair=27", scale_max=None).rule.scale_max))
    prior = built("dng:pair", options=TrackerOptions(prior=0.3)).rule.tracker.initial
    assert float(prior[0]) == pytest.approx(np.log(0.3))


def test_skip_and_every_ask_for_negatives_on_demand():
    rule = built("dng:pair=5,skip=.2,every=4", 2).rule
    assert rule.on_demand == ("negative:0", "negative:1")
    assert (float(rule.skip_below), float(rule.every)) == (pytest.approx(0.2), 4)
    assert rule.tracker.reference == "reference"
    assert float(rule.rule.scale_max) == 5
    assert built("np=2,every=8").rule.on_demand == ("negative",)
    for words, said in (
        ("dng:odds,every=4", "dng:odds=1,every=4: every belongs to skip, give both"),
        ("dng:odds,skip=.2,drift=.5", "a drift is given back step by step"),
    ):
        with pytest.raises(InputError, match=said):
            built(words)
