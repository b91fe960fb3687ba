r"""What any set of patterns predicts about its landscape, before a single iteration.

x_i [N, d]; D_ij distances; Cov = (1/N) sum (x_i - mean)(x_i - mean)^T; p the weights of a state.

    a        = mean over pairs of D_ij^2 / 2  =  N/(N-1) tr Cov
    beta_eff = beta a                         K of hopfield_jax.theory, exact for equidistant sets
    beta_s, beta_c, beta_N = K_s(N)/a, K_c(N)/a, N/a        predicted: what equidistant data do
    beta D_max^2 < 4   guarantees one attractor: J = beta Cov_p and lambda_max(Cov_p) <= D_max^2/4
    effective rank     (tr Cov)^2 / tr Cov^2  =  (sum lambda)^2 / sum lambda^2

Separation of row i: what its logit leads by, per unit of beta, when the state is the row itself.

    dot        x_i.x_i - max_j x_i.x_j      may be <= 0: then no beta makes row i a fixed point in
                                            the limit beta -> inf, however well it is isolated
    euclidean  min_j D_ij^2 / 2             always > 0
    norm bias  share of the rows with separation <= 0

First instability. At beta -> 0 the mean is the only fixed point. Followed in beta, this branch
loses stability where lambda = rho(J) = beta lambda_max(Cov_p) reaches 1: at 1/lambda_max(Cov) for
symmetric data, where the mean stays a fixed point; at a fold, mostly earlier, for others
("crossing"); or it turns into a pattern without ever reaching 1 ("crossover", reported where
lambda is largest). With z_i centred and in units of sqrt(tr Cov), state eta, t = log beta and
b_i = z_i.mean (dot) or -|z_i|^2/2 (euclidean), the curve

    F(eta, t) = eta - Z^T p = 0,   p = softmax(e^t (Z eta + b)),   dF/deta = I - J

is followed by its arc length (predictor along the tangent, Newton on F bordered by the tangent;
Keller 1977), which passes folds and, where the tangent of the branch is a solution, bifurcations.

Derived here. Float64 throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import softmax

from dng_jax.errors import InputError, choose
from hopfield_jax import theory
from hopfield_jax.distances import mean_half_squared, pairs
from hopfield_jax.patterns import check

ENERGIES = ("dot", "euclidean")
Energy = Literal["dot", "euclidean"]
LONGEST_STEP = 0.1
MOST_STEPS = 5000
ONE_PATTERN = 0.999  # the largest weight of a state that has become one pattern


@dataclass(frozen=True, eq=False)
class Instability:
    """How the branch that starts at the mean at beta = 0 ends.

    kind "crossing": rho(J) reaches 1 at `beta`. kind "crossover": it never does; it is largest,
    `radius` < 1, at `beta`. state [d]: the fixed point there; weight: its largest p_i.
    """

    kind: Literal["crossing", "crossover"]
    beta: float
    radius: float
    state: np.ndarray
    weight: float


@dataclass(frozen=True, eq=False)
class SpectralReport:
    """Predictions for a set of N patterns in d dimensions; symbols as in this file's head.

    separations [N]; unreachable: rows that are no fixed point at large beta, and norm_bias their
    share; one_attractor = 4/D_max^2, below which beta leaves one attractor; first_instability is
    None where it was not asked for; warning: one sentence, or None.
    """

    N: int
    d: int
    energy: str
    a: float
    D_min: float
    D_max: float
    lambda_max: float
    effective_rank: float
    separations: np.ndarray
    unreachable: np.ndarray
    norm_bias: float
    beta_s: float
    beta_c: float
    beta_N: float
    one_attractor: float
    first_instability: Instability | None
    warning: str | None


def beta_eff(patterns, beta=1.0):
    """beta N/(N-1) tr Cov, the effective inverse temperature of any patterns; shape of beta."""
    return np.asarray(beta, np.float64) * mean_half_squared(check(patterns))


def report(patterns, energy: Energy = "dot", *, follow: bool = True) -> SpectralReport:
    """Everything above for patterns [N, d]. Costs N^2 d, and some 150 times N r^2 + r^3 to follow.

    r = min(N, d). follow False: leaves first_instability out. InputError for bad patterns.
    """
    choose(energy, ENERGIES, "energy")
    x = check(patterns)
    N, d = x.shape
    a = mean_half_squared(x)
    apart = pairs(x)
    separations = apart.lead if energy == "dot" else apart.nearest**2 / 2
    D_max = float(apart.farthest.max())
    c = x - x.mean(axis=0)
    eigenvalues = np.linalg.eigvalsh((c.T @ c if d <= N else c @ c.T) / N)
    unreachable = np.flatnonzero(separations <= 0)
    values = theory.characteristic(N)
    return SpectralReport(
        N=N,
        d=d,
        energy=energy,
        a=a,
        D_min=float(apart.nearest.min()),
        D_max=D_max,
        lambda_max=float(eigenvalues[-1]),
        effective_rank=float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum()),
        separations=separations,
        unreachable=unreachable,
        norm_bias=len(unreachable) / N,
        beta_s=values.K_s / a,
        beta_c=values.K_c / a,
        beta_N=values.K_N / a,
        one_attractor=4 / D_max**2,
        first_instability=first_instability(x, energy) if follow else None,
        warning=_warning(unreachable, N),
    )


def first_instability(patterns, energy: Energy = "dot") -> Instability:
    """Follows the branch from the mean until it loses stability or has become one pattern."""
    choose(energy, ENERGIES, "energy")
    x = check(patterns)
    mean = x.mean(axis=0)
    c = x - mean
    unit = math.sqrt(float(np.vdot(c, c)) / len(c))
    if len(c) <= x.shape[1]:
        # Coordinates within the span of the rows: as many as patterns.
        left, size, axes = np.linalg.svd(c, full_matrices=False)
        z = left * size / unit
    else:
        z, axes = c / unit, np.eye(x.shape[1])
    bias = c @ mean / unit**2 if energy == "dot" else -(z**2).sum(axis=1) / 2
    kind, t, radius, eta = _follow(z, bias)
    p = softmax(math.exp(t) * (z @ eta + bias))
    state = mean + unit * (eta @ axes)
    return Instability(kind, math.exp(t) / unit**2, radius, state, float(p.max()))


def _warning(unreachable: np.ndarray, N: int) -> str | None:
    if not len(unreachable):
        return None
    which = ", ".join(map(str, unreachable[:5])) + (", ..." if len(unreachable) > 5 else "")
    return (
        f"norm bias: {len(unreachable)} of {N} patterns (rows {which}) are never fixed points of "
        "the dot-product energy at large beta: normalise the rows, or use the euclidean energy"
    )


class _Point:
    """A point y = (eta, t) of the curve of patterns z [N, r]: F, its derivatives, rho(J)."""

    def __init__(self, z: np.ndarray, bias: np.ndarray, y: np.ndarray) -> None:
        self.y = y
        beta, eta = math.exp(y[-1]), y[:-1]
        s = z @ eta + bias
        self.p = softmax(beta * s)
        mu = self.p @ z
        self.J = beta * ((z.T * self.p) @ z - np.outer(mu, mu))
        self.F = eta - mu
        self.F_t = -beta * ((self.p * (s - self.p @ s)) @ z)

    @cached_property
    def radius(self) -> float:
        # All of them: LAPACK's search for one (syevr) fails where the others are nearly equal.
        return float(np.linalg.eigvalsh(self.J)[-1])

    def bordered(self, tangent: np.ndarray) -> np.ndarray:
        r = len(self.F)
        out = np.empty((r + 1, r + 1))
        out[:r, :r] = np.eye(r) - self.J
        out[:r, r] = self.F_t
        out[r] = tangent
        return out

    def tangent(self, before: np.ndarray) -> np.ndarray:
        """Unit tangent of the curve, pointing the way of the one before."""
        try:
            out = np.linalg.solve(self.bordered(before), np.append(np.zeros(len(self.F)), 1.0))
        except np.linalg.LinAlgError:
            return before
        return out / np.linalg.norm(out)


@dataclass(frozen=True, eq=False)
class _Curve:
    z: np.ndarray
    bias: np.ndarray

    def point(self, y: np.ndarray) -> _Point:
        return _Point(self.z, self.bias, y)

    def correct(self, guess: np.ndarray, tangent: np.ndarray, step: float) -> _Point | None:
        """Newton within the plane through the guess across the tangent.

        None where it does not settle near the guess: a step never jumps to another branch.
        """
        point = self.point(guess)
        for _ in range(7):
            if np.abs(point.F).max() < 1e-13:
                break
            try:
                change = np.linalg.solve(point.bordered(tangent), -np.append(point.F, 0.0))
            except np.linalg.LinAlgError:
                return None
            if not np.linalg.norm(point.y + change - guess) < 0.3 * step + 1e-9:
                return None
            point = self.point(point.y + change)
        return point if np.abs(point.F).max() < 1e-10 else None


@dataclass(frozen=True, eq=False)
class _Segment:
    """One step along the curve, from start to end, and the points s in [0, step] between."""

    curve: _Curve
    start: _Point
    tangent: np.ndarray
    step: float
    end: _Point

    def at(self, s: float) -> _Point:
        guess = self.start.y + s * self.tangent
        return self.curve.correct(guess, self.tangent, self.step) or self.end

    def top(self) -> tuple[float, _Point]:
        """Where rho(J) is largest: s and the point."""
        found = minimize_scalar(
            lambda s: -self.at(s).radius, bounds=(0, self.step), method="bounded"
        )
        inside = (float(found.x), self.at(found.x))
        return max(((0.0, self.start), inside, (self.step, self.end)), key=lambda v: v[1].radius)

    def crossing(self, s: float) -> _Point:
        """Where rho(J) = 1, given that it is below at 0 and not below at s."""
        return self.at(brentq(lambda s: self.at(s).radius - 1, 0.0, s, xtol=1e-14))


def _follow(
    z: np.ndarray, bias: np.ndarray
) -> tuple[Literal["crossing", "crossover"], float, float, np.ndarray]:
    # z [N, r] centred with mean |z|^2 = 1: returns kind, log beta, rho(J), eta.
    curve, r = _Curve(z, bias), z.shape[1]
    # A start below any transition: rho(J) <= beta max |z|^2 = 1/2, so that plain iteration halves
    # its error each time.
    t = math.log(0.5 / (z**2).sum(axis=1).max())
    here = curve.point(np.append(np.zeros(r), t))
    for _ in range(100):
        here = curve.point(np.append(here.y[:-1] - here.F, t))
    tangent, step = here.tangent(np.append(np.zeros(r), 1.0)), LONGEST_STEP
    best, last = here, None
    for _ in range(MOST_STEPS):
        there = curve.correct(here.y + step * tangent, tangent, step)
        if there is None:
            step /= 2
            continue
        segment = _Segment(curve, here, tangent, step, there)
        looked_at = [(segment, step, there)]
        if last is not None and last.start.radius < here.radius >= there.radius:
            # rho(J) has just turned: its top, which may touch 1, lies in one of two steps.
            looked_at = [(part, *part.top()) for part in (last, segment)]
        for part, s, point in looked_at:
            if point.radius >= 1:
                found = part.crossing(s)
                return "crossing", float(found.y[-1]), 1.0, found.y[:-1]
            best = max(best, point, key=lambda v: v.radius)
        if there.p.max() > ONE_PATTERN:
            return "crossover", float(best.y[-1]), best.radius, best.y[:-1]
        here, tangent, last = there, there.tangent(tangent), segment
        step = min(1.5 * step, LONGEST_STEP)
    raise InputError(
        f"the branch from the mean did not end within {MOST_STEPS} steps: look for rows that are "
        "nearly equal and merge them, or leave this search out"
    )
