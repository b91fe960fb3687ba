"""Blocks of settings, sampled and classified inside one compiled program.

An item is one setting and one batch of its samples; `width` items of `batch` images each are one
call of the program, which is compiled once for them, whatever rules, seeds or step tables of as
many steps come next:

    item = (rule, first)      samples first, ..., first + batch - 1 of a seed
    call = width items        of a last call that is not full the rest is not run

On several devices of a CPU every one runs through items of its own, dealt out in turn.

Sample i is that of dng_jax.experiments.generating, of the seed and i alone: all settings see the
same noise, and more samples of a setting go on from those it has. Labels and features leave the
device, images do not (those of a classifier that is none of JAX's do).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax import initial_noise, sample_keys, sweeps
from dng_jax.experiments.problems import Problem
from dng_jax.sampling import Result
from dng_jax.steps import StepTable


class Item(NamedTuple):
    """A rule and the number of the first of the `batch` samples of it."""

    rule: Any
    first: int


class Labelled(NamedTuple):
    """One item's labels int [B] and features float [B, F]; bad_step: the first step at which a
    prediction was not finite, None without one; ran: how often roles that the rule has on demand
    were evaluated per image (dng_jax.rules), all roles and steps together, None of other rules."""

    labels: np.ndarray
    features: np.ndarray
    bad_step: int | None
    ran: float | None = None


@dataclass(frozen=True)
class Shape:
    """What a program is compiled for: items a call, images an item, and how many items the network
    sees at once (`chunk`, 1 to width)."""

    width: int
    batch: int
    chunk: int = 1


def labelled(
    problem: Problem, table: StepTable, items: Sequence[Item], seed: int, shape: Shape
) -> Iterator[Labelled]:
    """Each item's labels and features, in their order; rules of one kind only.

    A device without memory for the program raises what JAX does (JaxRuntimeError,
    RESOURCE_EXHAUSTED).
    """
    finish = _finish(problem)
    for at in range(0, len(items), shape.width):
        part = items[at : at + shape.width]
        arguments = _arguments(problem, table, part, seed, shape)
        wanted = jnp.asarray(_dealt(shape) < len(part))
        found = sweeps.sweep(*arguments, **_how(shape), wanted=wanted, finish=finish)
        labels, features, bad = map(np.asarray, found[:3])
        ran = None if found[3] is None else np.asarray(found[3])
        for i in np.argsort(_dealt(shape))[: len(part)]:
            if problem.classifier.traced is None:
                named, described = problem.classify(features[i])
            else:
                named, described = labels[i], features[i]
            first_bad = int(bad[i].min())
            yield Labelled(
                named,
                described,
                first_bad if first_bad < len(table.index) else None,
                None if ran is None else float(ran[i]),
            )


def lowered(
    problem: Problem, table: StepTable, rule: Any, shape: Shape, seed: int = 0
) -> jax.stages.Lowered:
    """The program of a rule's kind, before it is compiled."""
    arguments = _arguments(problem, table, [Item(rule, 0)], seed, shape)
    wanted = jnp.ones(shape.width, bool)
    return sweeps.lowered(*arguments, **_how(shape), wanted=wanted, finish=_finish(problem))


def operations(problem: Problem, table: StepTable, rule: Any, batch: int) -> float:
    """Operations of one sampling step of one image's predictions, as XLA counts them before it
    optimises (2 m n k for a product)."""
    keys = sample_keys(0, batch)
    x = initial_noise(keys, problem.info.shape, table)
    row = jax.tree.map(lambda column: column[0], table)
    predict = jax.jit(lambda denoise, x: denoise(x, row, rule.roles))
    cost = predict.lower(problem.denoiser, x).cost_analysis()
    return float((cost or {}).get("flops", np.nan)) / batch


def _apart(shape: Shape) -> bool:
    """Whether devices run items of their own: a batch that is whole is faster, and none waits; on
    accelerators it may be larger than the memory."""
    count = jax.device_count()
    fits = shape.chunk == 1 and shape.width % count == 0
    return count > 1 and fits and jax.default_backend() == "cpu"


def _dealt(shape: Shape) -> np.ndarray:
    """int [width]: the number of the item at each place; devices take equal parts of the places."""
    numbers = np.arange(shape.width)
    return numbers.reshape(-1, jax.device_count()).T.ravel() if _apart(shape) else numbers


def _how(shape: Shape) -> dict[str, Any]:
    how = {"chunk": shape.chunk if shape.chunk > 1 else None, "paired": True}
    if _apart(shape):
        return how | {"shard": "settings"}
    count = jax.device_count()
    return how | {"shard": "samples" if count > 1 and shape.batch % count == 0 else None}


def _arguments(
    problem: Problem, table: StepTable, part: Sequence[Item], seed: int, shape: Shape
) -> tuple[Any, ...]:
    last = len(part) - 1
    full = [part[min(i, last)] for i in _dealt(shape)]
    rules = sweeps.stack([item.rule for item in full])
    # Of the same samples once, however many settings see them.
    keys = {first: sample_keys(seed, shape.batch, first) for first in {i.first for i in full}}
    noise = {first: initial_noise(k, problem.info.shape, table) for first, k in keys.items()}
    firsts = [item.first for item in full]
    stacked = jnp.stack([keys[f] for f in firsts]), jnp.stack([noise[f] for f in firsts])
    return problem.denoiser, table, rules, *stacked


def _finish(problem: Problem) -> Any:
    return jax.tree_util.Partial(_labels, problem.classifier.traced)


def _labels(classify: Any, result: Result) -> tuple[jax.Array | None, ...]:
    ran = result.trace["run"].sum(axis=0).mean() if "run" in result.trace else None
    if classify is None:
        return jnp.zeros(len(result.x), jnp.int32), result.x, result.bad_step, ran
    return *classify(result.x), result.bad_step, ran
