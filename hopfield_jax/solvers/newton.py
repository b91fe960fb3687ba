r"""Newton's method, kept where it descends.

    xi <- xi + (I - J)^{-1} f,   f = T(xi) - xi = -grad E,   I - J the Hessian of E

by conjugate gradients, at most CONJUGATE products with J, stopped where the curvature is not
positive; the first iterate is the best step along f, so even a truncated solution descends. A
row's step is plain until its residual is below NEAR. A Newton step is kept only if it lowers the
energy by |f|^2 / 4 (at a minimum it gives at least |f|^2 / 2); otherwise the row stays and its next
step is plain. So the energy never rises. Source: Steihaug 1983.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hopfield_jax.solvers import descent
from hopfield_jax.solvers.rows import Points, advance, choose, difference
from hopfield_jax.solvers.spaces import Space, length

UPDATES = 1
CONJUGATE = 10  # products with J in a step


class Rows(NamedTuple):
    """Rows [W]: points, images, energies, |f|, and whether the next step may
    be a Newton step."""

    point: Points
    image: Points
    energy: jax.Array
    residual: jax.Array
    accelerated: jax.Array


def begin(space: Space, point: Points, beta) -> Rows:
    """Rows at their starts, evaluated once."""
    image, energy = space.evaluate(point, beta, exact=False)
    residual = length(space, difference(image, point))
    return Rows(point, image, energy, residual, beta > 0)


def iterate(space: Space, rows: Rows, beta, scale) -> Rows:
    """One update of every row, at the Newton point where one may be tried."""
    step = difference(rows.image, rows.point)
    accelerated = rows.accelerated & (rows.residual < descent.NEAR * scale)
    newton = jax.tree.map(jnp.add, rows.point, _solution(space, rows.point, step, beta))
    trial = choose(accelerated, newton, rows.image)
    image, energy = space.evaluate(trial, beta, exact=False)
    new_step = difference(image, trial)
    falls = descent.falls(space, rows, trial, step, new_step, energy, beta, scale)
    kept = ~accelerated | falls
    moved = Rows(trial, image, energy, length(space, new_step), kept)
    return choose(kept, moved, rows)._replace(accelerated=kept)


def end(rows: Rows, done) -> Any:
    """The points to keep; one update more where a row is done."""
    return choose(done, rows.image, rows.point)


def _solution(space, point, step, beta):
    push = space.jacobian(point, beta)
    square = space.inner(step, step)
    floor = (10 * jnp.finfo(square.dtype).eps) ** 2 * square

    def go_on(carry):
        count, _, _, _, _, alive = carry
        return (count < CONJUGATE) & alive.any()

    def body(carry):
        count, delta, left, direction, size, alive = carry
        bent = difference(direction, push(direction))
        curvature = space.inner(direction, bent)
        alive = alive & (curvature > 0) & (size > floor)
        a = jnp.where(alive, size / jnp.where(alive, curvature, 1), 0)
        delta = advance(delta, a, direction)
        left = advance(left, -a, bent)
        new = space.inner(left, left)
        b = jnp.where(alive, new / jnp.where(alive, size, 1), 0)
        return count + 1, delta, left, advance(left, b, direction), new, alive

    zero = jax.tree.map(jnp.zeros_like, step)
    start = (0, zero, step, step, square, square > 0)
    return jax.lax.while_loop(go_on, body, start)[1]
