"""The tables of a study, from the records that results.json holds.

A point is one rule at one setting: `point(curve, i)`, the curve's numbers there under their names.
A pair compares a baseline (rule) with a tracker (reference): dng_jax.metrics.tradeoff.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dng_jax.experiments import rule_specs
from dng_jax.jobs import cells
from dng_jax.jobs.tables import Table
from dng_jax.metrics import tradeoff

LEVELS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02)
NUMBERS = ("leak", "leak_low", "leak_high", "kl", "kl_low", "kl_high", "reversed",
           "sparse", "frechet", "frechet_low", "frechet_high")  # fmt: skip

Record = Mapping[str, Any]


def point(c: tradeoff.Curve, i: int) -> dict[str, Any]:
    """A curve's numbers at its i-th setting."""
    return {name: getattr(c, name)[i] for name in NUMBERS}


def percent(r: Record, name: str = "leak") -> str:
    """A share in per cent with its bounds."""
    values = (100 * r[name], 100 * r[f"{name}_low"], 100 * r[f"{name}_high"])
    return "{:.2f} [{:.2f}, {:.2f}]".format(*values)


def interval(name: str, digits: int = 4, sparse: str | None = "sparse") -> Callable[[Record], str]:
    """Cells of a value and its bounds, marked where the field `sparse` says so."""

    def cell(r: Record) -> str:
        value, low, high = (r[name + end] for end in ("", "_low", "_high"))
        return cells.interval(value, low, high, digits, sparse is not None and r[sparse])

    return cell


POINT: dict[str, str | Callable[[Any], object]] = {
    "leak % [95%]": percent,
    "KL [95%]": interval("kl"),
    "reversed KL": lambda r: cells.number(r["reversed"], sparse=r["sparse"]),
    "Frechet [95%]": interval("frechet", 2, sparse=None),
}


def points_table(title: str, records: Sequence[Record], *facts: str) -> Table:
    """Points, one per row, after the named facts about them."""
    return Table.of(marked(title, records), records, {**{f: f for f in facts}, **POINT})


def marked(title: str, records: Sequence[Record]) -> str:
    """The title, with what the mark of sparse records means if there are any."""
    return cells.titled(title, (r["sparse"] for r in records))


def settings_table(title: str, found, quality, calls, asked) -> Table:
    """Every family and scale: leak, divergences, distances, network calls, negatives asked for
    where a rule does without some."""
    records = [
        {"rule": label(name, scale), "calls": calls_per_kept(name, scale, calls[name], i)}
        | {"asked": None if asked[name] is None else asked[name][i]}
        | {measure: values[i] for measure, values in quality[name].items()}
        | point(c, i)
        for name, c in found.items()
        for i, scale in enumerate(c.scales)
    ]
    return Table.of(
        marked(title, records),
        records,
        {"rule": "rule"}
        | POINT
        | {
            "KID x 1000": lambda r: f"{1000 * r['kid']:.2f}",
            "precision": lambda r: f"{r['precision']:.3f}",
            "recall": lambda r: f"{r['recall']:.3f}",
            "calls per kept image": "calls",
        }
        | ({} if all(v is None for v in asked.values()) else {"negatives asked": "asked"}),
    )


def matched_table(found: Mapping[str, tradeoff.Curve], pairs: Sequence[Record]) -> Table:
    """The baselines at each tracker's leak with lambda_0 = 1."""

    def own(r: Record) -> dict[str, Any]:
        return point(found[r["tracker"]], at_one(found[r["tracker"]]))

    def rule(r: Record) -> str:
        return r["rule"] + ("" if r["reached"] else f" (nearest leak: {100 * r['leak']:.2f})")

    title = "KL of the baselines at the leak of each tracker with lambda_0 = 1, paired bootstrap"
    return Table.of(
        marked(title, pairs),
        pairs,
        {
            "tracker": "tracker",
            "its leak %": lambda r: f"{100 * own(r)['leak']:.2f}",
            "its KL": lambda r: cells.number(own(r)["kl"], sparse=own(r)["sparse"]),
            "rule": rule,
            "KL [95%]": interval("kl"),
            "excess over the tracker [95%]": interval("excess"),
        },
    )


def levels_table(own: Mapping[str, tradeoff.AtLevels], pairs: Sequence[Record]) -> Table:
    """Trackers and baselines at the leaks of LEVELS that both reach."""
    numbers = ("kl", "kl_low", "kl_high", "excess", "excess_low", "excess_high", "sparse")
    records = [
        {"level": level, "tracker": r["tracker"], "rule": r["rule"]}
        | {name: r[name][i] for name in numbers}
        | {f"own_{name}": getattr(own[r["tracker"]], name)[i] for name in numbers}
        for i, level in enumerate(LEVELS)
        for r in pairs
        if own[r["tracker"]].reached[i] and r["reached"][i]
    ]
    return Table.of(
        marked("KL at equal leak, where both curves reach it, paired bootstrap", records),
        records,
        {
            "leak %": lambda r: f"{100 * r['level']:g}",
            "tracker": "tracker",
            "its KL [95%]": interval("own_kl", sparse="own_sparse"),
            "rule": "rule",
            "KL of the rule [95%]": interval("kl"),
            "excess [95%]": interval("excess"),
        },
    )


def areas_table(pairs: Sequence[Record]) -> Table:
    """Mean excess over all leaks that both cover."""
    records = [r for r in pairs if np.isfinite(r["excess"])]
    title = "Mean excess of KL over the tracker's along log leak, over the leaks that both cover"
    return Table.of(
        marked(title, records),
        records,
        {
            "tracker": "tracker",
            "rule": "rule",
            "leaks %": lambda r: f"{100 * r['leak_low']:.2f} to {100 * r['leak_high']:.2f}",
            "excess [95%]": interval("excess"),
        },
    )


def harm_table(records: Sequence[Record], by_chance: Record) -> Table:
    """What the least drawn of the allowed classes keeps."""
    least, hardest = (f"{100 * by_chance[name]:.0f}%" for name in ("least", "hardest"))
    return Table.of(
        "Harm to allowed classes: how much of an even share among them the least drawn one keeps;"
        f" where all are as likely, chance leaves {least} on average and {hardest} of the hardest"
        " hit",
        records,
        {
            "rule": "rule",
            "least drawn %, mean": lambda r: f"{100 * r['least']:.0f}",
            "hardest hit": lambda r: (
                "{class} without {forbidden}".format(**r["hardest"])
                + f": {100 * r['hardest']['share']:.0f}%"
            ),
        },
    )


def at_one(c: tradeoff.Curve) -> int:
    """Index of lambda_0 = 1, else of the last scale."""
    return c.scales.index(1.0) if 1.0 in c.scales else len(c.scales) - 1


def label(family: str, scale: float | None) -> str:
    """A rule as jobs take it."""
    return str(rule_specs.parse(family).with_scale(scale))


def calls_per_kept(
    family: str, scale: float | None, calls: np.ndarray | None, i: int
) -> float | None:
    """Network calls per image that is kept, from those per chain at the i-th setting."""
    return None if calls is None else calls[i] * rule_specs.parse(family).with_scale(scale).cost
