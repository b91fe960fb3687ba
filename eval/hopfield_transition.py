"""Subcommands about the transition itself; see eval.hopfield."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from dng_jax.errors import InputError
from eval import runs
from eval.hopfield_sets import (
    Common,
    PatternSet,
    Source,
    at_least,
    between,
    unsettled_note,
    write_csv,
)
from hopfield_jax import basins as basin
from hopfield_jax import energy, landscape, patterns, plots, theory, transition
from hopfield_jax.plots import Curve, Panel

Results = tuple[dict[str, Any], list[runs.Table], list[str]]
NAMES = ("started at the patterns", "lowest energy", "started at the centroid")
MARKS = ("$K_s$", "$K_c$", "$N$")


# ---- bifurcation ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bifurcation(Common):
    """Minima over beta_eff: branches, hysteresis loop, number of minima, energies."""

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
    exact = theory.characteristic(n)
    equidistant = config.source.patterns == "equidistant"
    at = bifurcation_axis(config, chosen)
    memory, x = chosen.memory(), chosen.patterns
    centre = x.mean(axis=0, keepdims=True)
    up, down = transition.loop(memory, centre, x, at / scale)
    found = transition.many(memory, np.concatenate([x, centre]), at / scale)
    sorted_ = [basin.sort(memory, rows) for rows in found]
    measured = transition.protocols(memory)

    overlap = {
        "up": np.array([transition.overlap(s) for s in up])[:, 0],
        "down": np.nanmedian([transition.overlap(s) for s in down], axis=1),
    }
    number = [len(b.count) for b in sorted_]
    gap = [transition.energy_gap(s) for s in found]
    columns = {
        "beta": at / scale,
        "beta_eff": at,
        "overlap_up": overlap["up"],
        "overlap_down": overlap["down"],
        "minima": number,
        "energy_gap": gap,
    }
    write_csv(folder / "branches.csv", columns)
    draw_bifurcation(folder, chosen, config, at, overlap, number, gap, equidistant)
    table = protocol_table(chosen.name, measured, scale, n, equidistant)
    lost = sorted({int(i) for b in sorted_ for i in b.unsettled})
    notes = [unsettled_note("starts (the last is the centroid)", lost)]
    results = {"exact": exact, "measured": measured, "scale": scale, "branches": columns}
    return results, [table], [note for note in notes if note]


def protocol_table(
    name: str, measured: transition.Protocols, scale: float, n: int, equidistant: bool
) -> runs.Table:
    """What each protocol calls beta_c, in beta_eff."""
    table = runs.Table(
        f"{name}: what each protocol calls the critical beta_eff",
        ("protocol", "exact" if equidistant else "equidistant prediction", "measured", "ratio - 1"),
    )
    values = (measured.patterns, measured.energy, measured.centroid)
    for protocol, mark, exact, beta in zip(
        NAMES, ("K_s", "K_c", "N"), theory.characteristic(n), values, strict=True
    ):
        found = beta * scale
        table.add(
            f"{protocol} ({mark})", f"{exact:.7g}", f"{found:.7g}", f"{found / exact - 1:.1e}"
        )
    return table


def marks_of(n: int) -> dict[str, float]:
    """The three characteristic values, by the names they have in figures."""
    return dict(zip(MARKS, theory.characteristic(n), strict=True))


def draw_bifurcation(
    folder: Path,
    chosen: PatternSet,
    config: Bifurcation,
    at: np.ndarray,
    overlap: dict[str, np.ndarray],
    number: list[int],
    gap: list[float],
    equidistant: bool,
) -> None:
    """Three panels over beta_eff."""
    n = len(chosen.patterns)
    curves: list[tuple[str, Curve]] = []
    gaps: list[tuple[str, Curve]] = []
    counts: list[tuple[str, Curve]] = []
    if equidistant:
        blue = plots.COLOURS[0]
        for name, style, k, m in exact_branches(n, at):
            curves.append((name, Curve(k, m, style, blue)))
        low, high = at[0], at[-1]
        curves.append(("", Curve([low, min(n, high)], [0, 0], "stable", blue)))
        curves.append(("", Curve([min(n, high), high], [0, 0], "unstable", blue)))
        u = np.linspace(theory.spinodal_u(n), theory.branch(n, 1, high)[-1], 200)
        k = theory.k_of_u(u, 1, n)
        inside = k <= n
        above = theory.energy_above_centroid(u, 1, n) * chosen.scale
        gaps.append(("exact, stable", Curve(k[inside], above[inside], "stable", blue)))
        steps = np.array([low, *np.repeat(theory.characteristic(n)[::2], 2), high])
        counts.append(("exact, stable", Curve(steps, [1, 1, n + 1, n + 1, n, n], "stable", blue)))
    curves.append(("up from the centroid", Curve(at, overlap["up"], "measured")))
    curves.append(("down from the patterns", Curve(at, overlap["down"], "measured")))
    found = "minima found"
    counts.append((found, Curve(at, number, "measured", plots.COLOURS[3])))
    gaps.append((found, Curve(at, gap, "measured", plots.COLOURS[3])))
    plots.panels(
        [
            Panel(curves, "overlap $p_1 - p_2$", marks=marks_of(n), y_limits=(-0.04, 1.04)),
            Panel(counts, "number of minima", marks=marks_of(n), log_y=True, y_limits=(0.8, 2 * n)),
            Panel(gaps, "energy, pattern\nless centroid", marks=marks_of(n)),
        ],
        folder / "bifurcation.png",
        heights=[1.5, 0.75, 0.75],
        title=f"Energy minima over inverse temperature: {chosen.name}",
    )


def exact_branches(n: int, at: np.ndarray):
    """(name, style, K, m) of the k = 1 branches within the range of `at`."""
    start = theory.spinodal_u(n)
    end = theory.branch(n, 1, at[-1])[-1]
    upper = np.linspace(start, end, 200)
    yield "exact, stable", "stable", theory.k_of_u(upper, 1, n), theory.m_of_u(upper, 1, n)
    if start > 0:
        lower = np.linspace(1e-9, start, 200)
        yield "exact, unstable", "unstable", theory.k_of_u(lower, 1, n), theory.m_of_u(lower, 1, n)


# ---- phase diagram -------------------------------------------------------------------------------


@dataclass(frozen=True)
class PhaseDiagram(Common):
    """(N, beta_eff) with K_s, K_c, N exact and as each protocol measures them."""

    counts: tuple[int, ...] = (3, 5, 10, 24, 64)
    """Numbers of equidistant patterns."""


def phase_diagram(config: PhaseDiagram, chosen: None, folder: Path) -> Results:
    table = runs.Table(
        "equidistant patterns: exact and measured beta_eff",
        ("N", "K_s", "from the patterns", "K_c", "lowest energy", "N", "from the centroid",
         "largest relative error"),
    )  # fmt: skip
    rows = []
    for n in sorted(set(config.counts)):
        made = PatternSet("", patterns.equidistant(n), None, "dot")
        found = transition.protocols(made.memory(), most=2)
        exact = theory.characteristic(n)
        measured = [made.scale * b for b in (found.patterns, found.energy, found.centroid)]
        error = max(abs(m / e - 1) for m, e in zip(measured, exact, strict=True))
        rows.append({"N": n, "exact": exact, "measured": measured, "error": error})
        cells = (f"{v:.7g}" for pair in zip(exact, measured, strict=True) for v in pair)
        table.add(str(n), *cells, f"{error:.1e}")
    sizes = [r["N"] for r in rows]
    write_csv(
        folder / "phase_diagram.csv",
        {"N": sizes}
        | {f"{k}_exact": [r["exact"][i] for r in rows] for i, k in enumerate(("K_s", "K_c", "K_N"))}  # type: ignore[index]
        | {f"{k}_measured": [r["measured"][i] for r in rows]  # type: ignore[index]
           for i, k in enumerate(("K_s", "K_c", "K_N"))},
    )  # fmt: skip
    fine = np.unique(np.round(np.geomspace(min(sizes), max(sizes), 80)).astype(int))  # type: ignore[call-overload, type-var]
    exact_lines = np.array([theory.characteristic(int(n)) for n in fine]).T
    names = ("$K_s$: pattern minima appear", "$K_c$: equal energies", "$N$: centroid unstable")
    plots.phase_diagram(
        fine,
        dict(zip(names, exact_lines, strict=True)),
        {
            f"measured, {name}": (sizes, [r["measured"][i] for r in rows])  # type: ignore[index]
            for i, name in enumerate(NAMES)
        },
        folder / "phase_diagram.png",
        title="Equidistant patterns: exact lines, measured points",
    )
    return {"rows": rows}, [table], []


def check_phase_diagram(config: PhaseDiagram) -> None:
    """Refuses sets without a transition to draw."""
    if len(set(config.counts)) < 2:
        raise InputError("a phase diagram needs at least two numbers of patterns in --counts")
    for n in config.counts:
        at_least("counts", n, 3)


# ---- collapse ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Collapse(Common):
    """Several norms, angles, N and d fall on one curve in beta_eff."""

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
    table = runs.Table(
        "weight p_1 of the stored pattern against the exact curve in beta_eff",
        ("N", "d", "norm", "angle (degrees)", "beta at K_s", "beta_eff at K_s",
         "largest error of p_1", "not certified"),
    )  # fmt: skip
    raw, scaled, universal = [], [], []
    rows: list[dict[str, Any]] = []
    for i, n in enumerate(config.counts):
        ink = plots.COLOURS[i % len(plots.COLOURS)]
        k_s = theory.spinodal(n).K
        # Not at K_s itself, where the iteration takes for ever.
        at = k_s * np.concatenate(
            [np.linspace(0.7, 0.99, config.betas // 3),
             np.geomspace(1.002, 2.5, config.betas - config.betas // 3)]
        )  # fmt: skip
        truth = np.array([exact_weight(n, k) for k in at])
        for (norm, degrees, times), marker in zip(SHAPES, plots.MARKERS, strict=False):
            angle = math.acos(-1 / (n - 1)) if degrees is None else math.radians(degrees)
            made = PatternSet("", patterns.equidistant(n, times * n, norm, angle, 1), None, "dot")
            starts = np.tile(made.patterns[:1], (len(at), 1))
            end = transition.settle(made.memory(), starts, at / made.scale)
            p = np.where(end.minimum, end.weights[:, 0], np.nan)
            error = float(np.nanmax(np.abs(p - truth)))
            shape = {"N": n, "d": times * n, "norm": norm, "angle": math.degrees(angle)}
            name = f"N={n}, d={times * n}, M={norm:g}, {math.degrees(angle):.0f}°"
            raw.append((name, Curve(at / made.scale, p, "measured", ink, marker)))
            scaled.append((name, Curve(at, p, "measured", ink, marker)))
            held = (at > k_s) & end.minimum
            m = (n * p - 1) / (n - 1)
            universal.append(
                (name, Curve((at * m)[held] - math.log(n - 1), p[held], "measured", ink, marker))
            )
            rows.append(shape | {"beta": at / made.scale, "beta_eff": at, "p1": p, "error": error})
            table.add(
                str(n), str(times * n), norm, f"{math.degrees(angle):.2f}", k_s / made.scale,
                k_s, f"{error:.1e}", str(int((~end.minimum).sum())),
            )  # fmt: skip
        line = np.append(at, theory.k_of_u(np.linspace(theory.spinodal_u(n), 12, 300), 1, n))
        line = np.sort(line[line <= at[-1]])
        weight = [exact_weight(n, k) if k > k_s else math.nan for k in line]
        scaled.append(("exact", Curve(line, weight, "exact", "#000000")))
    logit = np.linspace(0, 12, 200)
    universal.append(("exact", Curve(logit, 1 / (1 + np.exp(-logit)), "exact", "#000000")))
    write_csv(folder / "collapse.csv", {
        key: np.concatenate([np.broadcast_to(r[key], len(r["beta"])) for r in rows])
        for key in ("N", "d", "norm", "angle", "beta", "beta_eff", "p1")
    })  # fmt: skip
    weight_label = "weight $p_1$ of the stored pattern"
    plots.panels(
        [
            Panel(raw, weight_label, r"inverse temperature $\beta$", title="as given"),
            Panel(scaled, "", title=r"in $\beta_{\mathrm{eff}}$: one curve for each $N$"),
            Panel(universal, "", r"$\beta_{\mathrm{eff}}\,(p_1 - p_2) - \log(N-1)$", log_x=False,
                  title="all N: the logistic function"),
        ],
        folder / "collapse.png",
        across=True,
    )  # fmt: skip
    return {"rows": rows}, [table], []


def check_collapse(config: Collapse) -> None:
    """Refuses sets that are none."""
    at_least("betas", config.betas, 6)
    if not config.counts:
        raise InputError("name at least one number of patterns with --counts")
    for n in config.counts:
        at_least("counts", n, 3)


def exact_weight(n: int, k: float) -> float:
    """p_1 of the pattern's minimum, or 1/N where there is none."""
    found = theory.branch(n, 1, k)
    return float(theory.weights_of_u(found[-1], 1, n)[0]) if found else 1 / n


