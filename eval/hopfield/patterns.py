"""Subcommands about pattern sets of any kind; see eval.hopfield."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import tyro

from dng_jax.errors import InputError, choose
from dng_jax.jobs.tables import Table
from eval.hopfield.sets import (
    ONLY_BOUND,
    PatternSet,
    Precise,
    Source,
    at_least,
    between,
    build,
    note,
    write_csv,
)
from eval.hopfield.transition import Results, marks_of, protocol_table
from hopfield_jax import spectrum, theory
from hopfield_jax.analyses import capacity, landscape, metastable, transition
from hopfield_jax.analyses import retrieval as denoising
from hopfield_jax.plots import curves as plots
from hopfield_jax.plots import figures
from hopfield_jax.plots.curves import Curve, Panel

# ---- retrieval -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Retrieval(Precise):
    """Retrieval from noisy and masked patterns, against beta_eff."""

    default_count: ClassVar[int] = 60
    source: Annotated[Source, tyro.conf.arg(name="")] = field(
        default_factory=lambda: Source("digits")
    )
    noise: tuple[float, ...] = (1.0, 2.0, 3.0)
    """Norms of the noise, relative to the patterns'."""
    mask: tuple[float, ...] = (0.25, 0.5, 0.75)
    """Shares of entries set to 0."""
    betas: int = 20
    low: float | None = None
    """Range of beta_eff; default: from half of K_s to 30 K_s."""
    high: float | None = None


def retrieval(config: Retrieval, chosen: PatternSet, folder: Path) -> Results:
    n, scale, memory, x = len(chosen.patterns), chosen.scale, chosen.memory(), chosen.patterns
    k_s = theory.spinodal(n).K
    at = retrieval_axis(config, chosen)
    which = np.arange(n)
    levels: dict[denoising.Corruption, tuple[float, ...]] = {
        "noise": config.noise,
        "mask": config.mask,
    }
    table = Table(
        f"{chosen.name}: best beta_eff for retrieval ({n} queries a row)",
        ("corruption", "level", "share found, best", "at beta_eff", "least error after one update",
         "at beta_eff", "1/sigma^2 in beta_eff"),
    )  # fmt: skip
    found: dict[str, list[tuple[str, Curve]]] = {"noise": [], "mask": []}
    errors: list[tuple[str, Curve]] = []
    records, notes = [], []
    for kind, values in levels.items():
        if not values:
            continue
        queries = np.stack([denoising.corrupt(x, which, v, kind, seed=config.seed) for v in values])
        done = denoising.retrieve(memory, which, queries, at / scale)
        for i, value in enumerate(values):
            name = f"{kind} {value:g}"
            matched = None
            if kind == "noise":
                matched = denoising.posterior_mean_beta(x, value) * scale
                ink = plots.COLOURS[i % len(plots.COLOURS)]
                errors.append((name, Curve(at, done.error[i], "measured", ink)))
                errors.append((f"{name}, one update", Curve(at, done.one_step[i], "dashed", ink)))
            found[kind].append((name, Curve(at, done.found[i], "line")))
            best, once = int(done.found[i].argmax()), int(done.one_step[i].argmin())
            table.add(kind, value, done.found[i, best], at[best], done.one_step[i, once], at[once],
                      matched)  # fmt: skip
            records.append({"corruption": kind, "level": value, "beta_eff": at,
                            "found": done.found[i], "error": done.error[i],
                            "one_step": done.one_step[i], "unsettled": done.unsettled[i],
                            "posterior_mean_beta_eff": matched})  # fmt: skip
            bad = [f"{k:.4g}" for k in at[done.unsettled[i] > 0]]
            if bad:
                notes.append(f"{name}: queries without a certified minimum at beta_eff "
                             f"{', '.join(bad)}; they count as not found")  # fmt: skip
    write_csv(folder / "retrieval.csv", {
        "corruption": np.repeat([r["corruption"] for r in records], len(at)),
        "level": np.repeat([r["level"] for r in records], len(at)),
    } | {key: np.concatenate([r[key] for r in records])
         for key in ("beta_eff", "found", "error", "one_step", "unsettled")})  # fmt: skip
    marks = {"$K_s$": k_s}
    unit = (-0.03, 1.03)
    shown = [
        Panel(found["noise"], "share found", marks=marks, title="noise", y_limits=unit),
        Panel(found["mask"], "share found", marks=marks, title="masking", y_limits=unit),
        Panel(
            errors,
            "relative error",
            marks=marks,
            title="noise: at the end, and after one update (dashed)",
            y_limits=(0, None),
        ),
    ]
    plots.panels([p for p in shown if p.curves], folder / "retrieval.png", across=True,
                 title=f"Retrieval: {chosen.name}")  # fmt: skip
    return {"records": records, "scale": scale}, [table], notes


