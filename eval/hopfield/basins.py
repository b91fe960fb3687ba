"""Basin volumes over beta_eff, and the watershed towards a pattern; see eval.hopfield."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax.errors import InputError
from dng_jax.jobs.tables import Table, write_csv
from hopfield_jax import equidistant, theory
from hopfield_jax.analyses import basins, transition
from hopfield_jax.plots import curves
from hopfield_jax.plots.curves import COLOURS, Curve, Panel

from .common import (
    NO_MINIMUM,
    ONLY_BOUND,
    Outcome,
    between,
    bounded,
    marks_of,
    note,
    some,
    title_of,
)
from .options import Basins as Config
from .sets import PatternSet, build

KINDS = ("undecided minima (centroid)", "patterns' own minima", "no certified minimum")


def prepare(config: Config) -> tuple[PatternSet, np.ndarray]:
    """The set, and values of beta_eff [S]."""
    bounded(1, 100_000, starts=config.starts)
    if not (math.isfinite(config.concentration) and config.concentration > 0):
        raise InputError(f"--concentration must be a number > 0, got {config.concentration}")
    chosen = build(config.source, config.seed, 8)
    widest = (0.8 * theory.spinodal(chosen.count).K, 1.5 * chosen.count)
    return chosen, between(config.low, config.high, widest, config.betas)


def run(config: Config, prepared: tuple[PatternSet, np.ndarray], folder: Path) -> Outcome:
    """Shares of random starts per minimum, and the watershed between a pattern and the centroid."""
    chosen, at = prepared
    memory, betas = chosen.memory(), at / chosen.scale
    starts = basins.hull_starts(memory, config.starts, config.seed, config.concentration)
    reached = [basins.sort(memory, rows) for rows in transition.many(memory, starts, betas)]
    centre = np.repeat(chosen.patterns.mean(axis=0, keepdims=True), len(at), axis=0)
    corner = np.repeat(chosen.patterns[:1], len(at), axis=0)
    edge = basins.watershed(memory, centre, corner, betas)
    unknown = np.full(len(at), np.nan)
    exact = equidistant.watershed(chosen.count, at) if chosen.equidistant else unknown
    shares = [
        [float(b.share[b.owner < 0].sum()) for b in reached],
        [float(b.share[b.owner >= 0].sum()) for b in reached],
        [len(b.unsettled) / config.starts for b in reached],
    ]
    columns = {
        "beta": betas,
        "beta_eff": at,
        **dict(zip(KINDS, shares, strict=True)),
        "minima": [len(b.starts) for b in reached],
        "watershed": edge.position,
        "exact_watershed": exact,
    }
    write_csv(folder / "basins.csv", [columns])
    table = Table.of(
        f"{chosen.name}: shares of {config.starts} starts",
        some(columns, 8),
        {
            "beta_eff": "beta_eff",
            **dict(zip(("undecided", "patterns' own", "no certified minimum"), KINDS, strict=True)),
            "minima found": "minima",
            "watershed": "watershed",
            "exact": "exact_watershed",
        },
    )
    bounds = [float(k) for k in at[edge.unresolved]]
    notes = note("watersheds, values of beta_eff", bounds, ONLY_BOUND)
    for k, b in zip(at, reached, strict=True):
        notes += note(f"starts at beta_eff {k:.4g}", b.unsettled, NO_MINIMUM)
    names = ("share", "low", "high", "owner", "energy")
    minima = [
        {"beta_eff": k} | {name: getattr(b, name) for name in names}
        for k, b in zip(at, reached, strict=True)
    ]
    pictures = [partial(draw, folder, chosen, columns, config.starts)]
    return Outcome({"columns": columns, "minima": minima}, [table], notes, pictures)


def draw(folder: Path, chosen: PatternSet, columns: dict[str, Any], starts: int) -> None:
    """Shares over beta_eff, and the watershed below."""
    at, marks = columns["beta_eff"], marks_of(chosen)
    where = "watershed, from\ncentroid 0 to pattern 1"
    edges = [("watershed, measured", Curve(at, columns["watershed"], "measured", COLOURS[3]))]
    if chosen.equidistant:
        for piece in equidistant.branches(chosen.count, float(at[0]), float(at[-1])):
            if not piece.stable:
                edges.append(("watershed, exact", Curve(piece.K, piece.m, "exact", "#000000")))
    curves.shares(
        at,
        {kind: columns[kind] for kind in KINDS},
        folder / "basins.png",
        marks=marks,
        below=Panel(edges, where, marks=marks, y_limits=(-0.04, 1.04)),
        y_label=f"share of {starts} starts",
        title=title_of("Basins of attraction", chosen),
    )