# ---- basins --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Basins(Common):
    """Basin volumes over beta_eff, and the watershed between centroid and pattern."""

    source: Annotated[Source, tyro.conf.arg(name="")] = field(
        default_factory=lambda: Source(count=8)
    )
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
    exact = theory.characteristic(n)
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
    curves = [("watershed, measured", Curve(at, edge, "measured", plots.COLOURS[3]))]
    truth = None
    if config.source.patterns == "equidistant":
        truth = np.array([saddle(n, k) for k in at])
        fine = np.geomspace(exact.K_s * (1 + 1e-9), n * (1 - 1e-9), 300)
        line = [saddle(n, k) for k in fine]
        curves.append(("watershed, exact", Curve(fine, line, "exact", "#000000")))
    table = runs.Table(
        f"{chosen.name}: shares of {config.starts} starts",
        ("beta_eff", "undecided", "patterns' own", "no certified minimum", "minima found",
         "watershed", "exact"),
    )  # fmt: skip
    for s in np.unique(np.linspace(0, len(at) - 1, 8).astype(int)):
        table.add(
            at[s], *(values[s] for values in kinds.values()), str(len(sorted_[s].count)), edge[s],
            None if truth is None else truth[s],
        )  # fmt: skip
    columns = {"beta": at / scale, "beta_eff": at, **kinds, "watershed": edge}
    write_csv(folder / "basins.csv", columns)
    plots.shares(
        at,
        kinds,
        folder / "basins.png",
        marks=marks_of(n),
        below=Panel(curves, "centroid 0, pattern 1", marks=marks_of(n), y_limits=(-0.04, 1.04)),
        y_label=f"share of {config.starts} starts",
        title=f"Basins of attraction: {chosen.name}",
    )
    notes = [unsettled_note(f"starts at beta_eff {k:.4g}", b.unsettled)
             for k, b in zip(at, sorted_, strict=True)]  # fmt: skip
    results = {
        "columns": columns,
        "exact_watershed": truth,
        "minima": [{"beta_eff": k, "share": b.share, "low": b.low, "high": b.high,
                    "owner": b.owner, "energy": b.energy}
                   for k, b in zip(at, sorted_, strict=True)],
    }  # fmt: skip
    return results, [table], [note for note in notes if note]


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


