r"""Fixed-point iterations of many rows at once: plain, Anderson and Newton steps that only descend.

    f = T(xi) - xi = -grad E,   residual = |f| / M
    picard     xi <- T(xi)                            rate rho(J); dE <= -|f|^2 / 2 by itself
    anderson   xi <- T(xi) - sum_j g_j dT_j           g = argmin |f - sum_j g_j df_j|, last 5 steps
    newton     xi <- xi + (I - J)^{-1} f              by conjugate gradients, stopped where the
                                                      curvature is not positive (at most 10)

Rows are plain until their residual is below 1e-2: the first steps choose the basin, and a bold step
there could leave it. A bold step is kept only if it lowers the energy by |f|^2 / 4 (a Newton step
at a minimum gives at least |f|^2 / 2); otherwise the row stays, forgets its history, and its next
step is plain. So the energy never rises, and a ghost beyond a spinodal, where both methods look for
a root that does not exist, is passed no slower than by half the plain speed.

Where both energies agree to rounding their difference says nothing, but the gradients still do:

    E(b) - E(a) = <grad E(a) + grad E(b), b - a> / 2 + O(|b - a|^3)

Sources: hopfield.md section 3; Walker & Ni 2011 (Anderson); Steihaug 1983 (truncated CG).
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from hopfield_jax.energy import Memory
from hopfield_jax.spaces import Space

Method = Literal["picard", "anderson", "newton"]
METHODS = ("picard", "anderson", "newton")
DEPTH = 5  # differences that Anderson remembers
CONJUGATE = 10  # products with J in a Newton step
NEAR = 1e-2  # residual below which bold steps are tried
MARGIN = 0.8  # rows are run to this share of the tolerance: the final check rounds differently


class Rows(NamedTuple):
    """Rows in flight, [W, ...]: points, their images and energies (not kept up by "picard"),
    residuals |f| in the patterns' unit, evaluations so far, and what the method remembers."""

    point: jax.Array
    image: jax.Array
    energy: jax.Array
    residual: jax.Array
    steps: jax.Array
    memo: Any


class Differences(NamedTuple):
    """The last steps of each row: dT and df [W, DEPTH, ...], which are real, and the next slot."""

    image: jax.Array
    step: jax.Array
    real: jax.Array
    slot: jax.Array


def begin(space: Space, held, beta, steps, method: Method) -> Rows:
    """Rows at the points held, evaluated once (not counted)."""
    point = space.lift(held)
    image, energy = space.evaluate(point, beta)
    memo: Any = ()
    if method == "anderson":
        none = jnp.zeros((len(point), DEPTH, *point.shape[1:]), point.dtype)
        real = jnp.zeros((len(point), DEPTH), bool)
        memo = Differences(none, none, real, jnp.zeros((), jnp.int32))
    elif method == "newton":
        memo = jnp.ones(len(point), bool)  # whether the next step may be bold
    return Rows(point, image, energy, _length(space, image - point), steps, memo)


def iterate(space: Space, rows: Rows, beta, active, scale, method: Method) -> Rows:
    """One step of the active rows [W]; the others stay as they are."""
    if method == "picard":
        image, _ = space.evaluate(rows.image, beta)  # needs no energy: it falls by itself
        residual = _length(space, image - rows.image)
        moved = Rows(rows.image, image, rows.energy, residual, rows.steps, ())
        kept = active
    else:
        step = rows.image - rows.point
        if method == "anderson":
            bold = rows.memo.real.any(axis=1)
            trial = rows.image - _combined(space, rows.memo, step)
        else:
            bold = rows.memo
            trial = rows.point + _newton(space, rows.point, step, beta)
        bold = bold & (rows.residual < NEAR * scale)
        trial = _where(bold, trial, rows.image)
        image, energy = space.evaluate(trial, beta)
        new_step = image - trial
        kept = active & (
            ~bold | _descends(space, rows, trial, step, new_step, energy - rows.energy, scale)
        )
        moved = Rows(trial, image, energy, _length(space, new_step), rows.steps, rows.memo)
        if method == "anderson":
            memo: Any = _remember(rows.memo, image - rows.image, new_step - step, kept)
        else:
            memo = jnp.where(active, kept, rows.memo)
        rows, moved = rows._replace(memo=memo), moved._replace(memo=memo)
    return Rows(
        _where(kept, moved.point, rows.point),
        _where(kept, moved.image, rows.image),
        _where(kept, moved.energy, rows.energy),
        _where(kept, moved.residual, rows.residual),
        rows.steps + active,
        rows.memo,
    )


