r"""Minima over beta: many temperatures from the same starts, or each from the last one's end.

    warm "none"    every beta from the starts: S x R independent rows (find_fixed_points)
    warm "up"      beta ascending, each from the end of the one below:  one lax.scan
    warm "down"    beta descending, each from the end of the one above

Warm sweeps kick every state before each beta, by kick * spread in a random direction in the span of
the patterns; why, and the order parameters: the folder's sheet, sections 2 and 3.

A certificate of one row serves every row near it: its inequality (certificates.py) leaves exactly
one fixed point, with rho < 1 throughout, in the ball of radius log(1/rho) / (beta D) about that
row.

Patterns are taken in blocks where there are many (energy.block_size), and the rows whose weights
are sorted for top90 a few at a time: a million patterns need room for R 8192 numbers, or 64 MB.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError, choose
from dng_jax.rules import chain_dtype
from hopfield_jax.energy import (
    Memory,
    block_size,
    centred,
    check_beta,
    pad,
    update_and_energy,
    weights,
)
from hopfield_jax.solvers import spaces
from hopfield_jax.solvers.certificates import Certificate, certify_rows, spectral_radius
from hopfield_jax.solvers.fixed_points import check_starts, follow, merge
from hopfield_jax.solvers.iterations import Options, Search, run_to_rest, search

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
        """(beta, start) of rows that did not converge, [., 2]."""
        return np.argwhere(~np.asarray(self.converged))


class Hysteresis(NamedTuple):
    """A sweep upwards and one downwards over the same ascending betas."""

    up: Sweep
    down: Sweep


def order_parameters(p) -> Order:
    """Order parameters of weights [..., N], each [...]; float32, or float64 where they are."""
    p = jnp.asarray(p)
    p = p.astype(chain_dtype(p) if jnp.issubdtype(p.dtype, jnp.floating) else float)
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
    kick: float = 1e-3,
    radius_steps: int = 32,
    **options: Unpack[Options],
) -> Sweep:
    """Follows starts [R, d] to fixed points at every beta of betas [S], ascending.

    kick: of the warm sweeps, in units of memory.spread. radius_steps: power iterations for the
    spectral radius, each as dear as an update of all rows; 0 leaves it NaN. options: as of
    find_fixed_points. Results are in the order of betas whichever way the sweep went.
    """
    choose(warm, ("none", "up", "down"), "direction of a sweep")
    chosen = search(**options)
    starts, betas = check_starts(memory, starts), _ascending(memory, betas)
    if warm != "none":
        seen = _warm(memory, jnp.asarray(starts), betas, float(kick), chosen, warm, radius_steps)
        return _told(Sweep(betas, *seen), radius_steps)
    shape = (len(betas), len(starts))
    found = follow(memory, starts, np.repeat(betas, len(starts)), chosen)
    state = found.state.reshape(*shape, -1)
    # one temperature after the other: the weights of all rows at once may not fit
    radius, order = _measured_each(memory, state, betas, radius_steps)
    residual, steps, converged, energy = (leaf.reshape(shape) for leaf in found[1:])
    out = Sweep(betas, state, residual, steps, converged, energy, radius, *order)
    return _told(out, radius_steps)


def certify_sweep(memory: Memory, found: Sweep, *, tolerance: float = 1e-6) -> Certificate:
    """Which rows of a sweep are minima: a Certificate with arrays [S, R].

    tolerance: of the residual, in units of memory.spread. Rows of one beta that lie within 1e-4 of
    that of each other share an eigenvalue problem, and then its rho, where the proof of one holds
    for the others; the rest (saddles, ghosts) cost one each.
    """
    if found.state.ndim != 3:
        raise InputError(
            f"certify_sweep takes a sweep with states [S, R, d]: got shape {found.state.shape}"
        )
    temperatures, rows, _ = found.state.shape
    state = np.asarray(found.state).reshape(temperatures * rows, -1)
    betas = np.repeat(np.asarray(found.betas), rows)
    owner = np.arange(len(state))
    for first in range(0, len(state), rows):
        labels, chosen = merge(state[first : first + rows], float(memory.spread), 1e-4)
        owner[first : first + rows] = first + chosen[labels]
    own = owner == np.arange(len(state))
    known = jax.tree.map(np.array, certify_rows(memory, state[own], betas[own], tolerance))
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
        rest = certify_rows(memory, state[alone], betas[alone], tolerance)
        for leaf, new in zip(known, rest, strict=True):
            leaf[alone] = new
    return jax.tree.map(lambda leaf: jnp.asarray(leaf.reshape(temperatures, rows)), known)


def hysteresis(memory: Memory, start_up, start_down, betas, **options: Any) -> Hysteresis:
    """The branch from start_up [R, d] with beta rising and that from start_down with beta falling.

    The usual loop: start_up at the centroid, start_down at the patterns. options as in `sweep`.
    """
    return Hysteresis(
        sweep(memory, start_up, betas, warm="up", **options),
        sweep(memory, start_down, betas, warm="down", **options),
    )


def _told(found: Sweep, radius_steps: int) -> Sweep:
    # NaN for what was not measured only here: jax_debug_nans takes it for a fault.
    if radius_steps:
        return found
    with jax.debug_nans(False):
        return found._replace(spectral_radius=jnp.full_like(found.spectral_radius, jnp.nan))


def _ascending(memory, betas) -> jax.Array:
    betas = np.asarray(betas, memory.dtype)
    if betas.ndim != 1 or not len(betas) or (np.diff(betas) <= 0).any():
        raise InputError(
            f"the betas of a sweep must ascend strictly (as {memory.dtype}), got shape"
            f" {betas.shape}: sort them and drop repeats"
        )
    check_beta(betas)
    return jnp.asarray(betas)


@functools.partial(jax.jit, static_argnames=("warm", "radius_steps"))
def _warm(memory, starts, betas, kick, search: Search, warm, radius_steps):
    memory, mean = centred(memory)
    block = block_size(memory)
    if block is not None:
        memory = pad(memory, block)
    form = spaces.space(memory, search.space, block)
    rows = len(starts)
    direction = _directions(memory, rows)

    def step(state, beta):
        each = jnp.full(rows, beta)
        held = form.begin(form.seen(state + kick * memory.spread * direction), each)
        held, steps = run_to_rest(form, held, each, search)
        state = form.state(held)
        image, energy = update_and_energy(memory, state, beta, block=block)
        residual = jnp.linalg.norm(state - image, axis=1) / memory.spread
        radius, order = _measured(memory, state, beta, radius_steps)
        converged = residual <= search.tolerance
        return state, (state + mean[None], residual, steps, converged, energy, radius, *order)

    return jax.lax.scan(step, starts - mean[None], betas, reverse=warm == "down")[1]


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
    radius = jnp.zeros(state.shape[:-1], memory.dtype)
    if radius_steps:
        radius = spectral_radius(memory, state, beta, radius_steps)
    together = max(1, ROOM // memory.num_patterns)
    order = jax.lax.map(
        lambda row: order_parameters(weights(memory, row, beta)), state, batch_size=together
    )
    return radius, order
