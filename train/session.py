"""One sitting of a run: from its newest saved state to its end, or to a signal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dng_jax import nets
from dng_jax.jobs import runs
from dng_jax.training import TrainState
from dng_jax.training.checkpoints import RunStates, disk_errors
from train import loop
from train.logs import Log
from train.options import Options
from train.presets import Job
from train.start import Place


def run(
    options: Options,
    job: Job,
    where: Place,
    out: Path,
    module: Any,
    step: Callable,
    state: TrainState,
    arrays: tuple,
    *,
    sample_every: int = 0,
    sample: Callable[[TrainState], None] | None = None,
) -> tuple[TrainState, float] | None:
    """Trains; returns the state to export and the seconds of training over all sittings.

    None where a signal ended this sitting: the state is saved, and a line says how to go on.
    """
    pace = loop.Pace(
        options.log_every,
        options.save_every,
        sample_every,
        where.steps_per_call(options.steps_per_call),
    )
    states = RunStates(
        out / "states", nets.describe(module), keep_best=options.keep_best, report=where.say
    )
    stop = loop.StopSignal()
    with disk_errors("write", out), states, stop.listening():
        found = states.restore(state)
        state, facts = found or (state, {"seconds": 0.0})
        if options.resume:
            where.say(f"{out}: going on from step {int(state.step)}")
        config = runs.to_json(job)
        first = int(state.step)
        with Log(out, first, active=where.first, wandb=options.wandb, config=config) as log:
            state, seconds = loop.fit(
                step,
                state,
                arrays,
                job.steps,
                job.batch_size,
                states,
                log,
                pace,
                seconds=facts["seconds"],
                losses=facts.get("losses", ()),
                sample=sample,
                stop=stop,
            )
        if int(state.step) < job.steps:
            where.say(
                f"stopped by {stop.name}: step {int(state.step)} of {job.steps} is saved;"
                " go on with the same command and --resume"
            )
            return None
        if options.export == "best":
            best = states.restore(state, best=True)
            assert best is not None  # the last state has just been saved
            state = best[0]
            where.say(
                f"exporting step {int(state.step)}: of those after whole --save-every steps, the"
                " one of the lowest training loss; the last one where there is none"
            )
    return state, seconds
