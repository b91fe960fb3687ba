"""Windows of noise levels: curves by hand, and what is no curve."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dng_jax.errors import InputError
from dng_jax.metrics import window
from dng_jax.metrics.forecasts import posterior_error


def test_windows_of_known_curves():
    logsnr = np.linspace(-5, 5, 101)
    rising = 1 / (1 + np.exp(-logsnr))
    found = window.window_of(logsnr, rising)
    assert found.middle == pytest.approx(0, abs=1e-6)
    assert found.opens == pytest.approx(-math.log(9), abs=1e-3)
    assert found.closes == pytest.approx(math.log(9), abs=1e-3)
    assert math.isnan(window.crossing(logsnr, rising, 1.0))
    assert window.crossing(logsnr, rising, 0.0) == -5
    p = np.stack([np.full(10, 0.2), np.repeat([1.0, 0.0], [2, 8])])
    np.testing.assert_allclose(window.resolved(p, np.arange(10) < 2), [0, 1], atol=1e-12)
    np.testing.assert_allclose(
        window.accumulated([[1.0, 1.0], [0.0, 4.0], [2.0, 0.0]]), [0.25, 0.75, 1]
    )


def test_guidance_accumulates_over_steps_and_chains():
    rng = np.random.default_rng(4)
    lam, gap = rng.uniform(size=(2, 4, 3))
    total = sum(lam[t, b] * gap[t, b] for t in range(4) for b in range(3))
    half = sum(lam[t, b] * gap[t, b] for t in range(2) for b in range(3))
    assert window.accumulated(window.push(lam, gap))[1] == pytest.approx(half / total)


def test_tracking_errors_by_hand():
    rng = np.random.default_rng(5)
    tracked, exact = rng.uniform(size=(2, 4, 3))
    error = posterior_error(tracked, exact)
    steps = [sum(abs(tracked[t, b] - exact[t, b]) for b in range(3)) / 3 for t in range(4)]
    assert error.chain == pytest.approx(sum(steps) / 4)
    assert error.final == pytest.approx(steps[-1])


def test_the_lambda_doubles_where_its_quantile_does():
    # lambda of chain b is (b + 1)/10 of a line from the odds of the prior to 5 times them
    prior, logsnr = 0.2, np.linspace(-3, 3, 7)
    rising = 0.25 * (1 + 4 * (logsnr + 3) / 6)
    scale = rising[:, None] * np.arange(1, 11) / 10
    # the largest of ten doubles at a quarter of the way; the 90% quantile, .91 of it, later
    assert window.lambda_doubles(logsnr, scale, prior, 1.0) == pytest.approx(-1.5)
    later = -3 + 6 / 4 * (2 / 0.91 - 1)
    assert window.lambda_doubles(logsnr, scale, prior) == pytest.approx(later)
    assert math.isnan(window.lambda_doubles(logsnr, scale / 10, prior))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: window.resolved(np.zeros(3), [True]), r"got \[3\] and \[1\]"),
        (lambda: window.resolved(np.zeros((3, 2)), [False] * 2), "0 of 2 chains end in the"),
        (lambda: window.accumulated(np.zeros((3, 2))), "no guidance was applied"),
        (lambda: window.accumulated(-np.ones((3, 2))), "push >= 0"),
        (lambda: window.crossing([0, 1], [0, 1, 2], 0.5), "one length"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
