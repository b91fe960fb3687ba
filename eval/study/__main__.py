"""The class-removal study: python -m eval.study

    python -m eval.study                                     digits
    python -m eval.study --dataset mnist --cpu-devices 2
    python -m eval.study --parts curves --forbid 0 --forbid 8 --samples 256
    python -m eval.study.report runs/study-digits           one HTML page of it

Parts, each a set of cells (eval.study.cells):

    curves        every forbidden class x rule x grid of scales x seed: the trade-offs, and the KL
                  of the rules at equal leak with paired bootstrap intervals
    sensitivity   lambda_0, tau, drift, delta and prior of DNG, one at a time, for each tracker
    steps         step counts from 25 to 1000
    several       sets of 2, 3 and 5 classes forbidden at once
    path          the same noise along each rule's scales, as a picture
    calibration   the tracked posterior against the classifier's label (eval.calibration)

A cell is computed once: a study that was interrupted, or is asked for more parts or seeds, goes on
with --resume. Results: results.json, tables.md, pictures; eval.study.report makes one page of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from dng_jax.errors import InputError, choose
from dng_jax.experiments import problems
from dng_jax.experiments.problems import Problem, Source
from dng_jax.experiments.rule_specs import TrackerOptions
from dng_jax.jobs import cli, runs
from dng_jax.jobs.devices import Devices
from dng_jax.jobs.tables import Table, publish
from eval import calibration
from eval.study import cells as study_cells
from eval.study import report
from eval.study import summary as study_summary
from eval.study.cells import Cell, Setting

PARTS = ("curves", "sensitivity", "steps", "several", "path", "calibration")
GRIDS: dict[str, tuple[float, ...]] = {
    "np": (0.15, 0.3, 0.5, 0.7, 1.0, 1.5),
    "sld": (0.25, 0.5, 0.75, 1.0, 1.5),
    "dng:pair": (1.0, 3.0, 10.0),
    "dng:odds": (1.0, 3.0),
    "dng:classes-model": (1.0,),
    "dng:classes": (0.6, 1.0, 2.0, 4.0),
}
BASELINES = ("unguided", "floor")
# About the default of each: lambda_0 = tau = 1, no offset, prior 1/K.
KNOBS: dict[str, tuple[float, ...]] = {
    "lambda_0": (0.5, 1.0, 2.0, 5.0),
    "tau": (0.25, 0.5, 2.0),
    "drift": (0.25, 0.5, 1.0),
    "delta": (2e-4, 2e-3, 2e-2),
    "prior": (0.01, 0.03, 0.3),
}
SEVERAL: dict[str, tuple[float, ...]] = {
    "np": (0.3, 1.0),
    "sld": (0.5, 1.0),
    "dng:pair": (1.0, 3.0),
    "dng:classes": (1.0,),
}
STEP_COUNTS = (25, 50, 100, 250, 1000)
SET_SIZES = (2, 3, 5)


@dataclass(frozen=True)
class Config:
    """The study of one data set."""

    dataset: str = "digits"
    forbid: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Classes to forbid, each on its own; default: every class in turn."""
    parts: tuple[str, ...] = PARTS
    """curves, sensitivity, steps, several, path, calibration."""
    families: tuple[str, ...] = tuple(GRIDS)
    """Rules, as NAME[:TRACKER] on the study's grid of scales, or NAME[:TRACKER]=SCALE,SCALE,..."""
    source: Annotated[Source, tyro.conf.arg(name="")] = field(default_factory=Source)
    sampler: str = "ddpm"
    steps: int = 50
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the curves; the other parts use the first."""
    samples: int = 700
    """Images a forbidden class, setting and seed, of the curves."""
    part_samples: int = 210
    """Images a forbidden class and setting, of the other parts."""
    devices: Annotated[Devices, tyro.conf.arg(name="")] = field(default_factory=Devices)
    out: str | None = None
    """Folder of the study; default runs/study-DATASET."""
    resume: bool = False
    """Go on with the study in --out: finished cells are kept."""


def main(config: Config) -> dict[str, Any]:
    """Computes what is missing, then sums up."""
    check(config)
    config.devices.select()
    first = problems.make(config.dataset, config.forbid[:1] or ("0",), config.source)
    chosen = (
        problems.class_indices(config.forbid, first.info)
        if config.forbid
        else tuple(range(first.info.num_classes))
    )
    config = without_classes(config, chosen) if not first.knows_classes else config
    folder = runs.new_run_folder(
        config.out or Path("runs") / f"study-{config.dataset}",
        identity(config),
        overwrite=config.resume,
        option="--resume",
    )
    wanted = list(cells(config, chosen, first.info.num_classes, first.knows_classes))
    make = problem_of(config)
    found = compute(make, folder, wanted)

    results = report.read(folder) if (folder / "results.json").exists() else {}
    there = tuple(p for p in PARTS if p in results or p in config.parts)
    facts = {
        "config": config,
        "command": command(dataclasses.replace(config, parts=there)),
        "provenance": runs.provenance(),
        "judge": first.judge_name,
        "classes": [first.info.class_names[k] for k in chosen],
    }
    tables: list[Table] = []
    for part in config.parts:
        if part == "path":
            summary = study_summary.path(
                make((chosen[0],)), config, grids_of(config.families), folder
            )
        elif part == "calibration":
            summary = _calibration(config, folder)
        else:
            mine = {cell: found[cell] for cell in wanted if cell.part == part}
            summary = study_summary.PARTS[part](mine, make, config, folder)
        tables += summary.tables
        # Part by part, so that a later one that fails or was not asked for costs no earlier one.
        results = merged(results, part, summary) | facts
        runs.write_json(folder / "results.json", results)
    publish(folder, *tables)
    print(f"written to {folder}; one page of it: python -m eval.study.report {folder}")
    return results


def merged(results: dict[str, Any], part: str, summary: study_summary.Summary) -> dict[str, Any]:
    """The results with this part's in the place of an earlier sitting's."""
    others = {
        key: [entry for entry in results.get(key, []) if entry["part"] != part]
        for key in ("tables", "pictures")
    }
    return results | {
        part: summary.record,
        "tables": others["tables"] + [{"part": part} | t.to_dict() for t in summary.tables],
        "pictures": others["pictures"]
        + [{"part": part, "file": file, "caption": text} for file, text in summary.pictures],
    }


def command(config: Config) -> str:
    """The command that makes this study, without the paths of this machine."""
    words = ["python -m eval.study"]
    default, flat = Config(), vars(config) | vars(config.source) | vars(config.devices)
    usual = vars(default) | vars(default.source) | vars(default.devices)
    for name, value in flat.items():
        if name in ("source", "devices", "out", "resume") or value == usual[name]:
            continue
        option = f"--{name.replace('_', '-')}"
        if name == "forbid":
            words += [f"{option} {k}" for k in value]
        else:
            values = value if isinstance(value, tuple) else (value,)
            words.append(" ".join([option, *(Path(str(v)).name for v in values)]))
    return " ".join(words)


def without_classes(config: Config, chosen: tuple[int, ...]) -> Config:
    """The study of the paper's two networks: one class, and rules that ask for no other."""
    if len(chosen) != 1:
        raise InputError(
            f"--negatives holds the network of one class: name it with --forbid, got {len(chosen)}"
        )
    parts = tuple(p for p in config.parts if p not in ("several", "calibration"))
    families = tuple(f for f in config.families if not f.startswith("dng:classes"))
    if not parts or not families:
        raise InputError(
            f"{config.source.network} knows no classes: parts several and calibration, and the"
            " rules dng:classes, ask for all of them"
        )
    return dataclasses.replace(config, parts=parts, families=families)


