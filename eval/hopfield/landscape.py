"""Subcommands about basins and energies in space; see eval.hopfield."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import tyro

from dng_jax.errors import InputError
from dng_jax.jobs.tables import Table
from eval.hopfield.sets import (
    NO_MINIMUM,
    ONLY_BOUND,
    PatternSet,
    Precise,
    Source,
    at_least,
    between,
    note,
    write_csv,
)
from eval.hopfield.transition import Results, marks_of
from hopfield_jax import energy, equidistant, theory
from hopfield_jax.analyses import basins as basin
from hopfield_jax.analyses import landscape, transition
from hopfield_jax.plots import curves as plots
from hopfield_jax.plots import figures
from hopfield_jax.plots.curves import Curve, Panel

# ---- basins --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Basins(Precise):
    """Basin volumes over beta_eff, and the watershed between centroid and pattern."""

    default_count: ClassVar[int] = 8
    source: Annotated[Source, tyro.conf.arg(name="")] = field(default_factory=Source)
    betas: int = 24
    low: float | None = None
    """Range of beta_eff; default: from 0.8 K_s to 1.5 N."""
    high: float | None = None
    starts: int = 512
    """Starts for each beta, from a Dirichlet distribution of weights."""
    concentration: float = 1.0
    """Of that distribution: 1 is uniform, smaller is nearer to the patterns."""


def basins(config: Basins, chosen: PatternSet, folder: Path) -> Results:
    n, scale, memory = len(chosen.patterns), chosen.scale, chosen.memory()
    at = basins_axis(config, chosen)
    starts = basin.hull_starts(memory, config.starts, config.seed, config.concentration)
    sorted_ = [basin.sort(memory, rows) for rows in transition.many(memory, starts, at / scale)]
    kinds = {
        "undecided minima (centroid)": [float(b.share[b.owner < 0].sum()) for b in sorted_],
        "patterns' own minima": [float(b.share[b.owner >= 0].sum()) for b in sorted_],
        "no certified minimum": [len(b.unsettled) / config.starts for b in sorted_],
    }
    centre = np.repeat(chosen.patterns.mean(axis=0, keepdims=True), len(at), axis=0)
    corner = np.repeat(chosen.patterns[:1], len(at), axis=0)
    edge = basin.watershed(memory, centre, corner, at / scale)
    curves = [("watershed, measured", Curve(at, edge.position, "measured", plots.COLOURS[3]))]
    truth = None
    if chosen.equidistant:
        truth = equidistant.watershed(n, at)
        for piece in equidistant.branches(n, float(at[0]), float(at[-1])):
            if not piece.stable:
                curves.append(("watershed, exact", Curve(piece.K, piece.m, "exact", "#000000")))
    table = Table(
        f"{chosen.name}: shares of {config.starts} starts",
        ("beta_eff", "undecided", "patterns' own", "no certified minimum", "minima found",
         "watershed", "exact"),
    )  # fmt: skip
    for s in np.unique(np.linspace(0, len(at) - 1, 8).astype(int)):
        table.add(
            at[s], *(values[s] for values in kinds.values()), str(len(sorted_[s].starts)),
            edge.position[s], None if truth is None else truth[s],
        )  # fmt: skip
    columns = {"beta": at / scale, "beta_eff": at, **kinds, "watershed": edge.position}
    write_csv(folder / "basins.csv", columns)
    marks = marks_of(chosen)
    plots.shares(
        at,
        kinds,
        folder / "basins.png",
        marks=marks,
        below=Panel(curves, "centroid 0, pattern 1", marks=marks, y_limits=(-0.04, 1.04)),
        y_label=f"share of {config.starts} starts",
        title=f"Basins of attraction: {chosen.name}",
    )
    bounds = [float(k) for k in at[edge.unresolved]]
    notes = note("watersheds, values of beta_eff", bounds, ONLY_BOUND)
    for k, b in zip(at, sorted_, strict=True):
        notes += note(f"starts at beta_eff {k:.4g}", b.unsettled, NO_MINIMUM)
    results = {
        "columns": columns,
        "exact_watershed": truth,
        "minima": [{"beta_eff": k, "share": b.share, "low": b.low, "high": b.high,
                    "owner": b.owner, "energy": b.energy}
                   for k, b in zip(at, sorted_, strict=True)],
    }  # fmt: skip
    return results, [table], notes


def check_basins(config: Basins, chosen: PatternSet) -> None:
    """Refuses empty sets of starts, and ranges that are none."""
    at_least("starts", config.starts, 1)
    if not (math.isfinite(config.concentration) and config.concentration > 0):
        raise InputError(f"--concentration must be a number > 0, got {config.concentration}")
    basins_axis(config, chosen)


def basins_axis(config: Basins, chosen: PatternSet) -> np.ndarray:
    """Values of beta_eff [S]."""
    n = len(chosen.patterns)
    return between(config.low, config.high, (0.8 * theory.spinodal(n).K, 1.5 * n), config.betas)


# ---- landscape -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Landscape(Precise):
    """Energy along the line from the centroid to a pattern, and on a plane; barriers."""

    default_count: ClassVar[int] = 8
    source: Annotated[Source, tyro.conf.arg(name="")] = field(default_factory=Source)
    plane: str = "patterns"
    """patterns: through the first three; principal: along the two leading axes of all."""
    at: tuple[float, ...] = ()
    """Values of beta_eff; default: .8 K_s, between K_s and K_c, between K_c and N, 1.3 N."""
    resolution: int = 81
    """Points along each side of a map."""


def check_landscape(config: Landscape, chosen: PatternSet) -> None:
    """Refuses maps that are none."""
    if len(chosen.patterns) < 3:
        raise InputError(
            f"a plane needs at least 3 patterns, got {len(chosen.patterns)}: raise --count"
        )
    at_least("resolution", config.resolution, 8)
    if config.plane not in ("patterns", "principal"):
        raise InputError(f"unknown plane '{config.plane}': choose from patterns, principal")
    for value in config.at:
        energy.check_beta(value)


def landscape_(config: Landscape, chosen: PatternSet, folder: Path) -> Results:
    n, scale, memory, x = len(chosen.patterns), chosen.scale, chosen.memory(), chosen.patterns
    k_s, k_c, k_n = theory.characteristic(n)
    default = (0.8 * k_s, math.sqrt(k_s * k_c), math.sqrt(k_c * k_n), 1.3 * k_n)
    at = np.array(sorted(config.at or default))
    plane = landscape.through(*x[:3]) if config.plane == "patterns" else landscape.principal(x)
    near = plane.project(x[:3] if config.plane == "patterns" else x)
    half = 1.5 * np.abs(near).max()
    u = v = np.linspace(-half, half, config.resolution)
    maps = landscape.energies(memory, plane.states(u, v), at / scale)
    s = np.linspace(-0.15, 1.15, 261)
    centre = x.mean(axis=0)
    lines = landscape.energies(memory, landscape.line(centre, x[0], s), at / scale) / scale
    zero = int(np.argmin(np.abs(s)))
    starts = np.concatenate([x, centre[None]])
    settled = transition.many(memory, starts, at / scale)
    found = [basin.sort(memory, rows) for rows in settled]
    marks = []
    for b in found:
        where = plane.project(b.state)
        inside = np.abs(where).max(axis=1) < half
        if config.plane == "patterns":
            inside &= b.owner < 3  # those of other patterns lie far off the plane
        marks.append({
            "pattern": near,
            "pattern's own minimum": where[inside & (b.owner >= 0)],
            "undecided minimum": where[inside & (b.owner < 0)],
        })  # fmt: skip
    titles = [rf"$\beta_{{\mathrm{{eff}}}}$ = {k:.4g}" for k in at]
    styles = ("stable", "dashed", "unstable", "stable")
    curves = [
        (name, Curve(s, line - line[zero], styles[i % 4]))
        for i, (name, line) in enumerate(zip(titles, lines, strict=True))
    ]
    figures.landscape(
        Panel(curves, r"energy above the centroid's / $\frac{1}{2}D^2$",
              "position from the centroid (0) to a pattern (1)", log_x=False),
        list(zip(titles, maps, strict=True)),
        u,
        v,
        marks,
        folder / "landscape.png",
        title=f"Energy landscape: {chosen.name}",
    )  # fmt: skip
    table = Table(
        f"{chosen.name}: minima from the patterns and the centroid",
        ("beta_eff", "own minima of patterns", "undecided minima",
         "pattern's energy less the centroid's", "barrier pattern to centroid",
         "centroid to pattern", "between patterns"),
    )  # fmt: skip
    for k, b, rows in zip(at, found, settled, strict=True):
        walls: tuple[float | None, ...] = (None, None, None)
        if chosen.equidistant:
            walls = tuple(scale * height for height in theory.barriers(n, float(k)))
        table.add(k, str(int(np.sum(b.owner >= 0))), str(int(np.sum(b.owner < 0))),
                  transition.energy_gap(rows), *walls)  # fmt: skip
    write_csv(folder / "line.csv", {"position": s}
              | {f"beta_eff {k:.6g}": line for k, line in zip(at, lines, strict=True)})  # fmt: skip
    notes: list[str] = []
    for k, b in zip(at, found, strict=True):
        notes += note(f"starts at beta_eff {k:.4g} (start {n}: centroid)", b.unsettled, NO_MINIMUM)
    results = {"beta_eff": at, "minima": [len(b.starts) for b in found],
               "energy": [b.energy for b in found]}  # fmt: skip
    return results, [table], notes
