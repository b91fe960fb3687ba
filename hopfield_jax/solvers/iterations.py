r"""Fixed-point iterations of many rows at once, each until its own residual is small.

    f = T(xi) - xi = -grad E,   residual = |f| / spread

    "picard"     the update itself                              picard.py
    "aitken"     two updates and an extrapolation               aitken.py
    "newton"     conjugate gradients on the Hessian             newton.py

None raises the energy by more than rounding, and all are plain until the residual is below 1e-2. A
row stops at an iterate of its own, whatever rows are beside it; but what "aitken" remembers is lost
when the rows of a set are sorted out, so its rows may take another step or two in other company.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

import jax
import jax.numpy as jnp

from dng_jax import errors
from dng_jax.errors import InputError
from hopfield_jax.solvers import aitken, newton, picard
from hopfield_jax.solvers.rows import choose
from hopfield_jax.solvers.spaces import FORMS, Form, Space

Method = Literal["picard", "aitken", "newton"]
METHODS: dict[str, Any] = {"picard": picard, "aitken": aitken, "newton": newton}
MARGIN = 0.5  # rows are run to this share of the tolerance: the final check rounds differently


class Options(TypedDict, total=False):
    """Keyword options of every function that searches fixed points; `search` has the defaults.

    tolerance: of the residual, in units of memory.spread; max_steps: updates that a row may spend;
    method: see the file's docstring; space: "auto" takes the form with the cheaper update.
    """

    tolerance: float
    max_steps: int
    method: Method
    space: Form


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Search:
    """`Options` with all their values, checked. Make it with `search`."""

    tolerance: float
    max_steps: int
    method: Method = field(metadata={"static": True})
    space: Form = field(metadata={"static": True})


def search(
    tolerance: float = 1e-6,
    max_steps: int = 10_000,
    method: Method = "aitken",
    space: Form = "auto",
) -> Search:
    """The search with these options; InputError for unknown names, a tolerance that is not positive
    and finite, and a max_steps that is no whole number >= 1."""
    errors.choose(method, METHODS, "method")
    errors.choose(space, FORMS, "space")
    # Python's numbers take the type of what they meet, and steps are counted in int32.
    goal, most = float(tolerance), float(max_steps)
    if not (0 < goal < math.inf and most >= 1 and (math.isinf(most) or most.is_integer())):
        raise InputError(
            "tolerance must be > 0 and finite, max_steps at least 1 and a whole number: got"
            f" {tolerance} and {max_steps}"
        )
    return Search(goal, int(min(most, 2**31 - 1)), method, space)


def run(
    space: Space, held, beta, steps, real, search: Search, *, length, enough=0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Iterates rows [W] until all but `enough` are done, at most `length` times.

    held [W, n], beta [W], steps [W] int32; real [W] bool, false for slots without a row. A row is
    done when its residual is below the tolerance or its steps are spent ("aitken": two at a time).
    Returns held, steps, and which rows are not done.
    """
    scale = space.memory.spread
    goal = MARGIN * search.tolerance * scale
    rule = METHODS[search.method]

    def active(steps, rows):
        return real & (rows.residual > goal) & (steps < search.max_steps)

    def unfinished(carry):
        count, steps, rows = carry
        return (count < length) & (jnp.sum(active(steps, rows)) > enough)

    def body(carry):
        count, steps, rows = carry
        now = active(steps, rows)
        rows = choose(now, rule.iterate(space, rows, beta, scale), rows)
        return count + rule.UPDATES, jnp.where(now, steps + rule.UPDATES, steps), rows

    rows = rule.begin(space, space.lift(held), beta)
    start = (jnp.zeros((), jnp.int32), steps, rows)
    _, steps, rows = jax.lax.while_loop(unfinished, body, start)
    left = active(steps, rows)
    return space.held(rule.end(rows, ~left)), steps, left


def run_to_rest(space: Space, held, beta, search: Search) -> tuple[jax.Array, jax.Array]:
    """Iterates rows [R] until all are done: what is held of them, and the steps of each [R].

    What an accelerated method leaves beside a saddle or a ghost is taken on by the update.
    """
    steps, real = jnp.zeros(len(held), jnp.int32), jnp.ones(len(held), bool)
    for method in dict.fromkeys((search.method, "picard")):
        part = dataclasses.replace(search, method=method)
        held, steps, _ = run(space, held, beta, steps, real, part, length=search.max_steps)
    return held, steps
