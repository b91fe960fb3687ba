r"""Sampling: one compiled scan over a step table.

For every row (dng_jax.steps) and every sample b, with sample key K_b:

    eps    = guided prediction (dng_jax.rules)
    mean   = c_x x + c_eps eps
    z_b    = normal(fold_in(K_b, index))
    x_next = mean + std z

All randomness of sample b derives from its own key and the row's index, so an image does not depend
on batch size, on how the scan is cut, on resuming or on the number of devices. Keys are JAX's
Threefry whatever `jax_default_prng_impl` says, since under vmap the numbers of "rbg" depend on the
batch; and normals are drawn in float32, so that a seed means one image in float64 too.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from dng_jax.compatibility import check_table, warn_reference
from dng_jax.errors import InputError, NonFiniteError, check_seed, choose
from dng_jax.rules import (
    Denoise,
    Move,
    Rule,
    Step,
    chain_dtype,
    in_dtype,
    known,
    on_demand,
    predict,
    predict_some,
    pytree,
    static,
    wanted,
    zeros_per_sample,
)
from dng_jax.steps import StepTable

_START = 0x7FFFFFFF  # fold_in tag of the initial noise: no row has this index
_PRNG = "threefry2x32"
SAVE = ("x", "denoised")
BATCH = "batch"  # mesh axis that a batch is spread over (dng_jax.sweeps.distribute)


class Carry(NamedTuple):
    """Everything a chain needs to go on.

    x [B, ...]; the rule's state; bad_step int32 [B] as in `Result`; done int32 [], steps taken.
    """

    x: jax.Array
    state: Any
    bad_step: jax.Array
    done: jax.Array


class Result(NamedTuple):
    """x [B, ...] the final images; state the rule's final state; trace {name: [T, B, ...]};
    bad_step int32 [B], first step with a non-finite prediction, 2^31 - 1 without one."""

    x: jax.Array
    state: Any
    trace: dict[str, jax.Array]
    bad_step: jax.Array


class Progress(NamedTuple):
    """Reported after each chunk: steps done of total, seconds so far, carry to resume from."""

    done: int
    total: int
    seconds: float
    carry: Carry
    trace: dict[str, jax.Array]


def root_key(seed: int) -> jax.Array:
    """The typed Threefry key [] of a seed in 0..2^64-1, all of whose bits count.

    `jax.random.key` drops the upper 32 (outside x64 mode), and obeys `jax_default_prng_impl`.
    """
    seed = check_seed(seed)
    check_config()
    halves = jnp.array([seed >> 32, seed & 0xFFFFFFFF], jnp.uint32)
    return jax.random.wrap_key_data(halves, impl=_PRNG)


def sample_keys(seed: int, count: int, start: int = 0) -> jax.Array:
    """Typed keys [count] of samples start, start+1, ...: fold_in(root_key(seed), number).

    seed in 0..2^64-1; InputError outside, and for numbers of samples outside 0..2^32-1.
    """
    if count < 0 or start < 0 or start + count > 2**32:
        raise InputError(f"samples are numbered 0..2^32-1, got {count} from number {start}")
    root = root_key(seed)
    numbers = np.arange(start, start + count, dtype=np.uint32)
    return jax.vmap(lambda i: jax.random.fold_in(root, i))(numbers)


def initial_noise(keys: jax.Array, shape: Sequence[int], table: StepTable) -> jax.Array:
    """x_T float32 [B, *shape] for unit-variance data: normal of variance alpha_T^2 + sigma_T^2."""
    check_typed(keys)
    alpha, sigma = (jnp.asarray(column[0], jnp.float32) for column in (table.alpha, table.sigma))
    draw = jax.vmap(lambda key: _normal(jax.random.fold_in(key, _START), tuple(shape)))
    return jnp.sqrt(alpha**2 + sigma**2) * draw(keys)


def sample(
    denoise: Denoise,
    table: StepTable,
    rule: Rule,
    keys: jax.Array,
    x: jax.Array,
    *,
    save: Sequence[str] = (),
    observe: Callable[[Any, Step], dict[str, jax.Array]] | None = None,
) -> Result:
    """Runs the whole table as one scan.

    denoise: a pytree with __call__ (weights are then data, not program) or a plain function.
    keys [B] typed PRNG keys, one per sample; x [B, ...] the initial noise (`initial_noise`), of
    any float type; float16 and bfloat16 become float32 (dng_jax.rules).
    The trace always holds the rule's scalars per image; of a rule with roles on demand
    (dng_jax.rules) "asked" as well, how many of these an image needed, and "run", how many
    evaluations of them the batch came to per image. save adds "x" (x_t before the step) and
    "denoised" (x_0 read off the guided prediction), observe(state, step) anything else.
    Compiles once per shape and kind of rule. May be called inside jit, vmap and grad.
    Nothing is checked for NaN here: look at Result.bad_step, or call `check_finite`.
    """
    check_table(table, rule)
    warn_reference(denoise, rule)
    denoise, observe = as_pytree(denoise), as_pytree(observe)
    carry = start(rule, x)
    check_keys(keys, carry.x)
    with spread_as(carry.x):
        carry, trace = _scan(denoise, table, rule, keys, carry, _names(save), observe)
    return Result(carry.x, carry.state, trace, carry.bad_step)


def sample_chunks(
    denoise: Denoise,
    table: StepTable,
    rule: Rule,
    keys: jax.Array,
    x: jax.Array | None = None,
    *,
    chunk: int = 10,
    carry: Carry | None = None,
    first_sample: int = 0,
    save: Sequence[str] = (),
    observe: Callable[[Any, Step], dict[str, jax.Array]] | None = None,
) -> Iterator[Progress]:
    """The same scan, driven in pieces of `chunk` steps from the host: same numbers as `sample`.

    Yields a Progress after each piece, its trace that piece's; to stop, stop iterating; to resume,
    pass its carry in the place of x. Raises NonFiniteError naming step and sample as soon as a
    piece shows one; first_sample is the number of x[0] in its message. `run_chunks`
    collects the pieces into a Result.
    """
    total = len(np.asarray(table.index))
    if chunk < 1:
        raise InputError(f"chunk must be at least 1 step, got {chunk}")
    if (x is None) == (carry is None):
        raise InputError("give either the initial noise x, or the carry of an earlier piece")
    if x is not None:
        carry = start(rule, x)
    assert carry is not None
    check_keys(keys, carry.x)
    done = int(carry.done)
    if done > total:
        raise InputError(f"cannot resume after {done} steps of a table of {total}")
    check_table(table, rule)
    warn_reference(denoise, rule)
    denoise, observe = as_pytree(denoise), as_pytree(observe)
    began = time.monotonic()
    while done < total:
        rows = jax.tree.map(lambda column, a=done: column[a : a + chunk], table)
        with spread_as(carry.x):
            carry, trace = _scan(denoise, rows, rule, keys, carry, _names(save), observe)
        done = min(done + chunk, total)
        check_finite(carry, total, first_sample)
        yield Progress(done, total, time.monotonic() - began, carry, trace)


def run_chunks(pieces: Iterator[Progress], report: Callable[[Progress], None] | None = None):
    """Drives `sample_chunks` to its end and returns the Result of the whole table."""
    traces, last = [], None
    for last in pieces:
        traces.append(last.trace)
        if report is not None:
            report(last)
    if last is None:
        raise InputError("there was nothing left to sample: the table is finished")
    trace = {name: jnp.concatenate([t[name] for t in traces]) for name in traces[0]}
    return Result(last.carry.x, last.carry.state, trace, last.carry.bad_step)


def spread_as(x: jax.Array, axis: int = 0) -> contextlib.AbstractContextManager:
    """A context whose programs know that this axis of x, its batch, is spread over devices: the
    compiler spreads it, but a trace does not see how. Nothing where it is not spread over BATCH, is
    traced, or a mesh is set already."""
    sharding = x.sharding if known(x) and isinstance(x, jax.Array) else None
    if not isinstance(sharding, NamedSharding) or BATCH not in sharding.spec[axis : axis + 1]:
        return contextlib.nullcontext()
    if not jax.sharding.get_abstract_mesh().empty:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(sharding.mesh.abstract_mesh)


def start(rule: Rule, x: jax.Array) -> Carry:
    """The state of a chain before its first step."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(f"x must be an array of floats (see initial_noise), got {x.dtype}")
    if x.ndim == 0 or 0 in x.shape:
        raise InputError(f"x must hold at least one image, got shape {x.shape}")
    x = x.astype(chain_dtype(x))
    never = zeros_per_sample(x).astype(jnp.int32) + _START
    state = in_dtype(rule, x.dtype).init_state(x)
    return Carry(x, state, never, jnp.zeros((), jnp.int32))


