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
images per second  of a training step and of a sampling step (one network call per image and the
                   rule's arithmetic), and the share of the machine's matrix-product peak that they
                   reach (eval.bench.throughput), timed in alternation

hopfield:
loops over beta    hopfield_jax against NumPy and PyTorch; its share of the matrix-product peak; how
                   seconds grow with patterns, states and betas; 1e6 patterns (eval.bench.hopfield)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import tyro

from dng_jax.errors import choose
from dng_jax.jobs import cli, runs
from dng_jax.jobs.options import at_least
from dng_jax.jobs.tables import Table, write_tables
from dng_jax.training import presets

from . import hopfield, sampling, throughput, timing
from .options import Config

Suite = Callable[[Config], Iterator[tuple[str, Any, Table]]]
SUITES: dict[str, Suite] = {
    "sampling": sampling.measure,
    "throughput": throughput.measure,
    "hopfield": hopfield.measure,
}


def main(config: Config) -> dict[str, Any]:
    """Runs a suite, prints its tables and writes results.json."""
    # ---- parse
    choose(config.suite, SUITES, "suite")
    names = ("samples", "steps", "pairs", "batch", "shrink")
    at_least(1, **{name: getattr(config, name) for name in names})
    for name in config.networks:
        presets.diffusion(*name.split(":", 1))

    # ---- build
    config.devices.select()
    folder = runs.new_run_folder(
        config.run.out, config, job="bench", overwrite=config.run.overwrite
    )
    timing.count_compilations()

    # ---- measure, and write part by part: what was measured stays if the rest is cut off
    results: dict[str, Any] = {}
    facts = {"config": config, "provenance": runs.provenance(), "results": results}
    tables: list[Table] = []
    for name, part, table in SUITES[config.suite](config):
        results[name] = part
        table.print()
        tables.append(table)
        write_tables(folder, *tables)
        runs.write_json(folder / "results.json", facts)
    return facts


if __name__ == "__main__":
    cli.main(lambda: main(tyro.cli(Config, description=__doc__)))
