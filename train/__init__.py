"""Training jobs, `python -m train.diffusion` and `python -m train.classifier`, and their one loop.

A run is a folder:

    run.json             the job as it was parsed (a run resumes only with the same one), provenance
    metrics.jsonl        one line every `log_every` steps: step, seconds, loss and its parts
    state.safetensors    the last saved TrainState; --resume continues from it, bit for bit
    model.safetensors    the averaged weights, written at the end
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from dng_jax import checkpoints
from dng_jax.errors import InputError
from dng_jax.training import TrainState
from eval import runs


def with_overrides(preset, overrides: dict):
    """The preset with every override that is not None in place."""
    return dataclasses.replace(preset, **{k: v for k, v in overrides.items() if v is not None})


def command(job: str, preset: str, overrides: dict) -> str:
    """The command that repeats a run, without the paths of this machine."""
    given = [f"--{k.replace('_', '-')} {v}" for k, v in overrides.items() if v is not None]
    return " ".join([f"python -m train.{job} --preset {preset}", *given])


def open_run(out: Path, job: dict, resume: bool) -> None:
    """Makes the run's folder, or finds it again; never writes over another run."""
    if resume and not (out / "run.json").exists():
        raise InputError(f"{out} holds no run to resume: leave out --resume")
    runs.new_run_folder(out, job, overwrite=resume, option="--resume")


def check_counts(**counts: int) -> None:
    """InputError for a number of steps or images below 1."""
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {value}")


def fit(
    step: Callable,
    state: TrainState,
    data: tuple,
    steps: int,
    out: Path,
    log_every: int,
    save_every: int,
) -> TrainState:
    """Takes the state, or the one saved in `out`, to `steps` steps; logs and saves on the way."""
    saved = out / "state.safetensors"
    if saved.exists():
        state, _ = checkpoints.load_tree(saved, state)
    began, first = time.monotonic(), int(state.step)
    columns = (TextColumn("step {task.completed:.0f}/{task.total:.0f}"), BarColumn())
    _drop_lines_after(out / "metrics.jsonl", first)
    with (
        open(out / "metrics.jsonl", "a") as log,
        Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}")) as progress,
    ):
        bar = progress.add_task("", total=steps, completed=first, note="compiling")
        waiting = None
        for n in range(first + 1, steps + 1):
            state, metrics = step(state, *data)
            if jax.default_backend() == "cpu" and jax.device_count() > 1:
                # Collectives of several steps in flight wait for each other's threads for ever.
                jax.block_until_ready(metrics)
            if n % log_every == 0 or n == steps:
                # Reading the previous line's values, not this one's, keeps the device busy.
                _write_line(log, waiting)
                waiting = (n, time.monotonic() - began, metrics)
                note = f"{(n - first) / (time.monotonic() - began):.1f} steps/s"
                progress.update(bar, completed=n, note=note)
            if n % save_every == 0 or n == steps:
                checkpoints.save_tree(saved, state)
        _write_line(log, waiting)
    return state


def _drop_lines_after(path: Path, step: int) -> None:
    # Steps that ran after the last saved state run again, and are logged again.
    if path.exists():
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if json.loads(line)["step"] <= step))


def _write_line(log, waiting) -> None:
    if waiting is not None:
        n, seconds, metrics = waiting
        values = {k: round(float(v), 6) for k, v in jax.device_get(metrics).items()}
        log.write(json.dumps({"step": n, "seconds": round(seconds, 2), **values}) + "\n")
        log.flush()