def check_finite(carry: Carry | Result, steps: int, first_sample: int = 0) -> None:
    """Raises NonFiniteError, naming step and sample, where a prediction was NaN or infinite."""
    bad = np.asarray(carry.bad_step)
    if (bad < steps).any():
        worst = int(np.argmin(bad))
        affected = f"{int((bad < steps).sum())} of {len(bad)} samples affected"
        raise NonFiniteError(
            f"the prediction for sample {first_sample + worst} became NaN or infinite at step"
            f" {int(bad[worst])} of {steps} ({affected}): check the network's weights and the"
            " guidance scale"
        )


@functools.partial(jax.jit, static_argnames=("save",))
def _scan(denoise, table, rule, keys, carry, save, observe):
    shape, dtype = carry.x.shape[1:], carry.x.dtype
    rule = in_dtype(rule, dtype)

    def body(carry: Carry, row):
        def evaluate(x):
            return predict(denoise, x, row, rule.roles)

        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, row.index))(keys)
        if on_demand(rule):
            preds, counts = _on_demand(denoise, carry, row, rule)
        else:
            preds, counts = evaluate(carry.x), {}
        step = Step(row, carry.x, preds, evaluate, step_keys)
        delta, state, info = rule.apply(carry.state, step)
        eps = step.base + _like_x(delta, carry.x, rule)
        mean = row.c_x * carry.x + row.c_eps * eps
        z = jax.vmap(lambda key: _normal(key, shape).astype(dtype))(step_keys)
        x_next = mean + row.std * z
        out = _per_image(info, carry.x, rule) | counts
        if observe is not None:
            out |= observe(state, step)
        if "x" in save:
            out["x"] = carry.x
        if "denoised" in save:
            out["denoised"] = (carry.x - row.sigma * eps) / row.alpha
        state = _same_kind(rule.update(state, step, Move(mean, x_next)), carry.state, rule)
        # The predictions too: a rule may mask or ignore one that has gone wrong.
        finite = functools.reduce(jnp.logical_and, map(_finite, (eps, *step.preds.values())))
        bad_step = jnp.where(finite, carry.bad_step, jnp.minimum(carry.bad_step, row.index))
        return Carry(x_next, state, bad_step, row.index + 1), out

    return jax.lax.scan(body, carry, in_dtype(jax.tree.map(jnp.asarray, table), dtype))