def check(config: Config) -> None:
    """Refuses what makes no sense before anything is computed."""
    for name in ("samples", "part_samples"):
        if getattr(config, name) < 2:
            raise InputError(f"--{name.replace('_', '-')} must be at least 2")
    for part in config.parts:
        choose(part, PARTS, "part")
    if "calibration" in config.parts and config.steps < 4:
        raise InputError(f"the part calibration needs --steps of at least 4, got {config.steps}")
    if not config.parts:
        raise InputError("name at least one of --parts")
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise InputError("name at least one seed with --seeds, and none twice")
    if not config.families:
        raise InputError("name at least one of --families")
    grids_of(config.families)


def grids_of(families: tuple[str, ...]) -> dict[str, tuple[float, ...]]:
    """Scales of every family named, those given with it or the study's own."""
    grids: dict[str, tuple[float, ...]] = {}
    for word in families:
        family, given, text = word.partition("=")
        if family not in GRIDS:
            known = ", ".join(GRIDS)
            raise InputError(f"no grid of scales for '{family}': choose from {known}")
        if family in grids:
            raise InputError(f"--families names '{family}' twice: give all its scales at once")
        try:
            scales = tuple(float(part) for part in text.split(",")) if given else GRIDS[family]
        except ValueError:
            raise InputError(
                f"--families: '{word}' has a scale that is no number: write {family}=0.5,1"
            ) from None
        if not all(math.isfinite(s) and s >= 0 for s in scales) or len(set(scales)) < len(scales):
            raise InputError(f"--families: the scales of '{word}' must be >= 0, finite, none twice")
        grids[family] = tuple(sorted(scales))
    return grids


def identity(config: Config) -> dict[str, Any]:
    """What makes two studies the same: everything a cell does not record itself."""
    weights = problems.fingerprint(config.dataset, config.source)
    return {
        "job": "study",
        "dataset": config.dataset,
        "source": runs.to_json(config.source),
        "weights": weights,
    }