def retrieval_axis(config: Retrieval, chosen: PatternSet) -> np.ndarray:
    """Values of beta_eff [S]."""
    k_s = theory.spinodal(len(chosen.patterns)).K
    return between(config.low, config.high, (0.5 * k_s, 30 * k_s), config.betas)


def check_retrieval(config: Retrieval, chosen: PatternSet) -> None:
    """Refuses levels that make no sense, and ranges that are none."""
    retrieval_axis(config, chosen)
    if not config.noise and not config.mask:
        raise InputError("name at least one level with --noise or --mask")
    for kind, values in (("noise", config.noise), ("mask", config.mask)):
        for value in values:
            if not (value > 0 and math.isfinite(value) and (kind == "noise" or value <= 1)):
                limits = "> 0" if kind == "noise" else "> 0 and at most 1"
                raise InputError(f"--{kind} must be {limits}, got {value:g}")


# ---- capacity ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Capacity(Precise):
    """Share of patterns with a minimum of their own; predicted onset against measured."""

    sizes: tuple[str, ...] = ("16x64", "64x64", "64x512")
    """Sets of random unit vectors, as NxD; none to leave them out."""
    patterns: str = "digits"
    """Data set beside them: digits, mnist, another one, or none."""
    images: tuple[int, ...] = (10, 100)
    """Numbers of images in a set."""
    normalise: tuple[str, ...] = ("unit", "centred-unit", "none")
    """Normalisations of the images."""
    energies: tuple[str, ...] = ("dot",)
    """dot, euclidean or both, set beside set."""
    repeats: int = 2
    """Sets of each kind, whose onsets are pooled."""


def capacity_sources(config: Capacity) -> list[tuple[str, list[PatternSet]]]:
    """(name, sets) of all kinds asked for; InputError for what makes none."""
    for name in config.energies:
        choose(name, ("dot", "euclidean"), "energy")
    at_least("repeats", config.repeats, 1)
    kinds: list[tuple[str, Source]] = []
    for size in config.sizes:
        n, x, d = size.partition("x")
        if not (x and n.isdigit() and d.isdigit()):
            raise InputError(f"--sizes are written NxD, such as 64x128, got '{size}'")
        kinds.append((f"random {size}", Source("random", int(n), int(d))))
    if config.patterns != "none":
        for count in config.images:
            for normalise in config.normalise:
                name = f"{config.patterns} {count}, {normalise}"
                choose(normalise, ("none", "unit", "centred-unit"), "normalisation")
                kinds.append((name, Source(config.patterns, count, normalise=normalise)))  # type: ignore[arg-type]
    if not kinds or not config.energies:
        raise InputError("nothing to measure: name --sizes, or --patterns and --images; --energies")
    out = []
    seeds = range(config.seed, config.seed + config.repeats)
    for name, source in kinds:
        for used in config.energies:
            source = dataclasses.replace(source, energy=used)  # type: ignore[arg-type]
            word = "" if used == "dot" else ", euclidean"
            out.append((name + word, [build(source, seed) for seed in seeds]))
    return out


