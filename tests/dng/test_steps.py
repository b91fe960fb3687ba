"""Step tables against Bayes' rule, published formulas and Gaussians solved in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from dng_jax import InputError, schedules, steps

SCHEDULES = {
    "vp": schedules.linear(),
    "scaled": schedules.scaled_linear(),
    "cosine": schedules.cosine(),
    "ve": schedules.edm(128),
    "flow": schedules.flow(),
}
# float32 columns of float64 arithmetic: half an ulp is 6e-8, and nothing is computed after rounding
RTOL = 1e-7


def rows(table):
    """The table's rows in float64."""
    columns = [np.asarray(column, np.float64) for column in table]
    return [steps.StepRow(*values) for values in zip(*columns, strict=True)]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("count", [None, 17])
def test_ancestral_kernel_is_the_conditional_of_the_forward_process(name, count):
    # (x_s, x_t) given x_0 is jointly Gaussian with covariance [[ss, a ss], [a ss, tt]]: condition.
    schedule = SCHEDULES[name]
    table = steps.ancestral(schedule, count)
    chosen = schedule if count is None else schedules.respace(schedule, count)
    alpha, sigma = chosen.alpha[::-1], chosen.sigma[::-1]
    x_0, eps = 0.7, -1.3
    for i, row in enumerate(rows(table)[:-1]):
        a = alpha[i] / alpha[i + 1]
        ss, tt = sigma[i + 1] ** 2, sigma[i] ** 2
        x_t = alpha[i] * x_0 + sigma[i] * eps
        mean = alpha[i + 1] * x_0 + a * ss / tt * (x_t - alpha[i] * x_0)
        variance = ss - (a * ss) ** 2 / tt
        # the two terms of the mean cancel for large x_t (VE): relative to their size
        size = abs(row.k_x * x_t) + abs(row.k_eps * eps)
        assert abs(row.k_x * x_t + row.k_eps * eps - mean) < RTOL * size
        # ss - (a ss)^2/tt loses digits of float64 where levels are close: 1e-16 ss/variance
        assert row.k_var == pytest.approx(variance, rel=RTOL + 4e-16 * ss / variance)
        assert row.std**2 == pytest.approx(variance, rel=2 * RTOL + 4e-16 * ss / variance)
        assert (row.c_x, row.c_eps) == (row.k_x, row.k_eps)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("make", [*steps.TABLES.values(), lambda s, n: steps.ddim(s, n, eta=0.5)])
def test_every_table_keeps_the_forward_marginals_of_a_known_image(name, make):
    # Given x_0, x_t = alpha x_0 + sigma eps with the true eps: E x_s = alpha_s x_0 + shrunk noise,
    # and the variance of x_s about alpha_s x_0 must be sigma_s^2, unless more noise is asked for.
    table = make(SCHEDULES[name], 12)
    extra = make is steps.TABLES["ddpm-paper"]
    for row in rows(table):
        assert row.c_x * row.alpha == pytest.approx(row.alpha_next, rel=3 * RTOL)
        noise = row.c_x * row.sigma + row.c_eps  # what is left of eps in x_s
        scale = row.c_x * row.sigma
        if not extra:
            # the two columns cancel where a step is large: an ulp of each is what is left
            total = np.hypot(noise, row.std)
            assert total == pytest.approx(row.sigma_next, rel=2 * RTOL, abs=3 * RTOL * scale)


def test_table_ends_at_the_clean_image():
    for make in steps.TABLES.values():
        last = rows(make(SCHEDULES["vp"], 10))[-1]
        assert (last.alpha_next, last.sigma_next, last.std) == (1, 0, 0)
        assert np.isinf(last.k_var)
        # x_0 = (x - sigma eps)/alpha
        assert last.c_x == pytest.approx(1 / last.alpha, rel=RTOL)
        assert last.c_eps == pytest.approx(-last.sigma / last.alpha, rel=RTOL)


