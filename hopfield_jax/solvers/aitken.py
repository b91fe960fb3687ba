r"""Two updates and an extrapolation: Aitken's Delta^2 for vectors, only forwards and downwards.

    f = T(xi) - xi,   f' = T(T(xi)) - T(xi),   r = <f', f> / <f, f>
    xi <- T(T(xi)) + c f',   c = r / (1 - r)   for 0 < r < 1,  c |f'| <= REACH,
                             c <= |f'| / (64 eps), lest 1 - r be rounding

If one eigenvalue of J is left in the error the extrapolation lands on the fixed point, but for
terms of second order: the number of correct digits doubles. That is the case near a spinodal, where
plain iteration needs 1000 steps and one eigenvalue is near 1, near a centroid of equal patterns,
where all are equal, and at the ghost beyond a spinodal, which is passed in leaps. Where several are
left r is a mean of them, and the extrapolation is too short for the slow ones and too long for the
others, which the next two updates then have to shrink again.

It goes forwards (c > 0), so to first order every component that grows keeps its sign: a row that
passes a saddle leaves it on the side on which plain iteration does.

An extrapolation is tested by the update that follows it. To second order E falls from T(xi) on by
(1 + r) |f'|^2 / 2 to T(T(xi)) and by (1 + c) |f'|^2 / 2 to its end, if one eigenvalue is left. It
is kept if the fall is between the first and eight times the second (descent.py): one that reaches
less is no gain, and one that reaches much more has flown over a saddle into another basin. If not,
the row goes on from T(T(xi)), at the cost of one update. So the energy falls from each evaluated
point to the next, to rounding. Convergence is looked for after every second update.

Derivation: the folder's sheet, section 4. Source: Irons & Tuck 1969 (vectors).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hopfield_jax.solvers import descent
from hopfield_jax.solvers.rows import Points, advance, choose, difference
from hopfield_jax.solvers.spaces import Space

UPDATES = 2
REACH = 0.3  # length of the longest extrapolation, in the patterns' unit
NOISE = 64  # of eps: rounding of f, in the same unit, with room


class Rows(NamedTuple):
    """Rows [W]: points; where they would be without the last extrapolation; whether there was one,
    its c, and the energy and |f'|^2 before it; |f'|, the residual at the last update."""

    point: Points
    plain: Points
    extrapolated: jax.Array
    factor: jax.Array
    energy: jax.Array
    square: jax.Array
    residual: jax.Array


def begin(space: Space, point: Points, beta) -> Rows:
    """Rows at their starts."""
    del space
    zero = jnp.zeros_like(beta)
    return Rows(point, point, zero > 0, zero + 1, zero, zero, zero + jnp.inf)


def iterate(space: Space, rows: Rows, beta, scale) -> Rows:
    """Two updates of every row, and an extrapolation where it promises something."""
    tiny = jnp.finfo(beta.dtype).tiny
    image, energy = space.evaluate(rows.point, beta, exact=False)
    f = difference(image, rows.point)
    ahead = space.inner(f, difference(rows.point, rows.plain)) / rows.factor  # <f, f'>
    slope = -(1 + rows.factor) / 2 * (rows.square + ahead)
    near = descent.rounding(space, beta, rows.energy, scale)
    change = descent.change(energy, rows.energy, slope, near)
    least = (1 + rows.factor / (1 + rows.factor)) / 2 * rows.square
    most = 4 * (1 + rows.factor) * rows.square + near
    kept = ~rows.extrapolated | ((change <= -least) & (change >= -most))

    first = choose(kept, image, rows.plain)
    second, energy = space.evaluate(first, beta, exact=False)
    f2 = difference(second, first)
    square = jnp.maximum(space.inner(f2, f2), 0)
    residual = jnp.sqrt(square)
    r = space.inner(f2, f) / jnp.maximum(space.inner(f, f), tiny)
    further = kept & (r > 0) & (r < 1) & (residual < descent.NEAR * scale)
    c = jnp.minimum(r / (1 - r), REACH * scale / jnp.maximum(residual, tiny))
    c = jnp.minimum(c, residual / (NOISE * jnp.finfo(beta.dtype).eps * scale))
    further = further & (c > 0)
    c = jnp.where(further, c, 1)
    point = choose(further, advance(second, c, f2), second)
    return Rows(point, second, further, c, energy, square, residual)


def end(rows: Rows, done) -> Any:
    """The points to keep: no extrapolation that was not tested."""
    del done
    return rows.plain