def _on_demand(denoise, carry: Carry, row, rule):
    x, roles = carry.x, on_demand(rule)
    if not {*roles} <= {*rule.roles} - {"base"} or not callable(getattr(rule, "wants", None)):
        raise InputError(
            f"the rule {type(rule).__name__} has {', '.join(roles)} on demand: these must be roles"
            " of its own other than base, and it must have wants(state, row)"
        )
    masks = wanted(rule, carry.state, row)
    if set(masks) != {*roles} or any(
        jnp.shape(m) not in ((), x.shape[:1]) or jnp.asarray(m).dtype != jnp.bool_
        for m in masks.values()
    ):
        raise InputError(
            f"wants of the rule {type(rule).__name__} must return a mask, bool {x.shape[:1]}, for"
            f" each role of on_demand, {', '.join(roles)}"
        )
    zero = zeros_per_sample(x)
    masks = {role: mask | (zero > 0) for role, mask in masks.items()}
    preds, ran = predict_some(denoise, x, row, rule.roles, masks)
    asked = sum(mask.astype(zero.dtype) for mask in masks.values())
    return preds, {"asked": zero + asked, "run": zero + sum(ran.values()) / len(x)}


def _normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.normal(key, shape, jnp.float32)


def _finite(value: jax.Array) -> jax.Array:
    return jnp.isfinite(value).all(axis=tuple(range(1, value.ndim)))


def _like_x(delta, x: jax.Array, rule: Rule) -> jax.Array:
    if jnp.shape(delta) != x.shape:
        raise InputError(
            f"apply of the rule {type(rule).__name__} returned a delta of shape"
            f" {jnp.shape(delta)}: it must have that of x, {x.shape}"
        )
    return jnp.asarray(delta, x.dtype)


def _per_image(info: dict[str, jax.Array], x: jax.Array, rule: Rule) -> dict[str, jax.Array]:
    for name, value in info.items():
        if jnp.shape(value)[:1] != x.shape[:1]:
            raise InputError(
                f"info '{name}' of the rule {type(rule).__name__} has shape {jnp.shape(value)}:"
                f" it needs an entry for each of the {x.shape[0]} images, shape {x.shape[:1]}"
            )
    return dict(info)


def _same_kind(state, before, rule: Rule):
    # A state whose shape changes along the chain has no scan; its precision is the first state's.
    now, was = jax.tree.leaves(state), jax.tree.leaves(before)
    structure, wanted = jax.tree.structure(state), jax.tree.structure(before)
    shapes, first = [jnp.shape(a) for a in now], [jnp.shape(b) for b in was]
    if structure != wanted or shapes != first:  # type: ignore[operator]
        raise InputError(
            f"update of the rule {type(rule).__name__} returned a state of another shape than"
            f" init_state: {shapes} in {structure}, not {first} in {wanted}"
        )
    kinds = [jnp.issubdtype(jnp.asarray(a).dtype, jnp.inexact) for a in now]
    if kinds != [jnp.issubdtype(b.dtype, jnp.inexact) for b in was]:
        raise InputError(
            f"the rule {type(rule).__name__} counts in whole numbers in init_state and in fractions"
            " in update, or the other way round: let init_state return the type of update"
        )
    cast = [jnp.asarray(a, b.dtype) for a, b in zip(now, was, strict=True)]
    return jax.tree.unflatten(wanted, cast)


