"""What a search would run: --dry-run."""

from __future__ import annotations

from typing import Any

import jax

from dng_jax.experiments import blocks
from dng_jax.jobs.tables import Table
from dng_jax.tuning import halving, memory
from dng_jax.tuning.measuring import Measurer
from dng_jax.tuning.spaces import Family, Setting, Space
from dng_jax.tuning.studies import Plan

from .options import Config


def example(space: Space, family: Family, steps: int) -> Setting:
    """A setting of a family and a number of steps, in the middle of its leaves."""
    values = {leaf.name: leaf.at(0.5) for leaf in family.leaves}
    if "steps" in values:
        values["steps"] = float(steps)
    return family.setting(values, space.sampler, space.steps)


def tell(config: Config, plan: Plan, measurer: Measurer) -> dict[str, Any]:
    """Prints programs, shapes, operations, memory and devices; returns them."""
    images = plan.total * measurer.rungs[-1] * halving.share(measurer.rungs, measurer.eta)
    programs = [_program(plan, measurer, *each) for each in plan.space.programs()]
    facts = {
        "trials": plan.total,
        "images": round(images),
        "rungs": measurer.rungs,
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "programs": programs,
    }
    each = images / len(programs)
    total = sum(p["operations_per_image"] for p in programs) * each
    rungs = " then ".join(map(str, measurer.rungs))
    Table.of(
        f"{plan.total} settings, {rungs} images each, {round(images):,} images in all,"
        f" {total / 1e12:.3g} Tflop if every program has its share; {facts['devices']};"
        f" {len(programs)} programs to compile, nothing was sampled",
        programs,
        {
            "rule": "rule",
            "steps": "steps",
            "settings x images a call": lambda p: f"{measurer.width} x {measurer.batch}",
            "settings at once": "chunk",
            "shape": lambda p: " x ".join(map(str, measurer.problem.info.shape)),
            "Mflop per image": lambda p: f"{p['operations_per_image'] / 1e6:.1f}",
            "MiB": lambda p: None if p["bytes"] is None else f"{p['bytes'] / 2**20:.1f}",
        },
    ).print()
    return facts


def _program(plan: Plan, measurer: Measurer, family: Family, steps: int) -> dict[str, Any]:
    setting = example(plan.space, family, steps)
    problem, rule = measurer.problem, measurer.rule(setting)
    table = problem.table(setting.sampler, steps)
    shape = measurer.shape(setting)
    operations = blocks.operations(problem, table, rule, measurer.batch)
    return {
        "rule": family.named,
        "steps": steps,
        "chunk": shape.chunk,
        "operations_per_image": operations * steps,
        "bytes": memory.needed(measurer.lowered(setting, shape.chunk).compile()),
    }
