"""(N, beta_eff) of equidistant patterns with K_s, K_c, N, exact and measured; see eval.hopfield."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax.errors import InputError
from dng_jax.jobs.tables import Table, write_csv
from hopfield_jax import patterns, theory
from hopfield_jax.analyses import transition
from hopfield_jax.plots import figures

from .common import ONLY_BOUND, PROTOCOLS, Outcome, bounded, cell, note
from .options import PhaseDiagram as Config
from .sets import PatternSet

KEYS = ("K_s", "K_c", "K_N")


def prepare(config: Config) -> list[int]:
    """The numbers of patterns, ascending."""
    counts = sorted(set(config.counts))
    if len(counts) < 2:
        raise InputError("a phase diagram needs at least two numbers of patterns in --counts")
    for count in counts:
        bounded(3, 4096, counts=count)
    return counts


def run(config: Config, counts: list[int], folder: Path) -> Outcome:
    """K_s, K_c and N of each number of patterns, exact and measured."""
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for n in counts:
        made = PatternSet(f"N = {n}", patterns.equidistant(n), None, "dot", True)
        found = transition.protocols(made.memory(), most=2)
        row: dict[str, Any] = {"N": n}
        values = (found.patterns, found.energy, found.centroid)
        for key, exact, beta in zip(KEYS, theory.characteristic(n), values, strict=True):
            row |= {f"{key}_exact": exact, f"{key}_measured": made.scale * beta}
        errors = (abs(row[f"{key}_measured"] / row[f"{key}_exact"] - 1) for key in KEYS)
        rows.append(row | {"error": max(errors)})
        notes += note(f"{made.name}, onsets of patterns", found.unresolved, ONLY_BOUND)
    fields = [f"{key}_{kind}" for key in KEYS for kind in ("exact", "measured")]
    write_csv(folder / "phase_diagram.csv", rows, ["N", *fields])
    headings = (
        ("K_s", "from the patterns"),
        ("K_c", "lowest energy"),
        ("N, exact", "from the centroid"),
    )
    names = [name for pair in headings for name in pair]
    table = Table.of(
        "equidistant patterns: exact and measured beta_eff",
        rows,
        {"N": lambda r: str(r["N"])}
        | {name: cell(f) for name, f in zip(names, fields, strict=True)}
        | {"largest relative error": cell("error", ".1e")},
    )
    pictures = [partial(draw, folder, rows)]
    return Outcome({"rows": rows}, [table], notes, pictures)


def draw(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Exact lines, measured points."""
    sizes = [r["N"] for r in rows]
    fine = np.unique(np.round(np.geomspace(sizes[0], sizes[-1], 80)).astype(int))
    lines = np.array([theory.characteristic(int(n)) for n in fine]).T
    names = ("$K_s$: pattern minima appear", "$K_c$: equal energies", "$N$: centroid unstable")
    figures.phase_diagram(
        fine,
        dict(zip(names, lines, strict=True)),
        {
            f"measured, {name}": (sizes, [r[f"{key}_measured"] for r in rows])
            for key, name in zip(KEYS, PROTOCOLS, strict=True)
        },
        folder / "phase_diagram.png",
        title="Equidistant patterns: exact lines, measured points",
    )