def capacity_(config: Capacity, chosen: list, folder: Path) -> Results:
    table = Table(
        "onset of a pattern's own minimum, in beta_eff",
        ("patterns", "patterns in all", "predicted K_s(N)", "measured median", "10%", "90%",
         "median / K_s", "none from the pattern", "no fixed point as beta -> inf", "only bounded"),
    )  # fmt: skip
    records: list[dict[str, Any]] = []
    notes: list[str] = []
    for name, sets in chosen:
        found = [capacity.measure(made.memory()) for made in sets]
        pooled = found[0]._replace(onset=np.concatenate([f.onset for f in found]))
        low, middle, high = pooled.quantiles()
        biased = float(np.mean([f.biased for f in found]))
        never = float(np.mean(np.isinf(pooled.onset)))
        bounded = sum(len(f.unresolved) for f in found)
        table.add(name, str(len(pooled.onset)), pooled.predicted, middle, low, high,
                  middle / pooled.predicted, f"{100 * never:.1f}%", f"{100 * biased:.1f}%",
                  str(bounded))  # fmt: skip
        records.append({"patterns": name, "onset": pooled.onset, "predicted": pooled.predicted,
                        "median": middle, "low": low, "high": high, "never": never,
                        "biased": biased, "bounded": [f.unresolved for f in found]})  # fmt: skip
        for i, f in enumerate(found):
            notes += note(f"{name}, set {i}, onsets of patterns", f.unresolved, ONLY_BOUND)
    write_csv(folder / "onsets.csv", {
        "patterns": np.concatenate([[r["patterns"]] * len(r["onset"]) for r in records]),
        "onset": np.concatenate([r["onset"] for r in records]),
    })  # fmt: skip
    finite = np.concatenate([r["onset"][np.isfinite(r["onset"])] for r in records])
    if finite.size == 0:
        raise InputError("no pattern has a minimum of its own in any of these sets")
    at = np.geomspace(0.7 * min(r["predicted"] for r in records), 1.1 * finite.max(), 400)
    steps, points = [], []
    for r, (colour, line, marker) in zip(records, looks([r["patterns"] for r in records]),
                                         strict=True):  # fmt: skip
        share = capacity.share(r["onset"], at)
        steps.append((r["patterns"], Curve(at, share, "stable", colour, line=line)))
        if np.isfinite(r["median"]):
            point = Curve([r["predicted"]], [r["median"]], "measured", colour, marker)
            points.append((r["patterns"], point))
    ends = [min(r["predicted"] for r in records) * 0.9, max(r["predicted"] for r in records) * 1.1]
    points.append(("", Curve(ends, ends, "dashed", plots.GREY)))
    plots.panels(
        [
            Panel(steps, "share with a minimum of their own", y_limits=(-0.03, 1.03)),
            Panel(points, r"median onset measured, $\beta_{\mathrm{eff}}$",
                  "predicted: $K_s(N)$", log_x=False, log_y=True),
        ],
        folder / "capacity.png",
        across=True,
        heights=[1.5, 1],
        title="Onset of patterns' own minima: predicted (dashed diagonal) and measured",
    )  # fmt: skip
    return {"records": records}, [table], notes


def looks(names: list[str]):
    """(colour, line, marker) of each set: a colour a kind, a line and a marker a size."""
    kinds = [name.partition(", ")[2] or name.partition(" ")[0] for name in names]
    order = list(dict.fromkeys(kinds))
    for i, kind in enumerate(kinds):
        colour = plots.COLOURS[order.index(kind) % len(plots.COLOURS)]
        size = kinds[:i].count(kind)
        yield colour, plots.LINES[size % len(plots.LINES)], plots.MARKERS[size % 7]


