"""What a study of scenes measures and writes; see eval.scenes."""

from __future__ import annotations

from typing import Any

from dng_jax.errors import InputError, choose
from dng_jax.experiments import scene_models
from dng_jax.jobs import runs
from dng_jax.jobs.opening import open_run
from dng_jax.jobs.options import at_least, distinct, program, seed
from dng_jax.jobs.tables import publish, write_csv
from dng_jax.scenes import prompts

from . import plan, summary
from .curves import Found, Study, measured, store, stored
from .options import CLAIM, GUIDED, PARTS, Config
from .plan import Curve


def main(config: Config) -> dict[str, Any]:
    """Measures the curves that are not there yet, then sums up."""
    # ---- parse
    check(config)

    # ---- build
    config.devices.select()
    study = Study(config, scene_models.load(config.model, config.cells))
    folder = open_run(program(__package__), config, "scenes")

    # ---- sample and classify
    wanted = plan.curves(config.parts)
    found: dict[Curve, Found] = {}
    provenance, model = runs.provenance(), study.model.identity
    now, commits = commit_of(provenance), set()
    for i, curve in enumerate(wanted):
        there = stored(folder, curve, config.samples, model)
        if there is None:
            there = measured(study, curve), now
            store(folder, curve, there[0], model, now)
            print(f"{i + 1} of {len(wanted)}: {curve.name}, {there[0].seconds:.0f} s", flush=True)
        found[curve] = there[0]
        commits.add(there[1])

    # ---- write
    results = summary.summed(config, found)
    facts = {"config": config, "provenance": provenance, "model": study.model.name}
    facts |= {"identity": model, "commits": sorted(commits)}
    runs.write_json(folder / "results.json", facts | results)
    write_csv(folder / "points.csv", results["points"], summary.FIELDS)
    publish(folder, *summary.tables(config, study.model.name, results))
    print(f"written to {folder}")
    return results


def commit_of(provenance: dict[str, Any]) -> str:
    """The commit in words, "dirty" where files had changed."""
    git = provenance.get("git") or {}
    return f"{git.get('commit')}{' dirty' if git.get('dirty') else ''}"


def check(config: Config) -> None:
    """Refuses what makes no sense before anything is computed."""
    for part in config.parts:
        choose(part, (*PARTS, CLAIM, GUIDED), "part")
    distinct(parts=config.parts, levels=config.levels)
    if not all(0 < level < 1 for level in config.levels):
        raise InputError(
            f"--levels must lie strictly between 0 and 1, got {' '.join(map(str, config.levels))}"
        )
    at_least(2, samples=config.samples)
    at_least(1, batch=config.batch)
    seed(seed=config.seed)
    if not 0 < prompts.share(config.related, config.prompt, config.cells) < 1:
        raise InputError(
            f"--related {config.related} must be in some scenes of '{config.prompt}', not in none"
            " and not in all: choose another"
        )
    if prompts.share(config.unrelated, config.prompt, config.cells) > 0:
        raise InputError(
            f"--unrelated {config.unrelated} is in scenes of '{config.prompt}': choose one that is"
            " in none"
        )
