"""Every rule on every step table: shapes, dtypes, jit, vmap, grad, one trace per program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax import Rule, guidance, posterior, sampling, schedules, steps
from tests.helpers import Counted, Log

CLASSES = (0.4, 0.1, 0.5)
# name -> (one number of the rule -> rule); the number is traced under vmap and grad
RULES = {
    "unguided": None,
    "cfg": lambda v: guidance.classifier_free(v),
    "np": lambda v: guidance.negative_prompt(v),
    "np-two": lambda v: guidance.negative_prompt(v, negatives=("negative", "second")),
    "in-place": lambda v: guidance.negative_in_place(v),
    "sld": lambda v: guidance.safe_latent(v),
    "sld-prompt": lambda v: guidance.safe_latent_prompt(v, preset="strong"),
    "pair": lambda v: guidance.dynamic_negative(posterior.pair(0.1, probes=1), v),
    "pair-two": lambda v: guidance.dynamic_negative(
        posterior.pair(0.1, negatives=("negative", "second"), probes=1, temperature=v), 1.0
    ),
    "odds": lambda v: guidance.dynamic_negative(posterior.odds(0.1, drift=v, probes=1), 2.0),
    "classes": lambda v: guidance.dynamic_negative(
        posterior.classes(3, [0], prior=CLASSES, probes=1), v
    ),
    "classes-model": lambda v: guidance.dynamic_negative(
        posterior.classes(3, [0, 2], temperature=v, probes=1), 1.0, base="model"
    ),
    "oracle": lambda v, mixture: guidance.dynamic_negative(posterior.oracle(mixture, [0]), v),
    "feedback": lambda v: guidance.feedback(0.5 + v / 4, temperature=v, offset=-0.01),
    "sum": lambda v: guidance.sum_of(
        guidance.classifier_free(v),
        guidance.dynamic_negative(posterior.classes(3, [0], probes=1), 1.0),
    ),
    "interval": lambda v: guidance.interval(
        guidance.dynamic_negative(posterior.pair(0.1, probes=1), v), sigma_min=0.2, sigma_max=20
    ),
}
TABLES = {name: make(schedules.linear(), 4) for name, make in steps.TABLES.items()}
TABLES["ve"] = steps.euler_ancestral(schedules.edm(20), 4)
TABLES["flow"] = steps.ddim(schedules.flow(), 4, eta=0.5)


SLOPES = {"base": 0.5, "negative": 0.8, "positive": 0.3, "second": 0.2}
SLOPES |= {"class:0": 0.8, "class:1": 0.3, "class:2": 0.4}


@jax.tree_util.Partial
def tiny(x, row, roles):
    """Exact for one Gaussian per role, N(m - 1/2, m), so that the compiler has little to do."""
    return {
        role: row.sigma * (x - row.alpha * (m - 0.5)) / (row.alpha**2 * m + row.sigma**2)
        for role, m in ((role, SLOPES[role]) for role in roles)
    }


def build(name, value, mixture) -> Rule:
    make = RULES[name]
    if make is None:
        return guidance.unguided()
    return make(value, mixture) if name == "oracle" else make(value)


@pytest.mark.parametrize("name", RULES)
def test_rule_on_every_table(name, mixture, keys):
    """One program: tables of one length, and all numbers of the rule, are data."""
    log = Log()
    counting = Counted(tiny, (log,))
    rule = build(name, 0.7, mixture)
    assert isinstance(rule, Rule)
    traces = None
    for table in TABLES.values():
        x = sampling.initial_noise(keys, (2, 2), table)
        result = sampling.sample(counting, table, rule, keys, x)
        # a probe asks the denoiser a second time within a trace, never more
        traces = len(log) if traces is None else traces
        assert len(log) == traces
        assert result.x.shape == (8, 2, 2)
        assert result.x.dtype == jnp.float32
        assert np.isfinite(result.x).all()
        assert np.abs(result.x).max() < 30
        assert np.all(np.asarray(result.bad_step) > 4)
        for leaf in jax.tree.leaves(result.state):
            assert leaf.shape[0] == 8
            assert leaf.dtype == jnp.float32
            assert np.isfinite(leaf).all()
        for scalar in result.trace.values():
            assert scalar.shape == (4, 8)
            assert np.isfinite(scalar).all()
    other = build(name, 0.4, mixture)
    again = sampling.sample(counting, table, other, keys, x)
    assert len(log) == traces
    probed = "probes=1" in repr(rule)
    assert traces == (2 if probed else 1)
    assert set(log) == {rule.roles}
    if name not in ("unguided", "odds"):
        assert np.abs(np.asarray(again.x - result.x)).max() > 1e-4
    assert set(result.trace) == set(again.trace)


# the same code as a quicker case's, once more
REPEATS = {"classes-model", "sum", "pair-two", "interval", "np-two", "sld-prompt"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in REPEATS else [])
        for name in RULES
        if RULES[name] is not None
    ],
)
def test_numbers_can_be_mapped_over_and_differentiated(name, mixture, keys):
    table = TABLES["ddpm"]
    x = sampling.initial_noise(keys, (2, 2), table)

    def mean_square(value):
        return (
            jnp.square(sampling.sample(tiny, table, build(name, value, mixture), keys, x).x)
        ).mean()

    values = jnp.array([0.3, 0.6])
    both, slopes = jax.jit(jax.vmap(jax.value_and_grad(mean_square)))(values)
    assert np.isfinite(slopes).all()
    # the slope is that of the secant somewhere between: its sign and size, from the two values
    secant = float(both[1] - both[0]) / 0.3
    inside = sorted(np.asarray(slopes, float))
    slack = 0.5 * (inside[1] - inside[0]) + 0.05 * abs(secant) + 1e-4
    assert inside[0] - slack < secant < inside[1] + slack


KINDS = posterior.classes(3, [0])
PAIR = guidance.dynamic_negative(posterior.pair(0.1))


@pytest.mark.parametrize(
    ("rule", "roles"),
    [
        (guidance.unguided("class:1"), "class:1"),
        (guidance.classifier_free(1.0), "base positive"),
        (guidance.negative_in_place(1.0), "positive negative"),
        (guidance.safe_latent(1.0), "base negative"),
        (guidance.safe_latent_prompt(), "base positive negative"),
        (PAIR, "base negative"),
        (guidance.dynamic_negative(KINDS), "class:0 class:1 class:2"),
        (guidance.dynamic_negative(KINDS, base="model"), "base class:0 class:1 class:2"),
        (guidance.interval(guidance.dynamic_negative(KINDS)), "base class:0 class:1 class:2"),
        (guidance.feedback(), "base positive"),
        (guidance.sum_of(PAIR, guidance.classifier_free(1.0)), "base negative positive"),
    ],
)
def test_a_rule_asks_for_each_role_once(rule, roles):
    assert rule.roles == tuple(roles.split())
