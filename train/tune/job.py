"""Trains blocks of members until the study is full, and writes what it found; see train.tune."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dng_jax import nets, schedules, training
from dng_jax.errors import InputError
from dng_jax.jobs import cli, locks, runs
from dng_jax.jobs.options import command, program, shown
from dng_jax.sampling import root_key
from dng_jax.training import yardsticks
from dng_jax.training.jobs import ClassifierJob, DiffusionJob, Job
from dng_jax.tuning import (
    blocks,
    halving,
    journals,
    memory,
    numbers,
    searching,
    studies,
    ways,
)
from dng_jax.tuning.goals import Goals

from .. import images, steps
from . import compare, judgement, report
from .options import Config, usual

HELD_OUT = 2_000
WRITING = "the trainings are complete: waiting for another process, which judges and writes them"


def run(config: Config) -> dict[str, Any]:
    """Fills the study and writes what it found; returns that."""
    # ---- parse
    config.check()
    journals.optuna()
    config.data.use()
    config.devices.select()
    found = images.load(config.training(config.job), 1)
    job = found.options.job
    space = numbers.parse(config.space, job)
    rungs = halving.rungs(config.first_steps or job.steps, job.steps, config.eta, unit="steps")
    used = found.images[: job.examples], found.labels[: job.examples]
    rows, held = split(len(used[0]), config)
    if config.judge_seeds and len(held) > len(rows):
        raise InputError(
            f"--held-out {len(held)} of {len(used[0])} images leaves too few to judge on others: at"
            f" most {len(used[0]) // 2}, or add --judge-seeds 0"
        )
    plan = plan_of(config, job, space, rungs, len(held), found.info.key)

    # ---- build
    folder = runs.new_run_folder(
        config.folder,
        plan.facts | {"compare": config.compare},
        overwrite=config.resume,
        option="--resume",
        shared=True,
        facts={"command": spelled(config)},
    )
    saved = folder / blocks.FOLDER
    trainings = trainings_of(config, job, rungs, used, rows, held, saved)
    with memory_named(config, trainings.engine):
        if config.compare:
            return compare.written(config, folder, trainings, compare.drawn(plan, config.members))

        # ---- search
        if said := ways.only_random(config.search, plan.total, config.members, "--members"):
            print(said)
        with studies.open_study(folder, plan) as study:
            search(study, trainings, config.members)

            # ---- judge and write, one process alone
            with locks.waited(folder / "judge.lock", lambda: print(WRITING)):
                fresh = on_fresh_seeds(config, job, trainings, used, rows, held, saved)
                results = report.written(config, folder, study, found.options, rungs, fresh)
                cleared(study, saved)
                return results


def cleared(study: studies.Study, saved: Path) -> None:
    """Removes what members have saved, unless a process that joined with more --trials is at work
    on some; none can be asked on the way."""
    with locks.waited(study.folder / study.LOCK):
        done, running = study.counts()
        if not running and done >= study.plan.total:
            shutil.rmtree(saved, ignore_errors=True)


@contextlib.contextmanager
def memory_named(config: Config, engine: str) -> Iterator[None]:
    """InputError, naming --members, where the device has no memory for a block; engine single has
    one training there at a time, and the sentence of all jobs (dng_jax.jobs.cli)."""
    try:
        yield
    except RuntimeError as error:
        if engine == "single" or not memory.exhausted(error):
            raise
        fewer = f"--members {config.members // 2}, or " if config.members > 1 else ""
        raise InputError(
            f"the device has too little memory for a block of --members {config.members}: go on"
            f" with --resume and {fewer}--engine single; nothing that was saved is lost"
        ) from error


def precision(job: Job) -> str:
    """float32 or bfloat16: what the trainings compute in on this machine."""
    return steps.precision_of(job.precision, jax.default_backend())


def plan_of(
    config: Config, job: Job, space: numbers.NumberSpace, rungs: tuple, held: int, key: str
) -> studies.Plan:
    """The study that the options describe."""
    named = dataclasses.replace(job, dataset=shown(job.dataset), precision=precision(job))
    identity = {"task": "train.tune", "of": config.of, "job": named, "rungs": rungs,
                "eta": config.eta, "held_out": held, "log_every": config.log_every,
                "data": key}  # fmt: skip
    goal, seed = Goals((config.objective,)), config.search_seed
    given = (config.search, config.trials, seed, config.points, tuple(identity.items()))
    whole = ("steps", rungs[-1]) if len(rungs) > 1 else None
    return studies.Plan(space, goal, *given, whole=whole)


def split(count: int, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, and rows held out, both rising; by the search's seed."""
    held = min(HELD_OUT, count // 5) if config.held_out is None else config.held_out
    if not 2 <= held < count:
        raise InputError(f"--held-out must be 2 to {count - 1} of {count} images, got {held}")
    order = np.random.default_rng(config.search_seed).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])


