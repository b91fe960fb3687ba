"""Minima of several patterns: windows of ultrametric groups, trees of minima; see eval.hopfield."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax.errors import InputError, choose
from dng_jax.jobs.tables import Table, write_csv
from hopfield_jax import theory
from hopfield_jax.analyses import metastable
from hopfield_jax.plots import figures

from .common import ONLY_BOUND, Outcome, between, cell, note, plain, some
from .options import Metastable as Config
from .options import Source
from .sets import MADE, PatternSet, build

WINDOWS = (  # groups, patterns of each, norm^2, inner products within and between groups
    (4, 4, 1.0, 0.8, 0.0),
    (8, 3, 1.0, 0.9, 0.2),
    (5, 6, 1.0, 0.5, 0.0),
)


def prepare(config: Config) -> list[tuple[PatternSet, np.ndarray]]:
    """The sets to draw, each with its values of beta_eff [S]; InputError for what makes none."""
    choose(config.normalise, ("none", "unit", "centred-unit"), "normalisation")
    if not config.patterns:
        raise InputError("name at least one set with --patterns")
    out = []
    for name in config.patterns:
        normalise = None if name in MADE else config.normalise
        source = Source(name, config.count, normalise=normalise)  # type: ignore[arg-type]
        made = build(source, config.seed)
        k_s = theory.spinodal(made.count).K
        out.append((made, between(config.low, config.high, (2, 6 * k_s), config.betas)))
    return out


def run(config: Config, prepared: list[tuple[PatternSet, np.ndarray]], folder: Path) -> Outcome:
    """Windows in which a group is a minimum, and how minima merge as beta falls."""
    windows, notes = [], []
    for shape in WINDOWS:
        record, said = window(*shape)
        windows.append(record)
        notes += said
    left = Table.of(
        "ultrametric groups: window of beta in which a whole group is a minimum",
        windows,
        {
            "groups": lambda r: str(r["groups"]),
            "of": lambda r: str(r["per_group"]),
            "within": "within",
            "between": "between",
            "lower, exact": lambda r: f"{r['exact'][0]:.6g}",
            "measured": lambda r: f"{r['low'][0]:.6g}",
            "upper, exact": lambda r: f"{r['exact'][1]:.6g}",
            "measured ": lambda r: f"{r['high'][0]:.6g}",
        },
    )
    trees, chosen, pictures = [], [], []
    for made, at in prepared:
        record, said, picture = tree(made, at, folder)
        trees.append(record)
        pictures.append(picture)
        notes += said
        shown = {"beta_eff": record["beta_eff"], "minima": record["minima"]}
        shown["largest"] = record["participation"].max(axis=1)
        chosen += [{"patterns": made.name} | row for row in some(shown, 7)]
    right = Table.of(
        "minima reached from the patterns as beta falls",
        chosen,
        {
            "patterns": "patterns",
            "beta_eff": "beta_eff",
            "minima": "minima",
            "largest stands for (participation)": cell("largest", ".4g"),
        },
    )
    return Outcome({"windows": windows, "trees": trees}, [left, right], notes, pictures)


def window(
    groups: int, each: int, norm2: float, within: float, between: float
) -> tuple[dict[str, Any], list[str]]:
    """Exact and measured window of one ultrametric set, as a record, and notes."""
    norm = math.sqrt(norm2)
    source = Source("ultrametric", groups * each, None, norm, 90.0, groups, within, between)
    made = build(source)
    exact = theory.ultrametric_window(groups, each, norm2, within, between)
    found = metastable.group_window(made.memory(), made.labels, math.sqrt(exact[0] * exact[1]))
    lost, bounds = np.flatnonzero(np.isnan(found.low)), np.flatnonzero(found.unresolved)
    record = {
        "groups": groups,
        "per_group": each,
        "norm2": norm2,
        "within": within,
        "between": between,
        "exact": exact,
        "low": found.low,
        "high": found.high,
    }
    notes = note(f"groups of {made.name}", lost, "no window found")
    return record, notes + note(f"windows of {made.name}", bounds, ONLY_BOUND)


def tree(
    made: PatternSet, at: np.ndarray, folder: Path
) -> tuple[dict[str, Any], list[str], Callable[[], object]]:
    """One tree, written: its record, notes, and what draws it."""
    grown = metastable.tree(made.memory(), at / made.scale)
    eff = grown.betas * made.scale
    short = made.name.partition(" ")[0].rstrip(",")
    leaves = {f"pattern_{i}": grown.label[:, i] for i in range(made.count)}
    columns = {"beta_eff": eff, "minima": grown.number} | leaves
    write_csv(folder / f"tree_{short}.csv", [columns])
    labels = made.labels
    picture = partial(
        figures.merge_tree,
        eff,
        grown.label,
        grown.order,
        folder / f"tree_{short}.png",
        names=None if labels is None else [str(c) for c in labels],
        colours=None if labels is None else labels.tolist(),
        number=grown.number,
        marks={f"$K_s$ of {made.count} equidistant": theory.spinodal(made.count).K},
        title=f"Minima merging as beta falls: {plain(made.name)}",
    )
    record = {
        "patterns": made.name,
        "beta_eff": eff,
        "minima": grown.number,
        "label": grown.label,
        "participation": grown.size,
    }
    rows = (f"pattern {i} at beta_eff {eff[s]:.4g}" for s, i in grown.unsettled)
    lost = "no certified minimum, not counted as one,"
    return record, note(f"tree of {made.name}", rows, lost), picture
