"""Calibrations of trackers for scenes: which answer belongs to which question."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax import posterior, schedules, steps
from dng_jax.experiments import scene_calibrations
from dng_jax.posterior.evidence import Evidence

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_a_scene_shows_the_digits_of_its_cells():
    found = scene_calibrations.shown(np.array([[4, 4], [0, 9]]))
    assert np.flatnonzero(found[0]).tolist() == [4]
    assert np.flatnonzero(found[1]).tolist() == [0, 9]
    assert scene_calibrations.CONCEPTS["negative:8"] == "an eight"


def test_a_tracker_that_overstates_its_ratios_is_cooled_by_what_scenes_show():
    """Gaussian evidence whose log-ratios are three times what they should be, of digits that are
    in .19 of scenes: tau must be 1/3 and the offset about 0, and answers to other questions than
    their own would give tau 0."""
    rng, scenes, prior = np.random.default_rng(0), 600, 0.19
    table = steps.ddpm(schedules.respace(schedules.cosine(), 6))
    labels = rng.integers(10, size=(scenes, 2))
    there = scene_calibrations.shown(labels)  # [B, 10]
    # log ratio against "not there" l ~ N(+-s^2/2, s^2) at each of 5 steps; p against all scenes
    s = 1.5
    rise = np.where(there, s**2 / 2, -(s**2) / 2) + s * rng.normal(size=(5, scenes, 10))
    odds = np.log(prior / (1 - prior)) + np.concatenate([0 * rise[:1], np.cumsum(rise, 0)])
    log_p = -np.logaddexp(0, -odds)
    k_var = np.asarray(table.k_var, np.float64)[:5, None, None]
    inner = 3 * np.diff(log_p, axis=0) * k_var  # gram 0: log p moves by tau 2 inner / (2 k_var)
    nothing = jnp.zeros((5, scenes, 10))
    evidence = Evidence(
        jnp.asarray(inner, jnp.float32),
        nothing,
        jnp.zeros((5, scenes, 10, 10)),
        nothing,
        "reference",
    )
    tracker = posterior.pair(prior, reference="reference")
    fit = scene_calibrations.fitted(tracker, evidence, table, labels, knots=2)
    assert fit.after < fit.before
    np.testing.assert_allclose(fit.temperature.values, 1 / 3, atol=0.05)
    total = jax.vmap(lambda row: fit.offset(row))(jax.tree.map(lambda a: jnp.asarray(a)[:5], table))
    assert abs(float(total.sum())) < 0.3
