"""Predictions for some images of a batch: a network is run on those alone that need it.

    order     the images that want a role first, then the others          a stable sort
    blocks    the order in parts of a sixteenth of the batch; a part that nobody wants is not run
    whole     the batch as it is, where every part would be run

So a role costs its images, rounded up to a sixteenth of the batch, and nothing where there is
none; whether a part is run is a `cond` on the whole part, never on an image. Parts have one size,
which compiles the network once for them and once for the whole batch. Answers for images that did
not want them are zeros, or predictions: unspecified.

A batch that is spread over devices, along the axis BATCH of dng_jax.sweeps or along an explicit
one, is compacted shard by shard: every device orders its own images and runs its own parts, and
nothing but the count is sent between them. Parts are then sixteenths of a shard, and the slowest
shard is waited for.

The answers are right under jit, vmap, scan and grad. What is saved is less under vmap, where a
`cond` on mapped data becomes a `select`, which runs both sides (dng_jax.sweeps: mode "map" saves),
and on a batch that only the compiler knows to be spread, along an axis of another name or within a
jit of the caller's: there every device gathers and runs each part. The network sees an image in
batches of several sizes: equal up to its rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from dng_jax.rules import Predictions, on_demand
from dng_jax.sampling import BATCH
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
    axis = _spread_along(x)
    if axis is None:
        return _compacted(ask, x, wanted)

    def shard(x, wanted):
        answers, ran = _compacted(ask, x, wanted)
        return answers, jax.lax.psum(ran, axis)

    batch = PartitionSpec(axis)
    # Whatever ask brings along is whole on every device; its branches need not say so.
    return jax.shard_map(
        shard, in_specs=(batch, batch), out_specs=(batch, PartitionSpec()), check_vma=False
    )(x, wanted)


def _compacted(
    ask: Callable[[jax.Array], jax.Array], x: jax.Array, wanted: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`on_some` on one device."""
    size = -(-len(x) // BLOCKS)
    blocks = -(-len(x) // size)
    needed = wanted.sum()
    kind = jax.eval_shape(ask, x)
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


def evaluations(denoise: Any, rule: Any, steps: int, ran: float | None = None) -> float | None:
    """Network evaluations per image of so many steps; None where the denoiser does not count them.

    ran: how often roles that the rule has on demand were evaluated per image, all roles and steps
    together (the trace's "run", summed); None where they are at every step.
    """
    calls = getattr(denoise, "calls", None)
    each = None if calls is None else calls(rule.roles)
    if calls is None or each is None or ran is None:
        return None if each is None else steps * each
    sometimes = on_demand(rule)
    least = calls([role for role in rule.roles if role not in sometimes])
    return steps * least + ran * (each - least) / len(sometimes)


def _spread_along(x: jax.Array) -> Any:
    """The mesh axis that images are spread over, None where there is none, or none is known."""
    spec = jax.typeof(x).sharding.spec
    if len(spec) and spec[0] is not None:
        return spec[0]
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if kinds.get(BATCH) != AxisType.Auto or len(x) % mesh.shape[BATCH]:
        return None
    return BATCH


def _nothing(part: jax.Array, kind: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.zeros_like(part, kind.dtype)
