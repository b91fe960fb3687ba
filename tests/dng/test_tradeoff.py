"""Trade-off curves: paired bootstrap against the delta method, readings by hand, coverage."""

from __future__ import annotations

import numpy as np
import pytest

from dng_jax.errors import InputError
from dng_jax.metrics import kl_divergence, tradeoff

K = 4
FORBIDDEN = [(0,), (3,)]
SHARES = np.array([0.04, 0.36, 0.34, 0.26])


def draw(rng, shares, n, same=0.0, like=None):
    """Labels [n]; each repeats `like` with probability `same`, else is drawn again."""
    fresh = rng.choice(K, p=shares, size=n)
    return fresh if like is None else np.where(rng.random(n) < same, like, fresh)


def shares_of(f, leak):
    """A leak of the forbidden class of set f, the rest unequal."""
    rest = np.array([0.40, 0.34, 0.26]) * (1 - leak)
    return np.insert(rest, FORBIDDEN[f][0], leak)


def test_a_curve_holds_the_means_of_the_single_runs():
    rng = np.random.default_rng(0)
    labels = {"np": [np.stack([draw(rng, SHARES, 500) for _ in range(3)]) for _ in FORBIDDEN]}
    score = [[1.0, 2.0, 3.0], [3.0, 4.0, 8.0]]
    error = {"np": [[0.3, 0.1, 0.0], [0.4, 0.1, 0.0]]}
    scales = {"np": [1, 2, 3]}
    out = tradeoff.curves(
        labels, FORBIDDEN, K, scales, frechet={"np": score}, frechet_error=error, resamples=100
    )["np"]
    allowed = [np.arange(K) != 0, np.arange(K) != 3]
    for s in range(3):
        counts = [np.bincount(labels["np"][f][s], minlength=K) for f in range(2)]
        forward = [kl_divergence(c, a).corrected for c, a in zip(counts, allowed, strict=True)]
        back = [
            kl_divergence(c, a, form="reversed").corrected
            for c, a in zip(counts, allowed, strict=True)
        ]
        assert out.kl[s] == pytest.approx(np.mean(forward), rel=1e-12)
        assert out.reversed[s] == pytest.approx(np.mean(back), rel=1e-12)
        assert out.leak[s] == pytest.approx((counts[0][0] + counts[1][3]) / 1000)
    assert out.frechet.tolist() == [2, 3, 5.5]
    half = 1.96 * np.array([0.25, 0.5**0.5 / 10, 0])  # of the mean of two: hypot(.3, .4) / 2, ...
    np.testing.assert_allclose(out.frechet_high - out.frechet, half, atol=1e-12)
    np.testing.assert_allclose(out.frechet - out.frechet_low, half, atol=1e-12)
    assert out.kl_by_class.shape == (2, 3)


def test_several_classes_forbidden_at_once():
    counts = np.array([5, 95, 10, 90])
    labels = np.repeat(np.arange(K), counts)[None]
    out = tradeoff.curves({"a": [labels]}, [(0, 2)], K, {"a": [None]}, resamples=100)["a"]
    assert out.leak[0] == pytest.approx(15 / 200)
    exact = np.mean(np.log(0.5 * (200 + 2) / (counts[[1, 3]] + 0.5))) - 3 / 400
    assert out.kl[0] == pytest.approx(exact, rel=1e-12)


