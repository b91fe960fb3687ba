"""Rules that carry nothing along the chain, at some steps alone: nothing is asked at the others."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from dng_jax import InputError, denoisers, guidance, posterior, sampling, schedules, steps

pytestmark = pytest.mark.usefixtures("quick_compilation")

TABLE = steps.ddpm(schedules.linear(), 12)
LEVEL = np.asarray(TABLE.sigma, np.float64) / np.asarray(TABLE.alpha, np.float64)
MEANS = {"base": 0.0, "negative": -0.3}
NP = guidance.negative_prompt(2.0)


def predicted(x, alpha, sigma, role):
    """Exact for one Gaussian per role, N(mean, 0.5^2)."""
    return sigma * (x - alpha * MEANS[role]) / ((0.5 * alpha) ** 2 + sigma**2)


@jax.tree_util.Partial
def gaussians(x, row, roles):
    return {role: predicted(x, row.alpha, row.sigma, role) for role in roles}


NETWORKS = denoisers.separate_networks(dict.fromkeys(MEANS, gaussians))

CASES = {
    "periodic": (guidance.periodic(NP, 5), np.arange(12) % 5 == 0),
    "every step": (guidance.periodic(NP, 1), np.ones(12, bool)),
    "interval": (
        guidance.interval(NP, sigma_min=LEVEL[8], sigma_max=LEVEL[3]),
        (np.arange(12) >= 3) & (np.arange(12) < 8),
    ),
    "both": (
        guidance.interval(guidance.periodic(NP, 2), sigma_max=LEVEL[3]),
        (np.arange(12) >= 3) & (np.arange(12) % 2 == 0),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_negative_is_asked_for_where_it_guides_and_nowhere_else(case, keys):
    rule, guides = CASES[case]
    x = sampling.initial_noise(keys, (2, 2), TABLE)
    result = sampling.sample(NETWORKS, TABLE, rule, keys, x, save=("x", "denoised"))
    alpha, sigma = (
        np.asarray(c, np.float64)[:, None, None, None] for c in (TABLE.alpha, TABLE.sigma)
    )
    at, denoised = (np.asarray(result.trace[n], np.float64) for n in ("x", "denoised"))
    base, negative = (predicted(at, alpha, sigma, role) for role in MEANS)
    pushed = np.where(guides[:, None, None, None], 2.0 * (base - negative), 0.0)
    np.testing.assert_allclose(denoised, (at - sigma * (base + pushed)) / alpha, atol=2e-4)
    for name in ("asked", "run"):
        np.testing.assert_array_equal(result.trace[name], np.repeat(guides[:, None], 8, 1))


def test_what_has_to_be_asked_at_every_step_still_is():
    tracked = guidance.dynamic_negative(posterior.pair(0.2))
    assert guidance.interval(tracked).on_demand == ()
    # outside its interval CFG falls back to the prompt
    assert guidance.interval(guidance.classifier_free(2.0)).on_demand == ()
    both = guidance.sum_of(guidance.periodic(NP, 5), tracked)
    assert both.on_demand == ()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: guidance.periodic(NP, 2.5), "every must be a whole number, got 2.5"),
        (lambda: guidance.periodic(NP, 0), "every must lie between 1"),
        (lambda: guidance.periodic(guidance.classifier_free(2.0), 2), "ClassifierFree cannot be"),
        (
            lambda: guidance.periodic(guidance.dynamic_negative(posterior.pair(0.2)), 2),
            "a DynamicNegative cannot be limited to one step in so many",
        ),
    ],
)
def test_what_cannot_be_periodic_is_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()
