r"""State space and weight space behind one interface, so that each algorithm is written once.

A point is what the update maps, and what histories and search directions are linear in:

    state space    xi [R, d]                    <u, v> = u . v
    weight space   (p, h = G p), each [R, N]    <u, v> = u_p . v_h = (X^T u_p) . (X^T v_p)

<., .> is the Euclidean inner product of states in both, so lengths, energies and conjugate
directions are the same; carrying h with p makes it free of further products. In either space the
Jacobian J of the update, the covariance of the patterns times beta, is self-adjoint:

    J v = beta X^T (p * (X v - p.X v))        (q, G q),  q = beta p * (v_h - p.v_h)

What is held of a point between calls is xi or p alone, [R, d] or [R, N].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from hopfield_jax.energy import Memory, fields, partition, update, update_and_energy, weights
from hopfield_jax.solvers import weight_space
from hopfield_jax.solvers.weight_space import Gram

Push = Callable[[Any], Any]
Form = Literal["auto", "state", "weights"]
FORMS = ("auto", "state", "weights")


class Weights(NamedTuple):
    """A point of weight space: weights p [R, N] and their fields h = G p [R, N]."""

    p: jax.Array
    field: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StateSpace:
    """Points are states [R, d]. block: patterns taken at a time, None for all at once."""

    memory: Memory
    block: int | None = field(default=None, metadata={"static": True})

    @property
    def size(self) -> int:
        """Numbers held of one point."""
        return self.memory.dimension

    def seen(self, state) -> jax.Array:
        """What of a start does not depend on beta; the start itself."""
        return state

    def begin(self, seen, beta) -> jax.Array:
        """What is held for a start, from what was seen of it."""
        del beta
        return seen

    def lift(self, held) -> jax.Array:
        return held

    def held(self, point) -> jax.Array:
        return point

    def state(self, held) -> jax.Array:
        """xi [R, d]."""
        return held

    def evaluate(self, point, beta, exact: bool = True) -> tuple[jax.Array, jax.Array]:
        """The image of points under the update, and their energies [R]; see energy.partition."""
        return update_and_energy(self.memory, point, beta, block=self.block, exact=exact)

    def inner(self, u, v) -> jax.Array:
        return jnp.sum(u * v, axis=-1)

    def jacobian(self, point, beta) -> Push:
        """v -> J v at the points."""
        if self.block is None:
            return self.covariance(weights(self.memory, point, beta), beta)
        return lambda v: jax.jvp(  # p [R, N] would not fit
            lambda u: update(self.memory, u, beta, block=self.block), (point,), (v,)
        )[1]

    def covariance(self, p, beta) -> Push:
        """v -> J v for weights p [R, N]."""
        x = self.memory.patterns

        def push(v):
            a = jnp.einsum("rd,nd->rn", v, x, precision="highest")
            a = beta[:, None] * p * (a - jnp.sum(p * a, axis=-1, keepdims=True))
            return jnp.einsum("rn,nd->rd", a, x, precision="highest")

        return push


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class WeightSpace:
    """Points are weights and their fields, `Weights`."""

    memory: Memory
    gram: Gram

    @property
    def size(self) -> int:
        return self.memory.num_patterns

    def seen(self, state) -> jax.Array:
        """The fields of starts [R, N]."""
        return fields(self.memory, state)

    def begin(self, seen, beta) -> jax.Array:
        """The weights of a start: one update, after which every state is X^T p."""
        return partition(seen, beta, self.memory.log_weights, exact=False)[0]

    def lift(self, held) -> Weights:
        return Weights(held, weight_space.inner(self.gram, held))

    def held(self, point) -> jax.Array:
        return point.p

    def state(self, held) -> jax.Array:
        return weight_space.to_state(self.memory, held)

    def evaluate(self, point, beta, exact: bool = True) -> tuple[Weights, jax.Array]:
        p, e = weight_space.from_inner(self.gram, point.p, point.field, beta, exact)
        return self.lift(p), e

    def inner(self, u, v) -> jax.Array:
        return jnp.sum(u.p * v.field, axis=-1)

    def jacobian(self, point, beta) -> Push:
        return self.covariance(self.held(self.evaluate(point, beta)[0]), beta)

    def covariance(self, p, beta) -> Push:
        def push(v):
            a = v.field
            return self.lift(beta[:, None] * p * (a - jnp.sum(p * a, axis=-1, keepdims=True)))

        return push


Space = StateSpace | WeightSpace


def length(space: Space, step) -> jax.Array:
    """|u| [R] of steps between points."""
    return jnp.sqrt(jnp.maximum(space.inner(step, step), 0))


def space(memory: Memory, form: Form = "auto", block: int | None = None) -> Space:
    """The space in which an update is cheaper, or the one asked for."""
    if form == "weights" or (form == "auto" and weight_space.cheaper(memory) == "weights"):
        return WeightSpace(memory, weight_space.gram(memory))
    return StateSpace(memory, block)
