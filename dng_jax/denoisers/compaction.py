"""Predictions for some images of a batch: a network is run on those alone that need it.

    order     the images that want a role first, then the others          a stable sort
    blocks    the order in parts of a sixteenth of the batch; a part that nobody wants is not run
    whole     the batch as it is, where every part would be run

So a role costs its images, rounded up to a sixteenth of the batch, and nothing where there is
none; whether a part is run is a `cond` on the whole part, never on an image. Parts have one size,
which compiles the network once for them and once for the whole batch. Answers for images that did
not want them are zeros, or predictions: unspecified.

The answers are right under jit, vmap, scan and grad, and on batches spread over devices. What is
saved is less there: under vmap a `cond` on mapped data becomes a `select`, which runs both sides
(dng_jax.sweeps: mode "map" saves); of a batch spread over devices by the compiler, a part is
gathered and run by every one of them; one with explicit axes is run as a whole, or not at all. The
network sees an image in batches of several sizes: equal up to its rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from dng_jax.rules import Predictions
from dng_jax.steps import StepRow

BLOCKS = 16


def answer_some(
    denoise: Callable[[jax.Array, StepRow, Sequence[str]], Predictions],
    x: jax.Array,
    row: StepRow,
    roles: Sequence[str],
    wanted: Mapping[str, jax.Array],
) -> tuple[Predictions, dict[str, jax.Array]]:
    """Asks for the roles of `wanted` for the images that want them, bool [B], for the others whole.

    denoise: answers each role by its own, and image by image. Returns answers {role: [B, ...]} and
    of how many images {role: int32 []} it was asked for each role of `wanted`.
    """
    always = tuple(role for role in roles if role not in wanted)
    answers = dict(denoise(x, row, always)) if always else {}
    ran = {}
    for role in (r for r in roles if r in wanted):

        def ask(part, role=role):
            return denoise(part, row, (role,))[role]

        answers[role], ran[role] = on_some(ask, x, wanted[role])
    return answers, ran


def on_some(
    ask: Callable[[jax.Array], jax.Array], x: jax.Array, wanted: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """ask(x) [B, ...] where wanted, bool [B], is true; and on how many images it was run, int32 [].

    ask: x [n, ...] -> [n, ...], image by image, for any n.
    """
    size = -(-len(x) // BLOCKS)
    blocks = -(-len(x) // size)
    needed = wanted.sum()
    kind = jax.eval_shape(ask, x)
    if _explicitly_spread(x):
        some = needed > 0
        answers = jax.lax.cond(some, ask, lambda x: _nothing(x, kind), x)
        return answers, jnp.where(some, len(x), 0).astype(jnp.int32)

    order = jnp.argsort(~wanted, stable=True)
    padded = jnp.resize(order, (blocks * size,)).reshape(blocks, size)

    def block(_, at):
        first, images = at
        part = x[images]
        return None, jax.lax.cond(first < needed, ask, lambda part: _nothing(part, kind), part)

    def in_blocks(x):
        _, parts = jax.lax.scan(block, None, (jnp.arange(blocks) * size, padded))
        return parts.reshape(blocks * size, *x.shape[1:])[jnp.argsort(order)]

    every = needed > (blocks - 1) * size
    answers = jax.lax.cond(every, ask, in_blocks, x)
    in_parts = jnp.minimum(-(-needed // size) * size, len(x))
    return answers, jnp.where(every, len(x), in_parts).astype(jnp.int32)


def _explicitly_spread(x: jax.Array) -> bool:
    # Of arrays with explicit axes JAX refuses to sort or gather along an axis that is spread.
    spec = jax.typeof(x).sharding.spec
    return bool(len(spec)) and spec[0] is not None


def _nothing(part: jax.Array, kind: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.zeros_like(part, kind.dtype)
