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

Each prints a table or two and writes them with results.json, a CSV of its curves and a figure. The
words: beta_eff = mean over pairs of beta D_ij^2/2; K_s, K_c, N the values of beta_eff at which
equidistant patterns get minima, get the lowest ones, and the centroid loses its own
(hopfield_jax.theory). Only certified minima are counted; what did not converge is named.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tyro

from dng_jax.jobs import cli, runs
from dng_jax.jobs.tables import Table, publish
from eval.hopfield import diffusion as window
from eval.hopfield import landscape as places
from eval.hopfield import patterns as sets
from eval.hopfield import transition
from eval.hopfield.sets import build, precise


class Command(NamedTuple):
    """options: a dataclass; prepare(options) -> what to work on, refusing bad input; work(options,
    prepared, folder) -> (results, tables, notes)."""

    options: type
    prepare: Callable[[Any], Any]
    work: Callable[[Any, Any, Any], tuple[dict[str, Any], list[Table], list[str]]]


def one_set(*checks: Callable[[Any, Any], object]) -> Callable[[Any], Any]:
    """Prepares the pattern set of config.source, and runs its checks, check(config, set)."""

    def prepare(config):
        chosen = build(config.source, config.seed, getattr(config, "default_count", 16))
        for check in checks:
            check(config, chosen)
        return chosen

    return prepare


COMMANDS = {
    "bifurcation": Command(
        transition.Bifurcation, one_set(transition.bifurcation_axis), transition.bifurcation
    ),
    "phase-diagram": Command(
        transition.PhaseDiagram, transition.check_phase_diagram, transition.phase_diagram
    ),
    "collapse": Command(transition.Collapse, transition.check_collapse, transition.collapse),
    "basins": Command(places.Basins, one_set(places.check_basins), places.basins),
    "landscape": Command(places.Landscape, one_set(places.check_landscape), places.landscape_),
    "retrieval": Command(sets.Retrieval, one_set(sets.check_retrieval), sets.retrieval),
    "capacity": Command(sets.Capacity, sets.capacity_sources, sets.capacity_),
    "metastable": Command(sets.Metastable, sets.metastable_sources, sets.metastable_),
    "spectrum": Command(sets.Spectrum, one_set(), sets.spectrum_),
    "diffusion": Command(window.Diffusion, window.diffusion_problem, window.diffusion_),
}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Parses and runs one subcommand; arguments default to the command line's."""
    config = tyro.extras.subcommand_cli_from_dict(
        {name: command.options for name, command in COMMANDS.items()},
        description=__doc__,
        args=arguments,
        sort_subcommands=False,
    )
    return run(config)


def run(config: Any) -> dict[str, Any]:
    """Runs the subcommand whose options these are; returns what it writes as results.json."""
    name = next(n for n, command in COMMANDS.items() if command.options is type(config))
    command = COMMANDS[name]
    prepared = command.prepare(config)
    asked = {"command": name} | {
        f.name: getattr(config, f.name) for f in dataclasses.fields(config)
    }
    folder = runs.new_run_folder(
        config.out, asked, job=f"hopfield-{name}", overwrite=config.overwrite
    )
    with precise(getattr(config, "precision", "float32")):
        results, tables, notes = command.work(config, prepared, folder)
    written = {
        "config": asked,
        "provenance": runs.provenance(),
        "notes": notes,
        "tables": [table.to_dict() for table in tables],
        **results,
    }
    runs.write_json(folder / "results.json", written)
    publish(folder, *tables)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"written to {folder}: results.json, tables.md, curves as CSV and a figure")
    return written


if __name__ == "__main__":
    cli.main(main)
