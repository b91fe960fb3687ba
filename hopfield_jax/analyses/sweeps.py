r"""Minima over beta: many temperatures from the same starts, or each from the last one's end.

    warm "none"    every beta from the starts: S x R independent rows (find_fixed_points)
    warm "up"      beta ascending, each from the end of the one below:  one lax.scan
    warm "down"    beta descending, each from the end of the one above

A first-order transition shows in the difference: with equidistant patterns in K = beta D^2/2, a
branch that starts at a pattern survives downwards to K_s, the one that starts at the centroid
upwards to K = N. A point that has become unstable is still a fixed point, and arithmetic may never
leave it; so warm sweeps kick every state, by kick * spread in a random direction in the span of
the patterns, before each beta. The kick must be larger than tolerance/|rho - 1| to be amplified,
and smaller than the basins that are to survive it.

Order parameters of the weights p at each end:

    p_max = max_i p_i        participation = 1 / sum_i p_i^2     (patterns that take part)
    entropy = -sum_i p_i log p_i          top90 = least k whose k largest weights sum to .90

A certificate of one row serves every row near it: its inequality (stability.py) leaves exactly one
fixed point, with rho < 1 throughout, in the ball of radius log(1/rho) / (beta D) about that row.

Patterns are taken in blocks where there are many (energy.block_size), and the rows whose weights
are sorted for top90 a few at a time: a million patterns need room for R 8192 numbers, or 64 MB.

Source: hopfield.md sections 2, 3 and 8; top90 is Ramsauer et al.'s measure, arXiv 2008.02217.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError, choose
from hopfield_jax.energy import (
    Memory,
    block_size,
    centred,
    check_beta,
    check_states,
    pad,
    update_and_energy,
    weights,
)
from hopfield_jax.solvers import spaces
from hopfield_jax.solvers.certificates import Certificate, certify, spectral_radius
from hopfield_jax.solvers.fixed_points import find_fixed_points, merge
from hopfield_jax.solvers.iterations import METHODS, Method, run

Warm = Literal["none", "up", "down"]
ROOM = 2**24  # weights that are sorted at a time


class Order(NamedTuple):
    """Order parameters of weights p: p_max, participation, entropy (nats), top90 int32."""

    p_max: jax.Array
    participation: jax.Array
    entropy: jax.Array
    top90: jax.Array


class Sweep(NamedTuple):
    """What a sweep over betas [S] (ascending) found from R starts; arrays are [S, R] but for state.

    state [S, R, d]; residual |xi - T(xi)| / spread; steps int32; converged bool; energy;
    spectral_radius, rho(J) by power iteration: above 1 a saddle, but below 1 no proof
    (certify_sweep gives one); p_max, participation, entropy, top90 as in Order.
    `sweep_sets` puts an axis of sets in front of all but betas.
    """

    betas: jax.Array
    state: jax.Array
    residual: jax.Array
    steps: jax.Array
    converged: jax.Array
    energy: jax.Array
    spectral_radius: jax.Array
    p_max: jax.Array
    participation: jax.Array
    entropy: jax.Array
    top90: jax.Array

    @property
    def unconverged(self) -> np.ndarray:
        """(beta, start), or (set, beta, start), of rows that did not converge, [., 2 or 3]."""
        return np.argwhere(~np.asarray(self.converged))


class Hysteresis(NamedTuple):
    """A sweep upwards and one downwards over the same ascending betas."""

    up: Sweep
    down: Sweep


def order_parameters(p) -> Order:
    """Order parameters of weights [..., N], each [...]."""
    descending = -jnp.sort(-p, axis=-1)
    # a hair less than .90, so that ten equal weights need nine
    short = jnp.cumsum(descending, axis=-1) < 0.9 - 64 * jnp.finfo(p.dtype).eps
    return Order(
        p_max=descending[..., 0],
        participation=1 / jnp.sum(p**2, axis=-1),
        entropy=-jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), 0), axis=-1),
        top90=(jnp.sum(short, axis=-1) + 1).astype(jnp.int32),
    )


def sweep(
    memory: Memory,
    starts,
    betas,
    *,
    warm: Warm = "none",
    tolerance: float = 1e-6,
    max_steps: int = 10_000,
    method: Method = "aitken",
    kick: float = 1e-3,
    radius_steps: int = 32,
) -> Sweep:
    """Follows starts [R, d] to fixed points at every beta of betas [S], ascending.

    tolerance, and kick of the warm sweeps: in units of memory.spread. radius_steps: power
    iterations for the spectral radius, each as dear as an update of all rows; 0 leaves it NaN.
    Results are in the order of betas whichever way the sweep went.
    """
    starts, betas = _checked(memory, starts, betas, warm, tolerance, max_steps, method)
    if warm != "none":
        seen = _warm(memory, starts, betas, warm, tolerance, max_steps, kick, method, radius_steps)
        return Sweep(betas, *seen)
    shape = (len(betas), len(starts))
    found = find_fixed_points(
        memory,
        starts,
        betas[:, None],
        tolerance=tolerance,
        max_steps=max_steps,
        method=method,
    )
    state = found.state.reshape(*shape, -1)
    # one temperature after the other: the weights of all rows at once may not fit
    radius, order = _measured_each(memory, state, betas, radius_steps)
    residual, steps, converged, energy = (leaf.reshape(shape) for leaf in found[1:])
    return Sweep(betas, state, residual, steps, converged, energy, radius, *order)


def certify_sweep(memory: Memory, found: Sweep, *, tolerance: float = 1e-6) -> Certificate:
    """Which rows of a sweep are minima: a Certificate with arrays [S, R].

    tolerance: of the residual, in units of memory.spread. Rows of one beta that lie within 1e-4 of
    that of each other share an eigenvalue problem, and then its rho, where the proof of one holds
    for the others; the rest (saddles, ghosts) cost one each. The sweep of one set, not of
    `sweep_sets`.
    """
    if found.state.ndim != 3:
        raise InputError(
            "certify_sweep takes the sweep of one set, with states [S, R, d]: got shape"
            f" {found.state.shape}"
        )
    temperatures, rows, _ = found.state.shape
    state = np.asarray(found.state).reshape(temperatures * rows, -1)
    betas = np.repeat(np.asarray(found.betas), rows)
    owner = np.arange(len(state))
    for first in range(0, len(state), rows):
        labels, chosen = merge(state[first : first + rows], float(memory.spread), 1e-4)
        owner[first : first + rows] = first + chosen[labels]
    own = owner == np.arange(len(state))
    known = jax.tree.map(np.array, certify(memory, state[own], betas[own], tolerance=tolerance))
    known = jax.tree.map(lambda leaf: leaf[np.searchsorted(np.flatnonzero(own), owner)], known)

    radius = -np.log(np.maximum(known.upper, np.finfo(memory.dtype).tiny))
    distance = np.linalg.norm(state - state[owner], axis=1)
    # half the ball: with room for rounding
    near = known.minimum & (2 * distance * betas * float(memory.diameter) < radius)
    residual = np.asarray(found.residual).reshape(-1)
    shared = near & ~own
    known.residual[shared] = residual[shared]
    known.minimum[shared] = residual[shared] <= tolerance
    alone = ~near & ~own
    if alone.any():
        rest = certify(memory, state[alone], betas[alone], tolerance=tolerance)
        for leaf, new in zip(known, rest, strict=True):
            leaf[alone] = new
    return jax.tree.map(lambda leaf: jnp.asarray(leaf.reshape(temperatures, rows)), known)


def sweep_sets(
    memories: Sequence[Memory] | Memory,
    starts,
    betas,
    *,
    warm: Warm = "none",
    tolerance: float = 1e-6,
    max_steps: int = 10_000,
    method: Method = "aitken",
    kick: float = 1e-3,
    radius_steps: int = 32,
) -> Sweep:
    """`sweep` of P sets of patterns of one shape: a list of memories, or one with leaves [P, ...].

    starts [P, R, d], or [R, d] for all sets. Warm sweeps run as one program, vmapped; cold ones set
    after set with the same programs, since sorting out finished rows saves more than vmap does.
    Every array of the result but betas has a leading axis P.
    """
    memories = memories if isinstance(memories, Memory) else stack(memories)
    if memories.patterns.ndim != 3:
        raise InputError(
            "sweep_sets takes a list of memories, or one with patterns [P, N, d]: got shape"
            f" {memories.patterns.shape}"
        )
    sets = len(memories.patterns)
    starts = jnp.asarray(starts, memories.dtype)
    if starts.ndim == 2:
        starts = jnp.broadcast_to(starts, (sets, *starts.shape))
    if len(starts) != sets:
        raise InputError(f"{sets} sets of patterns need as many sets of starts, got {len(starts)}")
    each = [jax.tree.map(lambda leaf, i=i: leaf[i], memories) for i in range(sets)]
    if warm == "none":
        found = [
            sweep(
                one,
                begin,
                betas,
                tolerance=tolerance,
                max_steps=max_steps,
                method=method,
                radius_steps=radius_steps,
            )
            for one, begin in zip(each, starts, strict=True)
        ]
        seen = jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)
        return seen._replace(betas=found[0].betas)
    _, betas = _checked(each[0], starts[0], betas, warm, tolerance, max_steps, method)
    seen = jax.vmap(
        lambda one, begin: _warm(
            one, begin, betas, warm, tolerance, max_steps, kick, method, radius_steps
        )
    )(memories, starts)
    return Sweep(betas, *seen)


def hysteresis(memory: Memory, start_up, start_down, betas, **options) -> Hysteresis:
    """The branch from start_up [R, d] with beta rising and that from start_down with beta falling.

    The usual loop: start_up at the centroid, start_down at the patterns. options as in `sweep`.
    """
    return Hysteresis(
        sweep(memory, start_up, betas, warm="up", **options),
        sweep(memory, start_down, betas, warm="down", **options),
    )


def stack(memories: Sequence[Memory]) -> Memory:
    """P memories of one shape as one, with leaves [P, ...]."""
    shapes = {one.patterns.shape for one in memories}
    if len(shapes) != 1:
        raise InputError(
            f"sets of patterns must have one shape to be swept together, got {sorted(shapes)}:"
            " pad them with energy.pad, or sweep each on its own"
        )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *memories)


def _checked(memory, starts, betas, warm, tolerance, max_steps, method):
    choose(warm, ("none", "up", "down"), "direction of a sweep")
    choose(method, METHODS, "method")
    check_beta(betas)
    betas = np.asarray(betas, memory.dtype)
    if betas.ndim != 1 or not len(betas) or (np.diff(betas) <= 0).any():
        raise InputError(
            f"the betas of a sweep must ascend strictly (as {memory.dtype}), got shape"
            f" {betas.shape}: sort them and drop repeats"
        )
    starts = check_states(memory, starts, "starts")
    if not (tolerance > 0 and max_steps >= 1):
        raise InputError(
            f"tolerance must be > 0 and max_steps at least 1: got {tolerance} and {max_steps}"
        )
    return jnp.asarray(starts), jnp.asarray(betas)


@functools.partial(jax.jit, static_argnames=("warm", "method", "radius_steps"))
def _warm(memory, starts, betas, warm, tolerance, max_steps, kick, method, radius_steps):
    memory, mean = centred(memory)
    block = block_size(memory)
    if block is not None:
        memory = pad(memory, block)
    form = spaces.space(memory, block=block)
    rows = len(starts)
    everyone = jnp.ones(rows, bool)
    direction = _directions(memory, rows)

    def step(state, beta):
        each = jnp.full(rows, beta)
        held = form.begin(form.seen(state + kick * memory.spread * direction), each)
        steps = jnp.zeros(rows, jnp.int32)
        # what a bold method left beside a saddle or a ghost is taken on by the update
        for doing in dict.fromkeys((method, "picard")):
            held, steps, _ = run(
                form,
                held,
                each,
                steps,
                everyone,
                tolerance=tolerance,
                scale=memory.spread,
                max_steps=max_steps,
                length=max_steps,
                method=doing,
            )
        state = form.state(held)
        image, energy = update_and_energy(memory, state, beta, block=block)
        residual = jnp.linalg.norm(state - image, axis=1) / memory.spread
        radius, order = _measured(memory, state, beta, radius_steps)
        return state, (
            state + mean,
            residual,
            steps,
            residual <= tolerance,
            energy,
            radius,
            *order,
        )

    return jax.lax.scan(step, starts - mean, betas, reverse=warm == "down")[1]


def _directions(memory, rows):
    # unit vectors [R, d] in the span of the centred patterns: their sums with random weights, drawn
    # for each pattern by itself, so that blocks change nothing
    block = block_size(memory) or memory.num_patterns
    key = jax.random.key(0)

    def add(total, part):
        number, x = part
        random = jax.vmap(
            lambda i: jax.random.normal(jax.random.fold_in(key, i), (rows,), memory.dtype)
        )(number)
        return total + jnp.einsum("nr,nd->rd", random, x, precision="highest"), None

    numbers = jnp.arange(memory.num_patterns).reshape(-1, block)
    blocks = memory.patterns.reshape(-1, block, memory.dimension)
    start = jnp.zeros((rows, memory.dimension), memory.dtype)
    total, _ = jax.lax.scan(add, start, (numbers, blocks))
    length = jnp.linalg.norm(total, axis=1, keepdims=True)
    return total / jnp.where(length > 0, length, 1)  # none where all patterns are one


@functools.partial(jax.jit, static_argnames="radius_steps")
def _measured_each(memory, state, betas, radius_steps):
    return jax.lax.map(lambda row: _measured(memory, row[0], row[1], radius_steps), (state, betas))


def _measured(memory, state, beta, radius_steps):
    # rho(J) and order parameters of states [R, d] at one beta
    radius = jnp.full(state.shape[:-1], jnp.nan, memory.dtype)
    if radius_steps:
        radius = spectral_radius(memory, state, beta, radius_steps)
    together = max(1, ROOM // memory.num_patterns)
    order = jax.lax.map(
        lambda row: order_parameters(weights(memory, row, beta)), state, batch_size=together
    )
    return radius, order