def run(
    space: Space,
    held,
    beta,
    steps,
    real,
    *,
    tolerance,
    scale,
    max_steps,
    length,
    enough=0,
    method: Method = "picard",
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Iterates rows [W] until all but `enough` are done, at most `length` times.

    held [W, n], beta [W], steps [W] int32; real [W] bool, false for slots without a row. A row is
    done when its residual is below the tolerance (in units of scale) or its steps are spent.
    Returns held, steps, and which rows are not done. A finished row has had one update more.
    """
    goal = MARGIN * tolerance * scale

    def active(rows):
        return real & (rows.residual > goal) & (rows.steps < max_steps)

    def unfinished(carry):
        count, rows = carry
        return (count < length) & (jnp.sum(active(rows)) > enough)

    def body(carry):
        count, rows = carry
        return count + 1, iterate(space, rows, beta, active(rows), scale, method)

    first = begin(space, held, beta, steps, method)
    _, rows = jax.lax.while_loop(unfinished, body, (jnp.zeros((), jnp.int32), first))
    left = active(rows)
    return space.held(_where(left, rows.point, rows.image)), rows.steps, left


@functools.partial(jax.jit, static_argnames=("steps", "method"))
def trajectory(
    space: Space, starts, beta, *, steps: int, method: Method = "picard"
) -> tuple[jax.Array, jax.Array]:
    """Every state on the way from starts [R, d], [steps + 1, R, d], and its energy [steps + 1, R].

    In weight space the first is already the image of the start. beta [] or [R].
    """
    memory: Memory = space.memory
    starts = jnp.asarray(starts, memory.dtype)
    beta = jnp.broadcast_to(jnp.asarray(beta, memory.dtype), starts.shape[:1])
    everyone = jnp.ones(starts.shape[:1], bool)
    count = jnp.zeros(starts.shape[:1], jnp.int32)
    rows = begin(space, space.begin(starts, beta), beta, count, method)

    def step(rows, _):
        seen = space.state(space.held(rows.point)), space.evaluate(rows.point, beta)[1]
        return iterate(space, rows, beta, everyone, memory.scale, method), seen

    return jax.lax.scan(step, rows, length=steps + 1)[1]


def _combined(space, memo: Differences, step):
    # sum_j g_j dT_j; the differences are scaled to length one, since their lengths span decades
    def pair(u, v):
        return space.inner(u[:, :, None], v[:, None, :])

    gram = pair(memo.step, memo.step)
    size = jnp.sqrt(jnp.maximum(jnp.diagonal(gram, axis1=1, axis2=2), 0))
    real = memo.real & (size > 0)
    unit = jnp.where(real, 1 / jnp.where(real, size, 1), 0)
    ridge = 100 * jnp.finfo(gram.dtype).eps
    matrix = gram * unit[:, :, None] * unit[:, None, :] + jnp.where(real, ridge, 1)[
        :, :, None
    ] * jnp.eye(DEPTH, dtype=gram.dtype)
    right = space.inner(memo.step, step[:, None]) * unit
    g = _solve(matrix, right) * unit
    return jnp.einsum("wj,wj...->w...", g, memo.image, precision="highest")


def _solve(matrix, right):
    # Elimination without pivots of small positive definite systems [W, m, m], unrolled: a library
    # call a row would cost more than the rest of the step. Zero where a pivot is lost to rounding.
    for k in range(right.shape[1]):
        pivot = matrix[:, k, k]
        row = jnp.where(pivot > 0, 1 / jnp.where(pivot > 0, pivot, 1), 0)[:, None]
        column = matrix[:, :, k].at[:, k].set(0) * row
        matrix = matrix - column[:, :, None] * matrix[:, k, None, :]
        right = right - column * right[:, k, None]
    pivots = jnp.diagonal(matrix, axis1=1, axis2=2)
    return jnp.where(pivots > 0, right / jnp.where(pivots > 0, pivots, 1), 0)


def _remember(memo: Differences, image, step, kept) -> Differences:
    # a refused step clears the row's history: its next step is plain
    slot = memo.slot % DEPTH
    real = jnp.where(kept[:, None], memo.real, False).at[:, slot].set(kept)
    return Differences(
        memo.image.at[:, slot].set(image), memo.step.at[:, slot].set(step), real, memo.slot + 1
    )


def _newton(space, point, step, beta):
    # Conjugate gradients on (I - J) delta = f. The first iterate is the best step along f, so even
    # a truncated solution descends.
    push = space.jacobian(point, beta)
    square = space.inner(step, step)
    floor = (10 * jnp.finfo(square.dtype).eps) ** 2 * square

    def go_on(carry):
        count, _, _, _, _, alive = carry
        return (count < CONJUGATE) & alive.any()

    def body(carry):
        count, delta, left, direction, size, alive = carry
        bent = direction - push(direction)
        curvature = space.inner(direction, bent)
        alive = alive & (curvature > 0) & (size > floor)
        a = jnp.where(alive, size / jnp.where(alive, curvature, 1), 0)
        delta = delta + _per(a, delta) * direction
        left = left - _per(a, left) * bent
        new = space.inner(left, left)
        b = jnp.where(alive, new / jnp.where(alive, size, 1), 0)
        return count + 1, delta, left, left + _per(b, left) * direction, new, alive

    start = (0, jnp.zeros_like(step), step, step, square, square > 0)
    return jax.lax.while_loop(go_on, body, start)[1]


def _descends(space, rows, trial, step, new_step, direct, scale):
    slack = 32 * jnp.finfo(direct.dtype).eps * (jnp.abs(rows.energy) + scale**2)
    slope = -space.inner(step + new_step, trial - rows.point) / 2
    change = jnp.where(jnp.abs(direct) > slack, direct, slope)
    return change <= -(rows.residual**2) / 4


def _length(space, step):
    return jnp.sqrt(jnp.maximum(space.inner(step, step), 0))


def _per(value, like):
    return value.reshape(-1, *[1] * (like.ndim - 1))


def _where(mask, new, old):
    return jnp.where(_per(mask, new), new, old)
