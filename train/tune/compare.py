"""One block both ways: what a vmapped training of K members costs beside K single ones.

    compiling = T_1(n) - T_2(n),   n = min(N, every + N mod every)

T_i(n): seconds of the i-th call of n steps, N: steps of the whole training, which begins after both
calls. n has the first `every` steps and the last that make no whole `every`, and so every program
of the N steps (dng_jax.training.members). Where n = N the second call is the whole training.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dng_jax.jobs import runs
from dng_jax.training import members
from dng_jax.tuning import blocks, studies, ways
from dng_jax.tuning.numbers import Numbers

from .options import Config


def drawn(plan: studies.Plan, count: int) -> list[Numbers]:
    """So many random settings of the plan's space."""
    point = ways.planned("random", plan.space, plan.seed, plan.points)
    make: Any = plan.space.setting
    return [make(point(k)) for k in range(count)]


def written(
    config: Config, folder: Path, trainings: blocks.Trainings, settings: Sequence[Numbers]
) -> dict[str, Any]:
    """Trains the members by each engine, prints and writes compare.json."""
    found: dict[str, Any] = {}
    curves = {}
    for engine in members.ENGINES:
        found[engine], curves[engine] = _timed(trainings, engine, settings)
    one, other = (curves[engine] for engine in members.ENGINES)
    # A difference of NaN and NaN, of two members that diverged, is none.
    apart = np.where(np.isnan(one) & np.isnan(other), 0, np.abs(one - other))
    far = np.max(apart / np.maximum(np.abs(other), 1e-12), axis=0)
    results = {
        "members": len(settings),
        "steps": trainings.rungs[-1],
        "engines": found,
        "largest_relative_difference_of_losses": {
            str((i + 1) * trainings.every): float(v) for i, v in enumerate(far)
        },
        "single_over_vmap": found["single"]["seconds"] / found["vmap"]["seconds"],
        "config": config.job,
        "provenance": runs.provenance(),
    }
    runs.write_json(folder / "compare.json", results)
    for engine, one in found.items():
        print(
            f"{engine}: {one['seconds']:.2f} s ({one['cpu_seconds']:.2f} of CPU) for"
            f" {len(settings)} members and {trainings.rungs[-1]} steps, after"
            f" {one['compiling_seconds']:.1f} s to compile"
        )
    print(f"largest relative difference of two losses: {np.max(far, initial=0):.1e}, {folder}")
    return results


def warming(until: int, every: int) -> int:
    """As few steps as make every program of `until` steps, of which one call ends at each multiple
    of `every`."""
    return min(until, every + until % every)


def _timed(
    trainings: blocks.Trainings, engine: str, settings: Sequence[Numbers]
) -> tuple[dict[str, float], np.ndarray]:
    """Seconds of the whole training and, apart from them, to compile; and the curves [K, N]."""
    step = members.make_step(trainings.build, engine)
    numbers = members.stacked([dict(one.values) for one in settings])

    def train(until: int) -> dict[str, np.ndarray]:
        state = members.population(trainings.fresh, len(settings))
        every = trainings.every
        state, metrics = members.train(step, engine, numbers, state, trainings.arrays, until, every)
        jax.block_until_ready(state.params)
        return metrics

    def timed(until: int) -> tuple[float, float, dict[str, np.ndarray]]:
        began, cpu = time.perf_counter(), time.process_time()
        metrics = train(until)
        return time.perf_counter() - began, time.process_time() - cpu, metrics

    whole = trainings.rungs[-1]
    few = warming(whole, trainings.every)
    first, *_ = timed(few)
    again = timed(few)
    seconds, cpu, metrics = again if few == whole else timed(whole)
    compiling = max(first - again[0], 0.0)
    found = {"seconds": seconds, "cpu_seconds": cpu, "compiling_seconds": compiling}
    return found, np.asarray(metrics["loss"]) if metrics else np.zeros((len(settings), 0))
