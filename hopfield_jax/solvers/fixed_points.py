r"""Fixed points of the update from many starts, at many temperatures, at once.

    xi <- T(xi) = X^T softmax(beta s + log w)    until  |xi - T(xi)| <= tolerance * spread

Every row has its own start and its own beta, so a sweep over S temperatures and B starts is S B
rows and one product of matrices per iteration. Rows finish at very different times (near a spinodal
plain iteration takes 1000 steps, elsewhere 5), so the work is done in generations: the unfinished
rows are gathered into working sets of 16, 64, 256, ... rows, each set is iterated in one compiled
program until half of its rows are done, and what is left makes up the next generation. Few
sizes mean few programs, and one set's points fit the cache. All of it is done with the origin at
the mean of the patterns (energy.centred): a tolerance means the same wherever they lie.

A small residual is no proof of a minimum: saddles have it, and so does the ghost of a minimum that
has just vanished (folder's sheet, section 2). Choose the tolerance below a tenth of the resolution
wanted in beta, and let `find_minima` certify.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError
from hopfield_jax.energy import BLOCK, Memory, block_size, centred, check_beta, check_states, pad
from hopfield_jax.solvers import spaces
from hopfield_jax.solvers.certificates import Certificate, certify_rows
from hopfield_jax.solvers.iterations import Options, Search, run, search
from hopfield_jax.solvers.rows import difference

SMALLEST = 16  # rows of the smallest working set
GROWTH = 4  # ratio of their sizes
CHUNK = 32  # updates before rows are sorted out at the latest, doubled each generation


class FixedPoints(NamedTuple):
    """Where rows [R] ended.

    state [R, d]; residual |xi - T(xi)| / spread, as measured at that state less the mean (which,
    added back, rounds it by another eps |mean|); steps int32, updates spent; converged bool,
    residual within the tolerance; energy [R].
    """

    state: jax.Array
    residual: jax.Array
    steps: jax.Array
    converged: jax.Array
    energy: jax.Array

    @property
    def unconverged(self) -> np.ndarray:
        """The rows that did not converge, int [.]."""
        return np.flatnonzero(~np.asarray(self.converged))


class Minima(NamedTuple):
    """Fixed points with their certificates; see FixedPoints and certificates.Certificate."""

    state: jax.Array
    residual: jax.Array
    steps: jax.Array
    converged: jax.Array
    energy: jax.Array
    certificate: Certificate

    @property
    def minimum(self) -> jax.Array:
        """Rows that are proved to be at a strict minimum, bool [R]; others may be anything."""
        return self.certificate.minimum & self.converged

    @property
    def unconverged(self) -> np.ndarray:
        """The rows that did not converge, int [.]."""
        return np.flatnonzero(~np.asarray(self.converged))


def find_fixed_points(memory: Memory, starts, beta, **options: Unpack[Options]) -> FixedPoints:
    """Follows the update from starts [R, d] to fixed points.

    beta: one number, one per start [R], or S of them as a column [S, 1], at each of which all
    starts are followed: S R rows, those of one beta together. options: tolerance (1e-6, in units of
    memory.spread), max_steps (10,000), method ("aitken"; none raises the energy), space; see
    iterations.Options. Runs on the host, not under jit. Rows that do not converge say so; see
    `describe`. InputError for bad shapes, starts that are not finite, beta <= 0, bad options.
    """
    starts = check_starts(memory, starts)
    return follow(memory, starts, _betas(memory, beta, len(starts)), search(**options))


def find_minima(memory: Memory, starts, beta, **options: Unpack[Options]) -> Minima:
    """`find_fixed_points`, and a certificate of every row.

    Only rows with `minimum` set are minima: a residual within the tolerance, rho(J) < 1, and the
    inequality of certificates.py, which a ghost or a saddle cannot meet. Each certificate costs an
    eigenvalue problem of size min(N, d); where many rows coincide, find_fixed_points, `merge` and
    certify of the representatives is cheaper.
    """
    starts, chosen = check_starts(memory, starts), search(**options)
    betas = _betas(memory, beta, len(starts))
    found = follow(memory, starts, betas, chosen)
    return Minima(*found, certify_rows(memory, found.state, betas, chosen.tolerance))


def follow(memory: Memory, starts: np.ndarray, betas: np.ndarray, search: Search) -> FixedPoints:
    """`find_fixed_points` without its checks, of rows S R: starts [R, d] repeated, betas [S R].

    A row can end before its steps are spent and yet not converge: an accelerated method stops where
    the update itself leads away again (a saddle, a ghost), or the residual at the end rounds
    otherwise than that of the last step. Such rows are taken on by the update, for at most
    max_steps more.
    """
    form, mean = _space(memory, search.space, block_size(memory))
    start_of = np.resize(np.arange(len(starts)), len(betas))
    found = _generations(form, mean, starts, start_of, betas, search)
    steps = np.asarray(found.steps)
    stalled = np.flatnonzero(~np.asarray(found.converged) & (steps < search.max_steps))
    if stalled.size:
        found = jax.tree.map(np.array, found)
        left = search.max_steps - int(steps[stalled].min())
        plain = dataclasses.replace(search, method="picard", max_steps=left)
        rest, each = found.state[stalled], np.arange(len(stalled))
        again = _generations(form, mean, rest, each, betas[stalled], plain)
        again = again._replace(steps=again.steps + found.steps[stalled])
        for old, new in zip(found, again, strict=True):
            old[stalled] = new
        found = jax.tree.map(jnp.asarray, found)
    return found


def check_starts(memory: Memory, starts) -> np.ndarray:
    """Starts as rows [R, d] of the memory's dtype; InputError for other shapes, NaN, infinity."""
    starts = check_states(memory, starts, "starts")
    if not np.isfinite(starts).all():
        raise InputError("starts must be finite numbers: they hold NaN or infinity")
    return starts


