r"""Where minima appear and vanish as beta changes: what each protocol would call beta_c.

A minimum is followed from a beta at which it exists to one at which it does not, by bisection in
log beta; each trial starts from the state of the last success, and counts as a success only when

    |xi - update(xi)| / spread < tolerance,   rho(J) < 1,   and the state is still of its kind.

(the certificate of hopfield_jax.solvers.certificates, which no ghost of a vanished minimum passes).
A trial is refuted when it converges to another kind of state, or to a saddle; one that neither
holds nor is refuted proves nothing. So an edge is a bracket, from the last beta that holds to the
nearest one refuted, and a row whose bracket stays wider than asked is reported as unresolved.
Kinds, with p the softmax weights at the state:

    majority of S    sum_{i in S} p_i > 1/2      S = {i}: pattern i's own minimum
    undecided        max_i p_i <= 1/2            the branch that starts at the mean at beta = 0

For equidistant patterns p_1 > 1/2 at every minimum of k = 1 and for every N, and p_1 = 1/2 at the
onset for N = 2, so 1/2 separates the kinds exactly (hopfield_jax.theory).

The three protocols (started at the patterns, lowest energy, started at the centroid): the folder's
sheet, section 4. Where pattern i is no fixed point at beta -> infinity (section 5), a minimum of
its own may still exist over a range of beta: 24 betas are tried, and the onset is infinite if the
pattern itself falls to one at none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError
from hopfield_jax.analyses.sweeps import Sweep, certify_sweep, hysteresis, order_parameters
from hopfield_jax.distances import pairs
from hopfield_jax.energy import Memory, weights
from hopfield_jax.solvers.certificates import Certificate
from hopfield_jax.solvers.fixed_points import Minima, find_minima

MAX_STEPS = 20_000


class Settled(NamedTuple):
    """What R starts came to: NumPy arrays.

    state [R, d]; weights [R, N]; energy [R]; minimum bool [R], certified; saddle bool [R],
    converged with an eigenvalue of J above 1; radius [R], rho(J); converged bool [R]; residual [R],
    in units of memory.spread; steps int [R].
    """

    state: np.ndarray
    weights: np.ndarray
    energy: np.ndarray
    minimum: np.ndarray
    saddle: np.ndarray
    radius: np.ndarray
    converged: np.ndarray
    residual: np.ndarray
    steps: np.ndarray


class Edge(NamedTuple):
    """beta [R], the last at which a minimum was proved (NaN where it was not at the good end);
    refuted [R], the nearest at which it was refuted; the state [R, d] and weights [R, N] at beta;
    valid bool [R]; unresolved bool [R], rows whose bracket is wider than was asked."""

    beta: np.ndarray
    refuted: np.ndarray
    state: np.ndarray
    weights: np.ndarray
    valid: np.ndarray
    unresolved: np.ndarray


Kind = Callable[[Settled], np.ndarray]


def default_tolerance(memory: Memory) -> float:
    """Of the residual, in units of memory.spread: 1e-9 in double precision, 1e-6 in single."""
    return 1e-9 if memory.dtype == jnp.float64 else 1e-6


def sharp_tolerance(memory: Memory) -> float:
    """The same for edges: 1e-12 in double precision, 1e-6 in single.

    A certificate needs beta D spread r < (1 - rho)^2 / 2, so that the residual r bounds how close
    to an edge a minimum can be proved.
    """
    return 1e-12 if memory.dtype == jnp.float64 else 1e-6


def settle(
    memory: Memory, starts, beta, *, tolerance: float | None = None, max_steps: int = MAX_STEPS
) -> Settled:
    """Runs starts [R, d] at beta [] or [R] to their minima.

    Returns all weights, R N numbers: of a million patterns a hundred rows are 800 MB.
    """
    tolerance = tolerance or default_tolerance(memory)
    found = find_minima(memory, starts, beta, tolerance=tolerance, max_steps=max_steps)
    return _settled(memory, found, found.certificate, jnp.asarray(beta))


def overlap(settled: Settled) -> np.ndarray:
    """(N p_max - 1)/(N - 1) [R]: 0 at the centroid, p_1 - p_2 of equidistant patterns' minima.

    NaN where a row is no certified minimum.
    """
    n = settled.weights.shape[1]
    return np.where(settled.minimum, (n * settled.weights.max(axis=1) - 1) / (n - 1), np.nan)


def orders(settled: Settled) -> dict[str, np.ndarray]:
    """Order parameters [R] by name, NaN where a row is no certified minimum."""
    found = order_parameters(jnp.asarray(settled.weights))._asdict() | {"rho": settled.radius}
    return {k: np.where(settled.minimum, np.asarray(v), np.nan) for k, v in found.items()}


def medians(branch: Sequence[Settled]) -> dict[str, np.ndarray]:
    """Median over the starts that are minima, at each of S betas, of `overlap` and `orders`: [S]
    by name, NaN where no start is a minimum."""
    rows = [{"overlap": overlap(settled)} | orders(settled) for settled in branch]
    return {name: np.array([_median(row[name]) for row in rows]) for name in rows[0]}


def many(memory: Memory, starts, betas, **options) -> list[Settled]:
    """All starts [R, d] at every beta [S], settled as one batch of R S rows; a Settled per beta."""
    starts, betas = np.asarray(starts), np.asarray(betas)
    rows = len(starts)
    found = settle(memory, np.tile(starts, (len(betas), 1)), np.repeat(betas, rows), **options)
    return [
        Settled(*(part[s * rows : (s + 1) * rows] for part in found)) for s in range(len(betas))
    ]


def energy_gap(settled: Settled) -> float:
    """Median energy of single patterns' minima less the lowest undecided one; NaN without both."""
    own = settled.minimum & (settled.weights.max(axis=1) > 0.5)
    other = settled.minimum & undecided(settled)
    if not (own.any() and other.any()):
        return float("nan")
    return float(np.median(settled.energy[own]) - settled.energy[other].min())


