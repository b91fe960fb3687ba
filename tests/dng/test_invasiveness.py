"""Rules compared at equal removal, against curves that are known."""

from __future__ import annotations

import numpy as np
import pytest

from dng_jax import InputError
from dng_jax.metrics.invasiveness import Outcomes, at_equal_removal, mean

N = 4000


def outcomes(left, changed, seed):
    """Samples whose expected shares are left and changed at each scale; 40% unguided."""
    rng, shared = np.random.default_rng(seed), np.random.default_rng(0)
    # the samples that keep it are the same ones down the curve, as with shared noise
    rank = shared.uniform(size=N)
    changed = rng.uniform(size=(len(left), N)) < np.asarray(changed)[:, None]
    return Outcomes(rank < np.asarray(left)[:, None], changed.astype(float), rank < 0.4)


REFERENCE = outcomes([0.2, 0.1, 0.04], [0.2, 0.3, 0.4], 1)
GENTLE = outcomes([0.3, 0.1, 0.02], [0.02, 0.06, 0.12], 2)


def test_the_factor_is_that_of_shares_changed_at_the_same_share_left():
    at_tenth, at_twentieth = at_equal_removal(REFERENCE, GENTLE, [0.1, 0.05])
    assert at_tenth.reached
    assert not at_tenth.sparse
    assert at_tenth.reference == pytest.approx(0.3, abs=0.03)
    assert at_tenth.other == pytest.approx(0.06, abs=0.015)
    assert at_tenth.factor == pytest.approx(at_tenth.reference / at_tenth.other)
    assert at_tenth.low < 5 < at_tenth.high
    assert at_tenth.high < 2 * at_tenth.low
    # between two points: log(left) is halfway from .1 to .02 at .0447, a little before at .05
    assert at_twentieth.other == pytest.approx(0.06 + 0.06 * np.log(2) / np.log(5), abs=0.015)


def test_a_rule_against_itself_has_factor_one_without_an_interval():
    (found,) = at_equal_removal(GENTLE, GENTLE, [0.1])
    assert (found.factor, found.low, found.high) == (1.0, 1.0, 1.0)


def test_what_no_scale_reaches_is_not_read():
    weak = outcomes([0.38, 0.35], [0.0, 0.01], 3)
    near, far = at_equal_removal(REFERENCE, weak, [0.37, 0.1])
    assert near.reached
    assert not far.reached
    assert np.isnan([far.reference, far.other, far.factor, far.low, far.high]).all()


def test_a_rule_that_changes_nothing_is_marked_as_resting_on_too_few():
    still = Outcomes(GENTLE.left, np.zeros_like(GENTLE.changed), GENTLE.unguided)
    (found,) = at_equal_removal(REFERENCE, still, [0.1])
    assert (found.factor, found.low, found.high) == (np.inf, np.inf, np.inf)
    assert found.sparse


def test_what_is_read_from_the_unguided_point_is_marked():
    assert [f.chord for f in at_equal_removal(REFERENCE, GENTLE, [0.3, 0.25, 0.1])] == [
        True, True, False
    ]  # fmt: skip
    strong = Outcomes(GENTLE.left[2:], GENTLE.changed[2:], GENTLE.unguided)
    measured, chord = (at_equal_removal(REFERENCE, o, [0.1])[0] for o in (GENTLE, strong))
    assert (measured.chord, chord.chord) == (False, True)


def test_there_is_no_interval_where_resamples_miss_the_level():
    # at n = 4000 the last point, .1, is on either side of a level of .0985 in many resamples
    edge = Outcomes(GENTLE.left[:2], GENTLE.changed[:2], GENTLE.unguided)
    low = float(edge.left[1].mean())
    near, well_within = at_equal_removal(REFERENCE, edge, [low, 0.2])
    assert near.reached
    assert np.isnan([near.low, near.high]).all()
    assert np.isfinite([near.factor, well_within.low, well_within.high]).all()


def test_few_samples_left_are_marked():
    few = [
        Outcomes(o.left[:, :200], o.changed[:, :200], o.unguided[:200]) for o in (REFERENCE, GENTLE)
    ]
    assert [f.sparse for f in at_equal_removal(*few, [0.2, 0.02])] == [False, True]


def test_the_interval_of_a_mean_covers_it():
    rng, hits = np.random.default_rng(4), 0
    for _ in range(400):
        found = mean(rng.binomial(2, 0.1, size=300) / 2)
        hits += found.low <= 0.1 <= found.high
    assert 0.9 < hits / 400 < 0.99
    assert mean(np.zeros(5)).low == 0


def test_bad_input_is_one_sentence():
    with pytest.raises(InputError, match="strictly between 0 and 1"):
        at_equal_removal(REFERENCE, GENTLE, [0.0])
    with pytest.raises(InputError, match="resamples must be at least 100, got 7"):
        at_equal_removal(REFERENCE, GENTLE, [0.1], resamples=7)
    other = Outcomes(GENTLE.left, GENTLE.changed, ~GENTLE.unguided)
    with pytest.raises(InputError, match="same unguided samples"):
        at_equal_removal(REFERENCE, other, [0.1])
    with pytest.raises(InputError, match=r"left and changed \[S, n\]"):
        Outcomes(GENTLE.left[0], GENTLE.changed[0], GENTLE.unguided)
