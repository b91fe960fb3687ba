"""Speed, as ratios measured in one run.

    python -m eval.bench sampling
    python -m eval.bench throughput --cpu-devices 2
    python -m eval.bench hopfield

sampling:

tracker overhead   DNG (pair) against negative prompting of constant scale: same network calls
heads              DNG (classes, all classes from one call) against unguided sampling
sweep              16 settings as one compiled program against 16 times the run time of one setting;
                   and how many programs a second sweep with other numbers compiles

throughput, the networks of --networks at their training batch:
images/s           of a training step and of a sampling step (one network call an image and the
                   rule's arithmetic), and the share of the machine's matrix-product peak that they
                   reach (eval.bench.throughput), timed in alternation

hopfield:
loops over beta    hopfield_jax against NumPy and PyTorch; its share of the matrix-product peak; how
                   seconds grow with patterns, states and betas; 1e6 patterns (eval.bench.hopfield)
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from dng_jax import guidance, initial_noise, posterior, sample, sample_keys, sweep
from dng_jax.errors import InputError, choose
from dng_jax.experiments import problems
from dng_jax.experiments.problems import Source
from dng_jax.jobs import cli, runs
from dng_jax.jobs.devices import Devices
from dng_jax.jobs.tables import Table, publish, write_tables
from dng_jax.training import presets
from eval.bench import hopfield as hopfield_speed
from eval.bench import throughput, timing
from eval.bench.timing import Ratio

SUITES = ("sampling", "throughput", "hopfield")


@dataclass(frozen=True)
class Config:
    """Benchmarks."""

    suite: tyro.conf.Positional[str] = "sampling"
    """sampling, throughput or hopfield"""
    samples: int = 512
    steps: int = 50
    pairs: int = 7
    """Alternating pairs a figure; 3 for the sweep."""
    networks: tuple[str, ...] = ("mnist-small",)
    """Networks of the throughput suite, PRESET[:CONDITIONING]; mnist and cifar10 want a GPU."""
    batch: int = 256
    """Images of a training step in the throughput suite."""
    shrink: int = 1
    """Divides the sizes of the hopfield suite, for a quick look."""
    devices: Annotated[Devices, tyro.conf.arg(name="")] = field(default_factory=Devices)
    out: str | None = None
    """Folder of the results; default: a new one, runs/bench, runs/bench-2, ..."""
    overwrite: bool = False


def main(config: Config) -> dict[str, Any]:
    """Runs a suite, prints its table and writes results.json."""
    choose(config.suite, SUITES, "suite")
    for name in ("samples", "steps", "pairs", "batch", "shrink"):
        if getattr(config, name) < 1:
            raise InputError(f"--{name} must be at least 1, got {getattr(config, name)}")
    for name in config.networks:
        presets.diffusion(*name.split(":", 1))
    config.devices.select()
    folder = runs.new_run_folder(config.out, config, job="bench", overwrite=config.overwrite)
    timing.count_compilations()
    kept: dict[str, Any] = {"config": config, "provenance": runs.provenance(), "results": {}}
    if config.suite == "hopfield":
        tables = []
        for name, part, table in hopfield_speed.measure(config):
            # part by part: what was measured stays if the rest is cut off
            kept["results"][name] = part
            table.print()
            tables.append(table)
            write_tables(folder, *tables)
            runs.write_json(folder / "results.json", kept)
        return kept
    if config.suite == "sampling":
        kept["results"] = sampling(config)
        table = ratios(config, kept["results"])
    else:
        kept["results"] = throughput.measure(config)
        table = throughput.table_of(kept["results"])
    publish(folder, table)
    runs.write_json(folder / "results.json", kept)
    return kept


def ratios(config: Config, results: dict[str, Any]) -> Table:
    """The table of the sampling suite."""
    table = Table(
        f"{config.samples} images, {config.steps} steps",
        ("figure", "ratio", "quartiles", "A s", "B s"),
    )
    for name, value in results.items():
        if isinstance(value, Ratio):
            quartiles = f"{value.low:.3f} .. {value.high:.3f}"
            table.add(name, f"{value.median:.3f}", quartiles, value.a, value.b)
        else:
            table.add(name, value, "", None, None)
    return table


def sampling(config: Config) -> dict[str, Any]:
    """Tracker overhead, cost of the heads variant, cost of a sweep."""
    out: dict[str, Any] = {}
    for network in ("heads", "label"):
        problem = problems.make("digits", ("0",), Source(network=network))
        run = runner(problem, config)
        negative = problem.negatives
        pair = guidance.dynamic_negative(posterior.pair(0.1, negatives=negative))
        constant = guidance.negative_prompt(0.3, negatives=negative)
        out[f"{network}: DNG pair / NP"] = timing.ratio_of_pairs(
            run(pair), run(constant), config.pairs
        )
        if network == "heads":
            classes = guidance.dynamic_negative(posterior.classes(10, (0,)))
            out["heads: DNG classes / unguided"] = timing.ratio_of_pairs(
                run(classes), run(guidance.unguided()), config.pairs
            )
            out |= sweeping(problem, config)
    return out


def sweeping(problem: problems.Problem, config: Config, settings: int = 16) -> dict[str, Any]:
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
    ratio = timing.ratio_of_pairs(all_at_once, one, 3)
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


def runner(problem: problems.Problem, config: Config):
    """rule -> a function that samples it once."""
    table = problem.table("ddpm", config.steps)
    keys = sample_keys(0, config.samples)
    x = jax.block_until_ready(initial_noise(keys, problem.info.shape, table))
    return lambda rule: lambda: sample(problem.denoiser, table, rule, keys, x).x


if __name__ == "__main__":
    cli.main(lambda: main(tyro.cli(Config, description=__doc__)))
