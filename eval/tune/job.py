"""Searches, judges, writes; see eval.tune."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from dng_jax.errors import InputError, choose
from dng_jax.experiments import models, problems, rule_specs
from dng_jax.experiments.problems import Problem
from dng_jax.jobs import cli, locks, runs
from dng_jax.jobs.options import at_least, at_most, command, program, seed, shown
from dng_jax.tuning import engines, goals, halving, journals, searching, spaces, studies, ways
from dng_jax.tuning.judging import UnmetError
from dng_jax.tuning.measuring import Measurer
from dng_jax.tuning.studies import Plan, Study

from . import judgement, planning
from .options import Config

PROBES = 64
JUDGING = "the settings are complete: waiting for another process, which judges them"


def main(config: Config) -> dict[str, Any]:
    """Fills the study and writes what it found; returns that."""
    # ---- parse
    check(config)
    space = spaces.parse(config.space, config.sampler, config.steps)
    goal = goals.parse(config.objectives, config.constraints)
    against = spaces.by_hand(config.against, config.sampler, config.steps)
    specs = [family.spec for family in space.families]
    rule_specs.check_taken(specs, "--space", None, config.options)
    for spec in (*specs, *(setting.spec for setting in against)):
        if spec.name in rule_specs.OF_IMAGES:
            raise InputError(
                f"{spec} pushes away from forbidden images, which this job does not take: leave it"
                " out, or take it to eval.class_removal --forbid-images"
            )
    folder = Path(config.out or Path("runs") / f"tune-{shown(config.dataset).replace(':', '-')}")
    if config.engine != "process" and not config.dry_run:
        return with_engine(config, folder)

    # ---- build
    config.data.use()
    config.devices.select()
    problem = problems.make(config.dataset, config.forbid or ("0",), config.source)
    for name in space.samplers():
        problem.table(name, config.steps)
    plan = planned(config, problem, space, goal)
    measurer = measurer_of(config, problem, plan)
    for family, steps in space.programs():
        for setting in planning.corners(space, family, steps):
            measurer.rule(setting)
    for setting in against:
        measurer.rule(setting)
    if config.dry_run:
        return planning.tell(config, plan, measurer, against)
    folder = runs.new_run_folder(
        folder,
        plan.facts,
        overwrite=config.resume,
        option="--resume",
        shared=True,
        besides=(engines.LOGS,),
        facts={"command": command(program(__package__), config, Config())},
    )

    # ---- search
    if said := ways.only_random(config.search, plan.total, config.block, "--block"):
        print(said)
    with studies.open_study(folder, plan) as study:
        search(study, measurer, config.block)

        # ---- judge and write, one process alone
        with locks.waited(folder / "judge.lock", lambda: print(JUDGING)):
            return judgement.written(config, folder, study, measurer, against)


def work(config: Config) -> None:
    """What a worker of an engine does: the whole job, in the folder of the others."""
    usual = Config()
    alone = {name: getattr(usual, name) for name in ("engine", "cluster", "address", "resources")}
    with contextlib.suppress(UnmetError):  # which who started the workers says
        main(dataclasses.replace(config, **alone, resume=True))  # type: ignore[arg-type]


def with_engine(config: Config, folder: Path) -> dict[str, Any]:
    """The same by workers of an engine; returns what the last of them wrote."""
    with runs.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not config.resume and any(folder.iterdir()):
        raise InputError(
            f"{folder} already holds files: choose another --out, or add --resume to go on there"
        )
    asked = dataclasses.replace(config, out=str(folder.resolve()))
    failed = engines.run(
        config.engine,
        work,
        asked,
        config.workers,
        folder,
        cluster=config.cluster,
        address=config.address,
        resources=config.resources,
    )
    for line in failed:
        print(line)
    if len(failed) == config.workers:
        raise InputError(f"every worker of --engine {config.engine} ended early ({failed[0]})")
    return judgement.kept(judgement.read(folder))


def check(config: Config) -> None:
    """Refuses what makes no sense before anything is computed."""
    at_least(1, trials=config.trials, points=config.points, block=config.block)
    at_least(1, judged=config.judged, workers=config.workers)
    at_least(2, samples=config.samples, batch=config.batch, judge_samples=config.judge_samples)
    at_least(2, first_samples=config.first_samples, eta=config.eta)
    at_least(0, probes=config.options.probes)
    at_most(PROBES, probes=config.options.probes)
    at_most(spaces.STEPS_MAX, steps=config.steps)
    seed(seed=config.seed, fresh_seed=config.fresh_seed)
    seed(fresh_seed=config.fresh_seed + 1)
    if config.seed in (config.fresh_seed, config.fresh_seed + 1):
        raise InputError(
            f"--fresh-seed {config.fresh_seed} and the next must differ from --seed {config.seed}:"
            " the front is judged on images that the search never saw"
        )
    choose(config.search, ways.WAYS, "search")
    choose(config.engine, engines.ENGINES, "engine")
    engines.check(config.engine)
    journals.optuna()
    chunk_of(config)
    for name, engine in (("cluster", "submitit"), ("address", "ray")):
        if getattr(config, name) is not None and config.engine != engine:
            raise InputError(f"--{name} belongs to --engine {engine}: add it, or leave it out")


def chunk_of(config: Config) -> int | None:
    """--chunk as a number, None for auto."""
    if config.chunk == "auto":
        return None
    if not config.chunk.isdecimal() or int(config.chunk) < 1:
        raise InputError(f"--chunk takes a number of at least 1, or auto, got {config.chunk}")
    return int(config.chunk)


def planned(config: Config, problem: Problem, space: spaces.Space, goal: goals.Goals) -> Plan:
    """The study that the options describe."""
    source = config.source
    if source.denoiser != "exact":
        full = models.full_name(config.dataset, source.network)
        source = dataclasses.replace(source, network=full)
    rungs = rungs_of(config)
    identity = {
        "job": "tune",
        "dataset": problem.info.key,
        "forbidden": problem.forbidden,
        "source": source,
        "weights": models.fingerprint(config.dataset, config.source, problem.forbidden),
        "options": config.options,
        "rungs": rungs,
        "eta": config.eta,
    }
    return Plan(
        space,
        goal,
        config.search,
        config.trials,
        config.seed,
        config.points,
        tuple(identity.items()),
        ("samples", rungs[-1]) if len(rungs) > 1 else None,
    )


def rungs_of(config: Config) -> tuple[int, ...]:
    """Images of a setting after each rung."""
    first = config.samples if config.first_samples is None else config.first_samples
    return halving.rungs(first, config.samples, config.eta, min(config.batch, first))


def measurer_of(config: Config, problem: Problem, plan: Plan) -> Measurer:
    """Who evaluates settings on the search's seed."""
    rungs, programs = rungs_of(config), len(plan.space.programs())
    return Measurer(
        problem,
        config.options,
        plan.goals,
        config.seed,
        rungs,
        config.eta,
        # A block that is split over several programs fills none of them.
        width=max(1, config.block if programs == 1 else config.block // (2 * programs)),
        batch=min(config.batch, rungs[0]),
        chunk=chunk_of(config),
    )


def search(study: Study, measurer: Measurer, block: int) -> None:
    """Fills the study, with a bar, and keeps how fast that was."""
    each = measurer.rungs[-1] * halving.share(measurer.rungs, measurer.eta)
    with cli.progress_bar() as bar:
        task = bar.add_task("settings", total=study.plan.total)

        def told(count: int) -> None:
            bar.update(task, completed=count)

        # A block takes long: what it has drawn counts, until it is told.
        measurer.advance = lambda images: bar.advance(task, images / each)

        def waiting(sentence: str) -> None:
            bar.console.print(sentence, markup=False, highlight=False, soft_wrap=True)

        searching.search(study, measurer, block, told, study.keep_session, waiting)
        measurer.advance = lambda images: None
