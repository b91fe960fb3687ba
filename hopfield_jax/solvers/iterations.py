r"""Fixed-point iterations of many rows at once, each until its own residual is small.

    f = T(xi) - xi = -grad E,   residual = |f| in the patterns' unit

    "picard"     the update itself                              picard.py
    "aitken"     two updates and an extrapolation               aitken.py
    "anderson"   mixing of the last five steps                  anderson.py
    "newton"     conjugate gradients on the Hessian             newton.py

None raises the energy by more than rounding, and all are plain until the residual is below 1e-2. A
row stops at an iterate of its own, whatever rows are beside it; but what "aitken" and "anderson"
remember is lost when the rows of a set are sorted out, so their rows may take another step or two
in other company. "anderson" may end in another minimum than the update (about 1% of random starts
within 1% of a spinodal): where the basin matters take one of the others.
Source: hopfield.md section 3.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from hopfield_jax.energy import Memory
from hopfield_jax.solvers import aitken, anderson, newton, picard
from hopfield_jax.solvers.rows import choose
from hopfield_jax.solvers.spaces import Space

Method = Literal["picard", "aitken", "anderson", "newton"]
METHODS: dict[str, Any] = {
    "picard": picard,
    "aitken": aitken,
    "anderson": anderson,
    "newton": newton,
}
MARGIN = 0.5  # rows are run to this share of the tolerance: the final check rounds differently


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
    done when its residual is below the tolerance (in units of scale) or its steps are spent
    ("aitken": two at a time). Returns held, steps, and which rows are not done.
    """
    goal = MARGIN * tolerance * scale
    rule = METHODS[method]

    def active(steps, rows):
        return real & (rows.residual > goal) & (steps < max_steps)

    def unfinished(carry):
        count, steps, rows = carry
        return (count < length) & (jnp.sum(active(steps, rows)) > enough)

    def body(carry):
        count, steps, rows = carry
        now = active(steps, rows)
        rows = choose(now, rule.iterate(space, rows, beta, scale), rows)
        return count + rule.UPDATES, steps + rule.UPDATES * now, rows

    rows = rule.begin(space, space.lift(held), beta)
    start = (jnp.zeros((), jnp.int32), steps, rows)
    _, steps, rows = jax.lax.while_loop(unfinished, body, start)
    left = active(steps, rows)
    return space.held(rule.end(rows, ~left)), steps, left


@functools.partial(jax.jit, static_argnames=("steps", "method"))
def trajectory(
    space: Space, starts, beta, *, steps: int, method: Method = "picard"
) -> tuple[jax.Array, jax.Array]:
    """Every state on the way from starts [R, d], [steps + 1, R, d], and its energy [steps + 1, R].

    In weight space the first is already the image of the start. beta [] or [R]. With "aitken" a
    step is two updates, and the states are those that are kept.
    """
    memory: Memory = space.memory
    rule = METHODS[method]
    starts = jnp.asarray(starts, memory.dtype)
    beta = jnp.broadcast_to(jnp.asarray(beta, memory.dtype), starts.shape[:1])
    nobody = jnp.zeros(starts.shape[:1], bool)
    rows = rule.begin(space, space.lift(space.begin(space.seen(starts), beta)), beta)

    def step(rows, _):
        point = rule.end(rows, nobody)
        seen = space.state(space.held(point)), space.evaluate(point, beta)[1]
        return rule.iterate(space, rows, beta, memory.spread), seen

    return jax.lax.scan(step, rows, length=steps + 1)[1]
