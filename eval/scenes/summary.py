"""From the curves of a study to records and tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from dng_jax.jobs.cells import MARK, interval, number
from dng_jax.jobs.tables import Table
from dng_jax.metrics import share
from dng_jax.metrics.invasiveness import at_equal_removal, mean

from . import plan
from .curves import Found, prior
from .options import Config
from .plan import Curve

CHORD = "+"
FIELDS = (
    "part", "family", "variant", "w", "prior", "tau", "delta", "drift", "scale_max", "steps",
    "calibrated", "scale", "left", "kept", "changed", "distance", "p", "p_left", "p_gone",
    "p_unrelated", "size", "largest",
)  # fmt: skip


def summed(config: Config, found: Mapping[Curve, Found]) -> dict[str, Any]:
    """points: a record of each curve and scale; removal: of each curve and level; fits: of each
    calibrated curve; seen: the figures seen before, where the study has them; seconds: per 1,000
    scenes and 30 steps."""
    points = [r for curve, f in found.items() for r in points_of(curve, f, config)]
    by_name = {curve.name: (curve, f) for curve, f in found.items()}
    removal = [
        {"curve": curve.name, **facts(curve, config), "unguided": float(f.unguided.mean())}
        | dataclasses.asdict(factor)
        for curve, f in found.items()
        for factor in at_equal_removal(
            by_name[curve.reference.name][1].outcomes, f.outcomes, config.levels
        )
        if curve.name != curve.reference.name and curve.scales != plan.DETECTOR
    ]
    return {
        "points": points,
        "removal": removal,
        "fits": [fit_of(curve, f) for curve, f in found.items() if curve.calibrated],
        "seen": seen(config, points),
        "seconds": float(np.median([pace(curve, f) for curve, f in found.items()])),
    }


def facts(curve: Curve, config: Config) -> dict[str, Any]:
    """The numbers of a curve, without its scales."""
    numbers = dataclasses.asdict(curve)
    del numbers["scales"]
    return numbers | {"prior": None if curve.family == "np" else prior(curve, config)}


def points_of(curve: Curve, found: Found, config: Config) -> list[dict[str, Any]]:
    """One record per scale, the unguided scenes before them."""
    n = len(found.unguided)
    start = {"curve": curve.name} | facts(curve, config)
    records = []
    for i, scale in enumerate(found.scales):
        left, changed = share(int(found.left[i].sum()), n), mean(found.changed[i])
        records.append(
            start
            | {
                "scale": float(scale),
                "left": left.value,
                "left_interval": left,
                "kept": float(found.kept[i].mean()),
                "changed": changed.value,
                "changed_interval": changed,
                "distance": float(found.distance[i].mean()),
                "p": average(found.p[i]),
                "p_left": average(found.p[i][found.left[i]]),
                "p_gone": average(found.p[i][~found.left[i]]),
                "p_unrelated": average(found.p_unrelated[i]),
                "size": float(found.size[i].mean()),
                "largest": float(found.size[i].max()),
                "unguided": float(found.unguided.mean()),
            }
        )
    return records


def fit_of(curve: Curve, found: Found) -> dict[str, Any]:
    """What a calibrated tracker was given, and the negative log-likelihoods of the fit (nats)."""
    parts = zip(("knots", "temperature", "offset"), found.profile, strict=True)
    scores = zip(("before", "after", "final"), found.nll, strict=True)
    return (
        {"curve": curve.name}
        | {name: values.tolist() for name, values in parts}
        | {name: float(value) for name, value in scores}
    )


def average(values: np.ndarray) -> float:
    """The mean; NaN of nothing."""
    return float(values.mean()) if len(values) else float("nan")


def seen(config: Config, points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures seen before with those of now; none for other prompts than theirs."""
    usual = Config()
    asked = ("prompt", "related", "unrelated", "cells", "model")
    if any(getattr(config, name) != getattr(usual, name) for name in asked):
        return []
    return [
        point | {"seen_left": left / 100, "seen_changed": changed / 100}
        for (name, scale), (left, changed) in plan.SEEN.items()
        for point in points
        if point["curve"] == name and point["scale"] == scale
    ]


def pace(curve: Curve, found: Found) -> float:
    """Seconds per 1,000 scenes of 30 steps."""
    scenes = 2 * found.left.size
    return float(found.seconds) / scenes * 1000 * 30 / curve.steps