def test_paired_spread_is_the_delta_methods():
    """Standard errors of KL and of KL differences from influence functions, sample by sample."""
    rng = np.random.default_rng(1)
    n, near = 4000, np.array([0.06, 0.34, 0.34, 0.26])
    a = [draw(rng, SHARES, n) for _ in FORBIDDEN]
    b = [draw(rng, near, n, 0.8, like) for like in a]
    labels = {"a": [v[None] for v in a], "b": [v[None] for v in b]}
    scales = {"a": [1], "b": [1]}
    paired = tradeoff.curves(labels, FORBIDDEN, K, scales)
    alone = tradeoff.curves(labels, FORBIDDEN, K, scales, independent=("b",))

    def influence(y, banned):
        g = np.bincount(y, minlength=K) / n
        psi = np.where(np.arange(K) == banned, 0, -1 / (K - 1) / g)
        return psi[y]

    h = [[influence(y, f[0]) for y, f in zip(v, FORBIDDEN, strict=True)] for v in (a, b)]
    single = np.sqrt(sum(v.var() for v in h[0])) / 2 / np.sqrt(n)
    gap = np.sqrt(sum((x - y).var() for x, y in zip(*h, strict=True))) / 2 / np.sqrt(n)
    assert paired["a"].draws.kl.std() == pytest.approx(single, rel=0.08)
    found = (paired["a"].draws.kl - paired["b"].draws.kl).std()
    assert found == pytest.approx(gap, rel=0.08)
    apart = (alone["a"].draws.kl - alone["b"].draws.kl).std()
    assert apart > 1.5 * gap  # the pairing is worth something here
    # Equal labels leave no difference at all.
    same = tradeoff.curves({"a": labels["a"], "b": labels["a"]}, FORBIDDEN, K, scales)
    m = tradeoff.matched(same["a"], same["b"])
    assert (m.excess, m.excess_low, m.excess_high, m.reached) == (0, 0, 0, True)


def test_intervals_of_matched_excess_and_leak_cover():
    runs, n = 150, 600
    leaks = {"ref": [0.05], "other": [0.02, 0.10]}

    def world(rng, size):
        base = [draw(rng, shares_of(f, 0.05), size) for f in range(2)]
        return {
            name: [
                np.stack([draw(rng, shares_of(f, leak), size, 0.5, base[f]) for leak in values])
                for f in range(2)
            ]
            for name, values in leaks.items()
        }

    # The limit of many samples, read between the two scales as the sheet says.
    # Half the labels being the reference's, the leaks lie halfway to its own.
    points = np.array([0.035, 0.05, 0.075])
    exact = [-np.mean(np.log(3 * np.delete(shares_of(0, leak), 0))) for leak in points]
    x = np.log(points + 0.5 / n)
    truth = np.interp(x[1], x[::2], exact[::2]) - exact[1]
    hits, leak_hits = 0, 0
    for run in range(runs):
        out = tradeoff.curves(
            world(np.random.default_rng([3, run]), n), FORBIDDEN, K, leaks, resamples=200
        )
        m = tradeoff.matched(out["ref"], out["other"])
        hits += m.excess_low <= truth <= m.excess_high
        leak_hits += out["ref"].leak_low[0] <= 0.05 <= out["ref"].leak_high[0]
    # 95% within about 3 standard errors of 150 runs
    assert 0.89 < hits / runs < 0.995
    assert 0.89 < leak_hits / runs < 0.995


def of_counts(rows):
    return [np.stack([np.repeat(np.arange(K), row) for row in rows])]


