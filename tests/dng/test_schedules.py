"""Schedules against published values, and conversions against the forward process itself."""

from __future__ import annotations

import numpy as np
import pytest

from dng_jax import InputError, schedules, steps

ALL = [
    schedules.linear(),
    schedules.scaled_linear(),
    schedules.cosine(),
    schedules.edm(),
    schedules.flow(),
]


@pytest.mark.parametrize(
    ("schedule", "first", "terminal"),
    [
        (schedules.linear(), 1 - 1e-4, 4.0358e-5),  # the two terminal values of the literature
        (schedules.scaled_linear(), 1 - 8.5e-4, 0.0046601),
    ],
)
def test_terminal_alpha_bar(schedule, first, terminal):
    alpha_bar = schedule.alpha**2
    assert len(alpha_bar) == 1000
    assert alpha_bar[0] == pytest.approx(first, rel=1e-12)
    assert alpha_bar[-1] == pytest.approx(terminal, rel=2e-5)  # five digits are printed


def test_alpha_bar_is_the_running_product():
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    expected = np.cumprod(1 - betas)
    np.testing.assert_allclose(schedules.scaled_linear().alpha ** 2, expected, rtol=1e-11)
    np.testing.assert_allclose(schedules.linear().sigma[1] ** 2, 1 - 0.9999 * 0.99988, rtol=1e-3)


def test_cosine_is_the_published_curve_until_it_is_clipped():
    alpha_bar = schedules.cosine(1000).alpha ** 2

    def curve(t):
        return np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2

    assert alpha_bar[499] == pytest.approx(curve(0.5) / curve(0), rel=1e-10)
    assert alpha_bar[499] == pytest.approx(0.4938, abs=1e-4)
    # beta of the last level would be 1: it is clipped to .999
    assert alpha_bar[999] == pytest.approx(1e-3 * curve(0.999) / curve(0), rel=1e-9)


def test_edm_sigmas_of_karras_table():
    # N = 18, rho = 7, 80 to .002: the grid of the reference implementation (t_steps)
    sigma = schedules.edm(18).sigma[::-1]
    assert sigma[:5] == pytest.approx([80, 57.586, 40.786, 28.375, 19.353], abs=1e-3)
    assert sigma[-1] == pytest.approx(0.002)
    assert np.all(schedules.edm(18).alpha == 1)


def test_flow_levels_stop_short_of_pure_noise():
    schedule = schedules.flow(4, t_max=0.8)
    np.testing.assert_allclose(schedule.sigma, [0.2, 0.4, 0.6, 0.8], rtol=1e-12)
    np.testing.assert_allclose(schedule.alpha, [0.8, 0.6, 0.4, 0.2], rtol=1e-12)


@pytest.mark.parametrize("schedule", ALL, ids=["linear", "scaled", "cosine", "edm", "flow"])
def test_noise_grows_along_every_schedule(schedule):
    assert schedule.alpha.dtype == np.float64
    assert np.all(np.diff(np.log(schedule.alpha**2 / schedule.sigma**2)) < 0)
    np.testing.assert_allclose(
        schedule.logsnr, np.log(schedule.alpha**2 / schedule.sigma**2), atol=1e-9
    )


@pytest.mark.parametrize(
    ("spacing", "steps", "expected"),
    [
        ("trailing", 20, np.arange(49, 1000, 50)),
        ("leading", 20, np.arange(0, 1000, 50)),
        ("trailing", 3, [333, 666, 999]),
        ("leading", 3, [0, 333, 666]),
        ("uniform", 4, [0, 333, 666, 999]),
        ("uniform", 5, [0, 250, 500, 749, 999]),  # 249.75, 499.5, 749.25; .5 goes to even
        ("uniform", 1, [999]),
        ("trailing", 1, [999]),
        ("leading", 1, [0]),
        ("uniform", 1000, np.arange(1000)),
        ("trailing", 1000, np.arange(1000)),
    ],
)
def test_respaced_levels(spacing, steps, expected):
    schedule = schedules.linear()
    chosen = schedules.respace(schedule, steps, spacing)
    np.testing.assert_array_equal(chosen.alpha, schedule.alpha[np.asarray(expected)])
    np.testing.assert_array_equal(chosen.sigma, schedule.sigma[np.asarray(expected)])


def test_uniform_twenty_of_a_thousand():
    # round(i 999/19), i = 0..19
    expected = [0, 53, 105, 158, 210, 263, 315, 368, 421, 473]
    expected += [526, 578, 631, 684, 736, 789, 841, 894, 946, 999]
    chosen = schedules.respace(schedules.linear(), 20, "uniform")
    np.testing.assert_array_equal(chosen.sigma, schedules.linear().sigma[expected])


@pytest.mark.parametrize("schedule", ALL, ids=["linear", "scaled", "cosine", "edm", "flow"])
def test_logsnr_spacing_is_uniform_and_stays_on_the_schedule(schedule):
    chosen = schedules.respace(schedule, 37, "logsnr")
    ends = schedule.logsnr[[0, -1]]
    np.testing.assert_allclose(chosen.logsnr, np.linspace(*ends, 37), atol=1e-9)
    # levels between those of the schedule are levels of the same family
    if np.all(schedule.alpha == 1):
        np.testing.assert_allclose(chosen.alpha, 1, atol=1e-12)
    elif np.allclose(schedule.alpha + schedule.sigma, 1):
        np.testing.assert_allclose(chosen.alpha + chosen.sigma, 1, atol=1e-12)
    else:
        np.testing.assert_allclose(chosen.alpha**2 + chosen.sigma**2, 1, atol=1e-12)
    assert schedules.respace(schedule, 1, "logsnr").logsnr == pytest.approx(ends[1])


