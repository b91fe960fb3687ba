"""Transitions, basins, capacity, retrieval, trees and landscapes against what is known exactly.

Nearly all on six equidistant patterns in six dimensions, in double precision, so that the searches
compile once.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax.errors import InputError
from hopfield_jax import energy, equidistant, patterns, theory
from hopfield_jax.analyses import basins, capacity, landscape, metastable, retrieval, transition
from hopfield_jax.plots import curves, figures

pytestmark = pytest.mark.usefixtures("quick_compilation", "double")

N = 6
K_S, K_C, K_N = theory.characteristic(N)


@pytest.fixture
def six(double):
    return energy.memory(patterns.equidistant(N, seed=1))


# ---- transitions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "d", "norm", "angle"), [(6, 6, 1.0, math.pi / 2), (6, 9, 2.0, 1.0), (4, 3, 0.5, None)]
)
def test_energies_cross_at_the_exact_beta(n, d, norm, angle):
    # By plain iteration in R^d and bisection, with nothing of analyses.transition (A2).
    angle = math.acos(-1 / (n - 1)) if angle is None else angle
    x = patterns.equidistant(n, d, norm, angle, seed=3)
    memory = energy.memory(x)

    @jax.jit
    def gap(beta):
        end = jax.lax.fori_loop(
            0, 3000, lambda _, s: energy.update(memory, s, beta), memory.patterns[:1]
        )
        ends = jnp.concatenate([end, memory.patterns.mean(axis=0, keepdims=True)])
        e = energy.energy(memory, ends, beta)
        return e[0] - e[1]

    exact = theory.critical(n) / float(theory.effective(1.0, norm, angle))
    low, high = 0.995 * exact, 1.005 * exact
    assert gap(low) > 0 > gap(high)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if gap(middle) > 0 else (low, middle)
    assert low == pytest.approx(exact, rel=1e-6)


def test_the_three_protocols_find_the_three_values(six):
    found = transition.protocols(six, relative=3e-7)
    scale = float(theory.half_squared_distance())
    assert found.patterns * scale == pytest.approx(K_S, rel=1e-5)
    assert found.energy * scale == pytest.approx(K_C, rel=1e-6)
    assert found.centroid * scale == pytest.approx(K_N, rel=1e-5)
    assert found.unresolved.size == 0
    np.testing.assert_allclose(found.each, found.patterns, rtol=1e-6)


@pytest.mark.slow
def test_a_loop_is_open_between_the_spinodal_and_n(six):
    at = np.array([K_S - 1e-3, K_S + 1e-3, 5.9, 6.2])
    centre = np.asarray(six.patterns).mean(axis=0, keepdims=True)
    up, down = transition.loop(six, centre, six.patterns[:1], at)
    overlap = [np.array([transition.overlap(s)[0] for s in branch]) for branch in (up, down)]
    exact = theory.m_of_u(theory.branch(N, 1, at[1])[-1], 1, N)
    np.testing.assert_allclose(overlap[0][:3], 0, atol=1e-6)
    risen = theory.m_of_u(theory.branch(N, 1, at[3])[-1], 1, N)
    assert overlap[0][3] == pytest.approx(risen, abs=1e-6)
    assert overlap[1][0] == pytest.approx(0, abs=1e-6)
    assert overlap[1][1] == pytest.approx(exact, abs=1e-5)


def test_what_did_not_converge_is_no_minimum_and_is_named(six):
    # one step beyond a spinodal: the ghost of the pattern's minimum
    starts = np.asarray(six.patterns)
    found = transition.settle(six, starts, K_S * 0.999, max_steps=3)
    assert not found.converged.any()
    assert not found.minimum.any()
    assert np.isnan(transition.overlap(found)).all()
    assert math.isnan(transition.energy_gap(found))
    sorted_ = basins.sort(six, found)
    assert sorted_.starts.size == 0
    assert sorted_.unsettled.tolist() == list(range(N))
    # and a saddle, which converges at once: the centroid beyond K = N
    centre = starts.mean(axis=0, keepdims=True)
    saddle = transition.settle(six, centre, 6.5)
    assert saddle.converged.all()
    assert not saddle.minimum.any()


def test_an_edge_needs_a_minimum_to_follow(six):
    lost = transition.edge(
        six, np.asarray(six.patterns), transition.majority(np.eye(N)), 0.9 * K_S, 0.1
    )
    assert not lost.valid.any()
    assert np.isnan(lost.beta).all()
    with pytest.raises(InputError, match="two betas > 0"):
        transition.edge(six, six.patterns, transition.undecided, 1.0, 0.0)


@pytest.mark.slow
def test_norm_bias_excludes_patterns_for_the_dot_energy_only():
    # the last pattern lies inside: another one has the larger product with it at any beta
    x = np.concatenate([patterns.equidistant(5, 6), [[0.3, 0.2, 0, 0, 0, 0.0]]])
    dot, euclidean = energy.memory(x), energy.memory(x, "euclidean")
    assert (transition.margins(dot) > 0).tolist() == [True] * 5 + [False]
    assert (transition.margins(euclidean) > 0).all()
    assert transition.margins(euclidean)[5] == pytest.approx(
        0.5 * min(np.sum((x[:5] - x[5]) ** 2, axis=1))
    )
    found = transition.onsets(dot, relative=1e-2)
    assert np.isinf(found.beta).tolist() == [False] * 5 + [True]
    assert found.valid.tolist() == [True] * 5 + [False]
    assert np.isfinite(transition.onsets(euclidean, relative=1e-2).beta).all()


@pytest.mark.slow
def test_an_infinite_onset_speaks_of_the_pattern_as_a_start():
    # The third pattern's product with the first is larger than the first's own, at any beta, yet
    # there is a minimum where the first holds most of the weight; it is not reached from there.
    x = np.array([[1, 0], [0.7, -0.5], [1.05, 20]])
    memory = energy.memory(x)
    assert transition.margins(memory)[0] < 0
    found = transition.onsets(memory, relative=1e-2)
    assert not found.valid[0]
    assert np.isinf(found.beta[0])
    there = transition.settle(memory, [[0.888, -0.186]], 3.0)
    assert there.minimum[0]
    assert there.weights[0, 0] == pytest.approx(0.627, abs=1e-3)


def test_exact_curves_stay_within_their_range():
    pieces = equidistant.branches(N, 2.0, 8.0)
    assert [p.stable for p in pieces] == [True, False]
    for piece in pieces:
        assert piece.K.min() >= 2 * (1 - 1e-9)
        assert piece.K.max() <= 8 * (1 + 1e-9)
        for k, m in zip(piece.K[::40], piece.m[::40], strict=True):
            found = theory.branch(N, 1, k)
            exact = [theory.m_of_u(u, 1, N) for u in found]
            assert min(abs(m - e) for e in exact) < 1e-6
    assert pieces[0].K.min() == pytest.approx(K_S, rel=1e-9)
    assert pieces[0].K.max() == pytest.approx(8, rel=1e-9)
    assert equidistant.branches(N, 1.0, 3.0) == []
    (above,) = equidistant.branches(N, 7.0, 8.0)
    assert above.stable
    number = equidistant.number_of_minima(N, [1.0, K_S + 0.01, 5.99, 6.0, 9.0])
    assert number.tolist() == [1, 7, 7, 6, 6]
    p1 = theory.weights_of_u(theory.branch(N, 1, 5.0)[-1], 1, N)[0]
    assert equidistant.weight(N, [1.0, 5.0]) == pytest.approx([1 / N, p1])
    p = np.array([0.4, *[0.12] * 5])
    assert equidistant.weight_of(N, p[0] - p[1]) == pytest.approx(p[0])
    edge = equidistant.watershed(N, [1.0, 7.0])
    assert edge[0] == 1
    assert math.isnan(edge[1])


# ---- basins --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shares_of_basins_are_shares(six):
    starts = basins.hull_starts(six, 64, seed=1)
    p = np.linalg.lstsq(np.asarray(six.patterns).T, starts.T, rcond=None)[0]
    np.testing.assert_allclose(p.sum(axis=0), 1)
    assert (p > 0).all()
    found = basins.basins(six, starts, 5.0)
    assert found.starts.sum() == 64
    assert (np.diff(found.starts) <= 0).all()
    assert found.unsettled.size == 0
    assert (found.low <= found.share).all()
    assert (found.high >= found.share).all()
    assert set(found.owner) <= {-1, *range(N)}
    assert len(set(found.owner)) == len(found.owner)
    # each start fell to the minimum it was counted for
    for k, owner in enumerate(found.owner):
        if owner >= 0:
            assert (p[:, found.label == k].argmax(axis=0) == owner).all()
    low = basins.basins(six, starts, 0.9 * K_S)
    assert low.owner.tolist() == [-1]
    np.testing.assert_allclose(low.state[0], np.mean(six.patterns, axis=0), atol=1e-6)


def test_the_watershed_is_the_unstable_branch(six):
    x = np.asarray(six.patterns)
    at = np.array([4.0, 4.6, 5.5])
    centre = np.repeat(x.mean(axis=0, keepdims=True), 3, axis=0)
    found = basins.watershed(six, centre, x[:3], at, resolution=1e-6)
    exact = [theory.m_of_u(theory.branch(N, 1, k)[0], 1, N) for k in at]
    np.testing.assert_allclose(found.position, exact, atol=2e-6)
    assert not found.unresolved.any()
    everything = basins.watershed(six, centre, x[:3], np.full(3, 0.9 * K_S))
    assert everything.position.tolist() == [1, 1, 1]
    nothing = basins.watershed(six, centre, x[:3], np.full(3, 6.5))
    assert np.isnan(nothing.position).all()


# ---- capacity ------------------------------------------------------------------------------------


def test_capacity_is_the_distribution_of_onsets(six):
    found = capacity.measure(six)
    np.testing.assert_allclose(found.onset, K_S, rtol=2e-3)
    assert found.predicted == pytest.approx(K_S)
    assert found.biased == 0
    onset = [4.0, 2.0, math.inf, 8.0]
    np.testing.assert_array_equal(capacity.share(onset, [1, 2, 5, 1e9]), [0, 0.25, 0.5, 0.75])
    some = found._replace(onset=np.array([1.0, np.nan, 2.0, np.inf]))
    assert some.quantiles().tolist() == [1, 2, math.inf]


# ---- retrieval -----------------------------------------------------------------------------------


def test_corruptions_are_as_large_as_they_say():
    x = patterns.random(0, 40, 50, norm=3.0)
    which = np.arange(40)
    noisy = retrieval.corrupt(x, which, 0.5, seed=1) - x
    assert np.sqrt(np.mean(np.sum(noisy**2, axis=1))) == pytest.approx(1.5, rel=0.05)
    masked = retrieval.corrupt(x, which, 0.3, "mask", seed=1)
    assert ((masked == 0).sum(axis=1) == 15).all()
    assert (masked == x).sum() == 40 * 35
    assert len({tuple(row) for row in masked == 0}) > 30


def test_one_update_is_best_at_the_beta_of_the_noise(six):
    # the posterior mean has the least mean square error of all estimates
    which = np.tile(np.arange(N), 400)
    level = 0.9
    best = retrieval.posterior_mean_beta(six.patterns, level)
    assert best == pytest.approx(N / 0.81)
    queries = retrieval.corrupt(six.patterns, which, level, seed=2)
    errors = [
        float(jnp.mean(jnp.sum((energy.update(six, queries, b) - six.patterns[which]) ** 2, 1)))
        for b in (best / 2, best, 2 * best)
    ]
    assert errors[1] < min(errors[0], errors[2])


def test_retrieval_finds_nothing_below_the_onset_and_all_above(six):
    which = np.arange(N)
    queries = np.stack([retrieval.corrupt(six.patterns, which, v, seed=3) for v in (0.2, 0.3)])
    found = retrieval.retrieve(six, which, queries, [0.8 * K_S, 12.0])
    np.testing.assert_array_equal(found.found, [[0, 1], [0, 1]])
    assert (found.unsettled == 0).all()
    (p1,) = equidistant.weight(N, [12.0])
    left = (1 - p1) * math.sqrt(N / (N - 1))  # |x_1 - X^T p| of orthonormal patterns
    np.testing.assert_allclose(found.error[:, 1], left, rtol=1e-5)
    np.testing.assert_allclose(found.error[:, 0], math.sqrt(1 - 1 / N), rtol=1e-5)


@pytest.mark.slow
def test_retrieval_and_slices_by_blocks(six, monkeypatch):
    which = np.arange(4)
    queries = retrieval.corrupt(six.patterns, which, 0.3, seed=3)[None]
    states = np.asarray(six.patterns)[None]

    def measured():
        found = retrieval.retrieve(six, which, queries, [4.0, 12.0])
        return [*found, landscape.energies(six, states, [4.0, 12.0])]

    whole = measured()
    monkeypatch.setattr(energy, "BLOCK", 2)
    jax.clear_caches()  # sizes of blocks are read when a program is traced
    blocked = measured()
    jax.clear_caches()
    for a, b in zip(whole, blocked, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


# ---- metastable states ---------------------------------------------------------------------------


def test_window_of_a_group_and_its_tree():
    x = patterns.ultrametric(3, 2, 1.0, 0.8, 0.0)
    memory = energy.memory(x)
    groups = np.array([0, 0, 1, 1, 2, 2])
    exact = theory.ultrametric_window(3, 2, 1.0, 0.8, 0.0)
    low, high, unresolved = metastable.group_window(memory, groups, math.sqrt(exact[0] * exact[1]))
    assert not unresolved.any()
    np.testing.assert_allclose(low, exact[0], rtol=1e-4)
    np.testing.assert_allclose(high, exact[1], rtol=1e-4)
    middle = math.sqrt(exact[0] * exact[1])
    grown = metastable.tree(memory, [1.0, middle, 40.0])
    assert grown.number.tolist() == [6, 3, 1]
    assert grown.label[1].tolist() == [0, 0, 2, 2, 4, 4]
    assert not grown.unsettled
    np.testing.assert_allclose(grown.size[1], 2, rtol=0.2)
    np.testing.assert_allclose(grown.size[2], 6, rtol=1e-6)
    pairs = {frozenset(grown.order[i : i + 2] // 2) for i in (0, 2, 4)}
    assert pairs == {frozenset([0]), frozenset([1]), frozenset([2])}


# ---- landscapes ----------------------------------------------------------------------------------


def test_slices_hold_their_states(six):
    x = np.asarray(six.patterns)
    plane = landscape.through(*x[:3])
    np.testing.assert_allclose(plane.axes @ plane.axes.T, np.eye(2), atol=1e-12)
    back = plane.origin + plane.project(x[:3]) @ plane.axes
    np.testing.assert_allclose(back, x[:3], atol=1e-12)
    states = plane.states([-1.0, 0.5], [0.0, 1.0, 2.0])
    assert states.shape == (3, 2, N)
    np.testing.assert_allclose(plane.project(states[2, 1]), [0.5, 2.0], atol=1e-12)
    maps = landscape.energies(six, states, [2.0, 7.0])
    assert maps.shape == (2, 3, 2)
    assert maps[1, 2, 1] == pytest.approx(float(energy.energy(six, states[2, 1], 7.0)))
    # on the line to a pattern the energy is lowest at the fixed point
    s = np.linspace(0, 1, 2001)
    line = landscape.energies(six, landscape.line(x.mean(axis=0), x[0], s), [5.0])[0]
    exact = theory.m_of_u(theory.branch(N, 1, 5.0)[-1], 1, N)
    assert s[line.argmin()] == pytest.approx(exact, abs=1e-3)
    leading = landscape.principal(x @ np.diag([5, 3, 1, 1, 1, 1]) + 2)
    np.testing.assert_allclose(leading.axes @ leading.axes.T, np.eye(2), atol=1e-12)


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, d: basins.hull_starts(m, 0), "at least one start, got 0"),
        (lambda m, d: basins.hull_starts(m, 4, concentration=-1.0), "number > 0, got -1"),
        (lambda m, d: basins.watershed(m, np.zeros((2, 6)), np.zeros((3, 6)), 1.0), "one shape"),
        (lambda m, d: capacity.share([], [1.0]), "at least one onset"),
        (lambda m, d: retrieval.corrupt(m.patterns, [0], -0.1), ">= 0, got -0.1"),
        (lambda m, d: retrieval.corrupt(m.patterns, [0], 1.5, "mask"), r"in \[0, 1\], got 1.5"),
        (lambda m, d: retrieval.corrupt(m.patterns, [0], 1, "nois"), "did you mean 'noise'"),
        (lambda m, d: retrieval.posterior_mean_beta(m.patterns, 0), "must be > 0"),
        (lambda m, d: retrieval.retrieve(m, [0], np.zeros((2, 6)), [1.0]), r"got \[2, 6\]"),
        (lambda m, d: metastable.tree(m, []), "at least one beta"),
        (lambda m, d: metastable.group_window(m, [0, 1], 1.0), "6 patterns need one group each"),
        (lambda m, d: landscape.through(*np.eye(3)[[0, 0, 1]]), "on one line"),
        (lambda m, d: landscape.through([0, 0], [1, 1], [2, 2]), "on one line"),
        (lambda m, d: landscape.principal([[0, 0], [1, 1], [2, 2]]), "on one line"),
        (lambda m, d: curves.panels([], d / "x.png"), "at least one panel"),
        (
            lambda m, d: curves.panels(
                [curves.Panel([("a", curves.Curve([1], [1, 2]))], "y")], d / "x.png"
            ),
            "curve 'a' needs x and y of one length",
        ),
        (lambda m, d: figures.merge_tree([1.0], [[0, 0]], [0], d / "x.png"), r"labels \[1, 1\]"),
    ],
)
def test_bad_input_is_named(six, tmp_path, call, words):
    with pytest.raises(InputError, match=words) as caught:
        call(six, tmp_path)
    assert "\n" not in str(caught.value)
