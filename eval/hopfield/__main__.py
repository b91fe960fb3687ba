"""Modern Hopfield networks as energy landscapes: analyses of a pattern set over beta.

    python -m eval.hopfield bifurcation --count 64        minima over beta, hysteresis, energies
    python -m eval.hopfield phase-diagram                 (N, beta_eff): K_s, K_c, N and measured
    python -m eval.hopfield collapse                      many norms, angles, N, d on one curve
    python -m eval.hopfield basins                        basin volumes, watersheds
    python -m eval.hopfield landscape --plane principal   energy along a line and on a plane
    python -m eval.hopfield retrieval --patterns mnist    from noisy and masked patterns
    python -m eval.hopfield capacity --patterns mnist     predicted onset of minima and measured
    python -m eval.hopfield metastable                    windows of groups, trees of minima
    python -m eval.hopfield spectrum --patterns keys.npy  what a set predicts, and what it does
    python -m eval.hopfield diffusion                     where guidance switches on, and why there
    python -m eval.hopfield attention                     the heads of an attention layer:
        --file model.safetensors --heads 12 --inputs-file hidden.safetensors --inputs hidden
        --key layer.0.attention.self.key.weight --query layer.0.attention.self.query.weight

Each prints a table or two and writes them with results.json, a CSV of its curves and a figure. The
words: beta_eff = mean over pairs of beta D_ij^2/2; K_s, K_c, N the values of beta_eff at which
equidistant patterns get minima, get the lowest ones, and the centroid loses its own
(hopfield_jax.theory). Only certified minima are counted; what did not converge is named.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import tyro

from dng_jax.jobs import cli, runs
from dng_jax.jobs.tables import publish

from . import (
    attention,
    basins,
    bifurcation,
    capacity,
    collapse,
    diffusion,
    landscape,
    metastable,
    phase_diagram,
    retrieval,
    spectrum,
)
from .common import Outcome, bounded, precise

# Each has Config, its options; prepare(config) -> what to work on, which refuses bad input;
# run(config, prepared, folder) -> Outcome, which writes CSV and figures.
COMMANDS: dict[str, ModuleType] = {
    "bifurcation": bifurcation,
    "phase-diagram": phase_diagram,
    "collapse": collapse,
    "basins": basins,
    "landscape": landscape,
    "retrieval": retrieval,
    "capacity": capacity,
    "metastable": metastable,
    "spectrum": spectrum,
    "diffusion": diffusion,
    "attention": attention,
}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Parses and runs one subcommand; arguments default to the command line's."""
    config = tyro.extras.subcommand_cli_from_dict(
        {name: job.Config for name, job in COMMANDS.items()},
        description=__doc__,
        args=arguments,
        sort_subcommands=False,
    )
    return run(config)


def run(config: Any) -> dict[str, Any]:
    """Runs the subcommand whose options these are; returns what it writes as results.json."""
    name, job = next((n, job) for n, job in COMMANDS.items() if job.Config is type(config))
    bounded(0, 2**32 - 1, seed=config.seed)
    prepared = job.prepare(config)
    asked = {"command": name} | {
        f.name: getattr(config, f.name) for f in dataclasses.fields(config)
    }
    folder = runs.new_run_folder(
        config.run.out, asked, job=f"hopfield-{name}", overwrite=config.run.overwrite
    )
    with precise(getattr(config, "precision", "float32")):
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
    print(f"written to {folder}: results.json, tables.md, curves as CSV and a figure")
    return written


if __name__ == "__main__":
    cli.main(main)