# ---------------------------------------------------------------------------- parameterisations


@pytest.mark.parametrize(("alpha", "sigma"), [(0.8, 0.6), (1.0, 7.0), (0.3, 0.7), (0.999, 0.04)])
def test_predictions_are_read_off_the_forward_process(alpha, sigma):
    rng = np.random.default_rng(0)
    x_0, eps = rng.normal(size=(2, 3, 4))
    x = alpha * x_0 + sigma * eps
    predictions = {
        "eps": eps,
        "x0": x_0,
        "v": alpha * eps - sigma * x_0,
        "score": -(x - alpha * x_0) / sigma**2,  # gradient of log N(x; alpha x_0, sigma^2)
        "flow": eps - x_0,
    }
    assert set(predictions) == set(schedules.PARAMETERISATIONS)
    for kind, prediction in predictions.items():
        np.testing.assert_allclose(
            schedules.to_eps(prediction, x, alpha, sigma, kind), eps, rtol=1e-11, atol=1e-11
        )
        np.testing.assert_allclose(
            schedules.from_eps(eps, x, alpha, sigma, kind), prediction, rtol=1e-10, atol=1e-10
        )


def test_flow_prediction_is_the_velocity_of_the_straight_path():
    rng = np.random.default_rng(1)
    x_0, eps = rng.normal(size=(2, 5))
    t, h = 0.4, 1e-6
    velocity = (((1 - t - h) * x_0 + (t + h) * eps) - ((1 - t + h) * x_0 + (t - h) * eps)) / (2 * h)
    x = (1 - t) * x_0 + t * eps
    np.testing.assert_allclose(schedules.from_eps(eps, x, 1 - t, t, "flow"), velocity, atol=1e-8)


# ---------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.respace(schedules.linear(), 1001), "1001 steps"),
        (lambda: schedules.respace(schedules.linear(10), 0), "0 steps"),
        (lambda: schedules.respace(schedules.linear(), 20, "trailling"), "'trailling'.*'trailing'"),
        (lambda: schedules.linear(0), "got 0"),
        (lambda: schedules.from_betas([0.1, 1.0]), "between 0 and 1"),
        (lambda: schedules.from_betas([[0.1], [0.2]]), "vector"),
        (lambda: schedules.from_betas([0.1, np.nan]), "between 0 and 1"),
        (lambda: schedules.edm(10, sigma_min=3, sigma_max=2), "3 and 2"),
        (lambda: schedules.flow(10, t_max=1.0), "got 1.0"),
        (lambda: schedules.to_eps(1.0, 1.0, 1.0, 1.0, "noise"), "'noise'"),
        (lambda: schedules.from_eps(1.0, 1.0, 1.0, 1.0, "velocity"), "'velocity'"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_one_edm_level_is_the_noisiest():
    np.testing.assert_allclose(schedules.edm(1).sigma, [80.0])


@pytest.mark.parametrize(
    ("spacing", "offset", "noisiest"),
    [  # diffusers' DDIMScheduler.set_timesteps(30), timestep_spacing of this name
        ("diffusers-trailing", 0, [999, 966, 932, 899, 866]),
        ("diffusers-leading", 1, [958, 925, 892, 859, 826]),
        ("trailing", 0, [999, 966, 933, 899, 866]),
    ],
)
def test_grids_of_diffusers(spacing, offset, noisiest):
    linear = schedules.linear()
    chosen = schedules.respace(linear, 30, spacing, offset=offset).sigma
    at = [int(np.argmin(np.abs(linear.sigma - s))) for s in chosen[::-1]]
    assert at[:5] == noisiest


@pytest.mark.parametrize(
    ("alpha", "sigma", "message"),
    [
        ([0.9, 0.0], [0.4, 1.0], "level 1 .* alpha 0 and sigma 1"),
        ([1.0, 0.5], [0.0, 0.8], "level 0 .* sigma 0"),
        ([0.5, 0.9], [0.8, 0.4], "no noisier than the one before"),
        ([0.9, np.nan], [0.4, 1.0], "level 1 .* nan"),
        ([0.9], [0.4, 1.0], r"shapes \(1,\) and \(2,\)"),
    ],
)
@pytest.mark.parametrize("count", [None, 1])
def test_a_schedule_that_no_table_can_use_is_refused(alpha, sigma, message, count):
    with pytest.raises(InputError, match=message):
        steps.ddim(schedules.Schedule(np.array(alpha), np.array(sigma)), count)


def test_one_level_is_the_noisiest_of_every_schedule():
    for make in (schedules.linear, schedules.scaled_linear):
        (sigma,) = make(1).sigma
        assert sigma == pytest.approx(np.sqrt(0.02 if make is schedules.linear else 0.012))


def test_a_whole_number_of_levels_may_be_a_float():
    assert len(schedules.edm(3.0).sigma) == len(schedules.cosine(3.0).sigma) == 3


@pytest.mark.parametrize("count", [48, 96, 999])
def test_the_trailing_grid_of_diffusers_is_rounded_as_it_rounds(count):
    linear = schedules.linear()
    theirs = np.round(np.arange(1000, 0, -1000 / count))[:count] - 1  # DDIMScheduler's own words
    sigma = schedules.respace(linear, count, "diffusers-trailing").sigma
    np.testing.assert_array_equal(sigma[::-1], linear.sigma[theirs.astype(int)])
