"""Where the workers of a search run: ENGINES.

Several processes on one journal need no engine: start the same command with --resume as often as
there are machines that see the folder. An engine starts them:

    process     this one
    submitit    jobs of SLURM, or processes here (cluster "local"), by submitit
    ray         tasks of a Ray cluster, or of this machine, by Ray

Each worker asks a block of trials of its own, so that an accelerator stays full, and the folder
must be one that all of them see.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dng_jax.errors import InputError

LOGS = "submitit"  # the folder of its workers' output, inside the study's
ENGINES = ("process", "submitit", "ray")


def check(engine: str) -> None:
    """InputError for an engine whose package is not installed."""
    if engine != "process":
        _package(engine)


def run(
    engine: str,
    work: Callable[[Any], object],
    argument: Any,
    workers: int,
    folder: Path,
    *,
    cluster: str | None = None,
    address: str | None = None,
    resources: Sequence[str] = (),
) -> list[str]:
    """Runs work(argument) in so many workers and waits for them; returns what went wrong in those
    that failed, a line each.

    work: a function that a worker can import. cluster: of submitit; address: of Ray. resources:
    KEY=VALUE of submitit's update_parameters, or of ray.remote.
    """
    asked = parameters(resources)
    if engine == "submitit":
        return _submitit(work, argument, workers, folder, cluster, asked)
    return _ray(work, argument, workers, address, asked)


def parameters(words: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE words as a mapping, whole numbers as such; InputError for any other word."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name.isidentifier() or not equals or name in found:
            raise InputError(f"--resources takes each KEY=VALUE once, got '{word}'")
        found[name] = int(value) if value.isdecimal() else value
    return found


def _submitit(
    work: Callable, argument: Any, workers: int, folder: Path, cluster: str | None, asked: Mapping
) -> list[str]:
    submitit = _package("submitit")
    try:
        executor = submitit.AutoExecutor(folder=str(folder / LOGS), cluster=cluster)
        executor.update_parameters(**asked)
    except (RuntimeError, ValueError, NameError, TypeError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"submitit refuses --cluster or --resources: {said}") from None
    try:
        jobs = [executor.submit(work, argument) for _ in range(workers)]
    except submitit.core.utils.FailedSubmissionError as error:
        raise InputError(f"SLURM refuses the jobs ({reason(error)}): see --resources") from None
    print(f"{workers} jobs of submitit ({executor.cluster}), their output in {folder / LOGS}")
    ended = [(job.job_id, job.exception()) for job in jobs]
    return [f"job {number}: {reason(error)}" for number, error in ended if error is not None]


def _ray(
    work: Callable, argument: Any, workers: int, address: str | None, asked: Mapping
) -> list[str]:
    ray = _package("ray")
    # Tasks start elsewhere: they find the jobs where this process does.
    shared = {"env_vars": {"PYTHONPATH": os.pathsep.join([os.getcwd(), *_python_path()])}}
    try:
        ray.init(address=address, runtime_env=shared, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"no Ray cluster at --address {address}: {said}") from None
    task = ray.remote(**asked)(work) if asked else ray.remote(work)
    failed = []
    for number, reference in enumerate([task.remote(argument) for _ in range(workers)]):
        try:
            ray.get(reference)
        except ray.exceptions.RayError as error:
            failed.append(f"task {number}: {reason(error)}")
    ray.shutdown()
    return failed


def _python_path() -> list[str]:
    return [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]


def reason(error: BaseException) -> str:
    """One line of a worker's error, which holds its traceback: what was raised last, else the first
    line."""
    text = str(error)
    raised = re.findall(r"(?m)^(?:[\w.]+\.)?(\w+(?:Error|Exception|Interrupt|Exit)\b.*)", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = raised[-1] if raised else lines[0] if lines else type(error).__name__
    return found.removeprefix("InputError: ")


def _package(engine: str) -> Any:
    try:
        return importlib.import_module(engine)
    except ImportError:
        raise InputError(
            f"--engine {engine} needs the extra {engine}: pip install 'dng-jax[{engine}]'"
        ) from None