def cells(
    config: Config, chosen: tuple[int, ...], num_classes: int, knows_classes: bool = True
) -> Iterator[Cell]:
    """Every cell of the parts asked for; the seeds of the curves in turn, so that an unfinished
    study has whole ones."""
    plain: dict[str, Any] = {"sampler": config.sampler, "steps": config.steps}
    small: dict[str, Any] = {"seed": config.seeds[0], "samples": config.part_samples}
    baselines = BASELINES if knows_classes else ("unguided",)
    grids = grids_of(config.families)
    trackers = [f for f in grids if f in ("dng:pair", "dng:classes")]
    if "curves" in config.parts:
        for seed in config.seeds:
            for k in chosen:
                for family in (*baselines, *grids):
                    settings = tuple(Setting(s) for s in grids.get(family, (None,)))
                    yield Cell(
                        "curves", (k,), family, settings, seed=seed, samples=config.samples, **plain
                    )
    if "sensitivity" in config.parts:
        for k in chosen:
            for family in trackers:
                yield Cell("sensitivity", (k,), family, knobs(family), **plain, **small)
    if "steps" in config.parts:
        for count in STEP_COUNTS:
            for k in chosen:
                for family in trackers:
                    options: dict[str, Any] = plain | {"steps": count}
                    yield Cell("steps", (k,), family, (Setting(1.0),), **options, **small)
    if "several" in config.parts:
        for forbidden in sets_of(chosen, num_classes):
            for family in (*baselines, *(f for f in grids if f in SEVERAL)):
                settings = tuple(Setting(s) for s in SEVERAL.get(family, (None,)))
                yield Cell("several", forbidden, family, settings, **plain, **small)


def sets_of(chosen: tuple[int, ...], num_classes: int) -> list[tuple[int, ...]]:
    """Sets of 2, 3 and 5 neighbouring classes, from every other one of the chosen classes on."""
    sets = {
        tuple(sorted((k + i) % num_classes for i in range(size)))
        for size in SET_SIZES
        if size < num_classes
        for k in chosen[::2]
    }
    return sorted(sets, key=lambda s: (len(s), s))


def knobs(family: str) -> tuple[Setting, ...]:
    """One number of a tracker at a time, about the default setting, which comes first."""
    settings = [Setting(1.0)]
    for knob, values in KNOBS.items():
        if family == "dng:classes" and knob in ("prior", "drift", "delta"):
            continue  # it starts from all classes, and an offset common to all cancels
        for value in values:
            if knob == "lambda_0":
                settings.append(Setting(value))
            else:
                number: dict[str, Any] = {knob: value}
                changed = TrackerOptions(**number)
                settings.append(Setting(1.0, changed))
    return tuple(dict.fromkeys(settings))


def compute(
    make: study_summary.MakeProblem, folder: Path, wanted: list[Cell]
) -> dict[Cell, study_cells.Found]:
    """Every cell, from its file or made now."""
    found = {}
    with cli.progress_bar() as bar:
        task = bar.add_task("cells", total=sum(_cost(cell) for cell in wanted))
        for cell in wanted:
            bar.update(task, description=f"{cell.part} {'+'.join(map(str, cell.forbidden))}")
            there = study_cells.load(folder, cell)
            if there is None:
                there = study_cells.run(make(cell.forbidden), cell)
                study_cells.save(folder, cell, there)
            found[cell] = there
            bar.advance(task, _cost(cell))
    return found


def problem_of(config: Config):
    """forbidden classes -> their problem, made once."""
    made: dict[tuple[int, ...], Problem] = {}

    def problem(forbidden: tuple[int, ...]) -> Problem:
        if forbidden not in made:
            names = [str(k) for k in forbidden]
            made[forbidden] = problems.make(config.dataset, names, config.source)
        return made[forbidden]

    return problem


def _cost(cell: Cell) -> int:
    return len(cell.settings) * cell.samples * cell.steps


def _calibration(config: Config, folder: Path) -> study_summary.Summary:
    samples = max(4, 2 * (config.samples // 2))
    inner = f"calibration_{config.sampler}_{config.steps}_seed{config.seeds[0]}_{samples}"
    job = calibration.Config(
        dataset=config.dataset,
        source=config.source,
        samplers=(config.sampler,),
        steps=config.steps,
        samples=samples,
        knots=min(8, config.steps - 1),
        seed=config.seeds[0],
        out=str(folder / inner),
        overwrite=True,
    )
    records = calibration.main(job)
    caption = "Reliability of the tracked posterior at the end of the chain."
    pictures = [
        (f"{inner}/{path.name}", caption)
        for path in sorted((folder / inner).glob("reliability_*.png"))
    ]
    return study_summary.Summary(records, [calibration.table_of(job, records)], pictures)


if __name__ == "__main__":
    cli.main(lambda: main(tyro.cli(Config, description=__doc__)))
