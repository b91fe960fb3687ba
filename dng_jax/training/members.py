r"""K trainings that differ in their numbers alone, as one.

    state_k(n + 1) = step(numbers_k)(state_k(n), images, labels),   k = 1 .. K

build(numbers) is the very step of a single training whose numbers happen to be traced (Lu et al.
2022, purejaxrl, train whole populations so). A population is a TrainState whose params, ema and
opt_state have a leading axis K; step and key are one for all, and everything random in a step is
drawn from fold_in(key, n): all members see the same batch, noise, dropout and augmentation, drawn
once, and their curves differ by their numbers only.

Two forms of the same population:

    vmap     one program steps all members: a product's weights gain an axis, and a convolution
             becomes one of K groups
    single   one program, compiled once, steps one member after the other

A vmapped step sums in another order, so the two agree to rounding of float32, which the training
then magnifies; see `make_step`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.training.optimiser import Step, TrainState

ENGINES = ("vmap", "single")
Numbers = Mapping[str, Any]
MemberStep = Callable[[Numbers, TrainState, jax.Array, jax.Array], tuple[TrainState, dict]]
Yardstick = Callable[[Any, jax.Array, jax.Array, jax.Array], dict[str, jax.Array]]
_AXES = TrainState(step=None, params=0, ema=0, opt_state=0, key=None)  # type: ignore[arg-type]
_CHUNK = 250  # held-out images at a time
_STEPS_PER_CALL = 25  # on accelerators; on a CPU a scan is slow (dng_jax.training.optimiser)


def stacked(rows: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
    """Numbers of K members, name -> float32 [K]."""
    return {name: np.array([row[name] for row in rows], np.float32) for name in rows[0]}


def population(state: TrainState, count: int) -> TrainState:
    """`count` members that begin from one state."""
    return _mapped(state, lambda leaf: jnp.broadcast_to(leaf, (count, *jnp.shape(leaf))))


def joined(states: Sequence[TrainState]) -> TrainState:
    """The population of these members, each as a single training has it, all at the same step."""
    params, ema, opt_state = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *[(s.params, s.ema, s.opt_state) for s in states]
    )
    return states[0]._replace(params=params, ema=ema, opt_state=opt_state)


def member(state: TrainState, k: int) -> TrainState:
    """The state of one member, as a single training has it."""
    return _mapped(state, lambda leaf: leaf[k])


def make_step(build: Callable[[Numbers], Step], engine: str = "vmap") -> MemberStep:
    """The compiled step (numbers, state, images, labels) -> (state, metrics).

    build: numbers, each [], -> the step of a single training. vmap: numbers [K] and a population,
    metrics [K]; single: numbers [] and the state of one member.
    """

    def step(numbers: Numbers, state: TrainState, images: jax.Array, labels: jax.Array):
        return build(numbers)(state, images, labels)

    if engine == "vmap":
        step = jax.vmap(step, in_axes=(0, _AXES, None, None), out_axes=(_AXES, 0))
    return jax.jit(step)


def train(
    step: MemberStep,
    engine: str,
    numbers: Mapping[str, np.ndarray],
    state: TrainState,
    arrays: tuple[jax.Array, jax.Array],
    until: int,
    every: int,
    advance: Callable[[int], object] = lambda steps: None,
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Takes a population [K] to step `until`; returns it with the metrics [K, N] of the steps whose
    number, counted from 1, is a multiple of `every`.

    A member whose loss is not finite goes on with it, and harms no other. advance(n): n steps of
    all members are done.
    """
    if engine == "vmap":
        state, found = _run(step, numbers, state, arrays, until, every, advance)
        return state, {name: v.T for name, v in found.items()}
    states, metrics, count = [], [], len(next(iter(numbers.values())))
    for k in range(count):
        own = {name: values[k] for name, values in numbers.items()}
        after, found = _run(
            step, own, member(state, k), arrays, until, every, lambda n: advance(n / count)
        )
        states.append(after)
        metrics.append(found)
    return joined(states), {name: np.stack([m[name] for m in metrics]) for name in metrics[0]}


def judged(
    yardstick: Yardstick,
    engine: str,
    state: TrainState,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
) -> dict[str, np.ndarray]:
    """What the averaged weights of every member make of held-out images, name -> float64 [K].

    Chunk c of the images is measured with fold_in(key, c): the same noise for every member, at
    every step, in either engine.
    """
    measure = _measure(yardstick, engine)
    count = len(jax.tree.leaves(state.ema)[0])
    chunks = []
    for c, first in enumerate(range(0, len(images), _CHUNK)):
        part = images[first : first + _CHUNK], labels[first : first + _CHUNK]
        own = jax.random.fold_in(key, c)
        if engine == "vmap":
            found = jax.device_get(measure(state.ema, *part, own))
        else:
            rows = [measure(member(state, k).ema, *part, own) for k in range(count)]
            found = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        chunks.append((len(part[0]), found))
    return {
        name: sum(n * found[name].astype(np.float64) for n, found in chunks) / len(images)
        for name in chunks[0][1]
    }


def _mapped(state: TrainState, change: Callable[[jax.Array], jax.Array]) -> TrainState:
    params, ema, opt_state = jax.tree.map(change, (state.params, state.ema, state.opt_state))
    return state._replace(params=params, ema=ema, opt_state=opt_state)


def _run(
    step: MemberStep,
    numbers: Numbers,
    state: TrainState,
    arrays: tuple,
    until: int,
    every: int,
    advance: Callable,
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """As `train`, of one program; metrics with the steps first."""
    per_call = 1 if jax.default_backend() == "cpu" else _STEPS_PER_CALL
    n, calls = int(state.step), []
    while n < until:
        size = min(until, (n // every + 1) * every) - n
        size = per_call if size >= per_call else 1
        advanced = step if size == 1 else _several(step, size)
        state, metrics = advanced(numbers, state, *arrays)
        n += size
        if n % every == 0:
            # Fetched here, so that the device is never more than `every` steps behind.
            last = metrics if size == 1 else {name: v[-1] for name, v in metrics.items()}
            calls.append(jax.device_get(last))
        advance(size)
    names = calls[0] if calls else {}
    return state, {name: np.stack([call[name] for call in calls]) for name in names}


@functools.lru_cache(maxsize=4)
def _several(step: MemberStep, count: int) -> MemberStep:
    @jax.jit
    def run(numbers, state, images, labels):
        return jax.lax.scan(lambda s, _: step(numbers, s, images, labels), state, length=count)

    return run


@functools.lru_cache(maxsize=4)
def _measure(yardstick: Yardstick, engine: str) -> Yardstick:
    if engine == "vmap":
        return jax.jit(jax.vmap(yardstick, in_axes=(0, None, None, None)))
    return jax.jit(yardstick)
