r"""Anderson's mixing of the last steps, kept where it descends.

    xi <- T(xi) - sum_j g_j dT_j,   g = argmin |f - sum_j g_j df_j|,   f = T(xi) - xi

over the differences dT, df of the last DEPTH steps. A row's step is plain until its residual is
below NEAR. A mixed step is kept only if it lowers the energy by |f|^2 / 4 (plain: |f|^2 / 2);
otherwise the row stays, forgets its history, and its next step is plain. So the energy never rises,
and a ghost beyond a spinodal, where mixing looks for a root that does not exist, is passed no
slower than by half the plain speed. Source: Walker & Ni 2011; hopfield.md section 3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hopfield_jax.solvers import descent
from hopfield_jax.solvers.rows import Points, choose, difference
from hopfield_jax.solvers.spaces import Space, length

UPDATES = 1
DEPTH = 5  # differences remembered


class Rows(NamedTuple):
    """Rows [W]: points, images, energies, |f|; the last differences dT and df, [W, DEPTH, ...],
    and which of them are real [W, DEPTH]."""

    point: Points
    image: Points
    energy: jax.Array
    residual: jax.Array
    images: Points
    steps: Points
    real: jax.Array


def begin(space: Space, point: Points, beta) -> Rows:
    """Rows at their starts, evaluated once."""
    image, energy = space.evaluate(point, beta, exact=False)
    none = jax.tree.map(lambda a: jnp.zeros((len(a), DEPTH, *a.shape[1:]), a.dtype), point)
    real = jnp.zeros((len(beta), DEPTH), bool)
    residual = length(space, difference(image, point))
    return Rows(point, image, energy, residual, none, none, real)


def iterate(space: Space, rows: Rows, beta, scale) -> Rows:
    """One update of every row, at the mixed point where there is a history."""
    step = difference(rows.image, rows.point)
    bold = rows.real.any(axis=1) & (rows.residual < descent.NEAR * scale)
    trial = choose(bold, difference(rows.image, _combined(space, rows, step)), rows.image)
    image, energy = space.evaluate(trial, beta, exact=False)
    new_step = difference(image, trial)
    kept = ~bold | descent.falls(space, rows, trial, step, new_step, energy, beta, scale)
    point, image, energy, residual = choose(
        kept, (trial, image, energy, length(space, new_step)), rows[:4]
    )
    return Rows(
        point,
        image,
        energy,
        residual,
        _shifted(rows.images, difference(image, rows.image)),
        _shifted(rows.steps, difference(new_step, step)),
        # a refused step clears the row's history: its next step is plain
        _shifted(rows.real & kept[:, None], kept),
    )


def end(rows: Rows, done) -> Any:
    """The points to keep; one update more where a row is done."""
    return choose(done, rows.image, rows.point)


def _shifted(history, newest):
    return jax.tree.map(
        lambda h, a: jnp.concatenate([h[:, 1:], a[:, None]], axis=1), history, newest
    )


def _combined(space, rows: Rows, step):
    # sum_j g_j dT_j; the differences are scaled to length one, since their lengths span decades
    def pair(u, v):
        at = jax.tree.map(lambda a: a[:, :, None], u), jax.tree.map(lambda a: a[:, None], v)
        return space.inner(*at)

    gram = pair(rows.steps, rows.steps)
    size = jnp.sqrt(jnp.maximum(jnp.diagonal(gram, axis1=1, axis2=2), 0))
    real = rows.real & (size > 0)
    unit = jnp.where(real, 1 / jnp.where(real, size, 1), 0)
    ridge = 100 * jnp.finfo(gram.dtype).eps
    matrix = gram * unit[:, :, None] * unit[:, None, :] + jnp.where(real, ridge, 1)[
        :, :, None
    ] * jnp.eye(DEPTH, dtype=gram.dtype)
    right = space.inner(rows.steps, jax.tree.map(lambda a: a[:, None], step)) * unit
    g = _solve(matrix, right) * unit
    return jax.tree.map(
        lambda a: jnp.einsum("wj,wj...->w...", g, a, precision="highest"), rows.images
    )


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
