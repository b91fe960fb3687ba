"""What a search of training numbers writes: results.json, tables.md, curves.png, best.json."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from dng_jax import plots
from dng_jax.errors import InputError
from dng_jax.jobs import runs
from dng_jax.jobs.tables import Table, write_tables
from dng_jax.tuning.numbers import Numbers
from dng_jax.tuning.paired import Mean
from dng_jax.tuning.studies import Study, Told

from ..options import Options
from . import judgement
from .options import Config

SHOWN = 12


def written(
    config: Config,
    folder: Path,
    study: Study,
    options: Options,
    rungs: tuple[int, ...],
    fresh: judgement.FreshSeeds,
) -> dict[str, Any]:
    """Judges the best and writes all files; InputError, after them, where no training came to its
    end."""
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
        "judged": None,
    }
    tables = [_table(config, told, ranked, results["leaves"])]
    said = []
    if ranked:
        best = ranked[0]
        preset = Numbers(
            tuple((name, float(getattr(options.job, name))) for name in results["leaves"])
        )
        if best.setting == preset:
            said.append("the best numbers are the preset's own")
        elif config.judge_seeds:
            seeds = judgement.seeds(len(told), config.judge_seeds)
            given = (seeds, config.objective, best.setting, preset)
            judged = judgement.judged(study, fresh, *given)
            said.append(judgement.sentence(judged, config.objective))
            tables.append(_judgement(config, judged, rungs[-1]))
            results["judged"] = judged | {"sentence": said[-1]}
        else:
            said.append(
                f"its {config.objective} is the least of {len(ranked)} on the same images and seed:"
                " add --resume --judge-seeds 3 to compare it with the preset's on others"
            )
        job = best.setting.of(options.job)
        trained = dataclasses.replace(options, job=job).command(config.of)
        results["best"] = {"numbers": dict(best.setting.values), **_measures(best)}
        results["best"] |= {"command": trained, "judged": results["judged"]}
        runs.write_json(folder / "best.json", results["best"])
    runs.write_json(folder / "results.json", results)
    write_tables(folder, *tables)
    if any(t.found and t.found["curve"] for t in told):
        _picture(config, folder, told, ranked)
    if not ranked:
        raise InputError(
            f"none of {len(told)} trainings came to its end with a finite {config.objective}:"
            f" narrow --space to lower rates; {folder}/results.json has all of them"
        )
    for table in tables:
        table.print()
    for line in said:
        print(line)
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


def _judgement(config: Config, judged: dict[str, Any], steps: int) -> Table:
    """Best and preset on fresh seeds, and the difference."""
    means, seeds = judged["means"], judged["seeds"]
    title = (
        f"Best and preset on {len(seeds)} fresh seeds and held-out images, {steps} steps each:"
        f" means with 95% intervals {judgement.ONE_LOOK}"
    )
    head = f"held-out {config.objective} [95%]"
    table = Table(title, ("numbers", head, *(f"seed {k}" for k in seeds)))
    for name in ("best", "preset"):
        cell = _interval(means and means[name])
        table.add(f"{name}: {judged[name]}", cell, *judged["values"][name])
    if means:
        pairs = zip(*judged["values"].values(), strict=True)
        each = (first - second for first, second in pairs)
        table.add("best less preset", _interval(means["difference"]), *each)
    return table


def _interval(mean: Mean | None) -> str | None:
    return None if mean is None else f"{mean.mean:.4g} [{mean.low:.4g}, {mean.high:.4g}]"


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
