"""Do the 95% intervals of KL hold the truth? Simulated, from 16 samples to 1024."""

from __future__ import annotations

import numpy as np
import pytest

from dng_jax.metrics import inversion, kl_divergence, tradeoff

ALLOWED = np.arange(10) != 0
TARGET = ALLOWED / 9


def shares(leak: float, *weights: float) -> np.ndarray:
    """Shares of ten classes: a leak into class 0, the rest as these weights."""
    return np.array([leak, *(1 - leak) * np.array(weights) / sum(weights)])


SHARES = {
    "perfect": shares(0, *[1] * 9),
    "uneven": shares(0.02, 0.6, 1.4, 0.8, 1.2, 1, 1, 0.5, 1.5, 1),
    "baseline": shares(0.02, 0.3, 2, 0.6, 1.6, 1.2, 0.7, 0.4, 1.9, 0.9),
    "unguided": shares(0.1, *[1] * 9),
    "dying class": shares(0.01, 0.02, 0.2, *[1.3] * 7),
}


def truth(p: np.ndarray, form: str = "forward") -> float:
    """KL of these shares; exactly 0 where they are the target."""
    p = p[1:] if form == "forward" else p[1:] / p[1:].sum()
    return max(0.0, float(np.sum(np.log(1 / 9 / p)) / 9))


def check_coverage(case: str, n: int, runs: int, resamples: int) -> None:
    """Within three standard errors of 95%, and open where a class is lost."""
    true = truth(SHARES[case])
    counts = np.random.default_rng([n, len(case)]).multinomial(n, SHARES[case], size=runs)
    low, high = inversion.kl_interval(counts[:, None], TARGET[None], 0.025, resamples=resamples)
    covered = np.mean((low - 1e-9 <= true) & (true <= high))
    assert covered > 0.95 - 3 * np.sqrt(0.05 * 0.95 / runs)
    assert np.isinf(high).tolist() == (counts[:, 1:] == 0).any(axis=1).tolist()
    if case == "unguided" and n == 128:  # it is no empty statement either
        assert np.median(high - low) < 0.25


@pytest.mark.parametrize("n", [16, 50])
@pytest.mark.parametrize("case", ["perfect", "uneven", "baseline", "dying class"])
def test_intervals_from_few_samples_cover(case, n):
    check_coverage(case, n, 80, 100)


@pytest.mark.slow
@pytest.mark.parametrize("n", [16, 32, 50, 128, 1024])
@pytest.mark.parametrize("case", SHARES)
def test_intervals_cover_from_16_samples_to_1024(case, n):
    check_coverage(case, n, 400, 300)


@pytest.mark.parametrize(
    ("case", "n", "form"),
    [
        ("uneven", 16, "forward"),
        ("baseline", 16, "renormalised"),
        ("baseline", 128, "forward"),
        ("perfect", 1024, "forward"),
    ],
)
def test_intervals_of_a_report_cover_and_hold_their_estimate(case, n, form):
    runs, true = 40, truth(SHARES[case], form)
    counts = np.random.default_rng([5, n]).multinomial(n, SHARES[case], size=runs)
    found = [kl_divergence(c, ALLOWED, form=form, resamples=200) for c in counts]
    assert np.mean([d.low - 1e-9 <= true <= d.high for d in found]) > 0.84
    assert all(d.low <= d.corrected <= d.high for d in found)
    assert [d.sparse for d in found] == [bool(c[1:].min() < 5) for c in counts]


def test_intervals_of_a_mean_over_forbidden_sets_cover():
    sets, n, runs = 3, 24, 40
    forbidden = [(f,) for f in range(sets)]
    p = [np.roll(SHARES["uneven"], f) for f in range(sets)]
    true, hits, rng = truth(SHARES["uneven"]), 0, np.random.default_rng(6)
    for _ in range(runs):
        labels = [rng.choice(10, p=p[f], size=(1, n)) for f in range(sets)]
        out = tradeoff.curves({"a": labels}, forbidden, 10, {"a": [1]}, resamples=100)["a"]
        assert out.sparse.tolist() == [True]
        hits += out.kl_low[0] <= true <= out.kl_high[0]
        assert out.kl_low[0] <= out.kl[0] <= out.kl_high[0]
    assert hits / runs > 0.84


def test_a_lost_class_has_no_upper_end_and_even_counts_exclude_little():
    lost = kl_divergence([0, 0, 70, 60, 50, 70, 60, 50, 70, 60], ALLOWED)
    assert (lost.sparse, lost.high) == (True, np.inf)
    assert 0.15 < lost.low < lost.corrected
    even = kl_divergence([0] + [2] * 9, ALLOWED)
    assert even.low <= 0
    assert even.high > 0.2  # two samples per class are no proof of balance


def test_what_is_read_from_a_sparse_point_says_so():
    rows = {"a": [[100, 400, 250, 250]], "b": [[200, 400, 200, 200], [20, 970, 7, 3]]}
    rows["b"].append([10, 300, 340, 350])
    labels = {k: [np.stack([np.repeat(range(4), r) for r in v])] for k, v in rows.items()}
    out = tradeoff.curves(labels, [(0,)], 4, {"a": [1], "b": [1, 2, 3]}, resamples=100)
    assert out["b"].sparse.tolist() == [False, True, False]
    assert tradeoff.matched(out["a"], out["b"]).sparse
    levels = tradeoff.at_levels(out["b"], [0.2, 0.1, 0.015, 0.01])
    assert levels.sparse.tolist() == [False, True, True, False]
