"""Metrics against published values, closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg, stats

from dng_jax import metrics
from dng_jax.errors import InputError

NINE = np.arange(10) != 0  # class 0 of ten is forbidden


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_reproduces_newcombes_table(k, n, low, high):
    assert metrics.wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_solves_its_defining_equation_and_covers_the_ends():
    low, high = metrics.wilson(np.array([3, 0, 9]), 9, confidence=0.9)
    z = stats.norm.ppf(0.95)
    for p in (low[0], high[0]):
        assert abs(3 / 9 - p) / np.sqrt(p * (1 - p) / 9) == pytest.approx(z, rel=1e-12)
    assert (low[1], high[2]) == (0.0, 1.0)
    assert metrics.wilson(0, 0) == (0.0, 1.0)


def test_balanced_generator_scores_ln_10_over_9():
    report = metrics.class_report(np.full(10, 10**8), NINE)
    assert report.leak.value == pytest.approx(0.1)
    assert report.forward.raw == pytest.approx(np.log(10 / 9), abs=1e-7)
    assert report.renormalised.raw == pytest.approx(0, abs=1e-9)
    assert report.reversed.raw == pytest.approx(0, abs=1e-9)


def test_directions_of_the_divergences_and_a_given_target():
    counts = np.array([4, 6, 2]) * 10**8
    allowed, q, g = np.array([False, True, True]), np.array([0.5, 0.5]), np.array([0.5, 1 / 6])
    report = metrics.class_report(counts, allowed)
    h = g / g.sum()
    assert report.forward.raw == pytest.approx(np.sum(q * np.log(q / g)), abs=1e-7)
    assert report.renormalised.raw == pytest.approx(np.sum(q * np.log(q / h)), abs=1e-7)
    assert report.reversed.raw == pytest.approx(np.sum(h * np.log(h / q)), abs=1e-7)
    assert metrics.kl_divergence(counts, allowed, [0, 3, 1], "reversed").raw == pytest.approx(0)


@pytest.mark.parametrize("form", metrics.shares.FORMS)
@pytest.mark.parametrize("case", ["balanced", "perfect", "skewed"])
def test_bias_correction_holds_in_simulation(form, case):
    shares = {
        "balanced": np.full(10, 0.1),
        "perfect": NINE / 9,
        "skewed": np.array([0.02, 0.06, 0.08, 0.1, 0.1, 0.11, 0.12, 0.13, 0.14, 0.14]),
    }[case]
    n, runs, q = 1000, 500, np.full(9, 1 / 9)
    h = shares[NINE] / shares[NINE].sum()
    truth = {
        "forward": np.sum(q * np.log(q / shares[NINE])),
        "renormalised": np.sum(q * np.log(q / h)),
        "reversed": np.sum(h * np.log(h / q)),
    }[form]
    draws = np.random.default_rng(7).multinomial(n, shares, size=runs)
    found = [metrics.kl_divergence(c, NINE, form=form, resamples=100) for c in draws]
    raw, corrected = np.array([(d.raw, d.corrected) for d in found]).T
    error = corrected.std() / np.sqrt(runs)
    assert abs(corrected.mean() - truth) < 4 * error
    if case != "skewed":  # there the spread is too wide for this many runs to see the bias
        assert raw.mean() - truth > 5 * error


def test_divergence_interval_covers():
    shares = np.array([0.01, 0.06, 0.08, 0.1, 0.1, 0.11, 0.12, 0.13, 0.14, 0.15])
    draws = np.random.default_rng(3).multinomial(800, shares, size=300)
    truth = np.sum(np.log(1 / 9 / shares[1:]) / 9)
    found = [metrics.kl_divergence(c, NINE, resamples=300) for c in draws]
    covered = np.mean([d.low <= truth <= d.high for d in found])
    assert 0.91 < covered < 0.99  # 95% +- 3 standard errors of 300 runs


def test_an_empty_class_is_finite_and_flagged_and_reports_repeat():
    counts = np.array([0, 0, 70, 60, 50, 70, 60, 50, 70, 60])
    first, again = metrics.class_report(counts, NINE), metrics.class_report(counts, NINE)
    assert first == again
    assert first.forward.sparse
    assert np.isfinite([first.forward.raw, first.forward.low, first.reversed.high]).all()
    nothing = metrics.class_report(np.array([5, 0, 0]), np.array([False, True, True]))
    assert nothing.leak.value == 1
    assert np.isnan(nothing.renormalised.raw)


def test_counts_stream():
    labels = np.random.default_rng(6).integers(10, size=1000)
    parts = [metrics.class_counts(part, 10) for part in np.split(labels, [0, 3, 500])]
    assert np.sum(parts, axis=0).tolist() == [int((labels == k).sum()) for k in range(10)]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.wilson(3, 2), "0 <= k <= n"),
        (lambda: metrics.wilson(1, 2, confidence=95), "95"),
        (lambda: metrics.class_counts([0, 10], 10), "0..10"),
        (lambda: metrics.class_counts([0.5], 10), "argmax"),
        (lambda: metrics.class_report([1, 2], [0, 1]), "mask"),
        (lambda: metrics.class_report([0, 0], [False, True]), "no sample"),
        (lambda: metrics.class_report([1.5, 2], [False, True]), "whole"),
        (lambda: metrics.kl_divergence([1, 2], [False, True], [1, 1]), "target"),
        (lambda: metrics.kl_divergence([1, 2], [False, True], form="reverse"), "'reversed'"),
        (lambda: metrics.frechet_distance([0], [[1]], [0, 0], np.eye(2)), "length"),
        (lambda: metrics.frechet_distance([0, 0], np.eye(2), [0, 0], -np.eye(2)), "negative"),
        (lambda: metrics.frechet_from_features(np.ones((1, 3)), np.ones((4, 3))), "two samples"),
        (lambda: metrics.Moments.zero(2).update([[0, 1], [np.nan, 1]]), "sample 1"),
        (lambda: metrics.nll([[0.5, 0.6]], [0]), "1.1"),
        (lambda: metrics.nll([[2.0, -1.0]], [0]), "softmax"),
        (lambda: metrics.brier([[0.5, 0.5]], [2]), "0..1"),
        (lambda: metrics.nll([0.5, np.nan], [0, 1]), "nan"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError, match=words.replace(".", r"\.")):
        call()


def test_frechet_closed_forms():
    rng = np.random.default_rng(0)
    basis = linalg.qr(rng.normal(size=(5, 5)))[0]
    a, b = rng.uniform(0.1, 3, 5), rng.uniform(0.1, 3, 5)
    mean = rng.normal(size=5)
    # Commuting covariances: sum of squared differences of the standard deviations.
    commuting = metrics.frechet_distance(
        mean, basis * a**2 @ basis.T, np.zeros(5), basis * b**2 @ basis.T
    )
    assert commuting == pytest.approx(mean @ mean + np.sum((a - b) ** 2), rel=1e-12)
    # Non-commuting 2 x 2: tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)) for M = C1 C2.
    c1, c2 = np.array([[2.0, 0.9], [0.9, 1.0]]), np.array([[1.0, -0.4], [-0.4, 3.0]])
    m = c1 @ c2
    cross = np.sqrt(np.trace(m) + 2 * np.sqrt(linalg.det(m)))
    expected = np.trace(c1 + c2) - 2 * cross
    assert metrics.frechet_distance([0, 0], c1, [0, 0], c2) == pytest.approx(expected, rel=1e-12)


def test_frechet_of_singular_covariances_is_accurate():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(10, 40))  # rank 9 in 40 dimensions
    assert metrics.frechet_from_features(x, x) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet_from_features(x, x + 2) == pytest.approx(160, rel=1e-9)


def test_distances_of_resamples_are_those_taken_one_by_one():
    rng = np.random.default_rng(2)
    real = metrics.Moments.zero(12).update(rng.normal(size=(80, 12)))
    for n in (200, 7):  # fewer samples than features: singular covariances
        fake = (0.5 + rng.normal(size=(n, 12)) * np.linspace(0.1, 2, 12)).astype(np.float16)
        rows = rng.integers(n, size=(4, n))
        moments = [metrics.Moments.zero(12).update(fake[r].astype(np.float64)) for r in rows]
        expected = [real.distance(m) for m in moments]
        assert np.std(expected) > 0.01
        np.testing.assert_allclose(real.distances(fake, rows), expected, atol=1e-5)


def test_streaming_moments_equal_batch_moments():
    rng = np.random.default_rng(2)
    # A mean far from 0 is where the textbook sum of squares loses its digits.
    x = 1e4 + rng.normal(size=(100, 4)) @ rng.normal(size=(4, 4))
    parts = [metrics.Moments.zero(4).update(b) for b in (x[:1], x[1:40], x[40:40])]
    merged = parts[0].merge(parts[1]).merge(parts[2]).update(x[40:])
    assert merged.count == 100
    np.testing.assert_allclose(merged.mean, x.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(merged.covariance, np.cov(x, rowvar=False), rtol=1e-9, atol=1e-9)


def test_scores_by_hand():
    p, label = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4]]), np.array([0, 2])
    assert metrics.nll(p, label) == pytest.approx(-(np.log(0.7) + np.log(0.4)) / 2)
    assert metrics.brier(p, label) == pytest.approx((0.14 + 0.62) / 2)
    assert metrics.agreement(p, label) == 0.5
    # Confidences .7 (right) and .5 (wrong) fall into different bins of ten.
    assert metrics.expected_calibration_error(p, label, 10) == pytest.approx((0.3 + 0.5) / 2)
    event = np.array([True, False])
    assert metrics.nll([0.9, 0.2], event) == pytest.approx(-(np.log(0.9) + np.log(0.8)) / 2)
    assert metrics.brier([0.9, 0.2], event) == pytest.approx((0.01 + 0.04) / 2)
    assert metrics.agreement([0.9, 0.2], event) == 1
    assert metrics.nll([0.0], [1]) == pytest.approx(12 * np.log(10))


def test_calibrated_and_miscalibrated_forecasters():
    rng = np.random.default_rng(4)
    p = rng.uniform(size=40_000)
    event = rng.uniform(size=p.size) < p
    good = metrics.calibration(p, event)
    assert good.ece < np.sqrt(15 / p.size)
    assert good.nll == pytest.approx(0.5, abs=0.01)  # integral of the entropy of p over [0, 1]
    assert good.brier == pytest.approx(1 / 6, abs=0.004)
    # The event happens with p^2: the gap p - p^2 averages 1/6, whatever the bins.
    bad = rng.uniform(size=p.size) < p**2
    assert metrics.expected_calibration_error(p, bad) == pytest.approx(1 / 6, abs=0.008)
    assert metrics.expected_calibration_error(p, bad, 1) == pytest.approx(1 / 6, abs=0.008)
    curve = metrics.reliability(p, event, 10)
    truth = (curve.edges[:-1] + curve.edges[1:]) / 2
    assert curve.count.sum() == p.size
    assert np.sum((curve.low <= truth) & (truth <= curve.high)) >= 8
    assert np.abs(curve.mean_p - truth).max() < 0.005


def test_class_forecaster_drawn_from_its_own_probabilities_is_calibrated():
    rng = np.random.default_rng(5)
    logits = 2 * rng.normal(size=(20_000, 5))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    label = (p.cumsum(axis=1) < rng.uniform(size=(len(p), 1))).sum(axis=1)
    right = metrics.calibration(p, label)
    assert right.ece < np.sqrt(15 / len(p))
    assert right.agreement == pytest.approx(p.max(axis=1).mean(), abs=0.015)
    sharp = p**3 / (p**3).sum(axis=1, keepdims=True)
    over = metrics.calibration(sharp, label)
    gap = sharp.max(axis=1).mean() - over.agreement
    assert over.agreement == right.agreement
    assert over.ece == pytest.approx(gap, abs=0.005)
    assert over.ece > 0.1
    assert over.nll > right.nll


def test_reliability_bins_include_their_ends_and_show_empty_ones():
    curve = metrics.reliability([0.0, 0.5, 1.0], [False, True, True], 2)
    assert curve.count.tolist() == [1, 2]
    assert curve.observed.tolist() == [0, 1]
    gap = metrics.reliability([0.1, 0.9], [False, True], 3)
    assert np.isnan(gap.observed[1])
    assert (gap.low[1], gap.high[1]) == (0, 1)
    assert metrics.reliability([0.3] * 6, [1] * 6, 4, binning="mass").count.sum() == 6
    equal = metrics.reliability(np.linspace(0, 0.2, 100), [0] * 100, 4, binning="mass")
    assert equal.count.tolist() == [25] * 4
