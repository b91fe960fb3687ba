"""Sweeps: K settings of one rule as one compiled program.

Numbers of a rule are leaves, so K rules of the same kind stack into one rule whose leaves have a
leading axis K. `sweep` runs the sampler over that axis on shared noise:

    mode "map"    one setting after the other inside one program (memory of a single run), or
                  `chunk` of them at a time
    mode "vmap"   all at once; the batch the network sees is K times larger

and over devices, by samples or by settings; with "map" every device runs through settings of its
own, and none waits for another before the end. On a CPU "map" is the right one: a batch that fills
the cores gains nothing from being larger. Where K settings are to be sampled on other noise each,
or their images are only to be counted, `paired` and `finish` keep all of it in the program.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dng_jax.compatibility import check_table, warn_reference
from dng_jax.errors import InputError, choose
from dng_jax.rules import Denoise, Rule
from dng_jax.sampling import (
    BATCH,
    Result,
    as_pytree,
    check_keys,
    sample,
    spread_as,
)
from dng_jax.steps import StepTable


def stack(rules: Sequence[Rule]) -> Rule:
    """K rules of one kind as one, leaves with a leading axis K."""
    if not rules:
        raise InputError("a sweep needs at least one setting")
    kinds = {jax.tree.structure(rule) for rule in rules}
    shapes = {tuple(jnp.shape(leaf) for leaf in jax.tree.leaves(rule)) for rule in rules}
    if len(kinds) > 1 or len(shapes) > 1:
        raise InputError(
            "the rules of a sweep must be of one kind with the same roles, switches and table"
            " lengths: sweep each kind on its own"
        )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rules)


def sweep(
    denoise: Denoise,
    table: StepTable,
    rules: Sequence[Rule] | Rule,
    keys: jax.Array,
    x: jax.Array,
    *,
    mode: Literal["map", "vmap"] = "map",
    chunk: int | None = None,
    shard: Literal["samples", "settings"] | None = None,
    save: Sequence[str] = (),
    observe: Callable[[Any, Any], dict[str, jax.Array]] | None = None,
    paired: bool = False,
    wanted: jax.Array | None = None,
    finish: Callable[[Result], Any] | None = None,
) -> Any:
    """Samples every setting with the same keys [B] and initial noise x [B, ...].

    rules: a list of rules of one kind, or one stacked rule. Returns a Result whose arrays have a
    leading axis K. shard spreads the samples, or the settings, over all devices; their number must
    divide evenly. A second call with other numbers compiles nothing.
    paired: setting k has keys and noise of its own, keys [K, B] and x [K, B, ...].
    wanted: bool [K], of which settings a result is wanted: that of the others is zeros (a bad_step
    of 0 says nothing), and in mode "map" without chunks takes no time, so that one program serves
    any number up to K.
    finish: what is kept of one setting's Result, computed inside the program: labels in the place
    of images that then never leave the device. A pytree with __call__, or a plain function; what it
    returns gets the leading axis K.
    """
    program = _program(
        denoise, table, rules, keys, x, mode, chunk, shard, save, observe, paired, wanted, finish
    )
    with spread_as(program[_X], axis=1 if paired else 0):
        return _sweep(*program)


def lowered(
    denoise: Denoise,
    table: StepTable,
    rules: Sequence[Rule] | Rule,
    keys: jax.Array,
    x: jax.Array,
    *,
    mode: Literal["map", "vmap"] = "map",
    chunk: int | None = None,
    shard: Literal["samples", "settings"] | None = None,
    paired: bool = False,
    wanted: jax.Array | None = None,
    finish: Callable[[Result], Any] | None = None,
) -> jax.stages.Lowered:
    """The program that `sweep` would run on these arguments, before it is compiled.

    Its `compile()` says what memory it takes; the same call of `sweep` then compiles nothing.
    """
    program = _program(
        denoise, table, rules, keys, x, mode, chunk, shard, (), None, paired, wanted, finish
    )
    with spread_as(program[_X], axis=1 if paired else 0):
        return _sweep.lower(*program)


_X = 4  # its place among the arguments of a program


def _program(
    denoise, table, rules, keys, x, mode, chunk, shard, save, observe, paired, wanted, finish
) -> tuple[Any, ...]:
    """The arguments of the compiled program, checked and spread over the devices."""
    choose(mode, ("map", "vmap"), "sweep mode")
    rules = rules if isinstance(rules, Rule) else stack(rules)
    if not jax.tree.leaves(rules):
        raise InputError("this rule has no numbers to sweep over: sample it once with sample")
    if any(jnp.ndim(leaf) == 0 for leaf in jax.tree.leaves(rules)):
        raise InputError("a sweep takes a list of rules or one stacked rule, not a single setting")
    if chunk is not None and chunk < 1:
        raise InputError(f"chunk must be at least 1 setting, got {chunk}")
    count = len(jax.tree.leaves(rules)[0])
    if wanted is not None and np.shape(wanted) != (count,):
        raise InputError(f"wanted must be one bool of each of {count} setting(s)")
    if paired:
        if jnp.shape(keys)[:1] != (count,) or jnp.shape(x)[:1] != (count,):
            raise InputError(
                f"{count} paired settings need keys [{count}, B] and x [{count}, B, ...], got"
                f" {jnp.shape(keys)} and {jnp.shape(x)}"
            )
        check_keys(keys[0], jnp.asarray(x[0]))
    else:
        check_keys(keys, jnp.asarray(x))
    check_table(table, rules)
    warn_reference(denoise, rules)
    if shard is not None:
        choose(shard, ("samples", "settings"), "way to shard")
        if shard == "settings":
            rules = distribute(rules)
        else:
            keys, x = distribute((keys, x), axis=1 if paired else 0)
        if shard == "settings" and paired:
            keys, x = distribute((keys, x))
        if shard == "settings" and wanted is not None:
            wanted = distribute(jnp.asarray(wanted))
    apart = mesh() if shard == "settings" and mode == "map" else None
    denoise, observe, finish = as_pytree(denoise), as_pytree(observe), as_pytree(finish)
    given = denoise, table, rules, keys, x, mode, chunk, tuple(save), observe, paired
    return *given, wanted, finish, apart


def mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """One axis, BATCH, over the devices (default: all)."""
    chosen = jax.devices() if devices is None else devices
    return jax.make_mesh((len(chosen),), (BATCH,), (AxisType.Auto,), devices=chosen)


def distribute(tree, devices: Sequence[jax.Device] | None = None, axis: int = 0):
    """Spreads an axis of every array, the leading one by default, over the devices (default:
    all)."""
    over = mesh(devices)
    count = {leaf.shape[axis] for leaf in jax.tree.leaves(tree)}
    if any(n % over.size for n in count):
        raise InputError(
            f"an axis of {sorted(count)} does not divide over {over.size} devices:"
            f" choose a multiple of {over.size}"
        )
    return jax.device_put(tree, NamedSharding(over, PartitionSpec(*[None] * axis, BATCH)))


@functools.partial(jax.jit, static_argnames=("mode", "chunk", "save", "paired", "apart"))
def _sweep(
    denoise, table, rules, keys, x, mode, chunk, save, observe, paired, wanted, finish, apart
):
    def one(rule, keys=keys, x=x):
        result = sample(denoise, table, rule, keys, x, save=save, observe=observe)
        return result if finish is None else finish(result)

    def asked(wanted, *each):
        nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(one, *each))
        return jax.lax.cond(wanted, one, lambda *_: nothing, *each)

    over = (rules, keys, x) if paired else (rules,)
    run, over = (one, over) if wanted is None else (asked, (wanted, *over))
    if mode == "vmap":
        return jax.vmap(run)(*over)

    def in_turn(over):
        return jax.lax.map(lambda each: run(*each), over, batch_size=chunk)

    if apart is None:
        return in_turn(over)
    spec = PartitionSpec(BATCH)
    return jax.shard_map(in_turn, mesh=apart, in_specs=spec, out_specs=spec, check_vma=False)(over)