def trainings_of(
    config: Config,
    job: Job,
    rungs: tuple[int, ...],
    used: tuple[np.ndarray, np.ndarray],
    rows: np.ndarray,
    held: np.ndarray,
    folder: Path,
) -> blocks.Trainings:
    """Who trains settings."""
    cpu = jax.default_backend() == "cpu"
    dtype = steps.dtype_of(precision(job))
    module: Any
    if isinstance(job, DiffusionJob):
        module = nets.UNet(job.network, dtype)
        yardstick = yardsticks.of_diffusion(module, schedules.linear())
    else:
        assert isinstance(job, ClassifierJob)
        module = nets.Classifier(job.network, dtype)
        yardstick = yardsticks.of_classifier(module)
    labels = used[1][rows]

    def build(values: Any) -> training.Step:
        one: Any = dataclasses.replace(job, **values)
        if isinstance(one, ClassifierJob):
            return steps.of_classifier(one, module)
        return steps.of_diffusion(one, module, labels)

    fresh = training.init_state(module, steps.optimiser_of(job), root_key(job.seed))
    put = jax.device_put
    return blocks.Trainings(
        build,
        ("single" if cpu else "vmap") if config.engine == "auto" else config.engine,
        fresh,
        (put(used[0][rows]), put(labels)),
        (put(used[0][held]), put(used[1][held])),
        yardstick,
        root_key(config.search_seed),
        rungs,
        config.eta,
        config.log_every,
        config.objective,
        folder,
        -(-config.save_every // config.log_every) * config.log_every,
    )


def on_fresh_seeds(
    config: Config,
    job: Job,
    trainings: blocks.Trainings,
    used: tuple[np.ndarray, np.ndarray],
    rows: np.ndarray,
    held: np.ndarray,
    folder: Path,
) -> judgement.FreshSeeds:
    """Who trains on fresh seeds (train.tune.judgement), by the programs of the search where they do
    not hold its images."""

    def made(number: int) -> blocks.Trainings:
        again = judgement.split_again(rows, held, config.search_seed, number)
        seeded = dataclasses.replace(job, seed=(job.seed + number) % 2**32)
        one = trainings_of(
            config, seeded, trainings.rungs[-1:], used, *again, folder / f"seed-{number}"
        )
        references = getattr(job, "references", 0)
        return dataclasses.replace(
            one,
            yardstick=trainings.yardstick,
            key=jax.random.fold_in(trainings.key, number),
            step=one.step if references else trainings.step,
        )

    return judgement.FreshSeeds(made, len(rows), len(held))


def search(study: studies.Study, trainings: blocks.Trainings, members: int) -> None:
    """Fills the study, with a bar, and keeps how fast that was."""
    with cli.progress_bar() as bar:
        task = bar.add_task("trainings", total=study.plan.total)

        def told(count: int) -> None:
            bar.update(task, completed=count)

        # A block takes long: the steps it has taken count, until it is told.
        trainings.advance = lambda n: bar.advance(task, n * members / trainings.rungs[-1])
        waiting = bar.console.print
        searching.search(study, trainings, members, told, study.keep_session, waiting)


def spelled(config: Config) -> str:
    """The command that repeats the search."""
    words = program("train.tune") + ("" if config.of == "diffusion" else f" --of {config.of}")
    words += "" if config.preset == "digits" else f" --preset {config.preset}"
    words += "" if config.conditioning is None else f" --conditioning {config.conditioning}"
    return command(words, config, usual(config.of, config.preset, config.conditioning))
