"""The exact theory against printed values, 40-digit arithmetic, numpy eigenvalues and iteration."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest

from dng_jax.errors import InputError
from hopfield_jax import equidistant, patterns, theory
from tests.hopfield.helpers import settle, softmax

# N, K_s, p1 at K_s, K_c, m_c; K_s from its own 1e-10 root
TABLE = [
    (3, 2.7456436, 0.58480, 2.7725887, 0.5),
    (4, 3.2187411, 0.63034, 3.2958369, 0.66667),
    (5, 3.5645018, 0.65989, 3.6967850, 0.75),
    (10, 4.5597786, 0.72939, 4.9437553, 0.88889),
    (16, 5.1890355, 0.76331, 5.8029647, 0.93333),
    (64, 6.9245846, 0.82840, 8.4199190, 0.98413),
    (100, 7.4586755, 0.84245, 9.2840177, 0.98990),
    (256, 8.5586608, 0.86553, 11.1261591, 0.99608),
    (1000, 10.1107358, 0.88884, 13.8273507, 0.99900),
    (10**6, 17.6244953, 0.93961, 27.6310467, 0.999999),
]
LAST_DIGIT = 0.5e-7 * (1 + 1e-6)


def hull(rng, count, N):
    """Starts of every kind: near patterns, near faces, near the middle."""
    alpha = rng.choice([0.05, 0.3, 1.0, 5.0], size=count)
    g = rng.gamma(alpha[:, None], size=(count, N)) + 1e-9 * rng.random((count, N))
    return g / g.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("N", "K_s", "p1", "K_c", "m_c"), TABLE)
def test_a1_spinodal_and_crossing_of_the_table(N, K_s, p1, K_c, m_c):
    spinodal = theory.spinodal(N)
    assert abs(spinodal.K - K_s) <= LAST_DIGIT
    assert spinodal.p1 == pytest.approx(p1, abs=0.51e-5)
    assert abs(theory.critical(N) - K_c) <= LAST_DIGIT
    pattern = theory.branch(N, 1, theory.critical(N))[-1]
    assert float(theory.m_of_u(pattern, 1, N)) == pytest.approx((N - 2) / (N - 1), rel=1e-12)
    assert float(theory.m_of_u(pattern, 1, N)) == pytest.approx(m_c, abs=0.51e-5)
    assert float(theory.weights_of_u(pattern, 1, N)[0]) == pytest.approx((N - 1) / N, rel=1e-12)
    # both minima have rho(J) = K_c / N there
    assert theory.spectral_radius(pattern, 1, N) == pytest.approx(theory.critical(N) / N, rel=1e-10)
    assert float(theory.energy_above_centroid(pattern, 1, N)) == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize("N", [3, 10, 1000, 10**6])
def test_the_spinodal_in_forty_digits(N):
    with localcontext() as context:
        context.prec = 40
        n, low, high = Decimal(N), Decimal("1e-3"), Decimal(40)

        def slope(u):  # of K_1 up to a positive factor: negative below u_s
            return u.exp() + n - 2 - (n - 1) * (-u).exp() - n * u

        for _ in range(130):
            middle = (low + high) / 2
            low, high = (middle, high) if slope(middle) < 0 else (low, middle)
        K_s = low * (low.exp() + n - 1) / (low.exp() - 1)
    assert theory.spinodal_u(N) == pytest.approx(float(low), rel=1e-12)
    found = theory.spinodal(N).K
    assert found == pytest.approx(float(K_s), rel=1e-15)


def test_two_patterns_are_continuous_at_two():
    assert theory.characteristic(2) == (2, 2, 2)
    assert theory.spinodal(2) == (2, 0.5)
    assert theory.branch(2, 1, 2.0) == ()
    for K in (2 + 1e-9, 2.01, 3.0, 40.0):
        (u,) = theory.branch(2, 1, K)
        m = float(theory.m_of_u(u, 1, 2))
        assert m == pytest.approx(math.tanh(K * m / 2), rel=1e-12)
    # m^2 ~ 3 (K - 2)/2 just above
    (u,) = theory.branch(2, 1, 2 + 1e-9)
    assert float(theory.m_of_u(u, 1, 2)) == pytest.approx(math.sqrt(1.5e-9), rel=1e-3)


@pytest.mark.parametrize(
    ("N", "k", "K"),
    [(3, 1, 2.75), (10, 1, 4.6), (10, 1, 9.99), (10, 3, 9.0), (10, 5, 12.0), (10, 9, 30.0),
     (100, 2, 30.0), (100, 1, 99.9999), (10**6, 1, 20.0), (10**6, 1, 999_999.0), (64, 31, 64.1)],
)  # fmt: skip
def test_branches_are_fixed_points_and_all_of_them(N, k, K):
    found = theory.branch(N, k, K)
    expected = (2 if K < N else 1) if 2 * k < N else int(K > N)
    assert len(found) == expected
    for u in found:
        p1, p2 = map(float, theory.weights_of_u(u, k, N))
        assert k * p1 + (N - k) * p2 == pytest.approx(1, rel=1e-12)
        # the softmax of K p: log-odds equal K (p1 - p2), written so that nothing cancels
        assert p1 - p2 == pytest.approx(-p1 * math.expm1(-u), abs=1e-15)
        assert u == pytest.approx(-K * p1 * math.expm1(-u), rel=1e-9)
    # a scan of K_k finds no other root
    grid = np.geomspace(1e-9, 2 * K / k, 200_001)
    changes = np.count_nonzero(np.diff(np.sign(theory.k_of_u(grid, k, N) - K)))
    assert changes == expected


def test_the_falling_branch_near_its_end():
    # m ~ 2 (N - K) / (N (N - 2)), next to cancelling numbers
    for N, gap in [(10, 1e-6), (64, 1e-9), (1000, 1e-6)]:
        low, _ = theory.branch(N, 1, N - gap)
        gap = N - (N - gap)
        assert float(theory.m_of_u(low, 1, N)) == pytest.approx(2 * gap / N / (N - 2), rel=1e-4)


def test_nothing_below_the_spinodal_and_one_double_root_on_it():
    for N, k in [(10, 1), (64, 3), (10**6, 1)]:
        K_s = theory.spinodal(N, k).K
        assert theory.branch(N, k, K_s * (1 - 1e-12)) == ()
        low, high = theory.branch(N, k, K_s * (1 + 1e-10))
        assert low < theory.spinodal_u(N, k) < high
    for k in (5, 7, 9):
        assert theory.spinodal(10, k).K == 10


@pytest.mark.parametrize("N", [2, 3, 6, 17])
def test_a4_spectrum_of_every_subset_state_against_numpy(N):
    rng = np.random.default_rng(N)
    for k in range(1, N):
        for u in (0.05, 1.0, theory.spinodal_u(N, k) + 0.5, 6.0):
            K = float(theory.k_of_u(u, k, N))
            p1, p2 = theory.weights_of_u(u, k, N)
            p = np.where(np.arange(N) < k, p1, p2)
            # in R^d, from patterns of another norm and angle than the unit basis
            x = patterns.equidistant(N, N + 2, 1.7, 1.1, seed=3)
            beta = K / theory.half_squared_distance(1.7, 1.1)
            mean = p @ x
            np.testing.assert_allclose(softmax(beta * x @ mean), p, rtol=1e-10)
            J = beta * ((x.T * p) @ x - np.outer(mean, mean))
            values, times = theory.eigenvalues(u, k, N)
            expected = np.sort(np.append(np.repeat(values, times), np.zeros(3)))
            np.testing.assert_allclose(np.linalg.eigvalsh(J), expected, atol=1e-12 * K)
            index = int((np.linalg.eigvalsh(J) > 1).sum())
            assert theory.morse_index(u, k, N) == index
            assert theory.spectral_radius(u, k, N) == pytest.approx(expected[-1], rel=1e-12)
            assert k == 1 or index >= 1
            # the energy from its definition, in units of D^2/2
            s = rng.normal() + K * p  # any common shift of the logits must drop out
            log_mean = np.log(np.mean(np.exp(s - s.max()))) + s.max() - (s[0] - K * p[0])
            direct = 0.5 + p @ p / 2 - log_mean / K
            assert float(theory.energy(u, k, N)) == pytest.approx(direct, abs=1e-13)


def test_energy_of_the_overflow_safe_form_is_continuous():
    for N, k in [(5, 2), (10**6, 1)]:
        a, b = theory.energy_above_centroid(np.array([1 - 1e-12, 1.0]), k, N)
        assert a == pytest.approx(b, abs=1e-12)
        # a pattern at low temperature: log N / K - (N-1)/(2N)
    late = theory.energy_above_centroid(5000.0, 1, 10)
    assert late == pytest.approx(math.log(10) / 5000 - 0.45, abs=1e-12)


def test_a3_the_centroid_is_marginal_at_k_equal_n():
    for N, norm, angle in [(3, 1.0, 1.0), (8, 2.5, 1.4), (30, 0.3, math.pi / 2)]:
        x = patterns.equidistant(N, N + 1, norm, angle, seed=1)
        beta = N / theory.half_squared_distance(norm, angle)
        c = x - x.mean(axis=0)
        values = np.linalg.eigvalsh(beta * c.T @ c / N)
        assert values[-1] == pytest.approx(1, abs=1e-12)
        assert (values > 0.5).sum() == N - 1
        assert theory.characteristic(N).K_N * theory.half_squared_distance(norm, angle) == (
            pytest.approx(beta * theory.half_squared_distance(norm, angle) ** 2)
        )


def energy_in_space(x, beta, state):
    s = beta * x @ state
    log_mean = s.max() + np.log(np.mean(np.exp(s - s.max())))
    return -log_mean / beta + state @ state / 2 + (x**2).sum(axis=1).max() / 2


@pytest.mark.parametrize(
    ("N", "M", "angle", "d"), [(5, 1.0, math.pi / 2, 5), (10, 3.0, 1.0, 17), (16, 0.4, 1.6, 40)]
)
def test_a2_energies_cross_in_space_where_theory_says(N, M, angle, d):
    x = patterns.equidistant(N, d, M, angle, seed=7)
    a = theory.half_squared_distance(M, angle)
    K_s, K_c, _ = theory.characteristic(N)

    def above(beta):
        pattern = settle(x, beta, x[0], tolerance=1e-14 * np.abs(x).max())
        assert pattern @ x[0] > 1.1 * pattern @ x[1]
        return energy_in_space(x, beta, pattern) - energy_in_space(x, beta, x.mean(axis=0))

    low, high = (K_s + 0.05) / a, (K_c + 1) / a
    assert above(low) > 0 > above(high)
    while high - low > 1e-9 * low:
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle) > 0 else (low, middle)
    assert float(theory.effective(low, M, angle)) == pytest.approx(K_c, abs=1e-6)
    pattern = settle(x, low, x[0], tolerance=1e-14 * np.abs(x).max())
    exact = theory.energy(theory.branch(N, 1, K_c)[-1], 1, N) * a
    assert energy_in_space(x, low, pattern) == pytest.approx(exact, abs=1e-9 * a)


@pytest.mark.parametrize(("N", "K"), [(2, 1.5), (2, 3.0), (6, 3.0), (6, 4.5), (6, 8.0), (12, 6.0)])
def test_a5_no_attractor_but_centroid_and_single_patterns(N, K):
    rng = np.random.default_rng(0)
    p = hull(rng, 600, N)
    for _ in range(4000):
        p = softmax(K * p)
    assert np.abs(softmax(K * p) - p).max() < 1e-12
    p = np.sort(p, axis=1)[:, ::-1]
    at_centroid = np.abs(p - 1 / N).max(axis=1) < 1e-6
    found = theory.branch(N, 1, K)
    if not found:
        assert at_centroid.all()
        return
    p1, p2 = theory.weights_of_u(found[-1], 1, N)
    at_pattern = np.abs(p - np.where(np.arange(N) == 0, p1, p2)).max(axis=1) < 1e-6
    assert (at_centroid ^ at_pattern).all()
    assert at_pattern.any()
    assert at_centroid.any() == (K < N)


def test_barriers_against_a_path_through_the_saddle():
    N, K = 12, 7.0
    low, high = theory.branch(N, 1, K)
    u = np.linspace(1e-3, high + 2, 20_001)
    p1, p2 = theory.weights_of_u(u, 1, N)
    p = np.where(np.arange(N) == 0, p1[:, None], p2[:, None])
    # E(p)/(D^2/2) along the line from the centroid to a pattern
    s = K * p
    log_mean = np.log(np.exp(s).mean(axis=1))
    along = 0.5 + (p**2).sum(axis=1) / 2 - log_mean / K
    barriers = theory.barriers(N, K)
    top = along[u < high].max()
    assert barriers.pattern_to_centroid == pytest.approx(top - along.min(), abs=1e-6)
    assert barriers.centroid_to_pattern == pytest.approx(top - theory.centroid_energy(N), abs=1e-6)
    assert u[along.argmin()] == pytest.approx(high, abs=1e-2)
    assert u[u < high][along[u < high].argmax()] == pytest.approx(low, abs=1e-2)
    # between two patterns: on the line p_1 + p_2 fixed by symmetry, over the k = 2 state
    K = 20.0
    (pair,) = theory.branch(N, 2, K)
    (single,) = theory.branch(N, 1, K)
    gap = theory.energy(pair, 2, N) - theory.energy(single, 1, N)
    barriers = theory.barriers(N, K)
    assert barriers.between_patterns == pytest.approx(float(gap))
    assert theory.morse_index(pair, 2, N) == 1
    assert math.isnan(barriers.pattern_to_centroid)
    assert all(map(math.isnan, theory.barriers(N, 4.0)))
    # at K = 2 + e, N = 2: m^2 = 3e/2 and the barrier grows as e^2
    assert theory.barriers(2, 2.5).between_patterns > 0


def test_phases_and_retrieval_error_at_the_crossing():
    assert theory.phase(64, 6.9) == "centroid"
    assert theory.phase(64, 7.0) == "patterns metastable"
    assert theory.phase(64, 9.0) == "patterns lowest"
    (weight,) = equidistant.weight(64, [theory.critical(64)])
    assert 1 - weight == pytest.approx(1 / 64, rel=1e-10)


@pytest.mark.parametrize(
    ("G", "k", "M2", "c1", "c0", "low", "high"),
    [
        (4, 4, 1, 0.8, 0, 3.787, 20.0),
        (8, 3, 1, 0.9, 0.2, 5.795, 30.0),
        (5, 6, 1, 0.5, 0, 6.111, 12.044),
    ],
)
def test_a8_windows_of_metastable_groups(G, k, M2, c1, c0, low, high):
    window = theory.ultrametric_window(G, k, M2, c1, c0)
    assert window == pytest.approx((low, high), abs=0.51e-3)
    # and by iterating, in R^d
    x = patterns.ultrametric(G, k, M2, c1, c0, d=G * k + 3, seed=2)
    group = x[:k].mean(axis=0)

    def radius(beta, state):
        p = softmax(beta * x @ state)
        J = beta * ((x.T * p) @ x - np.outer(p @ x, p @ x))
        return np.linalg.eigvalsh(J)[-1]

    def lead(beta, start, steps=6000):
        state = start
        for _ in range(steps):
            state = softmax(beta * x @ state) @ x
        return state, softmax(beta * x @ state)

    for beta in (window[0] * 1.001, math.sqrt(window[0] * window[1]), window[1] * 0.999):
        state, p = lead(beta, group)
        assert radius(beta, state) < 1
        assert np.ptp(p[:k]) < 1e-9
        assert p[0] > 2 * p[k]
    # below: even from the group's mean the state falls to the centroid
    _, p = lead(window[0] * 0.999, group)
    assert np.ptp(p) < 1e-6
    # above: still a fixed point by symmetry, but a small push leads to one pattern
    edge, _ = lead(window[1], group, 300)
    assert radius(window[1], edge) == pytest.approx(1, abs=1e-9)
    _, p = lead(window[1] * 1.02, group + 1e-3 * (x[0] - group))
    assert p[0] > 1.5 * p[1]


def test_groups_that_are_no_minima_have_an_empty_window():
    low, high = theory.ultrametric_window(10, 2, 1, 0.05, 0)
    assert low == high
    low, high = theory.ultrametric_window(2, 3, 1, 0.6, 0)
    assert low == pytest.approx(2 / theory.ultrametric_scales(3, 1, 0.6, 0)[1])
    assert high > low


@pytest.mark.parametrize(("d", "exist", "lowest"), [(64, 158, 51), (128, 2937, 281)])
def test_attention_thresholds(d, exist, lowest):
    limits = theory.attention_limits(d)
    # whole numbers of patterns: the largest that still have minima, or lowest ones
    assert math.floor(limits.exist) == exist
    assert math.floor(limits.lowest) == lowest
    # they are the inverses of K_s and K_c
    K = math.sqrt(d)
    n = math.floor(limits.exist)
    assert theory.spinodal(n).K < K < theory.spinodal(n + 1).K
    n = math.floor(limits.lowest)
    assert theory.critical(n) < K < theory.critical(n + 1)


def test_limits_at_the_ends():
    assert theory.pattern_limits(2.0) == (2, 2)
    near = theory.pattern_limits(2 + 1e-9)
    assert near == pytest.approx((2, 2), abs=1e-8)
    assert theory.pattern_limits(17.624495315).exist == pytest.approx(10**6, rel=1e-6)
    assert theory.pattern_limits(2000.0).exist == math.inf


def test_large_numbers_stay_finite():
    N, u = 10**6, np.array([1e-12, 1.0, 50.0, 800.0, 1e6])
    with np.errstate(all="raise", under="ignore"):
        for value in (
            theory.k_of_u(u, 1, N),
            theory.m_of_u(u, 1, N),
            theory.energy(u, 1, N),
            theory.spectral_radius(u, 1, N),
        ):
            assert np.isfinite(value).all()
    (u,) = theory.branch(N, 1, 1e8)
    assert equidistant.weight(N, [1e8]).tolist() == [1]
    assert u == pytest.approx(1e8)


def test_effective_temperature_of_any_norm_and_angle():
    assert float(theory.effective(2.0, 3.0, math.pi / 3)) == pytest.approx(9.0)
    x = patterns.equidistant(4, 6, 3.0, math.pi / 3)
    assert theory.half_squared_distance(3.0, math.pi / 3) == pytest.approx(
        ((x[0] - x[1]) ** 2).sum() / 2
    )
    # 1 - cos theta at a small angle
    assert float(theory.half_squared_distance(1.0, 1e-9)) == pytest.approx(5e-19, rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: theory.spinodal(1), "N = 1"),
        (lambda: theory.branch(5, 5, 4.0), "1 to 4 of them, got k = 5"),
        (lambda: theory.branch(5, 1, -1.0), "got -1"),
        (lambda: theory.branch(5, 1, math.nan), "got nan"),
        (lambda: theory.ultrametric_window(1, 4, 1, 0.5, 0), "at least 2 groups"),
        (lambda: theory.ultrametric_window(4, 4, 1, 0.5, 0.6), "norm2 > within > between"),
        (lambda: theory.attention_limits(0), "at least 1, got 0"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