def check_keys(keys: jax.Array, x: jax.Array) -> None:
    """InputError unless there is one typed Threefry key for each image of x."""
    check_typed(keys)
    if keys.shape != x.shape[:1]:
        raise InputError(
            f"{x.shape[0]} images need one key each, got keys of shape {keys.shape}:"
            " make them with sample_keys(seed, count)"
        )


def check_typed(keys: jax.Array) -> None:
    """InputError for keys, or settings of JAX, with which an image would depend on its batch."""
    if not (hasattr(keys, "dtype") and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)):
        raise InputError("keys must be typed PRNG keys: make them with sample_keys(seed, count)")
    if str(jax.random.key_impl(keys)) != _PRNG:
        raise InputError(
            f"keys must be of JAX's {_PRNG}, got {jax.random.key_impl(keys)}, whose numbers depend"
            " on the batch: make them with sample_keys(seed, count)"
        )
    check_config()


def check_config() -> None:
    """InputError for a setting of JAX with which a seed would mean other images."""
    if not jax.config.values["jax_threefry_partitionable"]:
        raise InputError(
            "jax_threefry_partitionable is off, and every seed would give other images: unset"
            " JAX_THREEFRY_PARTITIONABLE, or set it to 1"
        )


def as_pytree(function):
    """A callable that may cross a jit boundary; InputError for what cannot be called.

    Its arrays are data, and fractions where nothing but numbers is in it; everything else
    (functions, names, whole numbers) is program.
    """
    if function is None or isinstance(function, _Callable):
        return function
    if not callable(function):
        raise InputError(
            "denoise must be callable: denoise(x, row, roles) -> {role: eps};"
            f" got {type(function).__name__}"
        )
    leaves, structure = jax.tree.flatten(function)
    # A module that holds functions may ask of its fractions, too, what only Python can answer.
    plain = all(_is_array(leaf) or isinstance(leaf, int | float | complex) for leaf in leaves)
    kinds = (float, complex) if plain else ()
    data = [_is_array(leaf) or isinstance(leaf, kinds) for leaf in leaves]
    # With their types: True == 1, and a program of the one must not serve the other.
    others = [
        _DATA if is_data else (type(leaf), leaf) for leaf, is_data in zip(leaves, data, strict=True)
    ]
    program = structure, tuple(others)
    try:
        hash(program)
    except TypeError as error:
        raise InputError(
            f"{type(function).__name__} holds something that is neither an array nor hashable"
            f" ({error}): make its numbers arrays, its lists tuples, and a class of your own a"
            " pytree (dng_jax.pytree)"
        ) from None
    return _Callable(list(itertools.compress(leaves, data)), program)


_DATA = object()


@pytree
class _Callable:
    # A plain function has no arrays, a module of arrays and functions has both.
    arrays: list[jax.Array]
    program: Any = static()

    @property
    def some(self) -> Callable | None:
        """The callable's own `some` (dng_jax.rules.Denoise), None without one."""
        if not hasattr(self._unpacked()[0], "some"):
            return None
        return functools.partial(self._call, lambda function: function.some)

    def __call__(self, *args):
        return self._call(lambda function: function, *args)

    def _unpacked(self):
        structure, others = self.program
        arrays = iter(self.arrays)
        leaves = [next(arrays) if other is _DATA else other[1] for other in others]
        return jax.tree.unflatten(structure, leaves), leaves

    def _call(self, method, *args):
        function, leaves = self._unpacked()
        answer = method(function)(*args)
        after = jax.tree.leaves(function)
        if len(after) != len(leaves) or any(a is not b for a, b in zip(after, leaves, strict=True)):
            raise InputError(
                f"{type(function).__name__} changed its own state while it predicted, and sampling"
                " carries none: switch its BatchNorm and dropout to evaluation (module.eval())"
            )
        return answer


def _is_array(leaf) -> bool:
    if isinstance(leaf, np.ndarray | np.generic):
        return leaf.dtype.kind not in "OSUMm"
    return isinstance(leaf, jax.Array)


def _names(save: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(choose(name, SAVE, "quantity to save") for name in save))
