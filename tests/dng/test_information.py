"""The information budget against the posterior of the exact model."""

from __future__ import annotations

import numpy as np
import pytest

from dng_jax import InputError, mixtures, sample_keys, schedules, steps
from dng_jax.posterior import information_budget
from dng_jax.posterior.information import Budget

# Not unoptimised: 100 levels of 4,000 images are all that this file computes.
TABLE = steps.ddpm(schedules.respace(schedules.linear(), 100), 100)
# Three classes that part within the table's range, of unequal shares, one of two components.
MEANS = np.array([[2.0, 0, 0], [0, 2.5, 0], [0, 0, -2.0], [-2, -2, 2]])
MIXTURE = mixtures.gaussians(MEANS, 0.2, [0, 1, 1, 2], [0.2, 0.3, 0.2, 0.3])
DUE = -(0.2 * np.log(0.2) + 0.5 * np.log(0.5) + 0.3 * np.log(0.3))


@pytest.fixture(scope="module")
def drawn():
    x_0, labels = MIXTURE.draw(sample_keys(3, 4000))
    return x_0, np.asarray(labels)


@pytest.fixture(scope="module")
def budget(drawn):
    denoise = mixtures.mixture_denoiser(MIXTURE)
    return information_budget(denoise, TABLE, *drawn, sample_keys(4, 4000), num_classes=3)


def test_both_integrals_are_the_entropy_of_the_class(budget, drawn):
    for values in (budget.by_loss(), budget.by_gap()):
        error = values.std() / np.sqrt(len(values))
        assert error < 0.012 * DUE  # or the next line could not fail
        assert values.mean() == pytest.approx(DUE, abs=0.02 * DUE)
    whole, *classes = budget.shares(drawn[1], MIXTURE.prior)
    assert whole.images == 4000
    assert whole.loss.low < whole.loss.value == pytest.approx(budget.by_loss().mean())
    for share, prior in zip(classes, (0.2, 0.5, 0.3), strict=True):
        assert share.due == pytest.approx(-np.log(prior), rel=1e-5)
        assert share.loss.low < share.due < share.loss.high


def test_the_integral_up_to_a_level_is_what_the_posterior_says_there(budget, drawn):
    x_0, labels = drawn
    for i in (33, 50, 66):
        alpha, sigma = TABLE.alpha[i], TABLE.sigma[i]
        z = np.random.default_rng(i).normal(size=x_0.shape).astype("f4")
        log_p = np.asarray(MIXTURE.log_posterior(alpha * x_0 + sigma * z, alpha, sigma))
        told = log_p[np.arange(len(labels)), labels]
        so_far = Budget(budget.logsnr[: i + 1], budget.loss[:, : i + 1], budget.gap[:, : i + 1])
        error = np.hypot(told.std(), so_far.by_loss().std()) / np.sqrt(len(labels))
        # log-prior + information = mean log-posterior
        assert told.mean() + DUE == pytest.approx(so_far.by_loss().mean(), abs=4 * error)


def test_a_base_that_errs_more_has_too_large_a_budget(drawn):
    exact = mixtures.mixture_denoiser(MIXTURE)

    def worse(x, row, roles):
        answers = exact(x, row, roles)
        return answers | {"base": answers["base"] + 0.1}

    found = information_budget(worse, TABLE, *drawn, sample_keys(4, 4000), num_classes=3)
    excess = 0.5 * 3 * 0.1**2 * (TABLE.logsnr[-1] - TABLE.logsnr[0])
    assert found.by_loss().mean() == pytest.approx(DUE + excess, abs=0.03)
    assert found.by_gap().mean() == pytest.approx(DUE + excess, abs=0.06)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.zeros(4000), "4000 integers, got float64"),
        (np.zeros(3, int), "4000 integers"),
        (np.full(4000, 3), r"0\.\.2"),
        (np.full(4000, -1), r"0\.\.2"),
    ],
)
def test_labels_that_are_none_are_refused(drawn, labels, said):
    denoise = mixtures.mixture_denoiser(MIXTURE)
    keys = sample_keys(4, 4000)
    with pytest.raises(InputError, match=said):
        information_budget(denoise, TABLE, drawn[0], labels, keys, num_classes=3)


@pytest.mark.parametrize(
    ("x_0", "keys", "said"),
    [
        (np.zeros((4, 3), np.uint8), 4, "must be floats in .*, got uint8"),
        (np.zeros((4, 3), np.float32), 3, "4 images and 3 keys"),
        (np.zeros((0, 3), np.float32), 0, "0 images and 0 keys"),
    ],
)
def test_images_and_keys_that_do_not_fit_are_refused(x_0, keys, said):
    denoise, labels = mixtures.mixture_denoiser(MIXTURE), np.zeros(len(x_0), int)
    with pytest.raises(InputError, match=said):
        information_budget(denoise, TABLE, x_0, labels, sample_keys(4, keys), num_classes=3)


def test_half_precision_is_taken_in_float32(drawn):
    denoise, keys = mixtures.mixture_denoiser(MIXTURE), sample_keys(4, 4000)
    half = drawn[0].astype("float16")
    pair = [
        information_budget(denoise, TABLE, x, drawn[1], keys, num_classes=3).by_loss()
        for x in (half, half.astype("float32"))
    ]
    np.testing.assert_array_equal(*pair)


def test_where_nothing_is_due_nothing_is_a_share_of_it():
    one = Budget(np.array([-1.0, 1.0]), np.ones((4, 2)), np.ones((4, 2)))
    whole, first, second = one.shares(np.zeros(4, int), [1.0, 0.0])
    assert (whole.due, first.images, second.images) == (0, 4, 0)
    assert np.isnan([whole.closed, second.due]).all()
