"""Intervals of a difference in pairs, against numbers made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dng_jax.tuning import paired

T2 = 4.302652729911275  # the 97.5% quantile of Student's distribution, two degrees of freedom


def test_splits_of_the_same_images_are_not_independent():
    """Differences -1, -2, -3 (mean -2, sd 1) with 9 images to train on for each held out."""
    found = paired.difference([1.0, 1.0, 1.0], [2.0, 3.0, 4.0], share=1 / 9)
    half = T2 * (1 / 3 + 1 / 9) ** 0.5  # 2.868; of independent ones 2.484
    assert (found.mean, found.low, found.high) == pytest.approx((-2, -2 - half, -2 + half))
    assert half == pytest.approx(2.8684, abs=1e-4)


def test_correlated_differences_are_covered_as_often_as_is_said():
    """Ten normal d_s with the correlation that the correction assumes: 95%, of 1/n alone 74%,
    the chance that Student's t with nine degrees of freedom is within 2.262 sqrt(.1 / .35)."""
    n, share, rng = 10, 0.25, np.random.default_rng(0)
    c = share / (1 + share)
    common, own = rng.standard_normal((2000, 1)), rng.standard_normal((2000, n))
    drawn = c**0.5 * common + (1 - c) ** 0.5 * own

    def covered(share):
        found = [paired.mean(values, share) for values in drawn]
        return np.mean([one.low <= 0 <= one.high for one in found])

    assert covered(share) == pytest.approx(0.95, abs=0.017)  # 3.5 standard errors
    assert covered(0.0) == pytest.approx(0.743, abs=0.035)


def test_equal_differences_are_as_uncertain_as_the_step_they_move_in():
    """Errors of 100 images: three times one image better, which proves nothing."""
    first, second = [0.10, 0.12, 0.11], [0.11, 0.13, 0.12]
    found = paired.difference(first, second, share=0.0, least=0.01)
    half = T2 * 0.01 / 3**0.5
    assert (found.mean, found.high - found.mean) == pytest.approx((-0.01, half))
    assert found.verdict == paired.UNDECIDED
    # No difference at all, of settings that train alike, is not certain either.
    same = paired.difference(first, first, share=0.0, least=0.01)
    assert (same.low, same.high) == pytest.approx((-half, half))


def test_a_deviation_above_the_least_is_its_own():
    values = [0.1, 0.3, 0.5]
    assert paired.mean(values, share=0.0, least=0.1) == paired.mean(values, share=0.0, least=0.0)
    half = T2 * 0.2 / 3**0.5
    assert paired.mean(values, share=0.0, least=0.0).high == pytest.approx(0.3 + half)
