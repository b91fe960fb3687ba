"""Runs a suite of eval.bench and writes part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from dng_jax.errors import choose
from dng_jax.jobs import runs
from dng_jax.jobs.opening import open_run
from dng_jax.jobs.options import at_least, program
from dng_jax.jobs.tables import Table, write_tables
from dng_jax.training import presets

from . import hopfield, sampling, text_to_image, throughput, timing
from .options import Config

Suite = Callable[[Config], Iterator[tuple[str, Any, Table]]]
SUITES: dict[str, Suite] = {
    "sampling": sampling.measure,
    "throughput": throughput.measure,
    "hopfield": hopfield.measure,
    "text-to-image": text_to_image.measure,
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
    folder = open_run(program(__package__), config, "bench")
    timing.count_compilations()

    # ---- measure, and write part by part: what was measured stays if the rest is cut off
    results: dict[str, Any] = {}
    facts = {"config": config, "provenance": runs.provenance(), "results": results}
    tables: list[Table] = []
    for name, part, table in SUITES[config.suite](config):
        results[name] = part
        tables.append(table)
        write_tables(folder, *tables)
        runs.write_json(folder / "results.json", facts)
        table.print()
    return facts
