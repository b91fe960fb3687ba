"""The page and the picture of a search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dng_jax import plots
from dng_jax.jobs import page, runs

from . import tables

PICTURE = "front.png"
AXES = {
    "leak": "samples of the forbidden class (%)",
    "kl": "KL(target || generated) (nats)",
}
CAPTION = (
    "Every setting searched (dots; where halving stopped it, on fewer images), the front and the"
    " ranks behind it as the search saw them (hollow), and the same settings on a fresh seed"
    " (filled, 95% intervals)."
)


def picture(folder: Path, results: Mapping[str, Any]) -> None:
    """Leak against KL."""
    clouds: dict[str, tuple[list, list]] = {}
    for r in results["searched"]:
        if r["kl"] is not None:
            x, y = clouds.setdefault(r["family"], ([], []))
            x.append(100 * r["leak"])
            y.append(r["kl"])
    by_name = {r["name"]: r["search"] for r in results["front"]}
    curve = results["curve"]
    search = [by_name[name] for name in curve["names"]]
    leaks = [[100 * v for v in curve[name]] for name in ("leak", "leak_low", "leak_high")]
    kls = [[float(str(v).replace("Infinity", "inf")) for v in curve[name]]
           for name in ("kl", "kl_low", "kl_high")]  # fmt: skip
    limits = {axis: (100 if name == "leak" else 1) * most
              for axis, name in (("x", "leak"), ("y", "kl"))
              if (most := results["goals"]["constraints"].get(name)) is not None}  # fmt: skip
    others = {
        name: ([100 * v for v in c["leak"]], c["kl"]) for name, c in results["by_hand"].items()
    }
    plots.front(
        clouds,
        ([100 * s["leak"] for s in search], [s["kl"] for s in search]),
        (*leaks, *kls),
        folder / PICTURE,
        labels=(AXES["leak"], AXES["kl"]),
        limits=limits,
        others=others,
        title=f"{results['dataset']} without {results['forbidden']}",
    )


def page_of(results: Mapping[str, Any], folder: Path) -> str:
    """The report as one page."""
    known, trials = runs.in_words(results["provenance"]), results["trials"]
    evaluated = 60 * sum(s["trials"] for s in trials["sessions"])
    worked = sum(s["seconds"] for s in trials["sessions"])
    speed = f", {evaluated / worked:.0f} settings per minute and process" if worked else ""
    said = (
        f"`{results['command']}`: {trials['told']} settings ({trials['complete']} on all"
        f" {results['samples']['search'][-1]} images, {trials['failed']} not finite,"
        f" {trials['taken_over']} taken over from processes that ended){speed}; commit"
        f" {known.commit}, {known.hardware}, {known.software}, {known.date}"
    )
    parts = [f"<p>{page.code(said)}</p>", page.picture(folder, PICTURE, CAPTION, "search again")]
    parts += [page.table(table.to_dict()) for table in tables.every(results)]
    facts = ("command", "config", "provenance", "classifier", "network", "best")
    parts.append(page.facts({name: results[name] for name in facts}))
    return page.whole(f"Search on {results['dataset']} without {results['forbidden']}", parts)
