"""Share of patterns with a minimum of their own, predicted and measured; see eval.hopfield."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax.errors import InputError, choose
from dng_jax.jobs.options import shown
from dng_jax.jobs.tables import Table, write_csv
from hopfield_jax.analyses import capacity
from hopfield_jax.plots import curves
from hopfield_jax.plots.curves import COLOURS, GREY, LINES, MARKERS, Curve, Panel

from .common import ONLY_BOUND, Outcome, bounded, cell, note
from .options import Capacity as Config
from .options import Source
from .sets import PatternSet, build

Sets = list[tuple[str, list[PatternSet]]]


def prepare(config: Config) -> Sets:
    """(name, sets) of all kinds asked for; InputError for what makes none."""
    for name in config.energies:
        choose(name, ("dot", "euclidean"), "energy")
    bounded(1, 1000, repeats=config.repeats)
    kinds = sources(config)
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


def sources(config: Config) -> list[tuple[str, Source]]:
    """Names and options of the kinds of sets."""
    kinds: list[tuple[str, Source]] = []
    for size in config.sizes:
        n, x, d = size.partition("x")
        if not (x and n.isdigit() and d.isdigit()):
            raise InputError(f"--sizes are written NxD, such as 64x128, got '{size}'")
        kinds.append((f"random {size}", Source("random", int(n), int(d))))
    if config.patterns != "none":
        for count in config.images:
            for normalise in config.normalise:
                name = f"{shown(config.patterns)} {count}, {normalise}"
                choose(normalise, ("none", "unit", "centred-unit"), "normalisation")
                kinds.append((name, Source(config.patterns, count, normalise=normalise)))  # type: ignore[arg-type]
    return kinds


def run(config: Config, prepared: Sets, folder: Path) -> Outcome:
    """Onsets of the minima of single patterns, predicted and measured."""
    records: list[dict[str, Any]] = []
    notes: list[str] = []
    for name, sets in prepared:
        found = [capacity.measure(made.memory()) for made in sets]
        pooled = found[0]._replace(onset=np.concatenate([f.onset for f in found]))
        low, middle, high = pooled.quantiles()
        record = {
            "patterns": name,
            "onset": pooled.onset,
            "predicted": pooled.predicted,
            "median": middle,
            "low": low,
            "high": high,
            "never": float(np.mean(np.isinf(pooled.onset))),
            "biased": float(np.mean([f.biased for f in found])),
            "bounded": [f.unresolved for f in found],
        }
        records.append(record)
        for i, f in enumerate(found):
            notes += note(f"{name}, set {i}, onsets of patterns", f.unresolved, ONLY_BOUND)
    write_csv(folder / "onsets.csv", records, ("patterns", "onset"))
    if not any(np.isfinite(r["onset"]).any() for r in records):
        raise InputError("no pattern has a minimum of its own in any of these sets")
    table = Table.of(
        "onset of a pattern's own minimum, in beta_eff",
        records,
        {
            "patterns": "patterns",
            "patterns in all": lambda r: str(len(r["onset"])),
            "predicted K_s(N)": "predicted",
            "measured median": "median",
            "10%": "low",
            "90%": "high",
            "median / K_s": lambda r: r["median"] / r["predicted"],
            "none from the pattern": cell("never", ".1%"),
            "no fixed point as beta -> inf": cell("biased", ".1%"),
            "only bounded": lambda r: str(sum(map(len, r["bounded"]))),
        },
    )
    pictures = [partial(draw, folder, records)]
    return Outcome({"records": records}, [table], notes, pictures)


def draw(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """Shares over beta_eff, and median onsets over predictions."""
    finite = np.concatenate([r["onset"][np.isfinite(r["onset"])] for r in records])
    predicted = [r["predicted"] for r in records]
    at = np.geomspace(0.7 * min(predicted), 1.1 * finite.max(), 400)
    steps, points = [], []
    looks = looks_of([r["patterns"] for r in records])
    for r, (colour, line, marker) in zip(records, looks, strict=True):
        share = capacity.share(r["onset"], at)
        steps.append((r["patterns"], Curve(at, share, "stable", colour, line=line)))
        if np.isfinite(r["median"]):
            point = Curve([r["predicted"]], [r["median"]], "measured", colour, marker)
            points.append((r["patterns"], point))
    ends = [min(predicted) * 0.9, max(predicted) * 1.1]
    points.append(("", Curve(ends, ends, "dashed", GREY)))
    median = r"median onset measured, $\beta_{\mathrm{eff}}$"
    curves.panels(
        [
            Panel(steps, "share with a minimum of their own", y_limits=(-0.03, 1.03)),
            Panel(points, median, "predicted: $K_s(N)$", log_x=False, log_y=True),
        ],
        folder / "capacity.png",
        across=True,
        heights=[1.5, 1],
        title="Onset of patterns' own minima: predicted (dashed diagonal) and measured",
    )


def looks_of(names: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """(colour, line, marker) of each set: one colour per kind, one line and marker per size."""
    kinds = [name.partition(", ")[2] or name.partition(" ")[0] for name in names]
    order = list(dict.fromkeys(kinds))
    for i, kind in enumerate(kinds):
        size = kinds[:i].count(kind)
        colour = COLOURS[order.index(kind) % len(COLOURS)]
        yield colour, LINES[size % len(LINES)], MARKERS[size % len(MARKERS)]
