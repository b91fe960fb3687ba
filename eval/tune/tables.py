"""The tables of a search, from the record that results.json holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dng_jax.jobs import cells
from dng_jax.jobs.tables import Table
from dng_jax.tuning import goals

Record = Mapping[str, Any]


def every(results: Record) -> list[Table]:
    """All of them; a table of nothing is left out."""
    found = [f(results) for f in (front, best, bias, against, compared, weights)]
    return [table for table in found if table.rows]


def front(results: Record) -> Table:
    """The front, as it was searched and on fresh seeds."""
    curve = results["curve"]
    at = {rule: i for i, rule in enumerate(curve["names"])}
    records = [
        r | {name: _number(curve[name][at[r["name"]]]) for name in curve if name != "names"}
        for r in results["front"]
        if r["name"] in at
    ]
    trials, samples = results["trials"], results["samples"]
    title = (
        f"{results['dataset']} without {results['forbidden']}: the front of {trials['told']}"
        f" settings and the ranks behind it, {samples['search'][-1]} images each, and the same on"
        f" {samples['fresh']} images of a fresh seed"
    )
    return Table.of(
        cells.titled(title, (r["sparse"] for r in records)),
        records,
        {
            "rule": "rule",
            "steps": "steps",
            "sampler": "sampler",
            "leak % as searched": lambda r: f"{100 * r['search']['leak']:.2f}",
            "KL as searched": lambda r: f"{r['search']['kl']:.4f}",
            "leak % [95%]": _leak,
            "KL [95%]": _kl,
            "Frechet": lambda r: f"{r['fresh']['frechet']:.2f}",
            "calls": lambda r: f"{r['fresh']['calls']:g}",
        },
    )


def best(results: Record) -> Table:
    """The chosen setting, on images that nothing was chosen on."""
    chosen = results["best"]
    found = chosen["found"]
    limits = " and ".join(
        f"{name} <= {goals.shown(name, most)}"
        for name, most in results["goals"]["constraints"].items()
    )
    title = "The chosen setting on a third seed" + (f", constraint {limits}" if limits else "")
    columns: dict[str, Any] = {
        "rule": "rule",
        "steps": "steps",
        "sampler": "sampler",
        "leak % [95%]": lambda r: _leak(found),
        "KL [95%]": lambda r: _interval(found, "kl"),
        "Frechet": lambda r: f"{found['frechet']:.2f}",
        "calls": lambda r: f"{found['calls']:g}",
        "images": lambda r: found["samples"],
    }
    if limits:
        columns["kept when chosen"] = lambda r: _verdicts(results["keeps"]["fresh"])
        columns["kept here"] = lambda r: _verdicts(results["keeps"]["third"])
    return Table.of(title, [chosen] if found else [], columns)


def bias(results: Record) -> Table:
    """What choosing and judging on the same noise flatters."""
    return Table.of(
        "What the search flattered: means over the judged settings, fresh seed less search",
        results["bias"],
        {
            "measure": "measure",
            "as searched": lambda r: goals.shown(r["measure"], r["search"]),
            "fresh": lambda r: goals.shown(r["measure"], r["fresh"]),
            "flattered by [95%]": lambda r: cells.interval(r["flattery"], r["low"], r["high"], 5),
        },
    )


def against(results: Record) -> Table:
    """Rules made by hand, each on its own."""
    records = [
        {name: r[name] for name in ("rule", "steps", "sampler")} | (r["fresh"] or {})
        for r in results["against"]
    ]
    title = (
        f"Rules made by hand (--against), {results['samples']['fresh']} images of the fresh seed"
    )
    return Table.of(
        cells.titled(title, (r.get("sparse", False) for r in records)),
        records,
        {
            "rule": "rule",
            "steps": "steps",
            "sampler": "sampler",
            "leak % [95%]": lambda r: _leak(r) if "leak" in r else "not finite",
            "KL [95%]": lambda r: _interval(r, "kl") if "kl" in r else None,
            "Frechet": lambda r: f"{r['frechet']:.2f}" if "frechet" in r else None,
            "calls": lambda r: f"{r['calls']:g}" if "calls" in r else None,
        },
    )


def compared(results: Record) -> Table:
    """Rules made by hand at the front's leak."""
    return Table.of(
        cells.titled(
            "The same and the front at equal leak, where both reach it: KL, paired bootstrap",
            (r["sparse"] for r in results["compared"]),
        ),
        results["compared"],
        {
            "rule": "rule",
            "leak %": lambda r: f"{100 * r['level']:g}",
            "its KL [95%]": lambda r: _interval(r, "kl"),
            "KL of the front [95%]": lambda r: _interval(r, "own"),
            "excess [95%]": lambda r: _interval(r, "excess"),
        },
    )


def weights(results: Record) -> Table:
    """Importance of every number."""
    measures = results["goals"]["objectives"]
    records = results["importance"]
    names = [m for m in (*measures, *results["goals"]["constraints"]) if m]
    columns: dict[str, Any] = {"rule": "rule", "leaf": "leaf", "trials": "trials"}
    for name in dict.fromkeys(names):
        columns[f"share of {name}"] = lambda r, name=name: (
            None if r.get(name) is None else f"{r[name]:.2f}"
        )
    title = "Importance: share of an objective's variance over the space (functional ANOVA)"
    return Table.of(title, records, columns)


def _verdicts(keeps: Record) -> str:
    said = (f"{name}: {'yes' if v['kept'] else 'no'}, {v['how']}" for name, v in keeps.items())
    return "; ".join(said)


def _leak(r: Record) -> str:
    values = [100 * r[name] for name in ("leak", "leak_low", "leak_high")]
    return "{:.2f} [{:.2f}, {:.2f}]".format(*values)


def _kl(r: Record) -> str:
    return cells.interval(r["kl"], r["kl_low"], r["kl_high"], sparse=r["sparse"])


def _interval(r: Record, name: str) -> str:
    value, low, high = (_number(r[name + end]) for end in ("", "_low", "_high"))
    return cells.interval(value, low, high, sparse=r["sparse"])


def _number(value: Any) -> Any:
    """A number as results.json holds it: infinity as a word, NaN as nothing."""
    if value is None:
        return math.nan
    return float(value.replace("Infinity", "inf")) if isinstance(value, str) else value
