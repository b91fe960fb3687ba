"""Memory of a chain per image, with its trajectory kept or not.

    python -m eval.bench memory

DNG (classes) on the network of the digits. `planned` is what XLA plans for a program's results and
temporary arrays; `seen` is the peak of a process that runs it once, a process for each (of the
device, where that is no CPU). Either is the slope from one number of images to four times as many:
weights and libraries are in neither, a step's network is in both.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from typing import Any

import jax

from dng_jax import guidance, initial_noise, posterior, sample, sample_keys
from dng_jax.jobs import devices
from dng_jax.jobs.tables import Table
from dng_jax.sampling import SAVE

from . import jax_side, workers
from .options import Config
from .workers import Worker

SAMPLES, STEPS = 1024, 20
GROWTH = 4
KEPT = {"images": (), "images, x_t": ("x",), "images, x_t, predicted x_0": SAVE}


def measure(config: Config) -> Iterator[tuple[str, Any, Table]]:
    """One part: a record for everything that may be kept."""
    few, count = config.samples or SAMPLES, config.steps or STEPS
    cores = len(workers.available())
    records = []
    for title, save in KEPT.items():
        measured = []
        for images in (few, GROWTH * few):
            given = images, count, save, jax.default_backend()
            with Worker("jax", cores, chain, *given) as worker:
                measured.append(worker.facts)
        per_image = {
            name: (measured[1][name] - measured[0][name]) / ((GROWTH - 1) * few)
            for name in ("planned", "seen")
        }
        records.append({"kept": title, "images": few, "steps": count, "bytes_per_image": per_image})
    yield "memory", records, table_of(records)


def chain(images: int, count: int, save: tuple[str, ...], platform: str) -> dict[str, Any]:
    """Runs a chain once; under "facts" bytes planned, and seen at the process's peak."""
    devices.select(platform)
    table, denoise = jax_side.table_of(count), jax_side.denoiser("digits-heads")
    rule = guidance.dynamic_negative(posterior.classes(10, (0,)))
    keys = sample_keys(0, images)
    x = initial_noise(keys, (8, 8, 1), table)
    program = jax.jit(
        lambda denoise, rule, keys, x: sample(denoise, table, rule, keys, x, save=save)
    )
    compiled = program.lower(denoise, rule, keys, x).compile()
    plan: Any = compiled.memory_analysis()
    jax.block_until_ready(compiled(denoise, rule, keys, x))
    planned = plan.temp_size_in_bytes + plan.output_size_in_bytes
    return {"facts": {"planned": planned, "seen": 1e6 * peak_memory()}}


def peak_memory() -> float:
    """MB of the device's memory at its highest so far; of the process where the device is a CPU."""
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def table_of(records: list[dict[str, Any]]) -> Table:
    """Kilobytes per image."""
    return Table.of(
        f"Memory per image: digits-heads, {records[0]['steps']} steps, {records[0]['images']} to"
        f" {GROWTH * records[0]['images']} images",
        records,
        {
            "kept": "kept",
            "planned kB": lambda r: f"{r['bytes_per_image']['planned'] / 1e3:.1f}",
            "seen kB": lambda r: f"{r['bytes_per_image']['seen'] / 1e3:.1f}",
        },
    )