def majority(members) -> Kind:
    """More than half of the weight lies on members [R, N] (bool), one set of patterns per row."""
    members = np.asarray(members, bool)

    def kind(settled: Settled) -> np.ndarray:
        return np.sum(settled.weights * members, axis=1) > 0.5

    return kind


def undecided(settled: Settled) -> np.ndarray:
    """No pattern holds more than half of the weight."""
    return settled.weights.max(axis=1) <= 0.5


def edge(
    memory: Memory,
    starts,
    kind: Kind,
    good,
    bad,
    *,
    relative: float = 1e-4,
    tolerance: float | None = None,
) -> Edge:
    """Follows minima of a kind from beta = good [R] towards bad [R], to a relative resolution.

    starts [R, d], at good; good may lie above or below bad. Nothing is tried at bad itself.
    """
    starts = np.asarray(starts)
    rows = len(starts)
    tolerance = tolerance or sharp_tolerance(memory)
    good = np.broadcast_to(np.asarray(good, np.float64), (rows,)).copy()
    bad = np.broadcast_to(np.asarray(bad, np.float64), (rows,)).copy()
    if not (np.isfinite(good).all() and np.isfinite(bad).all() and min(good.min(), bad.min()) > 0):
        raise InputError("an edge is searched between two betas > 0: give finite ones")
    first = settle(memory, starts, good, tolerance=tolerance)
    valid = first.minimum & kind(first)
    refuted = bad.copy()
    state, p = first.state.copy(), first.weights.copy()
    count = int(np.ceil(np.log2(max(np.max(np.abs(np.log(good / bad))) / relative, 2))))
    for _ in range(count):
        middle = np.sqrt(good * bad)
        trial = settle(memory, state, middle, tolerance=tolerance)
        fits = kind(trial)
        holds = trial.minimum & fits
        refuted = np.where(trial.converged & (~fits | trial.saddle), middle, refuted)
        good, bad = np.where(holds, middle, good), np.where(holds, bad, middle)
        state = np.where(holds[:, None], trial.state, state)
        p = np.where(holds[:, None], trial.weights, p)
    unresolved = valid & (np.abs(np.log(refuted / good)) > 4 * relative)
    return Edge(np.where(valid, good, np.nan), refuted, state, p, valid, unresolved)


