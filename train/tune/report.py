"""What a search of training numbers writes: results.json, tables.md, curves.png, best.json."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from dng_jax import plots
from dng_jax.errors import InputError
from dng_jax.jobs import runs
from dng_jax.jobs.tables import Table
from dng_jax.tuning.studies import Study, Told

from ..options import Options
from .options import Config

SHOWN = 12


def written(
    config: Config, folder: Path, study: Study, options: Options, rungs: tuple[int, ...]
) -> dict[str, Any]:
    """Writes all files; InputError, after them, where no training came to its end."""
    told = study.told()
    whole = [t for t in told if t.found is not None and t.found["steps"] == rungs[-1]]
    ranked = sorted(whole, key=lambda t: (_of(t)[config.objective], t.number))
    results: dict[str, Any] = {
        "objective": config.objective,
        "rungs": rungs,
        "leaves": [leaf.name for leaf in study.plan.space.families[0].leaves],
        "trials": [_row(t) for t in told],
        "sessions": study.sessions(),
        "taken_over": study.taken_over(),
        "config": study.plan.facts,
        "provenance": runs.provenance(),
        "best": None,
    }
    if ranked:
        best = ranked[0]
        job = best.setting.of(options.job)
        trained = dataclasses.replace(options, job=job).command(config.of)
        results["best"] = {"numbers": dict(best.setting.values), **_measures(best)}
        results["best"]["command"] = trained
        runs.write_json(folder / "best.json", results["best"])
    runs.write_json(folder / "results.json", results)
    table = _table(config, told, ranked, results["leaves"])
    runs.write_text(folder / "tables.md", table.markdown() + "\n")
    if any(t.found and t.found["curve"] for t in told):
        _picture(config, folder, told, ranked)
    if not ranked:
        raise InputError(
            f"none of {len(told)} trainings came to its end with a finite {config.objective}:"
            f" narrow --space to lower rates; {folder}/results.json has all of them"
        )
    table.print()
    print(f"to train the best one on all images: {results['best']['command']}")
    return results


def _of(told: Told) -> dict[str, Any]:
    assert told.found is not None
    return told.found


def _measures(told: Told) -> dict[str, Any]:
    return {name: value for name, value in _of(told).items() if name != "curve"}


def _row(told: Told) -> dict[str, Any]:
    return {"number": told.number, "numbers": dict(told.setting.values), **(told.found or {})}


def _table(config: Config, told: list[Told], ranked: list[Told], leaves: list[str]) -> Table:
    """The best trainings that came to their end."""
    extra = {"accuracy %": "accuracy"} if config.of == "classifier" else {}
    records = [{**dict(t.setting.values), **_of(t), "number": t.number} for t in ranked[:SHOWN]]
    failed = sum(t.found is None for t in told)
    title = (
        f"{config.preset}: {config.of} trainings by held-out {config.objective}, the best of"
        f" {len(told)}, of which {len(ranked)} came to their end and {failed} were not finite"
    )
    columns: dict[str, Any] = {"training": lambda r: str(r["number"])}
    columns |= {leaf: leaf for leaf in leaves}
    columns |= {"held-out loss": "loss"}
    columns |= {head: lambda r, name=name: f"{100 * r[name]:.2f}" for head, name in extra.items()}
    return Table.of(title, records, columns)


def _picture(config: Config, folder: Path, told: list[Told], ranked: list[Told]) -> None:
    curves = {}
    for t in told:
        if t.found is not None:
            at = [config.log_every * (i + 1) for i in range(len(t.found["curve"]))]
            rungs = zip(*t.found["rungs"], strict=True)
            curves[f"{t.number}: {t.setting}"] = (at, t.found["curve"], *rungs)
    best = f"{ranked[0].number}: {ranked[0].setting}" if ranked else None
    labels = ("training loss", f"held-out {config.objective}")
    title = f"{config.preset}, {config.of}: {len(told)} trainings"
    plots.learning(curves, folder / "curves.png", best=best, labels=labels, title=title)
