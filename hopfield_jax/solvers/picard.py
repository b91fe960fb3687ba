r"""Plain iteration: xi <- T(xi), at the rate rho(J); dE <= -|f|^2 / 2 by itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hopfield_jax.solvers.rows import Points, difference
from hopfield_jax.solvers.spaces import Space, length

UPDATES = 1


class Rows(NamedTuple):
    """Where rows [W] are, and |f| of the point before."""

    point: Points
    residual: jax.Array


def begin(space: Space, point: Points, beta) -> Rows:
    """Rows at their starts."""
    del space
    return Rows(point, jnp.full_like(beta, jnp.inf))


def iterate(space: Space, rows: Rows, beta, scale) -> Rows:
    """One update of every row."""
    del scale
    image, _ = space.evaluate(rows.point, beta)
    return Rows(image, length(space, difference(image, rows.point)))


def end(rows: Rows, done) -> Any:
    """The points to keep."""
    del done
    return rows.point