def describe(found: FixedPoints | Minima, most: int = 8) -> str:
    """One sentence that names the rows that did not converge; empty if all did."""
    rows = found.unconverged
    if not rows.size:
        return ""
    residual = np.asarray(found.residual)[rows]
    named = ", ".join(map(str, rows[:most])) + (", ..." if rows.size > most else "")
    return (
        f"{rows.size} of {len(found.residual)} rows did not converge (rows {named}; largest"
        f" residual {np.max(residual):.1e} of the patterns' spread, after"
        f" {int(np.max(found.steps))} steps): raise max_steps or the tolerance"
    )


def merge(points, scale, tolerance: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
    """Which rows [R, .] are the same point: labels int [R], and a representative row of each.

    points: states, with the smallest distance of two patterns (or their spread) as scale, or
    weights p with scale 1; all at one beta. In order, each row joins the first representative
    within tolerance * scale, or becomes one. Labels count from 0 in order of appearance;
    representatives int [K] are row numbers.
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 2:
        raise InputError(f"points to merge must be rows [R, n], got shape {points.shape}")
    near = tolerance * float(scale)
    labels = np.full(len(points), -1)
    representatives: list[int] = []
    waiting = np.arange(len(points))
    while waiting.size:
        first = waiting[0]
        distance = np.linalg.norm(points[waiting] - points[first], axis=1)
        same = distance <= near
        same[0] = True  # also where it is not a number
        labels[waiting[same]] = len(representatives)
        representatives.append(first)
        waiting = waiting[~same]
    return labels, np.asarray(representatives, int)


def _betas(memory, beta, starts):
    # beta of every row, as rounded to the memory's dtype
    beta = np.asarray(beta, memory.dtype)
    check_beta(beta)
    grid = beta.ndim == 2 and beta.shape[1] == 1 and len(beta) > 0
    if not (grid or beta.shape in ((), (starts,))):
        raise InputError(
            f"beta must be one number, one per start [{starts}], or a column [S, 1] for all starts,"
            f" got shape {beta.shape}"
        )
    return np.broadcast_to(beta, (len(beta) if grid else 1, starts)).reshape(-1)


def _generations(form, mean, starts, start_of, betas, search: Search) -> FixedPoints:
    rows = len(betas)
    largest = working_set(form)
    room = max(SMALLEST, 1 << (rows - 1).bit_length())  # the arrays too have few sizes
    start_of = jnp.asarray(np.pad(start_of, (0, room - rows)))
    betas = jnp.asarray(np.pad(betas, (0, room - rows), mode="edge"))

    held = _begin(form, jnp.asarray(starts), mean, start_of, betas, tile=min(room, largest))
    steps = jnp.asarray(np.zeros(room, np.int32))
    unfinished = np.arange(rows)
    generation = 0
    while unfinished.size:
        sets = _working_sets(unfinished, largest, room)
        length = CHUNK * 2 ** min(generation, 20)
        left = []
        for index in sets:
            enough = np.sum(index < room) // 2 if len(index) > SMALLEST else 0
            held, steps, active = _advance(form, held, steps, betas, index, search, length, enough)
            left.append(active)
        unfinished = np.concatenate(
            [index[np.asarray(active)] for index, active in zip(sets, left, strict=True)]
        )
        generation += 1
    found = _finish(form, held, mean, steps, betas, search.tolerance, tile=min(room, largest))
    return found if rows == room else jax.tree.map(lambda leaf: leaf[:rows], found)


def working_set(form: spaces.Space) -> int:
    """Rows of the largest working set: points of 1 MB for a core's cache, of 256 MB elsewhere."""
    numbers = 2**18 if jax.default_backend() == "cpu" else 2**26
    wide = max(min(form.memory.num_patterns, BLOCK), form.size)
    size = SMALLEST
    while size * GROWTH * wide <= numbers:
        size *= GROWTH
    return size


def _working_sets(rows, largest, nowhere):
    # Sets of 16, 64, 256, ... rows; a set is at least half full, but for the smallest. Empty slots
    # hold the index `nowhere`, past the end.
    sets = []
    while rows.size:
        size = SMALLEST
        while size * GROWTH <= min(2 * rows.size, largest):
            size *= GROWTH
        index, rows = rows[:size], rows[size:]
        sets.append(np.pad(index, (0, size - index.size), constant_values=nowhere))
    return sets


@functools.partial(jax.jit, static_argnums=(1, 2))
def _space(memory, form, block):
    middle, mean = centred(memory)
    whole = middle if block is None else pad(middle, block)
    return spaces.space(whole, form, block), mean


@functools.partial(jax.jit, donate_argnames=("held", "steps"))
def _advance(form, held, steps, betas, index, search, length, enough):
    real = index < len(held)
    own = jnp.minimum(index, len(held) - 1)
    new, count, active = run(
        form, held[own], betas[own], steps[own], real, search, length=length, enough=enough
    )
    # rows past the end are dropped
    return held.at[index].set(new, mode="drop"), steps.at[index].set(count, mode="drop"), active


@functools.partial(jax.jit, static_argnames="tile")
def _begin(form, starts, mean, start_of, betas, *, tile):
    seen = form.seen(starts - mean[None])

    def one(index, beta):
        return form.begin(seen[index], beta)

    return _tiled(one, tile, start_of, betas)


@functools.partial(jax.jit, static_argnames="tile")
def _finish(form, held, mean, steps, betas, tolerance, *, tile):
    def one(held, beta):
        point = form.lift(held)
        image, energy = form.evaluate(point, beta)
        # the state of the step: products of weights and fields cancel where patterns are close
        step = form.state(form.held(difference(image, point)))
        residual = jnp.linalg.norm(step, axis=-1) / form.memory.spread
        return form.state(held) + mean[None], residual, energy

    state, residual, energy = _tiled(one, tile, held, betas)
    converged = (residual <= tolerance) & jnp.isfinite(energy)
    return FixedPoints(state, residual, steps, converged, energy)


def _tiled(f, tile, *rows):
    # f over rows, `tile` of them at a time; both are powers of two
    if tile >= len(rows[0]):
        return f(*rows)
    parts = tuple(leaf.reshape(-1, tile, *leaf.shape[1:]) for leaf in rows)
    out = jax.lax.map(lambda part: f(*part), parts)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), out)
