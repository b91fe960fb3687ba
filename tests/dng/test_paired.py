"""Intervals of a difference in pairs, against numbers made by hand."""

from __future__ import annotations

import pytest

from dng_jax.tuning import paired


def test_equal_differences_are_as_uncertain_as_the_step_they_move_in():
    """Errors of 100 images: three times one image better, which proves nothing."""
    first, second = [0.10, 0.12, 0.11], [0.11, 0.13, 0.12]
    found = paired.difference(first, second, least=0.01)
    half = 4.302652729911275 * 0.01 / 3**0.5
    assert (found.mean, found.high - found.mean) == pytest.approx((-0.01, half))
    assert found.verdict == paired.UNDECIDED
    # No difference at all, of settings that train alike, is not certain either.
    same = paired.difference(first, first, least=0.01)
    assert (same.low, same.high) == pytest.approx((-half, half))


def test_a_deviation_above_the_least_is_its_own():
    values = [0.1, 0.3, 0.5]
    assert paired.mean(values, least=0.1) == paired.mean(values, least=0.0)
    half = 4.302652729911275 * 0.2 / 3**0.5
    assert paired.mean(values, least=0.0).high == pytest.approx(0.3 + half)
