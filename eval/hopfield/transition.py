"""Subcommands about the transition itself; see eval.hopfield."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

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
from hopfield_jax import equidistant, patterns, spectrum, theory
from hopfield_jax.analyses import basins as basin
from hopfield_jax.analyses import transition
from hopfield_jax.plots import curves as plots
from hopfield_jax.plots import figures
from hopfield_jax.plots.curves import Curve, Panel

Results = tuple[dict[str, Any], list[Table], list[str]]
NAMES = ("started at the patterns", "lowest energy", "started at the centroid")


# ---- bifurcation ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bifurcation(Precise):
    """Minima over beta_eff: branches, hysteresis loop, number of minima, energies, order."""

    source: Annotated[Source, tyro.conf.arg(name="")] = field(default_factory=Source)
    betas: int = 48
    """Values of beta_eff."""
    low: float | None = None
    """Range of beta_eff; default: from half of K_s to 1.6 N."""
    high: float | None = None


def bifurcation_axis(config: Bifurcation, chosen: PatternSet) -> np.ndarray:
    """Values of beta_eff [S]."""
    n = len(chosen.patterns)
    return between(config.low, config.high, (0.5 * theory.spinodal(n).K, 1.6 * n), config.betas)


def bifurcation(config: Bifurcation, chosen: PatternSet, folder: Path) -> Results:
    n, scale = len(chosen.patterns), chosen.scale
    at = bifurcation_axis(config, chosen)
    memory, x = chosen.memory(), chosen.patterns
    centre = x.mean(axis=0, keepdims=True)
    up, down = transition.loop(memory, centre, x, at / scale)
    found = transition.many(memory, np.concatenate([x, centre]), at / scale)
    sorted_ = [basin.sort(memory, rows) for rows in found]
    measured = transition.protocols(memory)
    columns: dict[str, Any] = {"beta": at / scale, "beta_eff": at}
    for name, branch in (("up", up), ("down", down)):
        columns[f"overlap_{name}"] = medians([transition.overlap(s) for s in branch])
        for key in transition.orders(branch[0]):
            columns[f"{key}_{name}"] = medians([transition.orders(s)[key] for s in branch])
    columns["minima"] = [len(b.starts) for b in sorted_]
    columns["energy_gap"] = [transition.energy_gap(s) for s in found]
    write_csv(folder / "branches.csv", columns)
    draw_bifurcation(folder, chosen, columns)
    draw_orders(folder, chosen, columns)
    notes = note("onsets of patterns", measured.unresolved, ONLY_BOUND)
    for name, branch in (("up", up), ("down", down)):
        lost = [float(k) for k, s in zip(at, branch, strict=True) if not s.minimum.all()]
        notes += note(f"{name} branch, values of beta_eff", lost, NO_MINIMUM)
    rows = [f"start {i} at {k:.4g}" for k, b in zip(at, sorted_, strict=True) for i in b.unsettled]
    notes += note(f"starts at the patterns and the centroid (start {n})", rows, NO_MINIMUM)
    results = {
        "exact": theory.characteristic(n),
        "measured": measured,
        "scale": scale,
        "branches": columns,
    }
    return results, [protocol_table(chosen, measured)], notes


def medians(rows: list[np.ndarray]) -> np.ndarray:
    """Median over the starts that are minima, at each beta; NaN where none is."""
    return np.array([np.median(r[~np.isnan(r)]) if not np.isnan(r).all() else np.nan for r in rows])


def protocol_table(
    chosen: PatternSet, measured: transition.Protocols, first: spectrum.Instability | None = None
) -> Table:
    """What each protocol calls beta_c, in beta_eff; for general sets, the branch from the mean too.

    first: how that branch ends, where it is known already.
    """
    n, scale = len(chosen.patterns), chosen.scale
    table = Table(
        f"{chosen.name}: what each protocol calls the critical beta_eff",
        ("protocol", "exact" if chosen.equidistant else "equidistant prediction", "measured",
         "ratio - 1"),
    )  # fmt: skip
    values = (measured.patterns, measured.energy, measured.centroid)
    names = NAMES if chosen.equidistant else (*NAMES[:2], "last minimum without a leading pattern")
    for name, mark, exact, beta in zip(
        names, ("K_s", "K_c", "N"), theory.characteristic(n), values, strict=True
    ):
        found = beta * scale
        table.add(f"{name} ({mark})", f"{exact:.7g}", f"{found:.7g}", f"{found / exact - 1:.1e}")
    if not chosen.equidistant:
        first = first or spectrum.first_instability(chosen.patterns, chosen.energy)
        table.add(f"branch from the mean: {first.kind}", None, first.beta * scale, None)
    return table


def marks_of(chosen: PatternSet) -> dict[str, float]:
    """The three characteristic values by their names in figures; "?" where they only predict."""
    doubt = "" if chosen.equidistant else "?"
    names = (f"{name}{doubt}" for name in ("$K_s$", "$K_c$", "$N$"))
    return dict(zip(names, theory.characteristic(len(chosen.patterns)), strict=True))


def draw_bifurcation(folder: Path, chosen: PatternSet, columns: dict[str, Any]) -> None:
    """Overlap, number of minima and energies over beta_eff."""
    n, at = len(chosen.patterns), columns["beta_eff"]
    low, high = float(at[0]), float(at[-1])
    blue, pink = plots.COLOURS[0], plots.COLOURS[3]
    overlaps: list[tuple[str, Curve]] = []
    gaps: list[tuple[str, Curve]] = []
    counts: list[tuple[str, Curve]] = []
    if chosen.equidistant:
        for piece in equidistant.branches(n, low, high):
            style = "stable" if piece.stable else "unstable"
            energies = piece.energy * chosen.scale
            overlaps.append((f"exact, {style}", Curve(piece.K, piece.m, style, blue)))
            gaps.append((f"exact, {style}", Curve(piece.K, energies, style, blue)))
        for style, ends in (("stable", (low, min(n, high))), ("unstable", (max(n, low), high))):
            if ends[0] < ends[1]:
                overlaps.append((f"exact, {style}", Curve(ends, (0, 0), style, blue)))
        fine = np.geomspace(low, high, 2000)
        number = equidistant.number_of_minima(n, fine)
        counts.append(("exact, stable", Curve(fine, number, "stable", blue)))
    overlaps.append(("up from the centroid", Curve(at, columns["overlap_up"], "measured")))
    overlaps.append(("down from the patterns", Curve(at, columns["overlap_down"], "measured")))
    counts.append(("minima found", Curve(at, columns["minima"], "measured", pink, "s")))
    gaps.append(("minima found", Curve(at, columns["energy_gap"], "measured", pink, "s")))
    marks = marks_of(chosen)
    plots.panels(
        [
            Panel(overlaps, "overlap $p_1 - p_2$", marks=marks, y_limits=(-0.04, 1.04)),
            Panel(counts, "number of minima", marks=marks, log_y=True, y_limits=(0.8, 2 * n)),
            Panel(gaps, "energy above\nthe centroid's", marks=marks),
        ],
        folder / "bifurcation.png",
        heights=[1.5, 0.75, 0.75],
        title=f"Energy minima over inverse temperature: {chosen.name}",
    )


def draw_orders(folder: Path, chosen: PatternSet, columns: dict[str, Any]) -> None:
    """Order parameters of the two branches over beta_eff."""
    labels = {
        "participation": r"participation $1/\sum p^2$",
        "entropy": "entropy (nats)",
        "top90": "weights that\nsum to .90",
        "rho": r"$\rho(J)$",
    }
    at = columns["beta_eff"]
    plots.panels(
        [
            Panel(
                [
                    ("up from the centroid", Curve(at, columns[f"{key}_up"])),
                    ("down from the patterns", Curve(at, columns[f"{key}_down"])),
                ],
                label,
                marks=marks_of(chosen),
                y_limits=(0, None),
            )
            for key, label in labels.items()
        ],
        folder / "orders.png",
        heights=[0.75] * 4,
        title=f"Order parameters of the two branches: {chosen.name}",
    )


# ---- phase diagram -------------------------------------------------------------------------------


@dataclass(frozen=True)
class PhaseDiagram(Precise):
    """(N, beta_eff) with K_s, K_c, N exact and as each protocol measures them."""

    counts: tuple[int, ...] = (3, 5, 10, 24, 64)
    """Numbers of equidistant patterns."""


def phase_diagram(config: PhaseDiagram, chosen: None, folder: Path) -> Results:
    table = Table(
        "equidistant patterns: exact and measured beta_eff",
        ("N", "K_s", "from the patterns", "K_c", "lowest energy", "N", "from the centroid",
         "largest relative error"),
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for n in sorted(set(config.counts)):
        made = PatternSet(f"N = {n}", patterns.equidistant(n), None, "dot", True)
        found = transition.protocols(made.memory(), most=2)
        exact = theory.characteristic(n)
        measured = [made.scale * b for b in (found.patterns, found.energy, found.centroid)]
        error = max(abs(m / e - 1) for m, e in zip(measured, exact, strict=True))
        rows.append({"N": n, "exact": exact, "measured": measured, "error": error})
        cells = (f"{v:.7g}" for pair in zip(exact, measured, strict=True) for v in pair)
        table.add(str(n), *cells, f"{error:.1e}")
        notes += note(f"{made.name}, onsets of patterns", found.unresolved, ONLY_BOUND)
    sizes = [r["N"] for r in rows]
    columns: dict[str, Any] = {"N": sizes}
    for i, key in enumerate(("K_s", "K_c", "K_N")):
        columns |= {f"{key}_{kind}": [r[kind][i] for r in rows] for kind in ("exact", "measured")}
    write_csv(folder / "phase_diagram.csv", columns)
    fine = np.unique(np.round(np.geomspace(min(sizes), max(sizes), 80)).astype(int))
    lines = np.array([theory.characteristic(int(n)) for n in fine]).T
    names = ("$K_s$: pattern minima appear", "$K_c$: equal energies", "$N$: centroid unstable")
    figures.phase_diagram(
        fine,
        dict(zip(names, lines, strict=True)),
        {
            f"measured, {name}": (sizes, [r["measured"][i] for r in rows])
            for i, name in enumerate(NAMES)
        },
        folder / "phase_diagram.png",
        title="Equidistant patterns: exact lines, measured points",
    )
    return {"rows": rows}, [table], notes


def check_phase_diagram(config: PhaseDiagram) -> None:
    """Refuses sets without a transition to draw."""
    if len(set(config.counts)) < 2:
        raise InputError("a phase diagram needs at least two numbers of patterns in --counts")
    for n in config.counts:
        at_least("counts", n, 3)


# ---- collapse ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Collapse(Precise):
    """Several norms, angles and dimensions fall on one curve in beta_eff, one for each N."""

    counts: tuple[int, ...] = (8, 32)
    """Numbers of equidistant patterns; each is made in four shapes."""
    betas: int = 28
    """Values of beta_eff for each set."""


SHAPES = (  # norm, angle in degrees (None: a regular simplex), dimension over N
    (1.0, 90.0, 1),
    (2.0, 60.0, 2),
    (0.5, None, 1),
    (3.0, 25.0, 4),
)


def collapse(config: Collapse, chosen: None, folder: Path) -> Results:
    table = Table(
        "weight p_1 of the stored pattern against the exact curve in beta_eff",
        ("N", "d", "norm", "angle (degrees)", "beta at K_s", "beta_eff at K_s",
         "largest error of p_1"),
    )  # fmt: skip
    raw, scaled, single = [], [], []
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    marks: dict[str, float] = {}
    for i, n in enumerate(config.counts):
        ink = plots.COLOURS[i % len(plots.COLOURS)]
        k_s, k_c, k_n = theory.characteristic(n)
        # Not at K_s itself, where the iteration takes for ever.
        at = k_s * np.concatenate(
            [np.linspace(0.7, 0.99, config.betas // 3),
             np.geomspace(1.002, 2.5, config.betas - config.betas // 3)]
        )  # fmt: skip
        truth = equidistant.weight(n, at)
        for (norm, degrees, times), marker in zip(SHAPES, plots.MARKERS, strict=False):
            angle = math.acos(-1 / (n - 1)) if degrees is None else math.radians(degrees)
            name = f"N={n}, d={times * n}, M={norm:g}, {math.degrees(angle):.0f}°"
            x = patterns.equidistant(n, times * n, norm, angle, 1)
            made = PatternSet(name, x, None, "dot", True)
            starts = np.tile(x[:1], (len(at), 1))
            end = transition.settle(made.memory(), starts, at / made.scale)
            p = np.where(end.minimum, end.weights[:, 0], np.nan)
            error = float(np.nanmax(np.abs(p - truth), initial=0))
            shape = {"N": n, "d": times * n, "norm": norm, "angle": math.degrees(angle)}
            raw.append((name, Curve(at / made.scale, p, "measured", ink, marker)))
            scaled.append((name, Curve(at, p, "measured", ink, marker)))
            single.append((name, Curve(at / k_s, p, "measured", ink, marker)))
            rows.append(shape | {"beta": at / made.scale, "beta_eff": at, "p1": p, "error": error})
            table.add(str(n), str(times * n), norm, f"{math.degrees(angle):.2f}",
                      k_s / made.scale, k_s, f"{error:.1e}")  # fmt: skip
            lost = [float(k) for k in at[~end.minimum]]
            notes += note(f"{name}, values of beta_eff", lost, NO_MINIMUM)
        for piece in equidistant.branches(n, float(at[0]), float(at[-1])):
            p1 = equidistant.weight_of(n, piece.m)
            style = "exact" if piece.stable else "unstable"
            word = "exact" if piece.stable else "exact, unstable"
            scaled.append((word, Curve(piece.K, p1, style, "#000000")))
            single.append((word, Curve(piece.K / k_s, p1, style, "#000000")))
        marks |= {f"$K_s({n})$": k_s, f"$K_c({n})$": k_c, f"$N={n}$": k_n}
    write_csv(folder / "collapse.csv", {
        key: np.concatenate([np.broadcast_to(r[key], len(r["beta"])) for r in rows])
        for key in ("N", "d", "norm", "angle", "beta", "beta_eff", "p1")
    })  # fmt: skip
    plots.panels(
        [
            Panel(
                raw,
                "weight $p_1$ of the stored pattern",
                r"inverse temperature $\beta$",
                title="as given",
            ),
            Panel(
                scaled,
                "",
                marks=marks,
                title=r"in $\beta_{\mathrm{eff}}$: one curve for each $N$",
            ),
            Panel(
                single,
                "",
                r"$\beta_{\mathrm{eff}}\,/\,K_s(N)$",
                title="all N: one onset, two shapes" if len(config.counts) == 2 else "all N",
            ),
        ],
        folder / "collapse.png",
        across=True,
    )
    return {"rows": rows}, [table], notes


def check_collapse(config: Collapse) -> None:
    """Refuses sets that are none."""
    at_least("betas", config.betas, 6)
    if not config.counts:
        raise InputError("name at least one number of patterns with --counts")
    for n in config.counts:
        at_least("counts", n, 3)