def saddle(n: int, k: float) -> float:
    """m of the unstable branch at K: 1 below K_s, all of it the centroid's; NaN from N on."""
    found = theory.branch(n, 1, k)
    if not found:
        return 1.0
    return float(theory.m_of_u(found[0], 1, n)) if k < n else math.nan


# ---- landscape -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Landscape(Common):
    """Energy along the line from the centroid to a pattern, and on a plane."""

    source: Annotated[Source, tyro.conf.arg(name="")] = field(
        default_factory=lambda: Source(count=8)
    )
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
    found = [basin.sort(memory, rows) for rows in transition.many(memory, starts, at / scale)]
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
    plots.landscape(
        Panel(curves, r"energy above the centroid's / $\frac{1}{2}D^2$",
              "position from the centroid (0) to a pattern (1)", log_x=False),
        list(zip(titles, maps, strict=True)),
        u,
        v,
        marks,
        folder / "landscape.png",
        title=f"Energy landscape: {chosen.name}",
    )  # fmt: skip
    table = runs.Table(
        f"{chosen.name}: minima from the patterns and the centroid",
        ("beta_eff", "own minima of patterns", "undecided minima",
         "pattern's energy less the centroid's"),
    )  # fmt: skip
    for k, b in zip(at, found, strict=True):
        own, other = b.energy[b.owner >= 0], b.energy[b.owner < 0]
        gap = float(np.median(own) - other.min()) if len(own) and len(other) else None
        table.add(k, str(len(own)), str(len(other)), gap)
    write_csv(folder / "line.csv", {"position": s}
              | {f"beta_eff {k:.6g}": line for k, line in zip(at, lines, strict=True)})  # fmt: skip
    notes = [unsettled_note(f"starts at beta_eff {k:.4g}", b.unsettled)
             for k, b in zip(at, found, strict=True)]  # fmt: skip
    results = {"beta_eff": at, "minima": [len(b.count) for b in found],
               "energy": [b.energy for b in found]}  # fmt: skip
    return results, [table], [note for note in notes if note]
