"""From the command line's options to the weights; see train.diffusion."""

from __future__ import annotations

from pathlib import Path

from dng_jax import nets, schedules, training

from .. import finish, images, samples, session, start, steps
from ..options import DiffusionOptions


def run(options: DiffusionOptions) -> Path | None:
    """Trains, writes the averaged weights and their card; returns the file, None when stopped."""
    # ---- parse
    options.check()
    place = start.place(options)
    found = images.load(options, len(place.devices))
    job = found.options.job
    run = start.prepare("diffusion", found, place, nets.UNet)

    # ---- build
    schedule = schedules.linear()
    step = steps.of_diffusion(job, run.module, found.labels[: job.examples], place.split)
    every = max(1, job.steps // 4) if options.sample_every is None else options.sample_every

    def draw(state: training.TrainState) -> None:
        path = run.out / "samples" / f"step-{int(state.step):06d}.png"
        names = found.info.class_names
        samples.draw(run.module, state.ema, schedule, names, path, write=place.first)

    # ---- train
    ended = session.train(run, step, sample_every=every, sample=draw if every else None)
    if ended is None or not place.first:
        return None

    # ---- write
    grid = f"samples/step-{job.steps:06d}.png" if every else None
    path = finish.write(run, *ended, {"schedule": "linear"}, grid)
    print(path)
    return path
