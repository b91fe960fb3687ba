"""Trains a diffusion U-Net: python -m train.diffusion --preset digits --out runs/digits-heads"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax
import tyro

from dng_jax import nets, schedules, stable_targets, training
from dng_jax.run_states import disk_errors
from eval import runs
from train import finish, presets, samples, session, start
from train.options import DiffusionOptions


def run(options: DiffusionOptions) -> Path | None:
    """Trains, writes the averaged weights and their card; returns the file, None when stopped."""
    # ---- parse
    job = options.job(presets.DIFFUSION)
    sample_every = max(1, job.steps // 4) if options.sample_every is None else options.sample_every
    out = options.out or Path("runs") / options.preset
    where = start.place(options)
    images, labels = start.load(job, where)
    rows = stable_targets.rows_by_class(labels, job.network.num_classes) if job.references else None
    module = nets.UNet(job.network, where.dtype(job.precision))
    optimiser = training.make_optimiser(
        job.steps, job.learning_rate, job.warmup, job.weight_decay, job.clip
    )
    fresh = partial(training.init_state, module, optimiser, jax.random.key(job.seed))
    init = start.read_init(options.init, fresh)
    start.open_run(out, job, options.resume, where, init)

    # ---- build
    state = start.first_state(fresh, init, out, where)
    schedule = schedules.linear()
    step = training.make_diffusion_step(
        module,
        optimiser,
        schedule,
        job.batch_size,
        job.ema_decay,
        where.split,
        job.references,
        rows,
        job.flip,
    )

    def draw(state: training.TrainState) -> None:
        path = out / "samples" / f"step-{int(state.step):06d}.png"
        samples.draw(module, state.ema, schedule, path, write=where.first)

    # ---- train
    ended = session.run(
        options,
        job,
        where,
        out,
        module,
        step,
        state,
        where.put((images, labels)),
        sample_every=sample_every,
        sample=draw if sample_every else None,
    )
    if ended is None or not where.first:
        return None
    state, seconds = ended

    # ---- write
    found = {"schedule": "linear"}
    text = finish.facts("diffusion", job, options, state, seconds, out, len(images), found)
    grid = f"samples/step-{job.steps:06d}.png" if sample_every else None
    with disk_errors("write the model", out):
        path = finish.write(out, state.ema, module, text, options.dtype, grid)
    print(path)
    return path


if __name__ == "__main__":
    runs.main(lambda: run(tyro.cli(DiffusionOptions)))