def tables(config: Config, model: str, results: Mapping[str, Any]) -> list[Table]:
    """The tables a person reads."""
    title = f"{model}, '{config.prompt}', n = {config.samples}"
    made = [comparison(config, title, results["removal"])]
    for part in config.parts:
        records = [r for r in results["points"] if r["part"] == part]
        made.append(of_points(config, f"{title}: {part}", records))
    if results["fits"]:
        made.append(of_fits(title, results["fits"]))
    if results["seen"]:
        made.append(of_seen(title, results["seen"]))
    return made


def of_points(config: Config, title: str, records: list[dict[str, Any]]) -> Table:
    """Every scale of every curve."""
    return Table.of(
        title,
        records,
        {
            "rule": "curve",
            "scale": lambda r: f"{r['scale']:g}",
            f"{config.related} left % [95%]": lambda r: percent(r["left_interval"]),
            "prompt kept %": lambda r: number(100 * r["kept"], 1),
            f"changed by {config.unrelated} % [95%]": lambda r: percent(r["changed_interval"]),
            "distance": lambda r: number(r["distance"], 2),
            f"p with {config.related}": lambda r: number(r["p_left"], 3),
            "p without": lambda r: number(r["p_gone"], 3),
            "p unrelated": lambda r: number(r["p_unrelated"], 3),
            "RMS, mean": lambda r: number(r["size"], 2),
            "largest": lambda r: number(r["largest"], 1),
        },
    )


def comparison(config: Config, title: str, removal: list[dict[str, Any]]) -> Table:
    """A row per curve, a column per level: the factor by which it is less invasive."""
    by_curve: dict[str, list[dict[str, Any]]] = {}
    for r in removal:
        by_curve.setdefault(r["curve"], []).append(r)

    def at(i: int):
        return lambda rows: factor(rows[i])

    sparse, chord = (any(r[name] for r in removal) for name in ("sparse", "chord"))
    return Table.of(
        f"{title}: cells changed by {config.unrelated}, np-a / this rule, where so many scenes"
        f" still show {config.related}"
        + f" ({MARK} fewer than 5 scenes)" * sparse
        + f" ({CHORD} read between unguided and the smallest scale: too large)" * chord,
        list(by_curve.values()),  # type: ignore[arg-type]
        {"rule": lambda rows: rows[0]["curve"], "prior": lambda rows: rows[0]["prior"]}
        | {"unguided %": lambda rows: number(100 * rows[0]["unguided"], 1)}
        | {f"{100 * level:g}% [95%]": at(i) for i, level in enumerate(config.levels)},
    )


def of_fits(title: str, fits: list[dict[str, Any]]) -> Table:
    """Temperatures and offsets over log-SNR."""

    def listed(name: str, digits: int):
        return lambda r: " ".join(number(value, digits) for value in r[name])

    return Table.of(
        f"{title}: calibrated trackers, fitted on other unguided scenes (NLL in nats, on these)",
        fits,
        {
            "rule": "curve",
            "NLL before": lambda r: number(r["before"], 3),
            "after": lambda r: number(r["after"], 3),
            "at the end": lambda r: number(r["final"], 3),
            "log-SNR": listed("knots", 1),
            "temperature": listed("temperature", 2),
            "offset": listed("offset", 2),
        },
    )


def of_seen(title: str, records: list[dict[str, Any]]) -> Table:
    """What was seen before beside what is measured."""
    return Table.of(
        f"{title}: figures of n = 512 seen before",
        records,
        {
            "rule": "curve",
            "scale": lambda r: f"{r['scale']:g}",
            "left %, seen": lambda r: number(100 * r["seen_left"], 1),
            "left % [95%]": lambda r: percent(r["left_interval"]),
            "changed %, seen": lambda r: number(100 * r["seen_changed"], 1),
            "changed % [95%]": lambda r: percent(r["changed_interval"]),
        },
    )


def factor(r: Mapping[str, Any]) -> str:
    """The factor with its interval, and what it is of: % changed by np-a, by the rule; nothing
    where a rule does not come to the level."""
    if not r["reached"]:
        return number(float("nan"))
    found = interval(r["factor"], r["low"], r["high"], 1, sparse=r["sparse"])
    if np.isnan(r["low"]):  # resamples do not come to the level
        found = f"{number(r['factor'], 1)} [{number(r['low'])}]"
    mark = CHORD if r["chord"] else ""
    return f"{found}{mark} = {100 * r['reference']:.1f} / {100 * r['other']:.1f}"


def percent(found: Any) -> str:
    """A share with its interval, in per cent."""
    return interval(100 * found.value, 100 * found.low, 100 * found.high, 1)
