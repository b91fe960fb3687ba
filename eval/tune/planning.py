"""What a search would run: --dry-run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from dng_jax.experiments import blocks
from dng_jax.jobs.tables import Table
from dng_jax.tuning import halving, memory
from dng_jax.tuning.measuring import Measurer
from dng_jax.tuning.spaces import STEPS, Family, Setting, Space
from dng_jax.tuning.studies import Plan

from .options import Config


def example(space: Space, family: Family, steps: int) -> Setting:
    """A setting of a family and a number of steps, in the middle of its leaves."""
    values = {leaf.name: leaf.at(0.5) for leaf in family.leaves}
    if STEPS in values:
        values[STEPS] = float(steps)
    return family.setting(values, space.sampler, space.steps)


def corners(space: Space, family: Family, steps: int) -> Iterator[Setting]:
    """Settings of a family and a number of steps with every leaf at its lowest or its highest."""
    leaves = [leaf for leaf in family.leaves if leaf.name != STEPS]
    for ends in itertools.product(*(leaf.ends for leaf in leaves)):
        values = dict(zip((leaf.name for leaf in leaves), ends, strict=True))
        yield family.setting({STEPS: steps, **values}, space.sampler, space.steps)


def tell(
    config: Config, plan: Plan, measurer: Measurer, against: Sequence[Setting]
) -> dict[str, Any]:
    """Prints programs, shapes, operations, memory and devices; returns them.

    Where several programs share images, each is counted as if it had as many as the others.
    """
    images = plan.total * measurer.rungs[-1] * halving.share(measurer.rungs, measurer.eta)
    fresh = judged_samples(config.judge_samples, measurer.batch)
    # The front, and once more the chosen one of it.
    judged = (min(config.judged, plan.total) + 1) * fresh
    searched = [(f.named, example(plan.space, f, n)) for f, n in plan.space.programs()]
    each = (images + judged) / len(searched)
    programs = [_program(measurer, name, setting, each) for name, setting in searched]
    at = {setting.program: i for i, (_, setting) in enumerate(searched)}
    for setting in against:
        if setting.program in at:
            programs[at[setting.program]]["images"] += fresh
        else:
            at[setting.program] = len(programs)
            programs.append(_program(measurer, setting.spec.family, setting, fresh))
    facts = {
        "trials": plan.total,
        "images": round(images),
        "judged_images": judged + len(against) * fresh,
        "rungs": measurer.rungs,
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "programs": programs,
    }
    total = sum(p["operations_per_image"] * p["images"] for p in programs)
    rungs = " then ".join(map(str, measurer.rungs))
    Table.of(
        f"{plan.total} settings, {rungs} images each: {facts['images']:,} images to search and"
        f" {facts['judged_images']:,} to judge, {total / 1e12:.3g} Tflop; {facts['devices']};"
        f" programs to compile: {len(programs)}; nothing was sampled",
        programs,
        {
            "rule": "rule",
            "steps": "steps",
            "settings x images a call": lambda p: f"{measurer.width} x {measurer.batch}",
            "settings at once": "chunk",
            "shape": lambda p: " x ".join(map(str, measurer.problem.info.shape)),
            "images": lambda p: f"{p['images']:,.0f}",
            "network calls": lambda p: f"{p['calls_per_image'] * p['images']:,.0f}",
            "Mflop per image": lambda p: f"{p['operations_per_image'] / 1e6:.1f}",
            "MiB": lambda p: None if p["bytes"] is None else f"{p['bytes'] / 2**20:.1f}",
        },
    ).print()
    return facts


def judged_samples(wanted: int, batch: int) -> int:
    """Images of a setting that is judged: --judge-samples in whole batches."""
    return -(-wanted // batch) * batch


def _program(measurer: Measurer, name: str, setting: Setting, images: float) -> dict[str, Any]:
    steps, problem, rule = setting.steps, measurer.problem, measurer.rule(setting)
    table = problem.table(setting.sampler, steps)
    calls = problem.network_calls(rule, steps)
    shape = measurer.shape(setting)
    operations = blocks.operations(problem, table, rule, measurer.batch)
    return {
        "rule": name,
        "steps": steps,
        "images": images,
        "calls_per_image": steps if calls is None else calls,
        "chunk": shape.chunk,
        "operations_per_image": operations * steps,
        "bytes": memory.needed(measurer.lowered(setting, shape.chunk).compile()),
    }
