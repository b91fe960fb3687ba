r"""Equidistant patterns, solved exactly: every fixed point, its energy and its stability.

N patterns of norm M with one angle theta between any two, D their distance. The state is
xi = sum_i p_i x_i, and only one number is left of beta, M, theta and the dimension:

    K = beta M^2 (1 - cos theta) = beta D^2 / 2           effective inverse temperature, beta_eff
    p = softmax(K p)                                      fixed points: mean-field N-state Potts

All fixed points are the centroid p = 1/N and the k-subset states: p1 on k patterns, p2 < p1 on the
other N - k, 1 <= k < N. With u = log(p1/p2) > 0 and B(u) = u / (e^u - 1), convex:

    p1 = 1 / (k + (N-k) e^-u)      p2 = e^-u p1      m = p1 - p2 = (e^u - 1) / (k e^u + N - k)
    K_k(u) = u / m = k u + N B(u)                    K_k(0) = N,  K_k'(0) = k - N/2

so that for k >= N/2 one state exists for each K > N, and for k < N/2 two between the minimum of
K_k, at k + N B'(u) = 0 (the spinodal), and N, and one above N. Spectrum of J = beta Cov_p(X):

    K p1 = u / (1 - e^-u) > 1   k - 1 times        K p2 = B(u) < 1   N - k - 1 times
    K N p1 p2 = 1 - m dK_k/du, below 1 where K_k rises   once          0   for the rest

Hence the Morse index is k - 1, and one more on a falling branch: a
k-subset state with k >= 2 is a saddle at every temperature, and the only minima besides the
centroid (rho(J) = K/N) are the N states with k = 1 on the rising branch. Three values of K:

    K_s  spinodal    pattern minima first exist: e^u + N-2 - (N-1) e^-u = N u,  K_s = K_1(u)
    K_c  crossing    equal energies:   K_c = 2 (N-1)/(N-2) ln(N-1),  p1 = (N-1)/N
    K_N  = N         the centroid loses stability

At N = 2 all three are 2 and the transition is continuous; for N >= 3 it is of first order, with a
hysteresis window [K_s, N]. A protocol that starts at the patterns calls K_s its critical beta, one
that compares energies K_c, one that starts at the centroid N.

Energy, in units of D^2/2 (constants as in hopfield_jax.energy: zero at a pattern as beta -> inf):

    E / (D^2/2) = 1/2 + |p|^2/2 - (1/K) log mean_i exp(K p_i)
    centroid (N-1)/(2N);   a k-subset state exceeds it by
    (1/K) [ u m k(N-k)/(2N) + u k/N - log(1 + (k/N)(e^u - 1)) ]

Derived here; the same mathematics: Edelsbrunner, Fasy & Rote 2013 (doi 10.1007/s00454-013-9517-x,
modes of Gaussian mixtures), Cuff et al. 2012 (arXiv 1204.4503, mean-field Potts). The question,
not these formulas: Koulischer et al. 2023 (arXiv 2311.18434). Everything is float64 and
safe from overflow to N = 1e6 and beyond; every root is found between proven brackets.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import exprel

from dng_jax.errors import InputError

EPS = float(np.finfo(np.float64).eps)


class Spinodal(NamedTuple):
    """Where the k-subset states first exist: K, and the weight p1 of a chosen pattern there."""

    K: float
    p1: float


class Characteristic(NamedTuple):
    """The three values of K that a protocol may call critical, in increasing order."""

    K_s: float
    K_c: float
    K_N: float


class Barriers(NamedTuple):
    """Heights of passes in units of D^2/2; NaN where the minimum or the direct pass is missing.

    pattern_to_centroid, centroid_to_pattern: over the falling k = 1 state, for K_s < K < N.
    between_patterns: over the k = 2 state on its rising branch (at N = 2, over the centroid).
    """

    pattern_to_centroid: float
    centroid_to_pattern: float
    between_patterns: float


class Limits(NamedTuple):
    """Real numbers of patterns: minima exist iff N < exist, are the lowest iff N < lowest."""

    exist: float
    lowest: float


def effective(beta, norm=1.0, angle=math.pi / 2):
    """K = beta M^2 (1 - cos theta), of any shape; beta > 0, norm > 0, 0 < angle <= pi."""
    return np.asarray(beta, np.float64) * half_squared_distance(norm, angle)


def half_squared_distance(norm=1.0, angle=math.pi / 2):
    """D^2/2 = M^2 (1 - cos theta), the unit of energy here; beta = K / this."""
    # 2 sin^2(theta/2): 1 - cos loses half the digits at small angles.
    return 2 * (np.asarray(norm, np.float64) * np.sin(np.asarray(angle, np.float64) / 2)) ** 2


def k_of_u(u, k: int, N: int):
    """K at which the k-subset state with log(p1/p2) = u >= 0 is a fixed point; shape of u."""
    _check(k, N)
    u = np.asarray(u, np.float64)
    return k * u + N / exprel(u)


def m_of_u(u, k: int, N: int):
    """Order parameter m = p1 - p2 in [0, 1/k), shape of u >= 0."""
    _check(k, N)
    u = np.asarray(u, np.float64)
    return -np.expm1(-u) / (k + (N - k) * np.exp(-u))


def weights_of_u(u, k: int, N: int):
    """(p1, p2): weight of each of the k chosen patterns and of each of the others, shapes of u."""
    _check(k, N)
    small = np.exp(-np.asarray(u, np.float64))
    p1 = 1 / (k + (N - k) * small)
    return p1, small * p1


def spinodal_u(N: int, k: int = 1) -> float:
    """The u that minimises K_k(u); 0 for k >= N/2, where K_k only rises."""
    _check(k, N)
    if 2 * k >= N:
        return 0.0
    # B' = -g/h with g = (u - 1 + e^-u)/u^2 and h = 2 (cosh u - 1)/u^2, so k + N B' = 0 reads
    # g/h = k/N. g/h falls from 1/2; below k/N at the upper end, since e^u > 7 (N/k)^2 there.
    r = float(N) / k
    return _root(lambda u: _second(-u) - _cosh(u) / r, 0.0, 2 * math.log(r) + 2)


def spinodal(N: int, k: int = 1) -> Spinodal:
    """(K_s, p1) of the k-subset states; k = 1: below K_s there are no pattern minima."""
    u = spinodal_u(N, k)
    return Spinodal(float(k_of_u(u, k, N)), float(weights_of_u(u, k, N)[0]))


def critical(N: int) -> float:
    """K_c, where the pattern minima and the centroid have equal energies; 2 at N = 2."""
    _check(1, N)
    n = float(N)
    return 2.0 if n == 2 else 2 * (n - 1) / (n - 2) * math.log1p(n - 2)


def characteristic(N: int) -> Characteristic:
    """(K_s, K_c, K = N): report all three, since "the" critical beta depends on the protocol."""
    return Characteristic(spinodal(N).K, critical(N), float(N))


def phase(N: int, K: float) -> Literal["centroid", "patterns metastable", "patterns lowest"]:
    """What the landscape at K is: one attractor; pattern minima above, or below the centroid.

    From K = N on, "patterns lowest" means that the centroid is no minimum at all.
    """
    low, crossing, _ = characteristic(N)
    if _positive(K) <= low:
        return "centroid"
    return "patterns metastable" if crossing > K else "patterns lowest"


def branch(N: int, k: int, K: float) -> tuple[float, ...]:
    """All u > 0 with K_k(u) = K: none, one, or two in increasing order.

    The larger is on the rising branch (for k = 1 a minimum), the smaller on the falling one.
    """
    _check(k, N)
    K = _positive(K)
    u_s = spinodal_u(N, k)
    if u_s == 0:
        return (_rising(N, k, K, 0.0),) if K > N else ()
    if float(k_of_u(u_s, k, N)) > K:
        return ()
    upper = _rising(N, k, K, u_s)
    if K >= N:
        return (upper,)
    if _excess(u_s, N, k, K) >= 0:  # at the spinodal itself, to rounding
        return (u_s, u_s)
    return (_root(lambda u: _excess(u, N, k, K), 0.0, u_s), upper)


def eigenvalues(u, k: int, N: int) -> tuple[np.ndarray, np.ndarray]:
    """Spectrum of J at a k-subset state: values [..., 3] = K p1, K p2, K N p1 p2, and how often.

    Multiplicities [3] are k - 1, N - k - 1, 1; all other eigenvalues are 0. At the centroid the
    only value other than 0 is K/N, N - 1 times.
    """
    _check(k, N)
    u = np.asarray(u, np.float64)
    _, p2 = weights_of_u(u, k, N)
    values = np.stack([1 / exprel(-u), 1 / exprel(u), N * p2 / exprel(-u)], axis=-1)
    return values, np.array([k - 1, N - k - 1, 1])


def spectral_radius(u, k: int, N: int):
    """rho(J) at a k-subset state, shape of u: a minimum iff it is below 1."""
    values, times = eigenvalues(u, k, N)
    return values[..., times > 0].max(axis=-1)


def morse_index(u, k: int, N: int):
    """Number of eigenvalues of J above 1: directions in which the energy falls. Shape of u."""
    values, times = eigenvalues(u, k, N)
    return ((values > 1) * times).sum(axis=-1)


def energy(u, k: int, N: int):
    """Energy of a k-subset state in units of D^2/2, shape of u > 0."""
    return centroid_energy(N) + energy_above_centroid(u, k, N)


def centroid_energy(N: int) -> float:
    """(N-1)/(2N) in units of D^2/2, at every K."""
    _check(1, N)
    return (float(N) - 1) / (2 * float(N))


def energy_above_centroid(u, k: int, N: int):
    """E - E_centroid in units of D^2/2, shape of u > 0; 0 at k = 1, K = K_c."""
    _check(k, N)
    u, q = np.asarray(u, np.float64), k / N
    K, m = k_of_u(u, k, N), m_of_u(u, k, N)
    # log(1 + q (e^u - 1)): the first form is exact near u = 0, the second cannot overflow.
    log_mean = np.where(
        u < 1,
        np.log1p(q * np.expm1(np.minimum(u, 1))),
        u + np.log(q) + np.log1p((1 - q) / q * np.exp(-u)),
    )
    return (u * m * k * (1 - q) / 2 + u * q - log_mean) / K


def barriers(N: int, K: float) -> Barriers:
    """Heights of the passes out of the minima at K, in units of D^2/2."""
    single, pair = branch(N, 1, K), branch(N, 2, K) if N > 2 else ()
    nan = math.nan
    if not single:
        return Barriers(nan, nan, nan)
    pattern = float(energy_above_centroid(single[-1], 1, N))
    saddle = float(energy_above_centroid(single[0], 1, N)) if len(single) == 2 else nan
    between = float(energy_above_centroid(pair[-1], 2, N)) if pair else nan
    if N == 2:
        between = 0.0
    return Barriers(saddle - pattern, saddle, between - pattern)


def ultrametric_window(
    groups: int, per_group: int, norm2: float, within: float, between: float
) -> tuple[float, float]:
    r"""Inverse temperatures between which the states of whole groups are minima, exactly.

    G groups of k patterns, |x|^2 = norm2, inner products `within` and `between` groups. With
    a_w = M^2 - c1 and a_b = (M^2 + (k-1) c1)/k - c0, a state that is uniform within groups obeys
    P = softmax(beta a_b P) over G groups, and is unstable within group g from beta a_w P_g/k = 1:

        beta_low = K_s(G)/a_b,   beta_high a_w P(beta_high)/k = 1,   P on the rising branch

    Returns (beta_low, beta_high); equal where no beta makes a group's state a minimum. InputError
    unless groups >= 2, per_group >= 2 and norm2 > within > between.
    """
    if groups < 2 or per_group < 2:
        raise InputError(
            f"an ultrametric set needs at least 2 groups of 2 patterns, got {groups} of {per_group}"
        )
    if not norm2 > within > between:
        raise InputError(
            "an ultrametric set needs norm2 > within > between, "
            f"got {norm2:g}, {within:g}, {between:g}"
        )
    inner, outer = ultrametric_scales(per_group, norm2, within, between)
    low = spinodal(groups).K / outer
    # beta a_b P = u/(1 - e^-u), so that the upper end is u/(1 - e^-u) = Q = k a_b/a_w; the left
    # side lies between u and u + 1.
    Q = per_group * outer / inner
    u = _root(lambda u: 1 / exprel(-u) - Q, max(Q - 1, 0.0), Q) if Q > 1 else 0.0
    if u <= spinodal_u(groups):
        return low, low
    return low, float(k_of_u(u, 1, groups)) / outer


def ultrametric_scales(
    per_group: int, norm2: float, within: float, between: float
) -> tuple[float, float]:
    """(a_w, a_b): half squared distances of two patterns of a group, and of two group means."""
    norm2, within, between = float(norm2), float(within), float(between)
    return norm2 - within, (norm2 + (per_group - 1) * within) / per_group - between


def pattern_limits(K: float) -> Limits:
    r"""How many equidistant patterns an effective inverse temperature K can tell apart.

    The inverses of K_s(N) and K_c(N), continued to real N:

        exist = max_u (K - u) (e^u - 1)/u       lowest = 1 + e^y,  2 y / (1 - e^-y) = K

    Minima exist for N < exist and are the lowest for N < lowest; both are 2 (no set) for K <= 2.
    """
    K = _positive(K)
    if K <= 2:
        return Limits(2.0, 2.0)
    # d/du log = 0 reads (K - u) psi(u) = 1, psi = d log exprel/du in (1/2, 1): u in (K-2, K-1).
    u = _root(lambda u: (K - u) * _log_slope(u) - 1, K - 2, K - 1)
    y = _root(lambda y: 2 / exprel(-y) - K, 0.0, K / 2)
    with np.errstate(over="ignore"):
        return Limits(float((K - u) * exprel(u)), float(1 + np.exp(y)))


def attention_limits(head_dim: int) -> Limits:
    """pattern_limits of keys with independent unit-variance entries and scale 1/sqrt(head_dim).

    There M^2 = head_dim and K = sqrt(head_dim). At 64 minima exist for N < 158.3 (up to 158 keys)
    and are the lowest for N < 51.4 (up to 51); at 128 up to 2937, and up to 281.
    """
    if head_dim < 1:
        raise InputError(f"the dimension of a head must be at least 1, got {head_dim}")
    return pattern_limits(math.sqrt(head_dim))


def _rising(N: int, k: int, K: float, u_s: float) -> float:
    # K_k(u) >= k u, so K_k > K at K/k + 1; at u_s it is at most K.
    if _excess(u_s, N, k, K) >= 0 and u_s > 0:
        return u_s
    return _root(lambda u: _excess(u, N, k, K), u_s, K / k + 1)


def _excess(u: float, N: int, k: int, K: float) -> float:
    # K_k(u) - K. Near u = 0, N cancels against K: there B(u) - 1 = -u second(u)/exprel(u).
    if u < 0.5:
        return (N - K) + u * (k - N * _second(u) / float(exprel(u)))
    return k * u + N / float(exprel(u)) - K


def _second(x: float) -> float:
    # (e^x - 1 - x) / x^2
    if abs(x) < 0.5:
        total, term = 0.0, 0.5
        for n in range(3, 18):
            total += term
            term *= x / n
        return total
    return (math.expm1(x) - x) / x**2


def _cosh(u: float) -> float:
    # 2 (cosh u - 1) / u^2
    return 1.0 if u == 0 else (2 * math.sinh(u / 2) / u) ** 2


def _log_slope(u: float) -> float:
    # 1/(1 - e^-u) - 1/u = second(-u)/exprel(-u), from 1/2 at 0 to 1
    return _second(-u) / float(exprel(-u))


def _root(f, low: float, high: float) -> float:
    # To the last digits, relative even where the root is tiny.
    return float(brentq(f, low, high, xtol=1e-300, rtol=4 * EPS, maxiter=500))


def _positive(K: float) -> float:
    if not (math.isfinite(K) and K > 0):
        raise InputError(f"an inverse temperature must be a finite number > 0, got {K:g}")
    return float(K)


def _check(k: int, N: int) -> None:
    if N < 2:
        raise InputError(f"a landscape needs at least 2 patterns, got N = {N}")
    if not 1 <= k < N:
        raise InputError(f"a subset of {N} patterns has 1 to {N - 1} of them, got k = {k}")