def loop(
    memory: Memory, up, down, betas, *, tolerance: float | None = None
) -> tuple[list[Settled], list[Settled]]:
    """A hysteresis loop over ascending betas [S]: starts `up` [R, d] carried upwards, `down` down.

    hopfield_jax.analyses.sweeps.hysteresis with a certificate of every state; one Settled per beta.
    All weights, S R N numbers in either direction, must fit.
    """
    tolerance = tolerance or default_tolerance(memory)
    swept = hysteresis(
        memory, up, down, betas, tolerance=tolerance, max_steps=MAX_STEPS, kick=1e-4, radius_steps=0
    )
    return _certified(memory, swept.up, tolerance), _certified(memory, swept.down, tolerance)


def _certified(memory: Memory, swept: Sweep, tolerance: float) -> list[Settled]:
    proof = certify_sweep(memory, swept, tolerance=tolerance)
    found = _settled(memory, swept, proof, swept.betas[:, None])
    return [Settled(*(column[s] for column in found)) for s in range(len(swept.betas))]


def _settled(memory: Memory, found: Minima | Sweep, proof: Certificate, betas) -> Settled:
    columns = (
        found.state,
        weights(memory, found.state, betas),
        found.energy,
        proof.minimum & found.converged,
        found.converged & (proof.morse_index > 0),
        proof.spectral_radius,
        found.converged,
        found.residual,
        found.steps,
    )
    return Settled(*map(np.array, columns))


