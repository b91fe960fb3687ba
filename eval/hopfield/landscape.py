"""Energy along a line and on a plane, and the barriers between minima; see eval.hopfield."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax.errors import InputError
from dng_jax.jobs.tables import Table, write_csv
from hopfield_jax import energy, theory
from hopfield_jax.analyses import basins, landscape, transition
from hopfield_jax.plots import figures
from hopfield_jax.plots.curves import Curve, Panel

from .common import NO_MINIMUM, Outcome, bounded, note, plain
from .options import Landscape as Config
from .sets import PatternSet, build

BARRIERS = ("barrier pattern to centroid", "centroid to pattern", "between patterns")


def prepare(config: Config) -> tuple[PatternSet, np.ndarray]:
    """The set, and values of beta_eff [S]."""
    chosen = build(config.source, config.seed, 8)
    if chosen.count < 3:
        raise InputError(f"a plane needs at least 3 patterns, got {chosen.count}: raise --count")
    bounded(8, 1001, resolution=config.resolution)
    if config.plane not in ("patterns", "principal"):
        raise InputError(f"unknown plane '{config.plane}': choose from patterns, principal")
    for value in config.at:
        energy.check_beta(value)
    k_s, k_c, k_n = theory.characteristic(chosen.count)
    default = (0.8 * k_s, math.sqrt(k_s * k_c), math.sqrt(k_c * k_n), 1.3 * k_n)
    return chosen, np.array(sorted(config.at or default))


def run(config: Config, prepared: tuple[PatternSet, np.ndarray], folder: Path) -> Outcome:
    """Energies along a line and on a plane, and the minima found there."""
    chosen, at = prepared
    memory, x, betas = chosen.memory(), chosen.patterns, at / chosen.scale
    centre = x.mean(axis=0)
    settled = transition.many(memory, np.concatenate([x, centre[None]]), betas)
    reached = [basins.sort(memory, rows) for rows in settled]
    s = np.linspace(-0.15, 1.15, 261)
    lines = landscape.energies(memory, landscape.line(centre, x[0], s), betas) / chosen.scale
    line = {f"beta_eff {k:.6g}": line for k, line in zip(at, lines, strict=True)}
    write_csv(folder / "line.csv", [{"position": s} | line])

    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for k, b, found in zip(at, reached, settled, strict=True):
        walls = theory.barriers(chosen.count, float(k)) if chosen.equidistant else (None,) * 3
        row: dict[str, Any] = {
            "beta_eff": k,
            "minima": len(b.starts),
            "own minima of patterns": int(np.sum(b.owner >= 0)),
            "undecided minima": int(np.sum(b.owner < 0)),
            "pattern's energy less the centroid's": transition.energy_gap(found),
        }
        for name, wall in zip(BARRIERS, walls, strict=True):
            row[name] = None if wall is None else chosen.scale * wall
        rows.append(row | {"energy": b.energy})
        unsettled = f"starts at beta_eff {k:.4g} (start {chosen.count}: centroid)"
        notes += note(unsettled, b.unsettled, NO_MINIMUM)
    table = Table.of(
        f"{chosen.name}: minima from the patterns and the centroid",
        rows,
        {name: name for name in rows[0] if name not in ("minima", "energy")},
    )
    pictures = [partial(draw, folder, config, prepared, reached, s, lines)]
    return Outcome({"rows": rows}, [table], notes, pictures)


def draw(
    folder: Path,
    config: Config,
    prepared: tuple[PatternSet, np.ndarray],
    reached: Sequence[basins.Basins],
    s: np.ndarray,
    lines: np.ndarray,
) -> None:
    """Maps with the patterns and their minima; energies [S, P] at positions s [P] of the line."""
    chosen, at = prepared
    x, near_three = chosen.patterns, config.plane == "patterns"
    plane = landscape.through(*x[:3]) if near_three else landscape.principal(x)
    corners = plane.project(x[:3] if near_three else x)
    half = 1.5 * np.abs(corners).max()
    u = np.linspace(-half, half, config.resolution)
    maps = landscape.energies(chosen.memory(), plane.states(u, u), at / chosen.scale)
    points = []
    for b in reached:
        where = plane.project(b.state)
        inside = np.abs(where).max(axis=1) < half
        if near_three:
            inside &= b.owner < 3  # those of other patterns lie far off the plane
        own, undecided = where[inside & (b.owner >= 0)], where[inside & (b.owner < 0)]
        marks = {"pattern": corners, "pattern's own minimum": own, "undecided minimum": undecided}
        points.append(marks)
    titles = [rf"$\beta_{{\mathrm{{eff}}}}$ = {k:.4g}" for k in at]
    styles, zero = ("stable", "dashed", "unstable", "stable"), int(np.argmin(np.abs(s)))
    above = [
        (name, Curve(s, line - line[zero], styles[i % 4]))
        for i, (name, line) in enumerate(zip(titles, lines, strict=True))
    ]
    position = "position from the centroid (0) to a pattern (1)"
    figures.landscape(
        Panel(above, r"energy above the centroid's / $\frac{1}{2}D^2$", position, log_x=False),
        list(zip(titles, maps, strict=True)),
        u,
        u,
        points,
        folder / "landscape.png",
        title=f"Energy landscape: {plain(chosen.name)}",
    )
