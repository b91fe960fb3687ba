"""Runs a suite of eval.bench and writes part by part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from dng_jax.errors import choose
from dng_jax.jobs import runs
from dng_jax.jobs.opening import open_run
from dng_jax.jobs.options import at_least, program
from dng_jax.jobs.tables import Table, write_tables
from dng_jax.training import presets

from . import (
    convolutions,
    growth,
    hopfield,
    kernels,
    memory,
    pytorch,
    sampling,
    start,
    text_to_image,
    throughput,
    timing,
)
from .networks import SIZES
from .options import Config

Suite = Callable[[Config], Iterator[tuple[str, Any, Table]]]
SUITES: dict[str, Suite] = {
    "sampling": sampling.measure,
    "pytorch": pytorch.measure,
    "kernels": kernels.measure,
    "convolutions": convolutions.measure,
    "growth": growth.measure,
    "start": start.measure,
    "memory": memory.measure,
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
    at_least(1, threads=min(config.threads, default=1))
    choose(config.dtype, pytorch.DTYPES, "dtype")
    for name in config.networks:
        if config.suite in ("pytorch", "kernels"):
            choose(name, SIZES, "network")
        else:
            presets.diffusion(*name.split(":", 1))

    # ---- build
    config.devices.select()
    folder = open_run(program(__package__), config, "bench")
    timing.count_compilations()

    # ---- measure, and write part by part: what was measured stays if the rest is cut off
    results: dict[str, Any] = {}
    facts: dict[str, Any] = {"config": config, "provenance": runs.provenance(), "results": results}
    tables: list[Table] = []
    began = time.monotonic()
    for name, part, table in SUITES[config.suite](config):
        results[name] = part
        facts["seconds"] = time.monotonic() - began
        tables.append(table)
        write_tables(folder, *tables)
        runs.write_json(folder / "results.json", facts)
        table.print()
    print(f"measured in {time.monotonic() - began:.0f} s")
    return facts
