"""Minima over beta_eff: branches, hysteresis, number of minima, energies; see eval.hopfield."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax.jobs.tables import write_csv
from hopfield_jax import equidistant, theory
from hopfield_jax.analyses import basins, transition
from hopfield_jax.plots import curves
from hopfield_jax.plots.curves import COLOURS, Curve, Panel

from .common import (
    NO_MINIMUM,
    ONLY_BOUND,
    Outcome,
    between,
    marks_of,
    note,
    protocol_table,
    protocols,
    title_of,
)
from .options import Bifurcation as Config
from .sets import PatternSet, build

Columns = dict[str, Any]


def prepare(config: Config) -> tuple[PatternSet, np.ndarray]:
    """The set, and values of beta_eff [S]."""
    chosen = build(config.source, config.seed)
    widest = (0.5 * theory.spinodal(chosen.count).K, 1.6 * chosen.count)
    return chosen, between(config.low, config.high, widest, config.betas)


def run(config: Config, prepared: tuple[PatternSet, np.ndarray], folder: Path) -> Outcome:
    """Branches up and down in beta, counts and energies of minima, critical values."""
    chosen, at = prepared
    memory, x, betas = chosen.memory(), chosen.patterns, at / chosen.scale
    centre = x.mean(axis=0, keepdims=True)
    up, down = transition.loop(memory, centre, x, betas)
    found = transition.many(memory, np.concatenate([x, centre]), betas)
    reached = [basins.sort(memory, rows) for rows in found]
    measured = transition.protocols(memory)

    columns: Columns = {"beta": betas, "beta_eff": at}
    for way, branch in (("up", up), ("down", down)):
        columns |= {f"{key}_{way}": v for key, v in transition.medians(branch).items()}
    columns["minima"] = [len(b.starts) for b in reached]
    columns["energy_gap"] = [transition.energy_gap(s) for s in found]
    write_csv(folder / "branches.csv", [columns])

    notes = note("onsets of patterns", measured.unresolved, ONLY_BOUND)
    for way, branch in (("up", up), ("down", down)):
        lost = [float(k) for k, s in zip(at, branch, strict=True) if not s.minimum.all()]
        notes += note(f"{way} branch, values of beta_eff", lost, NO_MINIMUM)
    rows = [f"start {i} at {k:.4g}" for k, b in zip(at, reached, strict=True) for i in b.unsettled]
    starts = f"starts at the patterns and the centroid (start {chosen.count})"
    notes += note(starts, rows, NO_MINIMUM)
    compared = protocols(chosen, measured)
    results = {
        "protocols": compared,
        "exact": theory.characteristic(chosen.count),
        "measured": measured,
        "scale": chosen.scale,
        "branches": columns,
    }
    pictures = [partial(each, folder, chosen, columns) for each in (draw, draw_orders)]
    return Outcome(results, [protocol_table(chosen, compared)], notes, pictures)


def draw(folder: Path, chosen: PatternSet, columns: Columns) -> None:
    """Overlap, number of minima and energies over beta_eff."""
    at, marks, pink = columns["beta_eff"], marks_of(chosen), COLOURS[3]
    overlaps, counts, gaps = exact_curves(chosen, float(at[0]), float(at[-1]))
    overlaps.append(("up from the centroid", Curve(at, columns["overlap_up"], "measured")))
    overlaps.append(("down from the patterns", Curve(at, columns["overlap_down"], "measured")))
    counts.append(("minima found", Curve(at, columns["minima"], "measured", pink, "s")))
    gaps.append(("minima found", Curve(at, columns["energy_gap"], "measured", pink, "s")))
    numbers = (0.8, 2 * chosen.count)
    curves.panels(
        [
            Panel(overlaps, "overlap $p_1 - p_2$", marks=marks, y_limits=(-0.04, 1.04)),
            Panel(counts, "number of minima", marks=marks, log_y=True, y_limits=numbers),
            Panel(gaps, "energy above\nthe centroid's", marks=marks),
        ],
        folder / "bifurcation.png",
        heights=[1.5, 0.75, 0.75],
        title=title_of("Energy minima over inverse temperature", chosen),
    )


def exact_curves(chosen: PatternSet, low: float, high: float):
    """Overlaps, numbers of minima and energies where they are known: three lists of curves."""
    overlaps: list[tuple[str, Curve]] = []
    counts: list[tuple[str, Curve]] = []
    gaps: list[tuple[str, Curve]] = []
    if not chosen.equidistant:
        return overlaps, counts, gaps
    n, blue = chosen.count, COLOURS[0]
    for piece in equidistant.branches(n, low, high):
        style = "stable" if piece.stable else "unstable"
        overlaps.append((f"exact, {style}", Curve(piece.K, piece.m, style, blue)))
        gaps.append((f"exact, {style}", Curve(piece.K, piece.energy * chosen.scale, style, blue)))
    for style, ends in (("stable", (low, min(n, high))), ("unstable", (max(n, low), high))):
        if ends[0] < ends[1]:
            overlaps.append((f"exact, {style}", Curve(ends, (0, 0), style, blue)))
    fine = np.geomspace(low, high, 2000)
    number = equidistant.number_of_minima(n, fine)
    counts.append(("exact, stable", Curve(fine, number, "stable", blue)))
    return overlaps, counts, gaps


def draw_orders(folder: Path, chosen: PatternSet, columns: Columns) -> None:
    """Order parameters of the two branches over beta_eff."""
    labels = {
        "participation": r"participation $1/\sum p^2$",
        "entropy": "entropy (nats)",
        "top90": "weights that\nsum to .90",
        "rho": r"$\rho(J)$",
    }
    at = columns["beta_eff"]

    def panel(key: str) -> Panel:
        branches = [
            ("up from the centroid", Curve(at, columns[f"{key}_up"])),
            ("down from the patterns", Curve(at, columns[f"{key}_down"])),
        ]
        return Panel(branches, labels[key], marks=marks_of(chosen), y_limits=(0, None))

    curves.panels(
        [panel(key) for key in labels],
        folder / "orders.png",
        heights=[0.75] * 4,
        title=title_of("Order parameters of the two branches", chosen),
    )
