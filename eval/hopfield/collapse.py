"""Sets of several norms, angles and dimensions on one curve in beta_eff; see eval.hopfield."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax.errors import InputError
from dng_jax.jobs.tables import Table, write_csv
from hopfield_jax import equidistant, patterns, theory
from hopfield_jax.analyses import transition
from hopfield_jax.plots import curves
from hopfield_jax.plots.curves import COLOURS, MARKERS, Curve, Panel

from .common import NO_MINIMUM, Outcome, bounded, cell, note
from .options import Collapse as Config
from .sets import PatternSet

SHAPES = (  # norm, angle in degrees (None: a regular simplex), dimension over N
    (1.0, 90.0, 1),
    (2.0, 60.0, 2),
    (0.5, None, 1),
    (3.0, 25.0, 4),
)


def prepare(config: Config) -> tuple[int, ...]:
    """The numbers of patterns."""
    bounded(6, 10_000, betas=config.betas)
    if not config.counts:
        raise InputError("name at least one number of patterns with --counts")
    for count in config.counts:
        bounded(3, 4096, counts=count)
    return config.counts


def run(config: Config, counts: tuple[int, ...], folder: Path) -> Outcome:
    """The weight of a stored pattern in sets of several shapes, over beta_eff."""
    rows = [measured(n, shape, config.betas) for n in counts for shape in SHAPES]
    notes: list[str] = []
    for row in rows:
        lost = [float(k) for k in row["beta_eff"][np.isnan(row["p1"])]]
        notes += note(f"{name_of(row)}, values of beta_eff", lost, NO_MINIMUM)
    fields = ("N", "d", "norm", "angle", "beta", "beta_eff", "p1")
    write_csv(folder / "collapse.csv", rows, fields)
    table = Table.of(
        "weight p_1 of the stored pattern against the exact curve in beta_eff",
        rows,
        {
            "N": "N",
            "d": "d",
            "norm": "norm",
            "angle (degrees)": cell("angle", ".2f"),
            "beta at K_s": "beta_at_K_s",
            "beta_eff at K_s": "K_s",
            "largest error of p_1": cell("error", ".1e"),
        },
    )
    pictures = [partial(draw, folder, counts, rows)]
    return Outcome({"rows": rows}, [table], notes, pictures)


def measured(n: int, shape: tuple[float, float | None, int], betas: int) -> dict[str, Any]:
    """One set, started at one of its patterns at every beta."""
    norm, degrees, times = shape
    angle = math.acos(-1 / (n - 1)) if degrees is None else math.radians(degrees)
    k_s = theory.spinodal(n).K
    # Not at K_s itself, where the iteration takes for ever.
    below, above = np.linspace(0.7, 0.99, betas // 3), np.geomspace(1.002, 2.5, betas - betas // 3)
    at = k_s * np.concatenate([below, above])
    x = patterns.equidistant(n, times * n, norm, angle, 1)
    made = PatternSet("", x, None, "dot", True)
    end = transition.settle(made.memory(), np.tile(x[:1], (len(at), 1)), at / made.scale)
    p = np.where(end.minimum, end.weights[:, 0], np.nan)
    return {
        "N": n,
        "d": times * n,
        "norm": norm,
        "angle": math.degrees(angle),
        "beta": at / made.scale,
        "beta_eff": at,
        "p1": p,
        "beta_at_K_s": k_s / made.scale,
        "K_s": k_s,
        "error": float(np.nanmax(np.abs(p - equidistant.weight(n, at)), initial=0)),
    }


def name_of(row: dict[str, Any]) -> str:
    """A set in a legend: its numbers, the angle in degrees."""
    return f"N={row['N']}, d={row['d']}, M={row['norm']:g}, {row['angle']:.0f}°"


def draw(folder: Path, counts: tuple[int, ...], rows: Sequence[dict[str, Any]]) -> None:
    """The same curves over beta, over beta_eff, and over beta_eff / K_s."""
    raw, scaled, single = [], [], []
    marks: dict[str, float] = {}
    for i, n in enumerate(counts):
        own = rows[i * len(SHAPES) : (i + 1) * len(SHAPES)]
        k_s, k_c, k_n = theory.characteristic(n)
        marks |= {f"$K_s({n})$": k_s, f"$K_c({n})$": k_c, f"$N={n}$": k_n}
        for row, marker in zip(own, MARKERS, strict=False):
            style = ("measured", COLOURS[i % len(COLOURS)], marker)
            at, p, name = row["beta_eff"], row["p1"], name_of(row)
            raw.append((name, Curve(row["beta"], p, *style)))
            scaled.append((name, Curve(at, p, *style)))
            single.append((name, Curve(at / k_s, p, *style)))
        for piece in equidistant.branches(n, float(at[0]), float(at[-1])):
            p1 = equidistant.weight_of(n, piece.m)
            name, kind = ("exact", "exact") if piece.stable else ("exact, unstable", "unstable")
            scaled.append((name, Curve(piece.K, p1, kind, "#000000")))
            single.append((name, Curve(piece.K / k_s, p1, kind, "#000000")))
    weight = "weight $p_1$ of the stored pattern"
    one_curve = r"in $\beta_{\mathrm{eff}}$: one curve for each $N$"
    all_sizes = "all N: one onset, two shapes" if len(counts) == 2 else "all N"
    curves.panels(
        [
            Panel(raw, weight, r"inverse temperature $\beta$", title="as given"),
            Panel(scaled, "", marks=marks, title=one_curve),
            Panel(single, "", r"$\beta_{\mathrm{eff}}\,/\,K_s(N)$", title=all_sizes),
        ],
        folder / "collapse.png",
        across=True,
    )
