"""What a tracker, many heads and a sweep cost: programs in turn (timing), their floors (roofline).

rules     unguided, negative prompting of constant scale, DNG (pair: as many network calls as
          negative prompting) and, where one call gives every class, DNG (classes); where every
          class is a call, DNG that asks for the negative where it matters (skip_below)
sweep     32 settings as one compiled program against 32 runs of it, one after the other, of a
          quarter of the images; and how many programs a second sweep with other numbers compiles
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from dng_jax import guidance, initial_noise, posterior, sample, sample_keys, sweep
from dng_jax.experiments import problems
from dng_jax.experiments.problems import Problem
from dng_jax.experiments.source import Source
from dng_jax.jobs.tables import Table

from . import roofline, timing
from .options import Config
from .timing import Ratio

SAMPLES, STEPS = 256, 50
SETTINGS = 32
SWEEP_PAIRS = 3
SKIPPING = "DNG pair, skip_below .2"


def measure(config: Config) -> Iterator[tuple[str, dict[str, Any], Table]]:
    """A part for each of the networks of the digits, and one for the sweep."""
    for network in ("heads", "label"):
        problem = problems.make("digits", ("0",), Source(network=network))
        found = ruled(problem, config)
        yield network, found, rules_table(network, found)
    problem = problems.make("digits", ("0",), Source(network="heads"))
    swept = sweeping(problem, config)
    yield "sweep", swept, sweep_table(swept)


def ruled(problem: Problem, config: Config) -> dict[str, Any]:
    """Seconds, ratios and floors of every rule on one network."""
    negative = problem.negatives
    rules: dict[str, Any] = {
        "unguided": guidance.unguided(),
        "NP": guidance.negative_prompt(0.3, negatives=negative),
        "DNG pair": guidance.dynamic_negative(posterior.pair(0.1, negatives=negative)),
    }
    if problem.denoiser.calls(("base", *negative)) == 1:
        rules["DNG classes"] = guidance.dynamic_negative(posterior.classes(10, (0,)))
    else:
        tracker = posterior.pair(0.1, negatives=negative)
        rules[SKIPPING] = guidance.dynamic_negative(tracker, 10.0, skip_below=0.2)
    run, table, x = _chain(problem, config.samples or SAMPLES, config.steps or STEPS)
    product, peak = roofline.product()
    programs = {name: run(rule) for name, rule in rules.items()} | {"product": product}
    times = timing.in_turn(
        {name: timing.timed(program) for name, program in programs.items()}, config.pairs
    )
    peak /= float(np.median(times["product"]))
    steps = len(table.index)
    return {
        "images": len(x),
        "steps": steps,
        "peak_operations_per_second": peak,
        "rules": [
            {
                "rule": name,
                "seconds": float(np.median(times[name])),
                "over_unguided": timing.ratio(times[name], times["unguided"]),
                "over_np": timing.ratio(times[name], times["NP"]),
                "floor_seconds": None  # its operations depend on what it is shown
                if name == SKIPPING
                else steps * roofline.of_a_step(problem.denoiser, table, x, rule.roles) / peak,
            }
            for name, rule in rules.items()
        ],
    }


def sweeping(problem: Problem, config: Config, settings: int = SETTINGS) -> dict[str, Any]:
    """One compiled program for all settings, against a run of each."""
    images = max(1, (config.samples or SAMPLES) // 4)
    run, table, x = _chain(problem, images, config.steps or STEPS)
    keys = sample_keys(0, images)

    def rules(offset: float) -> list[Any]:
        tracker = posterior.classes(10, (0,))
        scales = offset + np.linspace(0.5, 5, settings)
        return [guidance.dynamic_negative(tracker, float(scale)) for scale in scales]

    def all_at_once(offset: float = 0.0) -> Any:
        return sweep(problem.denoiser, table, rules(offset), keys, x).x

    def one_by_one() -> Any:
        return [run(rule)() for rule in rules(0.0)]

    timing.seconds(all_at_once)
    before = timing.compilations()
    timing.seconds(lambda: all_at_once(0.1))
    compiled = timing.compilations() - before
    return {
        "images": images,
        "steps": len(table.index),
        "settings": settings,
        "sweep_over_runs": timing.ratio_of_pairs(all_at_once, one_by_one, SWEEP_PAIRS),
        "programs_of_a_second_sweep": compiled,
    }


def _chain(
    problem: Problem, images: int, steps: int
) -> tuple[Callable[[Any], Callable[[], Any]], Any, jax.Array]:
    """rule -> a function that samples it once; the table of steps; the initial noise."""
    table = problem.table("ddpm", steps)
    keys = sample_keys(0, images)
    x = jax.block_until_ready(initial_noise(keys, problem.info.shape, table))
    return lambda rule: lambda: sample(problem.denoiser, table, rule, keys, x).x, table, x


def rules_table(network: str, found: dict[str, Any]) -> Table:
    """Rules beside each other."""
    return Table.of(
        f"digits-{network}: {found['images']} images, {found['steps']} steps, product peak"
        f" {found['peak_operations_per_second'] / 1e9:.0f} Gflop/s",
        found["rules"],
        {
            "rule": "rule",
            "s": "seconds",
            "/ unguided [quartiles]": lambda r: timing.shown(r["over_unguided"], 3),
            "/ NP [quartiles]": lambda r: timing.shown(r["over_np"], 3),
            "floor s": "floor_seconds",
            "over it": lambda r: r["floor_seconds"] and f"{r['seconds'] / r['floor_seconds']:.1f}",
        },
    )


def sweep_table(found: dict[str, Any]) -> Table:
    """One line: the sweep against its runs."""
    ratio: Ratio = found["sweep_over_runs"]
    return Table.of(
        f"{found['settings']} settings, {found['images']} images, {found['steps']} steps",
        [found],
        {
            "sweep s": lambda r: ratio.a,
            "runs s": lambda r: ratio.b,
            "sweep / runs [quartiles]": lambda r: timing.shown(ratio, 3),
            "programs a second sweep compiles": "programs_of_a_second_sweep",
        },
    )
