"""What a tracker, many heads and a sweep cost, as ratios of alternating pairs (timing).

tracker overhead   DNG (pair) against negative prompting of constant scale: same network calls
skipping           the same with negatives asked for where they matter: fewer network calls
heads              DNG (classes, all classes from one call) against unguided sampling
sweep              16 settings as one compiled program against 16 times one setting, and how
                   many programs a second sweep with other numbers compiles
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from dng_jax import guidance, initial_noise, posterior, sample, sample_keys, sweep
from dng_jax.experiments import problems
from dng_jax.experiments.problems import Problem
from dng_jax.experiments.source import Source
from dng_jax.jobs.tables import Table

from . import timing
from .options import Config
from .timing import Ratio

SETTINGS = 16
SWEEP_PAIRS = 3


def measure(config: Config) -> Iterator[tuple[str, dict[str, Any], Table]]:
    """The whole suite as one part: figure -> Ratio, or a count."""
    found: dict[str, Any] = {}
    for network in ("heads", "label"):
        problem = problems.make("digits", ("0",), Source(network=network))
        run = runner(problem, config)
        negative = problem.negatives
        tracker = posterior.pair(0.1, negatives=negative)
        pair = guidance.dynamic_negative(tracker)
        constant = guidance.negative_prompt(0.3, negatives=negative)
        found[f"{network}: DNG pair / NP"] = timing.ratio_of_pairs(
            run(pair), run(constant), config.pairs
        )
        if network == "label":
            skip = guidance.dynamic_negative(tracker, 10.0, skip_below=0.2)
            found["label: DNG pair, skip_below .2 / NP"] = timing.ratio_of_pairs(
                run(skip), run(constant), config.pairs
            )
        if network == "heads":
            classes = guidance.dynamic_negative(posterior.classes(10, (0,)))
            found["heads: DNG classes / unguided"] = timing.ratio_of_pairs(
                run(classes), run(guidance.unguided()), config.pairs
            )
            found |= sweeping(problem, config)
    yield "sampling", found, table_of(config, found)


def sweeping(problem: Problem, config: Config, settings: int = SETTINGS) -> dict[str, Any]:
    """One compiled program for all settings, against one setting so many times."""
    table = problem.table("ddpm", config.steps)
    keys = sample_keys(0, config.samples)
    x = initial_noise(keys, problem.info.shape, table)

    def rules(offset: float):
        tracker = posterior.classes(10, (0,))
        scales = offset + np.linspace(0.5, 5, settings)
        return [guidance.dynamic_negative(tracker, float(scale)) for scale in scales]

    def all_at_once(offset: float = 0.0):
        return sweep(problem.denoiser, table, rules(offset), keys, x).x

    single = rules(0.0)[0]

    def one():
        return sample(problem.denoiser, table, single, keys, x).x

    timing.seconds(all_at_once), timing.seconds(one)
    before = timing.compilations()
    timing.seconds(lambda: all_at_once(0.1))
    compiled = timing.compilations() - before
    ratio = timing.ratio_of_pairs(all_at_once, one, SWEEP_PAIRS)
    per_setting = dataclasses.replace(
        ratio,
        median=ratio.median / settings,
        low=ratio.low / settings,
        high=ratio.high / settings,
    )
    return {
        f"sweep of {settings} / {settings} x one": per_setting,
        "programs a second sweep compiles": compiled,
    }


def runner(problem: Problem, config: Config) -> Callable[[Any], Callable[[], Any]]:
    """rule -> a function that samples it once."""
    table = problem.table("ddpm", config.steps)
    keys = sample_keys(0, config.samples)
    x = jax.block_until_ready(initial_noise(keys, problem.info.shape, table))
    return lambda rule: lambda: sample(problem.denoiser, table, rule, keys, x).x


def table_of(config: Config, found: dict[str, Any]) -> Table:
    """The table a person reads."""
    records = [
        {"figure": name, "count": None} | vars(value)
        if isinstance(value, Ratio)
        else {"figure": name, "count": value, "a": None, "b": None}
        for name, value in found.items()
    ]
    return Table.of(
        f"{config.samples} images, {config.steps} steps",
        records,
        {
            "figure": "figure",
            "ratio": lambda r: f"{r['median']:.3f}" if r["count"] is None else r["count"],
            "quartiles": lambda r: (
                f"{r['low']:.3f} .. {r['high']:.3f}" if r["count"] is None else ""
            ),
            "A s": "a",
            "B s": "b",
        },
    )
