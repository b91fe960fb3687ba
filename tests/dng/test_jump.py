"""The transition of several steps at once against the composition of single steps, in float64."""

from __future__ import annotations

import numpy as np
import pytest

from dng_jax import schedules, steps

SCHEDULES = {"linear": schedules.linear, "edm": lambda: schedules.edm(40), "flow": schedules.flow}


def levels(name, count):
    """alpha, sigma [count + 1], noisiest first, without the clean end."""
    table = steps.ddpm(SCHEDULES[name](), count + 1)
    return np.asarray(table.alpha, np.float64), np.asarray(table.sigma, np.float64)


def one_step(alpha, sigma, t, s):
    """k_x, k_eps, k_var and g from level t to level s."""
    a = alpha[t] / alpha[s]
    g = sigma[t] ** 2 - (a * sigma[s]) ** 2
    return 1 / a, -g / (a * sigma[t]), sigma[s] ** 2 * g / sigma[t] ** 2, g


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("eta", [1.0, 0.6, 0.0])
def test_single_steps_with_x_0_held_compose_to_the_jump(name, eta):
    alpha, sigma = levels(name, 20)
    for t, s in ((0, 3), (4, 12), (12, 20)):
        # x_s = gain x_t + share x_0 + N(0, variance), step by step as DDIM(eta) has it
        gain, share, variance = 1.0, 0.0, 0.0
        for i in range(t, s):
            std = eta * np.sqrt(one_step(alpha, sigma, i, i + 1)[2])
            c = np.sqrt(sigma[i + 1] ** 2 - std**2) / sigma[i]
            gain, share = c * gain, c * share + alpha[i + 1] - c * alpha[i]
            variance = c**2 * variance + std**2
        i = np.arange(t, s)
        singles = np.array([one_step(alpha, sigma, j, j + 1)[2] for j in i])
        left = np.prod(1 - eta**2 * singles / sigma[i + 1] ** 2)
        np.testing.assert_allclose(variance, sigma[s] ** 2 * (1 - left), rtol=1e-10, atol=1e-15)
        k_x, k_eps, k_var, _ = one_step(alpha, sigma, t, s)
        if eta == 1:
            np.testing.assert_allclose(variance, k_var, rtol=1e-10)
            # eps = (x_t - alpha_t x_0) / sigma_t in the kernel's mean
            np.testing.assert_allclose(gain, k_x + k_eps / sigma[t], rtol=1e-10)
            np.testing.assert_allclose(share, -k_eps * alpha[t] / sigma[t], rtol=1e-10)
        else:
            assert variance < k_var


def composed(alpha, sigma, t, s, spread):
    """Gain and variance of the ancestral chain of N(0, spread) from t to s, its own steps."""
    gain, variance = 1.0, 0.0
    for i in range(t, s):
        k_x, k_eps, k_var, _ = one_step(alpha, sigma, i, i + 1)
        slope = k_x + k_eps * sigma[i] / (alpha[i] ** 2 * spread + sigma[i] ** 2)
        gain, variance = slope * gain, slope**2 * variance + k_var
    return gain, variance


@pytest.mark.parametrize("spread", [0.25, 1.0, 1e-9])
def test_what_x_0_may_be_widens_the_jump_as_the_single_steps_do(spread):
    alpha, sigma = levels("linear", 999)
    for t, s in ((100, 300), (600, 700), (900, 980)):
        k_x, k_eps, k_var, g = one_step(alpha, sigma, t, s)
        total = alpha[t] ** 2 * spread + sigma[t] ** 2
        gain, variance = composed(alpha, sigma, t, s, spread)
        # the mean is exact; the variance is k_var and the share of x_0
        np.testing.assert_allclose(gain, k_x + k_eps * sigma[t] / total, rtol=1e-10)
        x_0 = spread * sigma[t] ** 2 / total
        wider = k_var + (alpha[s] * g / sigma[t] ** 2) ** 2 * x_0
        np.testing.assert_allclose(variance, wider, rtol=0.035)
        factor = 1 + alpha[s] ** 2 * g * spread / (sigma[s] ** 2 * total)
        np.testing.assert_allclose(wider, factor * k_var, rtol=1e-9)
        assert (factor > 1.001) == (spread > 0.1)
        # what the single steps leave out vanishes with their length
        alpha_, sigma_ = alpha[t : s + 1 : 20], sigma[t : s + 1 : 20]
        coarse = composed(alpha_, sigma_, 0, len(alpha_) - 1, spread)[1]
        assert k_var * (1 - 1e-9) <= coarse <= variance * (1 + 1e-9)


def test_the_figures_of_the_sheet():
    table = steps.ddpm(schedules.linear(), 50)
    alpha, sigma = (np.asarray(c, np.float64) for c in (table.alpha, table.sigma))

    def factor(t, s, spread=0.25):
        g = one_step(alpha, sigma, t, s)[3]
        total = alpha[t] ** 2 * spread + sigma[t] ** 2
        return 1 + alpha[s] ** 2 * g * spread / (sigma[s] ** 2 * total)

    begins = (10, 26, 34, 38, 41)
    jumps, singles = ([factor(t, t + n) for t in begins] for n in (8, 1))
    np.testing.assert_allclose(jumps, (1.00, 1.11, 1.59, 3.4, 27), rtol=0.02)
    np.testing.assert_allclose(singles, (1.00, 1.01, 1.03, 1.06, 1.12), rtol=0.02)
