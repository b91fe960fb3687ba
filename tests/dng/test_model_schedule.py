"""Schedules of published models: the grids of diffusers, and what cannot be sampled."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest

from dng_jax import schedules, steps
from dng_jax.errors import InputError
from dng_jax.stable_diffusion import schedule
from tests import text_reference as reference

STORED, STEPS = reference.SCHEDULER, reference.STEPS
SD15 = schedule.from_config(STORED)


def numbers(found, table):
    """The timesteps of a table's rows."""
    return np.asarray(jax.vmap(found.level)(table))


@pytest.mark.parametrize("spacing", reference.SPACINGS)
def test_timesteps_are_those_of_diffusers(spacing):
    found = schedule.from_config(STORED | {"timestep_spacing": spacing})
    grids = np.split(reference.golden("diffusers_grids")[spacing], np.cumsum(STEPS)[:-1])
    level = jax.jit(jax.vmap(found.level))
    for count, grid in zip(STEPS, grids, strict=True):
        if (spacing, count) == ("leading", 1000):  # diffusers' own run fails there
            assert grid[0] == 1000
            with pytest.raises(InputError, match="begin at timestep 1000, and the network knows 0"):
                found.table(count)
            continue
        visited = found.visited(count)
        index = np.searchsorted(-found.levels.logsnr, -visited.logsnr)
        np.testing.assert_array_equal(index[::-1], grid)
        if count in (30, 999):
            np.testing.assert_array_equal(level(found.table(count)), grid)


def test_the_levels_are_those_of_stable_diffusion():
    alpha_bar = SD15.levels.alpha**2
    assert len(alpha_bar) == 1000
    assert alpha_bar[0] == pytest.approx(1 - 0.00085)
    assert alpha_bar[-1] == pytest.approx(0.00466, rel=1e-3)
    assert SD15[1:] == ("eps", "leading", 1)


def test_steps_are_of_any_kind_and_end_at_the_clean_image():
    table = SD15.table(20, partial(steps.ddim, eta=0.5))
    assert numbers(SD15, table).tolist() == list(range(951, 0, -50))
    np.testing.assert_array_equal(table.alpha[1:], table.alpha_next[:-1])
    assert (table.alpha_next[-1], table.sigma_next[-1], table.k_var[-1]) == (1, 0, np.inf)
    assert steps.noise_ratio(table) == pytest.approx(0.25, rel=1e-4)


def test_fields_say_what_they_say_in_diffusers():
    v = {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
    assert schedule.from_config(STORED | v)[1:] == ("v", "leading", 1)
    xl = {"_class_name": "EulerDiscreteScheduler", "interpolation_type": "linear",
          "use_karras_sigmas": False, "sample_max_value": 1.0}  # fmt: skip
    assert schedule.from_config(STORED | xl)[1:] == ("eps", "linspace", 1)
    bare = {n: v for n, v in STORED.items() if n not in ("steps_offset", "clip_sample")}
    assert schedule.from_config(bare).steps_offset == 0
    for name, own in (("linear", schedules.linear(1000, 0.00085, 0.012)),
                      ("squaredcos_cap_v2", schedules.cosine())):  # fmt: skip
        found = schedule.from_config(STORED | {"beta_schedule": name}).levels
        np.testing.assert_array_equal(found.alpha, own.alpha)


CONFIGS = {
    "clipped": ({"clip_sample": True}, r"clip_sample true \(must be false\)"),
    "zero terminal SNR": ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr true"),
    "two at once": (
        {"use_karras_sigmas": True, "thresholding": True},
        r"thresholding true .*; use_karras_sigmas true",
    ),
    "own betas": ({"trained_betas": [0.1]}, r"trained_betas \[0.1\] \(must be null\)"),
    "another prediction": ({"prediction_type": "flow_prediction"}, "must be epsilon or v_predic"),
    "another spacing": ({"timestep_spacing": ["leading"]}, "must be leading or trailing or lin"),
    "other betas": ({"beta_schedule": "sigmoid"}, r'beta_schedule "sigmoid" \(must be linear or'),
    "another scheduler": ({"_class_name": "LCMScheduler"}, '_class_name "LCMScheduler"'),
    "learned variance": ({"variance_type": "learned_range"}, 'variance_type "learned_range"'),
    "another key": ({"shift": 3.0}, r"shift 3.0 \(not known\)"),
    "text": ({"steps_offset": "1"}, "steps_offset must be a whole number, got '1'"),
    "no levels": ({"num_train_timesteps": 0}, "num_train_timesteps must be at least 1"),
    "too many": ({"num_train_timesteps": 10**9}, "at most 100000"),
    "no betas": ({"beta_end": 1.5}, "beta_end 1.5 .*between 0 and 1"),
    "true": ({"beta_start": True}, "beta_start true"),
    "lacking": ({"beta_start": ...}, "beta_start is missing"),
}  # fmt: skip


@pytest.mark.parametrize("what", CONFIGS)
def test_what_cannot_be_sampled_is_named(what):
    changes, text = CONFIGS[what]
    stored = {name: value for name, value in (STORED | changes).items() if value is not ...}
    with pytest.raises(InputError, match=text) as caught:
        schedule.from_config(stored)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("steps_asked", "text"),
    [(0, "at least 1"), (1001, "1001 steps lie outside the schedule"), (2.0, "whole number")],
)
def test_step_counts_that_there_are_not_are_refused(steps_asked, text):
    with pytest.raises(InputError, match=text):
        SD15.table(steps_asked)


def test_an_offset_beyond_the_schedule_is_refused():
    with pytest.raises(InputError, match="begin at timestep 1050"):
        SD15._replace(steps_offset=100).table(20)
