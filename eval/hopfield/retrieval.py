"""Retrieval from noisy and masked patterns, against beta_eff; see eval.hopfield."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax.errors import InputError
from dng_jax.jobs.tables import Table, write_csv
from hopfield_jax import theory
from hopfield_jax.analyses import retrieval
from hopfield_jax.plots import curves
from hopfield_jax.plots.curves import COLOURS, Curve, Panel

from .common import Outcome, between
from .options import Retrieval as Config
from .sets import PatternSet, build


def prepare(config: Config) -> tuple[PatternSet, np.ndarray]:
    """The set, and values of beta_eff [S]."""
    chosen = build(config.source, config.seed, 60)
    k_s = theory.spinodal(chosen.count).K
    at = between(config.low, config.high, (0.5 * k_s, 30 * k_s), config.betas)
    if not config.noise and not config.mask:
        raise InputError("name at least one level with --noise or --mask")
    for kind, values in (("noise", config.noise), ("mask", config.mask)):
        for value in values:
            if not (value > 0 and math.isfinite(value) and (kind == "noise" or value <= 1)):
                limits = "> 0" if kind == "noise" else "> 0 and at most 1"
                raise InputError(f"--{kind} must be {limits}, got {value:g}")
    return chosen, at


def run(config: Config, prepared: tuple[PatternSet, np.ndarray], folder: Path) -> Outcome:
    """Patterns found again from noisy and masked ones, over beta_eff."""
    chosen, at = prepared
    records = measured(config, chosen, at)
    fields = ("corruption", "level", "beta_eff", "found", "error", "one_step", "unsettled")
    write_csv(folder / "retrieval.csv", records, fields)
    table = Table.of(
        f"{chosen.name}: best beta_eff for retrieval ({chosen.count} queries per row)",
        records,
        {
            "corruption": "corruption",
            "level": "level",
            "share found, best": lambda r: r["found"].max(),
            "at beta_eff": lambda r: r["beta_eff"][r["found"].argmax()],
            "least error after one update": lambda r: r["one_step"].min(),
            "at beta_eff ": lambda r: r["beta_eff"][r["one_step"].argmin()],
            "1/sigma^2 in beta_eff": "posterior_mean_beta_eff",
        },
    )
    notes = []
    for r in records:
        bad = ", ".join(f"{k:.4g}" for k in at[r["unsettled"] > 0])
        if bad:
            notes.append(
                f"{r['corruption']} {r['level']:g}: queries without a certified minimum at beta_eff"
                f" {bad}; they count as not found"
            )
    pictures = [partial(draw, folder, chosen, records)]
    return Outcome({"records": records, "scale": chosen.scale}, [table], notes, pictures)


def measured(config: Config, chosen: PatternSet, at: np.ndarray) -> list[dict[str, Any]]:
    """One record per corruption and level: curves over beta_eff."""
    memory, x, which = chosen.memory(), chosen.patterns, np.arange(chosen.count)
    levels: dict[retrieval.Corruption, tuple[float, ...]] = {
        "noise": config.noise,
        "mask": config.mask,
    }
    records = []
    for kind, values in levels.items():
        if not values:
            continue
        queries = [retrieval.corrupt(x, which, v, kind, seed=config.seed) for v in values]
        done = retrieval.retrieve(memory, which, np.stack(queries), at / chosen.scale)
        for i, value in enumerate(values):
            record: dict[str, Any] = {"corruption": kind, "level": value, "beta_eff": at}
            record |= {name: values_of[i] for name, values_of in done._asdict().items()}
            matched = retrieval.posterior_mean_beta(x, value) * chosen.scale
            record["posterior_mean_beta_eff"] = matched if kind == "noise" else None
            records.append(record)
    return records


def draw(folder: Path, chosen: PatternSet, records: Sequence[dict[str, Any]]) -> None:
    """Shares found, and errors at the end and after one update."""
    found: dict[str, list[tuple[str, Curve]]] = {"noise": [], "mask": []}
    errors: list[tuple[str, Curve]] = []
    for r in records:
        name, at, own = f"{r['corruption']} {r['level']:g}", r["beta_eff"], found[r["corruption"]]
        if r["corruption"] == "noise":
            ink = COLOURS[len(own) % len(COLOURS)]
            errors.append((name, Curve(at, r["error"], "measured", ink)))
            errors.append((f"{name}, one update", Curve(at, r["one_step"], "dashed", ink)))
        own.append((name, Curve(at, r["found"], "line")))
    marks, unit = {"$K_s$": theory.spinodal(chosen.count).K}, (-0.03, 1.03)
    title = "noise: end, one update (dashed)"
    whose = "as many equidistant patterns get minima of their own"
    panels = [
        Panel(found["noise"], "share found", marks=marks, title="noise", y_limits=unit),
        Panel(found["mask"], "share found", marks=marks, title="masking", y_limits=unit),
        Panel(errors, "relative error", marks=marks, title=title, y_limits=(0, None)),
    ]
    curves.panels(
        [panel for panel in panels if panel.curves],
        folder / "retrieval.png",
        across=True,
        title=f"Retrieval: {chosen.name}; $K_s$: {whose}",
    )
