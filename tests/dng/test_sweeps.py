"""Sweeps: K settings in one program are K runs."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from dng_jax import InputError, guidance, initial_noise, posterior, sample, schedules, steps, sweep
from dng_jax.sweeps import stack
from tests.helpers import Counted, Log, tiny

TABLE = steps.ddpm(schedules.linear(), 6)


def rules(scales, prior=0.2):
    return [guidance.dynamic_negative(posterior.pair(prior), s) for s in scales]


@pytest.fixture(scope="module")
def noise(keys):
    return initial_noise(keys, (2, 2), TABLE)


@pytest.fixture(scope="module")
def single(keys, noise):
    runs = [sample(tiny, TABLE, rule, keys, noise) for rule in rules((0.0, 1.0, 3.0))]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *runs)


@pytest.mark.parametrize(
    "how", [{"mode": "map"}, {"mode": "map", "chunk": 2}, {"mode": "vmap"}], ids=str
)
def test_a_sweep_is_its_single_runs_in_one_program(how, single, keys, noise):
    log = Log()
    counting = Counted(tiny, (log,))
    result = sweep(counting, TABLE, rules((0.0, 1.0, 3.0)), keys, noise, **how)
    np.testing.assert_allclose(result.x, single.x, atol=1e-5)
    np.testing.assert_allclose(result.state, single.state, atol=1e-4)
    for name, value in single.trace.items():
        np.testing.assert_allclose(result.trace[name], value, rtol=2e-4, atol=1e-5)
    assert result.trace["lambda"].shape == (3, 6, 8)
    assert np.abs(np.asarray(result.x[0] - result.x[2])).max() > 1e-2
    traces = len(log)
    other = steps.ddpm_paper(schedules.scaled_linear(), 6)
    sweep(counting, other, stack(rules((0.5, 2.0, 9.0), prior=0.4)), keys, noise, **how)
    assert traces == 1
    assert len(log) == 1


@pytest.mark.parametrize("how", [{"mode": "map"}, {"mode": "vmap"}], ids=str)
def test_what_is_not_wanted_is_zeros(how, single, keys, noise):
    wanted = np.array([True, False, True])
    result = sweep(tiny, TABLE, rules((0.0, 1.0, 3.0)), keys, noise, wanted=wanted, **how)
    np.testing.assert_allclose(result.x[wanted], single.x[wanted], atol=1e-5)
    assert not any(np.any(leaf[~wanted]) for leaf in jax.tree.leaves(result))


def test_a_deterministic_sweep_warns_as_a_run_does(keys, noise):
    with pytest.warns(UserWarning, match="divergence probe"):
        sweep(tiny, steps.ddim(schedules.linear(), 6), rules((1.0, 2.0)), keys, noise)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda k, x: sweep(tiny, TABLE, [], k, x), "at least one"),
        (
            lambda k, x: sweep(tiny, TABLE, [*rules([1.0]), guidance.classifier_free(1.0)], k, x),
            "of one kind",
        ),
        (
            lambda k, x: sweep(
                tiny,
                TABLE,
                [guidance.classifier_free(1.0), guidance.classifier_free(1.0, positive="base")],
                k,
                x,
            ),
            "of one kind",
        ),
        (lambda k, x: sweep(tiny, TABLE, rules([1.0])[0], k, x), "one stacked rule"),
        (lambda k, x: sweep(tiny, TABLE, rules([1.0]), k, x, mode="pmap"), "'pmap'"),
        (lambda k, x: sweep(tiny, TABLE, rules([1.0]), k, x, shard="rows"), "'rows'"),
        (lambda k, x: sweep(tiny, TABLE, rules([1.0]), k, x, chunk=0), "chunk.*0"),
        (
            lambda k, x: sweep(tiny, TABLE, rules([1.0]), k, x, wanted=[True] * 2),
            "each of 1 setting",
        ),
    ],
)
def test_bad_input_is_named(make, message, keys, noise):
    with pytest.raises(InputError, match=message):
        make(keys, noise)