def test_readings_by_hand():
    n = 1000
    rows = {
        "a": [[100, 300, 300, 300], [10, 330, 330, 330]],
        "b": [[40, 480, 240, 240], [40, 320, 320, 320], [20, 500, 240, 240]],
    }
    out = tradeoff.curves(
        {name: of_counts(r) for name, r in rows.items()},
        [(0,)],
        K,
        {"a": [1, 2], "b": [1, 2, 3]},
        resamples=200,
    )
    a = out["a"]

    def kl(row):
        return np.mean(np.log((n + 2) / 3 / (np.array(row[1:]) + 0.5))) - 3 / (2 * n)

    y = [kl(row) for row in rows["a"]]
    t = np.log(0.0205 / 0.1005) / np.log(0.0105 / 0.1005)
    levels = tradeoff.at_levels(a, [0.02, 0.2, 0.001], reference=out["b"])
    assert levels.reached.tolist() == [True, False, False]
    assert levels.leak.tolist() == [0.02, 0.1, 0.01]
    expected = y[0] + t * (y[1] - y[0])
    np.testing.assert_allclose(levels.kl, [expected, y[0], y[1]], rtol=1e-12)
    # b has its level .02 as a point of its own; two points at .04, of which the better counts.
    assert levels.excess[0] == pytest.approx(expected - kl(rows["b"][2]), rel=1e-12)
    assert tradeoff.at_levels(out["b"], [0.04]).kl[0] == pytest.approx(kl(rows["b"][1]))
    assert np.all(levels.excess_low < levels.excess)
    one = tradeoff.matched(a, out["b"], at=1)
    assert (one.reached, one.leak) == (False, 0.02)
    assert one.excess == pytest.approx(kl(rows["b"][2]) - y[1])
    # Straight lines in log leak: the mean excess is that of the ends.
    shifted = of_counts([[100, 400, 250, 250], [10, 450, 270, 270]])
    both = tradeoff.curves(
        {"a": of_counts(rows["a"]), "c": shifted}, [(0,)], K, {"a": [1, 2], "c": [1, 2]}
    )
    gap = both["c"].kl - both["a"].kl
    area = tradeoff.area(both["a"], both["c"])
    assert (area.leak_low, area.leak_high) == pytest.approx((0.01, 0.1))
    assert area.excess == pytest.approx(gap.mean(), rel=1e-9)
    assert area.excess_low < area.excess < area.excess_high
    half = tradeoff.area(both["a"], both["c"], between=(0.02, 0.1), measure="reversed")
    rev = both["c"].reversed - both["a"].reversed
    assert half.excess == pytest.approx(rev[0] + t / 2 * (rev[1] - rev[0]), rel=1e-9)
    one_point = tradeoff.curves(
        {"a": of_counts(rows["a"]), "d": of_counts(rows["b"][:1])},
        [(0,)],
        K,
        {"a": [1, 2], "d": [1]},
    )
    assert np.isnan(tradeoff.area(one_point["a"], one_point["d"]).excess)


def test_independent_family_has_its_own_n_and_draws():
    rng = np.random.default_rng(5)
    one, two = draw(rng, SHARES, 300)[None], draw(rng, SHARES, 330)[None]
    given = {"np": [one], "sld": [one], "reference": [two]}
    scales = {"np": [1], "sld": [1], "reference": [None]}
    out = tradeoff.curves(given, [(0,)], K, scales, independent=["reference"], resamples=100)
    assert np.array_equal(out["np"].draws.kl, out["sld"].draws.kl)
    assert out["reference"].samples == 330
    correlation = np.corrcoef(out["np"].draws.kl[:, 0], out["reference"].draws.kl[:, 0])[0, 1]
    assert abs(correlation) < 0.35
    less = tradeoff.curves({"np": [one]}, [(0,)], K, {"np": [1]}, resamples=100)["np"]
    assert np.array_equal(less.draws.kl, out["np"].draws.kl)


ONE = np.zeros((1, 5), np.uint8)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: tradeoff.curves({"a": [ONE]}, [(0,)], 1, {"a": [1]}), "all 1 classes"),
        (lambda: tradeoff.curves({"a": [ONE]}, [(4,)], 3, {"a": [1]}), "0..2"),
        (lambda: tradeoff.curves({"a": [ONE + 7]}, [(0,)], 3, {"a": [1]}), "7..7"),
        (lambda: tradeoff.curves({"a": [ONE + 0.5]}, [(0,)], 3, {"a": [1]}), "float64"),
        (lambda: tradeoff.curves({"a": [ONE]}, [(0,), (1,)], 3, {"a": [1]}), "each of 2"),
        (lambda: tradeoff.curves({"a": [ONE]}, [(0,)], 3, {"a": [1, 2]}), "2 scales"),
        (
            lambda: tradeoff.curves(
                {"a": [ONE], "b": [ONE[:, :4]]}, [(0,)], 3, {"a": [1], "b": [1]}
            ),
            "independent",
        ),
        (
            lambda: tradeoff.curves({"a": [ONE]}, [(0,)], 3, {"a": [1]}, independent=["c"]),
            "'c'",
        ),
        (lambda: tradeoff.curves({"a": [ONE]}, [(0,)], 3, {"a": [1]}, resamples=9), "9"),
    ],
)
def test_bad_labels_are_named(call, words):
    with pytest.raises(InputError, match=words.replace(".", r"\.")):
        call()
