r"""The same network in the weights p instead of the state: xi = X^T p.

    G = X X^T,   s = G p + b,   p' = softmax(beta s + log w)
    E(p) = p.G p / 2 - (1/beta) log sum_i w_i exp(beta s_i) + c

The critical points, their energies and their indices are those of the state form (folder's sheet,
section 6). An update costs 2 N^2 operations per row instead of 4 N d: cheaper for N < 2d, after
2 N^2 d once for G. Only beta G matters: p knows nothing of d.

Shapes: p [..., N]; beta broadcasts against [...].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from hopfield_jax.energy import Memory, aligned, partition


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Gram:
    """A memory seen through its inner products. Make it with `gram`.

    gram [N, N]; bias [N]; log_weights [N]; constant [], as those of Memory.
    """

    gram: jax.Array
    bias: jax.Array
    log_weights: jax.Array
    constant: jax.Array


def gram(memory: Memory) -> Gram:
    """The inner products of the patterns; N^2 d multiplications."""
    x = memory.patterns
    g = jnp.einsum("nd,md->nm", x, x, precision="highest")
    return Gram(g, memory.bias, memory.log_weights, memory.constant)


def to_state(memory: Memory, p) -> jax.Array:
    """xi = X^T p, [..., d]."""
    p = jnp.asarray(p, memory.dtype)
    return jnp.einsum("...n,nd->...d", p, memory.patterns, precision="highest")


def cheaper(memory: Memory) -> Literal["weights", "state"]:
    """The form with the cheaper update: 2 N^2 operations per row against 4 N d."""
    return "weights" if memory.num_patterns < 2 * memory.dimension else "state"


def inner(gram: Gram, p) -> jax.Array:
    """G p, [..., N]: one product serves the update, the energy and the length of a step."""
    p = jnp.asarray(p, gram.gram.dtype)
    return jnp.einsum("...n,nm->...m", p, gram.gram, precision="highest")


def from_inner(gram: Gram, p, h, beta, exact: bool = True) -> tuple[jax.Array, jax.Array]:
    """p' and the energy, given h = G p."""
    p = jnp.asarray(p, gram.gram.dtype)
    fields = jnp.add(*aligned(h, gram.bias))
    image, free = partition(fields, beta, gram.log_weights, exact)
    return image, jnp.sum(p * h, axis=-1) / 2 - free + gram.constant
