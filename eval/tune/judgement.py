"""The front on fresh seeds, and every form in which it is written."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax.errors import InputError
from dng_jax.jobs import runs
from dng_jax.jobs.options import command, program, shown
from dng_jax.jobs.tables import publish
from dng_jax.metrics.tradeoff import Curve
from dng_jax.tuning import importance, judging
from dng_jax.tuning.judging import FRONT
from dng_jax.tuning.measuring import Measurer, Tally
from dng_jax.tuning.spaces import Setting
from dng_jax.tuning.studies import Study, Told

from . import planning, report, tables
from .options import Config

JUDGED = "judged"


def written(
    config: Config, folder: Path, study: Study, measurer: Measurer, against: Sequence[Setting]
) -> dict[str, Any]:
    """Judges the front and writes the results, unless that is done; returns them.

    InputError, after everything is written, where nothing keeps the constraints.
    """
    told = study.told()
    key = runs.to_json([FORM, len(told), *(getattr(config, n) for n in WHAT)])
    if study.noted(JUDGED) == key and (folder / "results.json").exists():
        results = read(folder)
        if results["unmet"] is None and not (folder / "best.json").exists():
            runs.write_json(folder / "best.json", results["best"])
        print(f"{folder} is judged already: results.json, tables.md, report.html")
        return kept(results)
    complete = judging.complete(told, measurer.rungs[-1])
    front = judging.candidates(complete, study.plan.goals, config.judged)
    if not front:
        raise InputError(
            f"none of the {len(told)} settings gave finite predictions: lower the scales of --space"
        )
    results = judged(config, study, measurer, told, front, against)
    runs.write_json(folder / "results.json", results)
    publish(folder, *tables.every(results))
    if results["unmet"] is None:
        runs.write_json(folder / "best.json", results["best"])
    else:
        (folder / "best.json").unlink(missing_ok=True)  # of fewer trials, or another judgement
    with runs.writing(folder):
        report.picture(folder, results)
    runs.write_text(folder / "report.html", report.page_of(results, folder))
    study.note(JUDGED, key)
    files = "results.json, tables.md, front.png, report.html"
    print(f"written to {folder}: {files}" + ", best.json" * (results["unmet"] is None))
    return kept(results)


MORE = "judge more images (--judge-samples), or tighten the constraint"


def doubts(keeps: Mapping[str, Any]) -> list[str]:
    """A sentence for every constraint of which it is not sure that the chosen setting keeps it."""
    if keeps["third"] is None:
        return [
            "best.json: on a third seed the chosen setting's predictions were not finite: lower the"
            " scales of --space"
        ]
    found = []
    for measure, last in keeps["third"].items():
        limit, hows = last["constraint"], (keeps["fresh"][measure]["how"], last["how"])
        if not last["kept"]:
            found.append(
                f"best.json: the chosen setting kept {limit} on the seed that it was chosen on, and"
                f" does not on a third one ({last['how']}): {MORE}"
            )
        elif judging.BY_ESTIMATE in hows:
            found.append(
                f"best.json: the chosen setting keeps {limit} by the estimate, and its 95% interval"
                f" reaches beyond: {MORE}"
            )
        elif judging.NO_INTERVAL in hows:
            found.append(
                f"best.json: the chosen setting keeps {limit} by the estimate, of which there is no"
                " interval: leave it some room"
            )
    return found


def kept(results: dict[str, Any]) -> dict[str, Any]:
    """The results, after what is to be known of the chosen setting is said; UnmetError where no
    setting keeps the constraints."""
    if results["unmet"] is not None:
        raise judging.UnmetError(results["unmet"])
    for sentence in doubts(results["keeps"]):
        print(sentence)
    return results


FORM = 2  # of results.json: what an earlier version of this job judged is judged again
WHAT = ("judged", "judge_samples", "fresh_seed", "against")


def judged(
    config: Config,
    study: Study,
    measurer: Measurer,
    told: Sequence[Told],
    front: Sequence[Told],
    against: Sequence[Setting],
) -> dict[str, Any]:
    """Everything that is found out about the front; "unmet" is the sentence where no setting keeps
    the constraints."""
    goal, problem = study.plan.goals, measurer.problem
    samples = planning.judged_samples(config.judge_samples, measurer.batch)
    fresh = dataclasses.replace(measurer, seed=config.fresh_seed, rungs=(samples,))
    tallies = fresh.tallies([t.setting for t in front])
    families: dict[str, list[Tally]] = {FRONT: [t for t in tallies if t.bad_step is None]}
    by_hand = fresh.tallies(against)
    for tally in by_hand:
        if tally.bad_step is None:
            families.setdefault(tally.setting.spec.family, []).append(tally)
    curves = judging.curve(fresh, families)
    found = [_measured(fresh, tally, curves[FRONT]) for tally in tallies]
    number = judging.chosen(found, goal)
    searched = {str(t.setting): t.found or {} for t in front}
    held = judging.verdicts(goal, found[number] or {})
    nearest = judging.unmet(goal, front[number].setting, found[number] or {})
    third = dataclasses.replace(fresh, seed=config.fresh_seed + 1)
    (last,) = third.tallies([front[number].setting])
    best = None
    if last.bad_step is None:
        best = _measured(third, last, judging.curve(third, {FRONT: [last]})[FRONT])
    levels = sorted({*judging.LEVELS, *(c.most for c in goal.constraints if c.measure == "leak")})
    results = {
        "config": config,
        "command": command(program(str(__package__)), config, type(config)()),
        "provenance": runs.provenance(),
        "dataset": shown(config.dataset),
        "forbidden": problem.forbidden_names,
        "classifier": problem.classifier_name,
        "network": problem.network,
        "trials": {
            "told": len(told),
            "complete": len(judging.complete(told, measurer.rungs[-1])),
            "failed": sum(t.found is None for t in told),
            "taken_over": study.taken_over(),
            "programs": len({t.setting.program for t in told}),
            "sessions": study.sessions(),
        },
        "samples": {"search": measurer.rungs, "fresh": samples},
        "searched": [
            {
                "number": t.number,
                "rule": str(t.setting.spec),
                "family": study.plan.space.family(t.params).named,
            }
            | {"sampler": t.setting.sampler, "steps": t.setting.steps}
            | {name: (t.found or {}).get(name) for name in MEASURED}
            for t in told
        ],
        "front": [
            {"number": t.number, "name": str(t.setting), "rule": str(t.setting.spec)}
            | {"steps": t.setting.steps}
            | {"sampler": t.setting.sampler, "search": t.found, "fresh": measures}
            for t, measures in zip(front, found, strict=True)
        ],
        "curve": _curve(curves[FRONT]),
        "against": [
            {"rule": str(t.setting.spec), "steps": t.setting.steps, "sampler": t.setting.sampler}
            | {"fresh": _measured(fresh, t, curves.get(t.setting.spec.family))}
            for t in by_hand
        ],
        "by_hand": {name: _curve(c) for name, c in curves.items() if name != FRONT},
        "bias": judging.bias(curves[FRONT], searched),
        "compared": judging.compared(curves, levels),
        "importance": importance.importance(told, study.plan.space, goal, config.seed),
        "goals": {
            "objectives": goal.objectives,
            "constraints": {c.measure: c.most for c in goal.constraints},
        },
        "best": best_of(config, front[number].setting, best),
        "keeps": {"fresh": held, "third": best and judging.verdicts(goal, best)},
        "unmet": None if all(v.kept for v in held.values()) else nearest,
    }
    return runs.to_json(results)


MEASURED = ("leak", "kl", "frechet", "calls", "samples")


def best_of(config: Config, setting: Setting, found: dict[str, Any] | None) -> dict[str, Any]:
    """The chosen setting as best.json holds it (dng_jax.experiments.settings)."""
    return {
        "rule": str(setting.spec),
        "sampler": setting.sampler,
        "steps": setting.steps,
        "dataset": config.dataset,
        "forbid": config.forbid or ("0",),
        "source": config.source,
        "options": config.options,
        "found": found,
        "seed": config.fresh_seed + 1,
    }


def _measured(measurer: Measurer, tally: Tally, curve: Curve | None) -> dict[str, Any] | None:
    found = measurer.measures(tally)
    if found is None or curve is None:
        return None
    return judging.with_interval(found, curve, tally.setting)


def read(folder: Path) -> dict[str, Any]:
    """results.json of a study's folder; InputError where there is none."""
    path = folder / "results.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise InputError(
            f"{path} is not there or cannot be read: go on with the study by --resume"
        ) from None


def _curve(c: Any) -> dict[str, Any]:
    names = ("leak", "leak_low", "leak_high", "kl", "kl_low", "kl_high", "sparse")
    return {"names": c.scales} | {name: np.asarray(getattr(c, name)) for name in names}
