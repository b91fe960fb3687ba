"""Fixed points against float64 loops and the exact equidistant theory; what may not be claimed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax import InputError
from hopfield_jax import memory, patterns
from hopfield_jax.solvers import certificates, fixed_points, spaces
from hopfield_jax.solvers.fixed_points import find_fixed_points, find_minima, merge
from tests.hopfield.helpers import softmax, spinodal, trajectory

pytestmark = pytest.mark.usefixtures("quick_compilation")


def spread(x):
    """rms distance to the mean."""
    return np.sqrt(((x - x.mean(axis=0)) ** 2).sum(axis=1).mean())


def plain(x, xi, beta, tolerance, kind="dot"):
    """The update of one state [d] until |xi - T(xi)| <= tolerance * spread: state and count."""
    bias = -(x**2).sum(1) / 2 if kind == "euclidean" else 0
    for count in range(100_000):
        image = softmax(beta * (x @ xi + bias)) @ x
        if np.linalg.norm(image - xi) <= tolerance * spread(x):
            return image, count
        xi = image
    raise AssertionError("no fixed point")


def equidistant(n, norm=1.0, angle=np.pi / 2):
    """n patterns of one norm and angle, rotated out of the axes, [n, n + 1]."""
    x = np.zeros((n, n + 1))
    x[:, :n] = np.sqrt(1 - np.cos(angle)) * np.eye(n)
    x[:, n] = np.sqrt(np.cos(angle) + 0.0)
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(n + 1, n + 1)))
    return norm * x @ turn


@pytest.mark.parametrize(
    ("method", "form"),
    [
        pytest.param("picard", "weights", marks=pytest.mark.slow),
        ("aitken", "state"),
        pytest.param("aitken", "weights", marks=pytest.mark.slow),
        pytest.param("newton", "weights", marks=pytest.mark.slow),
        pytest.param("picard", "state", marks=pytest.mark.slow),
        pytest.param("newton", "state", marks=pytest.mark.slow),
    ],
)
def test_same_fixed_points_as_a_loop(method, form):
    # from one attractor to a pattern each, with very different numbers of steps
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 6)) / np.sqrt(6)
    starts, betas = rng.normal(size=(16, 6)), np.geomspace(0.3, 30, 16)
    with jax.enable_x64(True):
        found = find_fixed_points(
            memory(x, "euclidean"), starts, betas, tolerance=1e-12, method=method, space=form
        )
        assert found.converged.all()
        for r in range(16):
            exact, count = plain(x, starts[r], betas[r], 1e-13, "euclidean")
            np.testing.assert_allclose(found.state[r], exact, atol=1e-9)
            if method == "picard":  # the loop above goes on for one digit more
                assert 0.8 * count - 2 <= int(found.steps[r]) <= count + 1
        residual = [
            np.linalg.norm(v - softmax(b * (x @ v - (x**2).sum(1) / 2)) @ x)
            for v, b in zip(np.asarray(found.state), betas, strict=True)
        ]
        np.testing.assert_allclose(found.residual, residual / spread(x), atol=1e-15)


@pytest.mark.slow
def test_saddle_nodes_of_equidistant_patterns():
    # A6: pattern minima end at K_s, to 1e-3, whatever norm and angle; 52, 161, 458 plain steps at
    # K_s + 1e-1, 1e-2, 1e-3.
    n = 64
    limit, weight = spinodal(n)
    assert limit == pytest.approx(6.9245846, abs=1e-7)
    offsets = np.array([1e-1, 1e-2, 1e-3, -1e-3])
    steps = {}
    with jax.enable_x64(True):
        for norm, angle in [(1.0, np.pi / 2), (2.5, 1.0)]:
            x = equidistant(n, norm, angle)
            betas = (limit + offsets) / (norm**2 * (1 - np.cos(angle)))
            for method in ("picard", "aitken", "newton"):
                found = find_minima(
                    memory(x), np.tile(x[:1], (4, 1)), betas, tolerance=1e-10, method=method
                )
                steps[norm, method] = np.asarray(found.steps)
                # above K_s the pattern's own minimum, below it the centroid, all proved
                assert found.minimum.all()
                p = np.asarray(softmax(betas[:, None] * np.asarray(found.state) @ x.T))
                assert (p[:3, 0] > weight).all()
                np.testing.assert_allclose(p[2, 0], weight, atol=0.02)
                np.testing.assert_allclose(found.state[3], x.mean(axis=0), atol=1e-8 * norm)
    np.testing.assert_allclose(steps[1.0, "picard"][:3], [52, 161, 458], rtol=0.1)
    np.testing.assert_allclose(steps[2.5, "picard"][:3], [52, 161, 458], rtol=0.1)
    for fast in ("aitken", "newton"):
        assert (steps[1.0, fast][:3] <= 60).all()


@pytest.mark.slow
def test_a_loose_tolerance_is_not_certified_at_a_ghost():
    # 1e-4 below K_s the update slows to 1e-5 a step: a tolerance of 1e-4 stops there
    limit, _ = spinodal(64)
    x = equidistant(64)
    with jax.enable_x64(True):
        found = find_minima(memory(x), x[:2], limit - 1e-4, tolerance=1e-4)
        assert found.converged.all()
        assert float(jnp.max(found.residual)) <= 1e-4
        assert not found.minimum.any()
        true = find_minima(memory(x), x[:2], limit - 1e-4, tolerance=1e-7)
        assert true.minimum.all()
        np.testing.assert_allclose(true.state, np.tile(x.mean(0), (2, 1)), atol=1e-5)


@pytest.mark.parametrize("n", [6, pytest.param(16, marks=pytest.mark.slow)])
def test_rows_that_an_accelerated_method_leaves_are_taken_on(n):
    # Newton steps end beside these ghosts after 37 steps, with residuals near 1e-6
    beta = spinodal(n)[0] * (1 - {6: 1e-7, 16: 10**-6.25}[n])
    x = patterns.equidistant(n, seed=1)
    with jax.enable_x64(True):
        found = find_minima(
            memory(x), x[:1], beta, tolerance=1e-9, method="newton", max_steps=20_000
        )
        assert bool(found.minimum[0])
        np.testing.assert_allclose(found.state[0], x.mean(axis=0), atol=1e-8)
        short = find_minima(memory(x), x[:1], beta, tolerance=1e-9, method="newton", max_steps=90)
        assert short.unconverged.tolist() == [0]
        assert not bool(short.minimum[0])


@pytest.mark.slow
def test_a_saddle_is_a_fixed_point_but_no_minimum():
    # two orthonormal patterns together: symmetric but for rounding, which grows by rho = 4 a step
    start = np.array([[1.0, 1.0, 0, 0, 0, 0, 0, 0]]) / 2
    with jax.enable_x64(True):
        found = find_minima(memory(np.eye(8)), start, 8.0, tolerance=1e-7)
        assert bool(found.converged[0])
        assert float(found.certificate.spectral_radius[0]) > 1
        assert int(found.certificate.morse_index[0]) == 1
        assert not bool(found.minimum[0])


@pytest.mark.slow
def test_patterns_within_a_small_ball_have_one_attractor():
    # A9: beta D_max^2 < 4, 200 sets. Zeros in place of dimensions that a set does not use move
    # nothing, so that all sets share their programs.
    rng = np.random.default_rng(9)
    n, largest = 12, 20
    with jax.enable_x64(True):
        for trial in range(200):
            d = (2, 3, 8, largest)[trial % 4]
            x = np.zeros((n, largest))
            x[:, :d] = rng.normal(size=(n, d)) * rng.uniform(0.2, 2, (n, 1)) + rng.normal(size=d)
            if trial % 5 == 0:  # two far clusters use the bound up
                x[: n // 2] = x[0] + 0.01 * (x[: n // 2] - x[0])
                x[n // 2 :] = x[-1] + 0.01 * (x[n // 2 :] - x[-1])
            widest = np.linalg.norm(x[:, None] - x[None], axis=2).max()
            kind = ("dot", "euclidean")[trial // 4 % 2]
            away = rng.normal(size=(3, largest)) * 3
            starts = np.concatenate([x, x.mean(0, keepdims=True), away])
            found = find_fixed_points(memory(x, kind), starts, 3.99 / widest**2, tolerance=1e-11)
            assert found.converged.all()
            labels, _ = merge(found.state, widest, 1e-6)
            assert labels.max() == 0


@pytest.mark.parametrize(
    ("method", "form"),
    [
        ("aitken", "weights"),
        pytest.param("aitken", "state", marks=pytest.mark.slow),
        pytest.param("picard", "weights", marks=pytest.mark.slow),
        pytest.param("newton", "weights", marks=pytest.mark.slow),
        pytest.param("newton", "state", marks=pytest.mark.slow),
    ],
)
def test_energy_never_rises(method, form):
    # A12: across a transition, on ghosts, and to the last digit; and the methods that may jump gain
    # at least a quarter of the square of the last residual whenever they move
    limit, _ = spinodal(24)
    x = equidistant(24)
    rng = np.random.default_rng(2)
    starts = np.concatenate([x[:12], rng.normal(size=(12, 25)) * 0.5])
    betas = np.tile(limit + np.array([-0.3, -1e-2, -1e-3, 1e-3, 1e-2, 3.0]), 4)
    with jax.enable_x64(True):
        form = spaces.space(memory(x), form)
        states, energies = trajectory(form, starts, betas, steps=150, method=method)
        drop = -np.diff(np.asarray(energies), axis=0)
        assert drop.min() > -2e-15
        moved = np.linalg.norm(np.diff(np.asarray(states), axis=0), axis=2) > 0
        p = softmax(betas[:, None] * np.asarray(states) @ x.T)
        square = ((np.asarray(states) - p @ x) ** 2).sum(2)[:-1]
        gain = {"picard": 0.5, "aitken": 0.5, "newton": 0.25}[method]
        assert (drop - gain * square)[moved].min() > -2e-15
        if method != "picard":
            slow = trajectory(form, starts, betas, steps=150)[0]
            left = np.linalg.norm(np.asarray(slow[-1] - slow[-2]), axis=1)
            # 1e-2 above K_s: 150 plain steps leave 1e-9, these are at rounding
            assert np.sqrt(square[-1])[4] < 1e-14 < left[4]


@pytest.mark.slow
def test_hundred_thousand_patterns_at_huge_beta():
    # A13: blocks of patterns, single precision
    rng = np.random.default_rng(1)
    x = rng.normal(size=(100_000, 8)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    starts = np.concatenate([x[:8], x[8:16] + 1e-4])
    found = find_fixed_points(memory(x), starts, 1e6)
    assert found.converged.all()
    assert int(found.steps.max()) <= 3
    np.testing.assert_allclose(found.state, x[:16], atol=1e-6)
    np.testing.assert_allclose(found.energy, np.log(1e5) / 1e6, atol=1e-6)


@pytest.mark.slow
def test_rows_do_not_depend_on_their_company_and_few_programs_serve_all():
    # 300 rows over a transition: working sets of 256, 64, 16 and back, against one at a time
    x = equidistant(32)
    m = memory(x.astype(np.float32))
    rng = np.random.default_rng(3)
    starts = x[rng.integers(32, size=300)].astype(np.float32)
    betas = np.linspace(5, 9, 300).astype(np.float32)
    before = fixed_points._advance._cache_size()
    given = jnp.asarray(starts)
    found = find_fixed_points(m, given, betas)
    programs = fixed_points._advance._cache_size() - before
    assert programs <= 4  # 256, 64, 16, and 16 of few rows, taken on where rounding stopped them
    np.testing.assert_array_equal(given, starts)  # no buffer of the caller's is given away
    assert found.converged.all()
    find_fixed_points(m, starts[:257], betas[:257], tolerance=1e-5)
    assert fixed_points._advance._cache_size() - before == programs
    for r in rng.integers(300, size=6):
        alone = find_fixed_points(m, starts[r : r + 1], betas[r])
        np.testing.assert_allclose(alone.state[0], found.state[r], atol=2e-4)
        assert abs(int(alone.steps[0]) - int(found.steps[r])) <= 2
    assert int(found.steps.max()) > 40 > 20 > np.median(found.steps)


@pytest.mark.slow
def test_rotation_translation_and_scale_of_minima():
    # A7, at the fixed points: beta scales as an inverse square of length
    rng = np.random.default_rng(5)
    x, beta, s = rng.normal(size=(6, 4)), 2.0, 0.3
    turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    shift = np.array([3.0, -1, 0.5, 2])

    def minima(x, beta):
        return find_fixed_points(memory(x, "euclidean"), x, beta, tolerance=1e-13)

    with jax.enable_x64(True):
        base = minima(x, beta)
        assert base.converged.all()
        assert merge(base.state, 1.0)[0].max() >= 2
        np.testing.assert_allclose(minima(x @ turn, beta).state, base.state @ turn, atol=1e-11)
        np.testing.assert_allclose(minima(x + shift, beta).state, base.state + shift, atol=1e-11)
        scaled = minima(s * x, beta / s**2)
        np.testing.assert_allclose(scaled.state, s * base.state, atol=1e-11)
        np.testing.assert_allclose(scaled.energy, s**2 * base.energy, atol=1e-12)


@pytest.mark.slow
def test_a_tolerance_means_the_same_wherever_the_origin_lies():
    # Euclidean energy, 1000 spreads from the origin; one loose tolerance, one that only numbers as
    # small as the patterns' distances can meet; near a spinodal, where it decides what is claimed
    limit, _ = spinodal(16)
    x, far = equidistant(16), np.full(17, 250.0)
    betas = limit * np.array([0.5, 1 - 1e-4, 1 + 1e-4, 2.0])
    with jax.enable_x64(True):
        assert float(memory(x).spread) == pytest.approx(np.sqrt(15 / 16), rel=1e-14)
        for tolerance in (1e-4, 1e-13):
            here, there = (
                find_minima(
                    memory(x + s, "euclidean"),
                    x[:4] + s,
                    betas,
                    tolerance=tolerance,
                    method="picard",
                )
                for s in (0, far)
            )
            assert here.converged.all()
            np.testing.assert_array_equal(there.converged, here.converged)
            np.testing.assert_allclose(there.steps, here.steps, atol=2)
            np.testing.assert_allclose(there.state - far, here.state, atol=1e-6)
        assert here.minimum.all()


@pytest.mark.slow
def test_rows_that_do_not_converge_are_named():
    limit, _ = spinodal(64)
    x = equidistant(64)
    betas = np.array([1.0, limit - 1e-3, 20.0])
    with jax.enable_x64(True):
        found = find_minima(memory(x), x[:3], betas, tolerance=1e-9, max_steps=40)
    assert found.converged.tolist() == [True, False, True]
    assert found.minimum.tolist() == [True, False, True]
    assert found.unconverged.tolist() == [1]
    assert int(found.steps[1]) == 40
    text = fixed_points.describe(found)
    assert "1 of 3 rows did not converge (rows 1;" in text
    assert "after 40 steps" in text
    assert fixed_points.describe(find_fixed_points(memory(x), x[:3], 20.0)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("energy", ["dot", "euclidean"])
def test_extrapolation_ends_where_the_update_does(energy):
    # clusters of random patterns, starts all over the hull and off it, from one minimum to many:
    # every row of "aitken" must end at the plain row's minimum, with fewer updates
    rng = np.random.default_rng(0)
    x = np.repeat(2 * rng.normal(size=(6, 6)), 8, axis=0) + 0.4 * rng.normal(size=(48, 6))
    starts = np.concatenate([rng.dirichlet(np.full(48, 0.3), 60) @ x, rng.normal(size=(40, 6))])
    betas = np.geomspace(0.01, 20, 16)[:, None]
    with jax.enable_x64(True):
        m = memory(x, energy)
        slow, fast = (
            find_minima(m, starts, betas, tolerance=1e-10, method=method)
            for method in ("picard", "aitken")
        )
        assert slow.minimum.all()
        assert fast.minimum.all()
        apart = np.linalg.norm(np.asarray(slow.state - fast.state), axis=1)
        assert apart.max() < 1e-6
        assert merge(fast.state[-100:], float(m.spread))[0].max() >= 5
        assert int(np.sum(fast.steps)) < 0.7 * int(np.sum(slow.steps))


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d"), [(32, 64), (64, 128), (256, 256)])
def test_no_pattern_loses_its_minimum_in_single_precision(n, d):
    # every pattern at betas down to 1e-4 above K_s: the ratio of two short steps is noise, and an
    # extrapolation by it once flew over the saddle, to a centroid that was certified
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))
    x = turn[:n].astype(np.float32)
    betas = np.float32(spinodal(n)[0] * (1 + np.geomspace(1e-4, 2e-2, 2048 // n)))[:, None]
    m = memory(x)
    p = {}
    for method in ("picard", "aitken"):
        found = find_fixed_points(m, x, betas, method=method)
        kept = np.asarray(jnp.sum(found.state.reshape(-1, n, d) * x, axis=2)) > 0.5
        p[method] = kept.mean(axis=1)
    # within the rounding of K_s plain iteration may lose some too
    assert (p["aitken"][betas[:, 0] > spinodal(n)[0] * (1 + 3e-4)] == 1).all()
    assert p["aitken"].mean() >= p["picard"].mean() - 1e-3


@pytest.mark.slow
def test_rows_of_weight_zero_leave_no_trace():
    rng = np.random.default_rng(0)
    x, starts = rng.normal(size=(4, 3)), rng.normal(size=(5, 3))
    more = np.concatenate([x, 1000 * rng.normal(size=(1, 3))])
    a = find_minima(memory(x), starts, 1.0)
    b = find_minima(memory(more, weights=[1, 1, 1, 1, 0]), starts, 1.0)
    np.testing.assert_allclose(a.state, b.state, atol=1e-5)
    np.testing.assert_allclose(a.energy, b.energy, rtol=1e-5)
    with pytest.raises(InputError, match="beta must be finite and > 0"):
        find_minima(memory(x.astype(np.float32)), starts, 1e-40)


@pytest.mark.slow
def test_a_column_of_betas_takes_every_start_at_each():
    rng = np.random.default_rng(3)
    x, starts, betas = rng.normal(size=(9, 5)), rng.normal(size=(7, 5)), np.geomspace(0.1, 9, 5)
    with jax.enable_x64(True):
        m = memory(x)
        found = find_minima(m, starts, betas[:, None])
        each = find_minima(m, np.tile(starts, (5, 1)), np.repeat(betas, 7))
    for leaf, other in zip(jax.tree.leaves(found), jax.tree.leaves(each), strict=True):
        np.testing.assert_array_equal(leaf, other)


def test_merge():
    points = np.array([[0.0, 0], [1, 0], [0, 9e-4], [1, -5e-4], [5, 5], [0, 2e-3]])
    labels, representatives = merge(points, 1.0)
    assert labels.tolist() == [0, 1, 0, 1, 2, 3]
    assert representatives.tolist() == [0, 1, 4, 5]
    # lengths scale: at ten times the unit everything within 1e-2 is one
    assert merge(points, 10.0)[0].tolist() == [0, 1, 0, 1, 2, 0]


@pytest.mark.slow
def test_minima_of_ten_patterns_are_the_centroid_or_single_patterns():
    # A5, from starts all over the hull at three temperatures
    n = 10
    x = equidistant(n)
    rng = np.random.default_rng(6)
    starts = rng.dirichlet(np.full(n, 0.3), 16) @ x
    with jax.enable_x64(True):
        m = memory(x)
        for beta, kinds in [(4.4, {0}), (6.0, {0, 1}), (12.0, {1})]:
            found = find_fixed_points(m, starts, beta, tolerance=1e-10)
            _, rows = merge(found.state, np.sqrt(2))
            sure = certificates.certify(m, found.state[rows], beta)
            assert sure.minimum.all()
            p = softmax(beta * np.asarray(found.state[rows]) @ x.T)
            central = np.abs(p - 1 / n).max(1) < 1e-6
            alone = (p.max(1) > 0.7) & (np.sort(p, axis=1)[:, -2] - p.min(1) < 1e-6)
            assert (central ^ alone).all()
            assert set(alone.astype(int)) == kinds


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"starts": np.ones(3)}, r"rows \[R, 3\] as the patterns are, got shape \(3,\)"),
        ({"starts": np.ones((2, 4))}, r"got shape \(2, 4\)"),
        ({"starts": np.full((2, 3), np.nan)}, "starts must be finite"),
        ({"beta": 0.0}, "beta must be finite and > 0, got 0.0"),
        ({"beta": [1.0, 2.0]}, r"one per start \[3\], .*got shape \(2,\)"),
        ({"method": "secant"}, "unknown method 'secant'"),
        ({"space": "phase"}, "unknown space 'phase'"),
        ({"tolerance": 0.0}, "tolerance must be > 0"),
        ({"tolerance": np.inf}, "tolerance must be > 0 and finite"),
        ({"max_steps": 1.9}, "max_steps at least 1 and a whole number: got 1e-06 and 1.9"),
    ],
)
def test_bad_input_is_named(change, words):
    call = {"starts": np.eye(3), "beta": 1.0} | change
    with pytest.raises(InputError, match=words):
        find_fixed_points(memory(np.eye(3)), **call)
