"""Runs one subcommand of eval.hopfield and writes what it found."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from typing import Any

from dng_jax.jobs import devices, runs
from dng_jax.jobs.opening import open_run
from dng_jax.jobs.options import program, seed
from dng_jax.jobs.tables import publish

from .common import Outcome, precise
from .options import COMMANDS
from .sets import infos

# Each has Config, its options; prepare(config) -> what to work on, which refuses bad input;
# run(config, prepared, folder) -> Outcome, which writes CSV and figures.


def run(config: Any) -> dict[str, Any]:
    """Runs the subcommand whose options these are; returns what it writes as results.json."""
    name = next(name for name, options in COMMANDS.items() if options is type(config))
    job = importlib.import_module(f".{name.replace('-', '_')}", __package__)
    seed(32, seed=config.seed)
    config.data.use()
    devices.select()
    prepared = job.prepare(config)
    asked = {"command": name} | {
        f.name: getattr(config, f.name) for f in dataclasses.fields(config)
    }
    words = f"{program(__package__)} {name}"
    folder = open_run(words, config, f"hopfield-{name}", infos(prepared), asked=asked)
    precision = getattr(config, "precision", "float32")
    with precise(precision):
        outcome: Outcome = job.run(config, prepared, folder)
    written = {
        "config": asked,
        "provenance": runs.provenance(),
        "notes": outcome.notes,
        "tables": [table.to_dict() for table in outcome.tables],
        **outcome.results,
    }
    runs.write_json(folder / "results.json", written)
    publish(folder, *outcome.tables)
    for note in outcome.notes:
        print(f"note: {note}", file=sys.stderr)
    # Last, so that a disk that is full, or a picture that fails, costs no numbers.
    with precise(precision), runs.writing(folder):
        for draw in outcome.pictures:
            draw()
    print(f"written to {folder}: results.json, tables.md, curves as CSV and a figure")
    return written
