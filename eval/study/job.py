"""What a study computes, and what it writes; see eval.study."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from dng_jax.experiments import problems
from dng_jax.experiments.classes import class_indices
from dng_jax.jobs import cli, runs
from dng_jax.jobs.options import RunOptions, as_typed, command, program, shown
from dng_jax.jobs.tables import Table, write_tables

from ..calibration import job as calibration
from . import cells, plan, report, summary
from .cells import Cell, Found
from .options import Config, check, identity, one_class, without_classes
from .summary import Picture, Study, Summary


def main(config: Config) -> dict[str, Any]:
    """Computes what is missing, then sums up."""
    # ---- parse
    check(config)
    typed = config
    config = dataclasses.replace(
        config, families=plan.calibrated(config.families, config.calibration)
    )

    # ---- build
    config.data.use()
    config.devices.select()
    model = problems.load(config.dataset, config.source)
    every = range(model.info.num_classes)
    chosen = class_indices(config.forbid, model.info) if config.forbid else tuple(every)
    if not model.knows_classes:
        config = without_classes(config, chosen)
    one_class("retrained", (config.source.retrained,) if config.source.retrained else (), chosen)
    folder = runs.new_run_folder(
        config.out or Path("runs") / f"study-{shown(config.dataset).replace(':', '-')}",
        identity(config, model.info, chosen),
        overwrite=config.resume,
        option="--resume",
        facts={"data": model.info.facts},
    )
    study = Study(config, model, folder)

    # ---- sample and classify
    wanted = list(plan.cells(config, chosen, len(every), model.knows_classes))
    found = compute(study, wanted)

    # ---- sum up, and write
    results = report.read(folder) if (folder / "results.json").exists() else {}
    there = tuple(p for p in plan.PARTS if p in results or p in config.parts)
    asked = dataclasses.replace(typed, parts=there)
    facts = {
        "config": config,
        "command": command(program(__package__), asked, Config()),
        "provenance": runs.provenance(),
        "classifier": model.classifier.name,
        "classes": [model.info.class_names[k] for k in chosen],
    }
    tables: list[Table] = []
    for part in config.parts:
        if part == "path":
            summed = summary.path(study, study.problem((chosen[0],)))
        elif part == "calibration":
            summed = calibrate(study)
        else:
            mine = {cell: found[cell] for cell in wanted if cell.part == part}
            summed = summary.PARTS[part](study, mine)
        tables += summed.tables
        # Part by part, so that a later one that fails or was not asked for costs no earlier one;
        # first without pictures, so that a full disk costs those alone.
        results = merged(results, part, summed._replace(pictures=[])) | facts
        runs.write_json(folder / "results.json", results)
        for table in summed.tables:
            table.print()
        write_tables(folder, *tables)
        with runs.writing(folder):
            for picture in summed.pictures:
                if picture.draw is not None:
                    picture.draw()
        results = merged(results, part, summed)
        runs.write_json(folder / "results.json", results)
    page = as_typed("python -m eval.study.report")
    print(f"written to {folder}; one page of it: {page} {folder}")
    return results


def compute(study: Study, wanted: list[Cell]) -> dict[Cell, Found]:
    """Every cell, from its file or made now."""
    found = {}
    with cli.progress_bar() as bar:
        task = bar.add_task("cells", total=sum(cell.cost for cell in wanted))
        for cell in wanted:
            bar.update(task, description=f"{cell.part} {'+'.join(map(str, cell.forbidden))}")
            there = cells.load(study.folder, cell)
            if there is None:
                alike = [c for c in wanted if c != cell and cells.drawn_together(c, cell)]
                together = [cell, *(c for c in alike if cells.load(study.folder, c) is None)]
                there = made(study, together)[0]
            found[cell] = there
            bar.advance(task, cell.cost)
    return found


def made(study: Study, together: list[Cell]) -> list[Found]:
    """Cells of one run of the sampler, computed and stored."""
    problem, (first, *others) = study.problem(together[0].forbidden), together
    results = cells.run_together(problem, together) if others else [cells.run(problem, first)]
    for cell, result in zip(together, results, strict=True):
        cells.save(study.folder, cell, result)
    return results


def calibrate(study: Study) -> Summary:
    """The tracked posterior of unguided runs: the calibration job, in a folder of its own."""
    config = study.config
    samples = max(4, 2 * (config.samples // 2))
    inner = f"calibration_{config.sampler}_{config.steps}_seed{config.seeds[0]}_{samples}"
    asked = calibration.Config(
        dataset=config.dataset,
        source=dataclasses.replace(config.source, retrained=None),
        samplers=(config.sampler,),
        steps=config.steps,
        samples=samples,
        knots=min(8, config.steps - 1),
        seed=config.seeds[0],
        run=RunOptions(str(study.folder / inner), overwrite=True),
    )
    records = calibration.main(asked)
    caption = "Reliability of the tracked posterior at the end of the chain."
    pictures = [
        Picture(f"{inner}/{path.name}", caption)
        for path in sorted((study.folder / inner).glob("reliability_*.png"))
    ]
    return Summary(records, [calibration.table_of(asked, records)], pictures)


def merged(results: dict[str, Any], part: str, summed: Summary) -> dict[str, Any]:
    """The results with this part's in the place of an earlier session's."""
    others = {
        key: [entry for entry in results.get(key, []) if entry["part"] != part]
        for key in ("tables", "pictures")
    }
    return results | {
        part: summed.record,
        "tables": others["tables"] + [{"part": part} | t.to_dict() for t in summed.tables],
        "pictures": others["pictures"]
        + [{"part": part, "file": p.file, "caption": p.caption} for p in summed.pictures],
    }