# ---- metastable ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metastable(Precise):
    """Minima of several patterns: exact windows of ultrametric groups, and trees of minima."""

    patterns: tuple[str, ...] = ("ultrametric", "digits")
    """Sets whose trees are drawn."""
    count: int = 40
    """Patterns in each tree (ultrametric: 4 groups of --count / 4)."""
    normalise: str = "centred-unit"
    """Normalisation of images."""
    betas: int = 28
    """Values of beta_eff in a tree."""
    low: float | None = None
    """Range of beta_eff of the trees; default: from 2 to 6 K_s(N)."""
    high: float | None = None


WINDOWS = ((4, 4, 1.0, 0.8, 0.0), (8, 3, 1.0, 0.9, 0.2), (5, 6, 1.0, 0.5, 0.0))


def metastable_sources(config: Metastable) -> list[PatternSet]:
    """The sets to draw; InputError for what makes none."""
    choose(config.normalise, ("none", "unit", "centred-unit"), "normalisation")
    if not config.patterns:
        raise InputError("name at least one set with --patterns")
    made = [build(Source(name, config.count, normalise=config.normalise), config.seed)  # type: ignore[arg-type]
            for name in config.patterns]  # fmt: skip
    for one in made:
        metastable_axis(config, one)
    return made


def metastable_axis(config: Metastable, chosen: PatternSet) -> np.ndarray:
    """Values of beta_eff [S]."""
    k_s = theory.spinodal(len(chosen.patterns)).K
    return between(config.low, config.high, (2, 6 * k_s), config.betas)


def metastable_(config: Metastable, chosen: list[PatternSet], folder: Path) -> Results:
    windows = Table(
        "ultrametric groups: window of beta in which a whole group is a minimum",
        ("groups", "of", "within", "between", "lower, exact", "measured", "upper, exact",
         "measured"),
    )  # fmt: skip
    records: list[dict[str, Any]] = []
    notes: list[str] = []
    for groups, each, norm2, within, outside in WINDOWS:
        source = Source("ultrametric", groups * each, norm=math.sqrt(norm2), groups=groups,
                        within=within, between=outside)  # fmt: skip
        made = build(source)
        exact = theory.ultrametric_window(groups, each, norm2, within, outside)
        found = metastable.group_window(made.memory(), made.labels, math.sqrt(exact[0] * exact[1]))
        low, high = found.low, found.high
        notes += note(f"groups of {made.name}", np.flatnonzero(np.isnan(low)), "no window found")
        notes += note(f"windows of {made.name}", np.flatnonzero(found.unresolved), ONLY_BOUND)
        windows.add(str(groups), str(each), within, outside,
                    *(f"{v:.6g}" for v in (exact[0], low[0], exact[1], high[0])))  # fmt: skip
        records.append({"groups": groups, "per_group": each, "norm2": norm2, "within": within,
                        "between": outside, "exact": exact, "low": low, "high": high})  # fmt: skip
    table = Table(
        "minima reached from the patterns as beta falls",
        ("patterns", "beta_eff", "minima", "largest stands for (participation)"),
    )
    trees = []
    for made in chosen:
        n = len(made.patterns)
        k_s = theory.spinodal(n).K
        at = metastable_axis(config, made)
        grown = metastable.tree(made.memory(), at / made.scale)
        eff = grown.betas * made.scale
        for s in np.unique(np.linspace(0, len(at) - 1, 7).astype(int)):
            table.add(made.name, eff[s], str(grown.number[s]), grown.size[s].max())
        short = made.name.partition(" ")[0].rstrip(",")
        write_csv(folder / f"tree_{short}.csv", {"beta_eff": eff, "minima": grown.number}
                  | {f"pattern_{i}": grown.label[:, i] for i in range(n)})  # fmt: skip
        labels = made.labels
        figures.merge_tree(
            eff, grown.label, grown.order, folder / f"tree_{short}.png",
            names=None if labels is None else [str(c) for c in labels],
            colours=None if labels is None else labels.tolist(), number=grown.number,
            marks={"$K_s(N)$": k_s},
            title=f"Minima merging as beta falls: {made.name}",
        )  # fmt: skip
        trees.append({"patterns": made.name, "beta_eff": eff, "minima": grown.number,
                      "label": grown.label, "participation": grown.size})  # fmt: skip
        if grown.unsettled:
            rows = (f"pattern {i} at beta_eff {eff[s]:.4g}" for s, i in grown.unsettled)
            notes += note(f"tree of {made.name}", rows, "no certified minimum, not counted as one,")
    return {"windows": records, "trees": trees}, [windows, table], notes