def _median(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else np.nan


def margins(memory: Memory) -> np.ndarray:
    """Lead [N] of pattern i's own logit at x_i over the best other one, per beta, at large beta."""
    return pairs(memory.patterns, memory.bias).lead


def onsets(memory: Memory, *, relative: float = 1e-3, tolerance: float | None = None) -> Edge:
    """The lowest beta [N] at which each pattern has a minimum of its own, and the state there.

    Infinite, and not valid, where no such minimum was found from the pattern at any beta; NaN where
    the search for one at large beta, where it must exist, did not converge. Follows all N rows
    with their N weights: for up to some 10^4 patterns, not for a million.
    """
    x = np.asarray(memory.patterns, np.float64)
    n = len(x)
    lead = margins(memory)
    able = lead > 0
    low, high = _brackets(x, lead)
    top = high.copy()
    own = majority(np.eye(n, dtype=bool))
    # The bound on beta is for the patterns themselves; their minima lie a little off.
    for _ in range(6):
        trial = settle(memory, x, top, tolerance=tolerance)
        lost = able & ~(trial.minimum & own(trial))
        if not lost.any():
            break
        top = np.where(lost, 2 * top, top)
    biased = np.flatnonzero(~able)
    if biased.size:
        tried = np.geomspace(4 * low[0], high.max(), 24)
        for beta, trial in zip(
            tried, many(memory, x[biased], tried, tolerance=tolerance), strict=True
        ):
            held = trial.minimum & (trial.weights[np.arange(len(biased)), biased] > 0.5)
            first = biased[held & ~able[biased]]
            top[first], able[first] = beta, True
    found = edge(memory, x, own, top, low, relative=relative, tolerance=tolerance)
    return found._replace(
        beta=np.where(able, found.beta, np.inf),
        valid=found.valid & able,
        unresolved=found.unresolved & able,
    )


def _brackets(x: np.ndarray, lead: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A beta [N] too low for any majority, and one at which the others weigh about a thousandth."""
    n = len(x)
    norm = np.sqrt(np.max(np.sum(x**2, axis=1)))
    diameter = 2 * np.sqrt(np.max(np.sum((x - x.mean(axis=0)) ** 2, axis=1)))
    low = 0.1 / (diameter * max(norm, diameter))
    safe = np.where(lead > 0, lead, np.median(np.abs(lead)) + 1e-12)
    return np.full(n, low), np.maximum(np.log(1e3 * n) / safe, 10 * low)


class Protocols(NamedTuple):
    """What three protocols call beta_c.

    patterns: median over patterns of their onset; energy: median over patterns of the beta of equal
    energies, NaN where the two minima never coexist; centroid: end of the undecided branch.
    each: the onsets [N]; unresolved: numbers of the patterns whose onset is a bound only, or NaN.
    """

    patterns: float
    energy: float
    centroid: float
    each: np.ndarray
    unresolved: np.ndarray


def protocols(
    memory: Memory, *, most: int = 16, relative: float = 1e-6, tolerance: float | None = None
) -> Protocols:
    """Measures all three; the energy for at most `most` patterns, evenly spaced.

    For up to some 10^4 patterns, as `onsets` is.
    """
    x = np.asarray(memory.patterns, np.float64)
    first = onsets(memory, relative=relative, tolerance=tolerance)
    low, high = _brackets(x, margins(memory))
    centre = x.mean(axis=0, keepdims=True)
    widest = np.linalg.norm(x - centre, 2) ** 2 / len(x)  # lambda_max(Cov)
    last = edge(
        memory,
        centre,
        undecided,
        low[:1],
        np.maximum(np.max(high, keepdims=True), 100 / widest),
        relative=relative,
        tolerance=tolerance,
    )
    rows = np.flatnonzero(first.valid)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))]
    crossing = [np.nan]
    if len(rows) and last.valid[0]:
        crossing = list(equal_energy(memory, first, last, rows, relative, tolerance))
    return Protocols(
        float(np.nanmedian(first.beta)),
        float(np.nanmedian(crossing)) if np.isfinite(crossing).any() else np.nan,
        float(last.beta[0]),
        first.beta,
        np.flatnonzero(first.unresolved | np.isnan(first.beta)),
    )


def equal_energy(
    memory: Memory, first: Edge, last: Edge, rows, relative: float, tolerance: float | None = None
) -> np.ndarray:
    """beta [R] at which the minima of some patterns and the undecided one have equal energies.

    first: what `onsets` found; last: the end of the undecided branch; rows: numbers of the
    patterns. NaN where the two do not exist together at any beta between the two edges.
    """
    rows = np.asarray(rows)
    count = len(rows)
    low = first.beta[rows]
    high = np.full(count, last.beta[0])
    open_ = low < high
    low, high = np.where(open_, low, high), high.copy()
    # From just inside both edges: the pattern's state is that of its onset, the undecided one
    # that of its own edge, and both are followed by the last trial's states.
    states = np.concatenate([first.state[rows], np.repeat(last.state, count, axis=0)])
    kinds = np.arange(2 * count) < count
    members = np.zeros((2 * count, first.weights.shape[1]), bool)
    members[np.arange(count), rows] = True
    own = majority(members)
    trials = int(np.ceil(np.log2(max(np.max(np.log(high / low)) / relative, 2))))
    good = open_.copy()
    for _ in range(trials):
        middle = np.sqrt(low * high)
        found = settle(memory, states, np.tile(middle, 2), tolerance=tolerance)
        fine = found.minimum & np.where(kinds, own(found), undecided(found))
        both = fine[:count] & fine[count:]
        good &= both
        lower = found.energy[:count] < found.energy[count:]
        high, low = np.where(lower, middle, high), np.where(lower, low, middle)
        states = np.where(np.tile(both, 2)[:, None], found.state, states)
    return np.where(good, np.sqrt(low * high), np.nan)
