"""One session of a run: from its newest saved state to its end, or to a signal."""

from __future__ import annotations

from collections.abc import Callable

from dng_jax.jobs import runs
from dng_jax.training import Step, TrainState
from dng_jax.training.checkpoints import Checkpoints, disk_errors

from . import loop
from .logs import Log
from .start import Run


def train(
    run: Run,
    step: Step,
    *,
    sample_every: int = 0,
    sample: Callable[[TrainState], None] | None = None,
) -> tuple[TrainState, float] | None:
    """Trains; returns the state to export and the seconds of training over all sessions.

    None where a signal ended this session: the state is saved, and a line says how to go on.
    """
    options, job, place = run.options, run.job, run.place
    pace = loop.Pace(
        job.steps,
        job.batch_size,
        options.log_every,
        options.save_every,
        sample_every,
        place.steps_per_call(options.steps_per_call),
    )
    states = Checkpoints(
        run.out / "states",
        run.network,
        keep_best=options.keep_best,
        report=place.show,
    )
    stop = loop.StopSignal()
    with disk_errors("write", run.out), states, stop.listening():
        state, facts = states.restore(run.state) or (run.state, {})
        if options.resume:
            place.show(f"{run.out}: going on from step {int(state.step)}")
        config, done = runs.to_json(job), loop.Done(**facts)
        with Log(
            run.out, int(state.step), active=place.first, wandb=options.wandb, config=config
        ) as log:
            state, seconds = loop.fit(
                step, state, run.arrays, pace, states, log, done=done, sample=sample, stop=stop
            )
        if int(state.step) < job.steps:
            place.show(
                f"stopped by {stop.name}: step {int(state.step)} of {job.steps} is saved;"
                " go on with the same command and --resume"
            )
            return None
        if options.export == "best":
            best = states.restore(state, best=True)
            assert best is not None  # the last state has just been saved
            state = best[0]
            place.show(
                f"exporting step {int(state.step)}: of those after whole --save-every steps, the"
                " one of the lowest training loss; the last one where there is none"
            )
    return state, seconds