# ---- spectrum ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spectrum(Precise):
    """Spectral report of one pattern set: what is predicted before any iteration, and measured."""

    default_count: ClassVar[int] = 60
    source: Annotated[Source, tyro.conf.arg(name="")] = field(
        default_factory=lambda: Source("digits")
    )


def spectrum_(config: Spectrum, chosen: PatternSet, folder: Path) -> Results:
    made = spectrum.report(chosen.patterns, chosen.energy)
    measured = transition.protocols(chosen.memory(), relative=1e-4)
    first = made.first_instability
    assert first is not None
    facts = Table(f"{chosen.name}: spectral report", ("quantity", "value"))
    for name, value in (
        ("mean half squared distance a", made.a),
        ("least, largest distance", f"{made.D_min:.4g}, {made.D_max:.4g}"),
        ("lambda_max(Cov)", made.lambda_max),
        ("effective rank", made.effective_rank),
        ("one attractor for beta_eff below", made.one_attractor * made.a),
        ("branch from the mean ends in a", f"{first.kind} at beta_eff {first.beta * made.a:.4g}"),
        ("1/lambda_max(Cov) in beta_eff", made.a / made.lambda_max),
        ("no fixed point as beta -> infinity", f"{100 * made.norm_bias:.1f}%"),
    ):
        facts.add(name, value)
    table = protocol_table(chosen, measured, first)
    draw_spectrum(folder, chosen, made, measured.each * made.a)
    finite = np.isfinite(measured.each)
    write_csv(folder / "patterns.csv", {
        "pattern": np.arange(made.N),
        "separation": made.separations,
        "onset_beta_eff": np.where(finite, measured.each * made.a, np.inf),
    })  # fmt: skip
    notes = [made.warning] if made.warning else []
    notes += note("onsets of patterns", measured.unresolved, ONLY_BOUND)
    results = {"report": dataclasses.asdict(made), "measured": measured}
    return results, [facts, table], notes


def draw_spectrum(folder: Path, chosen: PatternSet, made, onset: np.ndarray) -> None:
    """Eigenvalues, separations, onsets."""
    values = landscape.variances(chosen.patterns)
    values = values[values > 1e-4]
    rank = np.arange(1, len(values) + 1)
    order = np.arange(1, made.N + 1) / made.N
    k_s, k_c, _ = theory.characteristic(made.N)
    first = made.first_instability.beta * made.a
    finite = onset[np.isfinite(onset)]
    at = np.geomspace(0.8 * min(k_s, first), 1.2 * max(k_c, first, *finite), 400)
    share = capacity.share(onset, at)
    plots.panels(
        [
            Panel([("", Curve(rank, values, "line"))],
                  "share of the variance", "principal axis", log_y=True),
            Panel([("", Curve(np.sort(made.separations) / made.a, order, "stable",
                              plots.COLOURS[1]))],
                  "share of patterns", "separation / a  (below 0: norm bias)",
                  marks={"0": 0.0}, log_x=False),
            Panel([("", Curve(at, share, "stable", plots.COLOURS[2]))],
                  "share with a minimum of their own", plots.BETA_EFF,
                  marks=marks_of(chosen) | {"mean lost": first},
                  y_limits=(-0.03, 1.03)),
        ],
        folder / "spectrum.png",
        across=True,
        title=f"Spectral report: {chosen.name}",
    )  # fmt: skip