def test_layout_of_a_table():
    table = steps.ddpm(SCHEDULES["vp"], 50)
    assert table.index.dtype == np.int32
    np.testing.assert_array_equal(table.index, np.arange(50))
    assert all(column.dtype == np.float32 and column.shape == (50,) for column in table[1:])
    np.testing.assert_array_equal(table.alpha_next[:-1], table.alpha[1:])
    np.testing.assert_array_equal(table.sigma_next[:-1], table.sigma[1:])
    assert np.all(np.diff(table.logsnr) > 0)
    expected = np.log(table.alpha.astype(float) ** 2 / table.sigma.astype(float) ** 2)
    np.testing.assert_allclose(table.logsnr, expected, atol=2e-6)


@pytest.mark.parametrize("count", [1000, 100])
def test_ddpm_formula_of_the_paper(count):
    # the DDPM kernel of dng_jax.posterior, strided: alpha -> abar_t/abar_s and abar_{t-1} -> abar_s
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[999 // count :: 1000 // count][:count]
    table = steps.ddpm(schedules.linear(), count)
    k_x, k_eps, k_var, std = (
        np.asarray(c, np.float64)[::-1] for c in (table.k_x, table.k_eps, table.k_var, table.std)
    )
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[:: -1000 // count][::-1]
    alpha = abar[1:] / abar[:-1]
    np.testing.assert_allclose(k_x[1:], 1 / np.sqrt(alpha), rtol=1e-7)
    np.testing.assert_allclose(
        k_eps[1:], -(1 - alpha) / np.sqrt(1 - abar[1:]) / np.sqrt(alpha), rtol=1e-7
    )
    s2 = (1 - abar[:-1]) / (1 - abar[1:]) * (1 - alpha)
    np.testing.assert_allclose(k_var[1:], s2, rtol=1e-7)
    np.testing.assert_allclose(std[1:], np.sqrt(s2), rtol=1e-7)


def test_authors_combination_samples_beta_and_scores_beta_tilde():
    table = steps.ddpm_paper(schedules.linear())
    betas = np.linspace(1e-4, 0.02, 1000)
    np.testing.assert_allclose(table.std[::-1][1:], np.sqrt(betas[1:]), rtol=1e-7)
    ratio = steps.noise_ratio(table)[::-1]  # entry 0 belongs to t = 1
    assert len(ratio) == 999
    assert (ratio[0], ratio[49]) == (pytest.approx(2.20, abs=5e-3), pytest.approx(1.04, abs=5e-3))
    assert np.all(np.abs(ratio[499:] - 1) < 2e-3)
    np.testing.assert_array_equal(table.k_var, steps.ddpm(schedules.linear()).k_var)


def test_variances_of_both_roles_combine():
    schedule = schedules.linear()
    alpha = schedule.alpha[::-1] ** 2
    beta = 1 - alpha[:-1] / alpha[1:]
    tilde = beta * (1 - alpha[1:]) / (1 - alpha[:-1])
    for sampling, std2 in (("posterior", tilde), ("beta", beta)):
        for scoring, k_var in (("posterior", tilde), ("beta", beta)):
            table = steps.ancestral(schedule, sampling_variance=sampling, scoring_variance=scoring)
            np.testing.assert_allclose(table.std[:-1].astype(float) ** 2, std2, rtol=3e-7)
            np.testing.assert_allclose(table.k_var[:-1], k_var, rtol=2e-7)
            assert np.isinf(table.k_var[-1])
            assert table.std[-1] == 0


def test_noise_ratio_of_ddim_is_eta_squared():
    for eta in (0.0, 0.3, 1.0):
        ratio = steps.noise_ratio(steps.ddim(SCHEDULES["vp"], 20, eta=eta))
        np.testing.assert_allclose(ratio, eta**2, rtol=1e-6)


# ------------------------------------------------------------------------ other people's formulas


@pytest.mark.parametrize("name", SCHEDULES)
def test_ddim_with_full_noise_is_ancestral(name):
    one, other = steps.ddim(SCHEDULES[name], 25, eta=1.0), steps.ancestral(SCHEDULES[name], 25)
    for field, a, b in zip(one._fields, one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, err_msg=field)


def test_ddim_is_song_et_al_equation_12():
    schedule = schedules.linear()
    table = steps.ddim(schedule, 50, eta=0.4)
    chosen = schedules.respace(schedule, 50)
    abar = chosen.alpha[::-1] ** 2
    x, eps = 0.9, 0.4
    for t, row in enumerate(rows(table)[:-1]):
        a_t, a_s = abar[t], abar[t + 1]
        sigma = 0.4 * np.sqrt((1 - a_s) / (1 - a_t)) * np.sqrt(1 - a_t / a_s)
        x_0 = (x - np.sqrt(1 - a_t) * eps) / np.sqrt(a_t)
        expected = np.sqrt(a_s) * x_0 + np.sqrt(1 - a_s - sigma**2) * eps
        assert row.c_x * x + row.c_eps * eps == pytest.approx(expected, rel=1e-6, abs=1e-6)
        assert row.std == pytest.approx(sigma, rel=1e-6)


@pytest.mark.parametrize(("make", "eta"), [(steps.euler, 0.0), (steps.euler_ancestral, 1.0)])
def test_euler_steps_of_k_diffusion(make, eta):
    schedule = schedules.edm(40)
    sigmas = np.append(schedule.sigma[::-1], 0.0)
    x, denoised = 2.3, -0.4
    for row, now, to in zip(rows(make(schedule)), sigmas[:-1], sigmas[1:], strict=True):
        up = min(to, eta * (to**2 * (now**2 - to**2) / now**2) ** 0.5)
        down = (to**2 - up**2) ** 0.5
        d = (x - denoised) / now
        assert row.c_x * x + row.c_eps * d == pytest.approx(x + d * (down - now), abs=3e-7 * x)
        assert row.std == pytest.approx(up, rel=1e-7)


# ------------------------------------------------------------------------ Gaussians, closed form

MEAN, SCALE = 0.6, 0.5


def final_moments(table, x_t=None):
    """Mean and variance of the last image for data N(MEAN, SCALE^2), exact eps, x_T as given."""
    first = rows(table)[0]
    power = (first.alpha * SCALE) ** 2 + first.sigma**2
    mean, variance = (first.alpha * MEAN, power) if x_t is None else (x_t, 0.0)
    for row in rows(table):
        gain = row.sigma / ((row.alpha * SCALE) ** 2 + row.sigma**2)
        slope = row.c_x + row.c_eps * gain
        mean = slope * mean - row.c_eps * gain * row.alpha * MEAN
        variance = slope**2 * variance + row.std**2
    return mean, variance


@pytest.mark.parametrize("name", ["vp", "flow", "ve"])
def test_ddim_converges_with_order_one_to_the_probability_flow(name):
    # The flow keeps (x - alpha m)/sqrt(alpha^2 s^2 + sigma^2) constant.
    schedule = SCHEDULES[name]
    alpha, sigma = schedule.alpha[-1], schedule.sigma[-1]
    u = 1.4
    x_t = alpha * MEAN + u * np.sqrt((alpha * SCALE) ** 2 + sigma**2)
    truth = MEAN + u * SCALE
    counts = np.array([16, 32, 64, 128])
    errors = [
        abs(final_moments(steps.ddim(schedule, n, spacing="logsnr"), x_t)[0] - truth)
        for n in counts
    ]
    order = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert order == pytest.approx(1.0, abs=0.15)
    assert errors[-1] < 0.03


def test_ancestral_sampling_reaches_the_variance_of_the_data():
    counts = (125, 250, 500, 1000)
    moments = [final_moments(steps.ddpm(schedules.linear(), n)) for n in counts]
    errors = [SCALE**2 - variance for _, variance in moments]
    assert all(mean == pytest.approx(MEAN, abs=1e-4) for mean, _ in moments)
    # 1.1 % short at 1000 steps, of first order in the step count
    assert 0 < errors[-1] < 0.02 * SCALE**2
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.4)


# ------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: steps.ddim(s, 10, eta=1.2), "got 1.2"),
        (lambda s: steps.ddim(s, 10, eta=-0.1), "got -0.1"),
        (lambda s: steps.ddim(s, 10, eta=float("nan")), "got nan"),
        (lambda s: steps.ddpm(s, 1001), "1001 steps"),
        (lambda s: steps.euler(s, 10, spacing="log-snr"), "'log-snr'.*did you mean 'logsnr'"),
        (lambda s: steps.ancestral(s, sampling_variance="tilde"), "'tilde'"),
        (lambda s: steps.ancestral(s, scoring_variance="both"), "'both'"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make(schedules.linear())
