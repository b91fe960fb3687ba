"""Trains the classifier that judges samples: python -m train.classifier --preset digits"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from dng_jax import batch_statistics, checkpoints, data, nets, training
from dng_jax.errors import InputError
from dng_jax.metrics import features
from dng_jax.nets.classifier import whitening
from dng_jax.run_states import disk_errors
from eval import problems, runs
from train import finish, presets, session, start
from train.options import Options
from train.presets import ClassifierJob

WHITENING_IMAGES = 5_000


def run(options: Options) -> Path | None:
    """Trains, judges on "test", writes weights and card; returns the file, None when stopped."""
    # ---- parse
    job = checked(options.job(presets.CLASSIFIER))
    out = options.out or Path("runs") / f"{options.preset}-classifier"
    where = start.place(options)
    every, every_label = start.load(dataclasses.replace(job, examples=None), where)
    images, labels = every[: job.examples], every_label[: job.examples]
    counts = np.bincount(every_label, minlength=job.network.num_classes)
    if few := np.flatnonzero(counts < 2).tolist():
        # Said now, not after the training: the reference statistics need two of each.
        raise InputError(
            f"classes {few} have fewer than two images in {job.dataset}, split {job.split}: choose"
            " another split, or number classes from 0"
        )
    test_images, test_labels, _ = data.load(job.dataset, "test")
    module = nets.Classifier(job.network, where.dtype(job.precision))
    optimiser = training.make_optimiser(
        job.steps, job.learning_rate, job.warmup, job.weight_decay, job.clip, job.momentum
    )
    fresh = partial(_fresh, module, optimiser, job, images[:WHITENING_IMAGES])
    init = start.read_init(options.init, fresh)
    start.open_run(out, job, options.resume, where, init)

    # ---- build
    state = start.first_state(fresh, init, out, where)
    step = training.make_classifier_step(
        module, optimiser, job.batch_size, job.ema_decay, job.smoothing, where.split, change(job)
    )

    # ---- train
    arrays = where.put((images, labels))
    ended = session.run(options, job, where, out, module, step, state, arrays)
    if ended is None or not where.first:
        return None
    state, seconds = ended

    # ---- judge, in float32
    judge = nets.Classifier(job.network)
    params = jax.device_get(state.ema)
    if job.network.norm == "batch":
        params = batch_statistics.exact(judge, params, images, job.batch_size)
    right = [
        training.count_right(judge, params, test_images[i : i + 500], test_labels[i : i + 500])
        for i in range(0, len(test_images), 500)
    ]
    accuracy = int(np.sum(right)) / len(test_images)

    # ---- write
    found = {"test_accuracy": f"{accuracy:.4f}", "test_images": str(len(test_images))}
    text = finish.facts("classifier", job, options, state, seconds, out, len(images), found)
    with disk_errors("write the model", out):
        path = finish.write(out, params, module, text, options.dtype, None)
        # Through the weights as they are stored: those will look at generated images.
        stored, params, _ = checkpoints.load_model(path)
        look, name = features.judge(stored, params), f"{job.dataset}-classifier"
        reference = problems.make_reference(look, every, every_label, job.network.num_classes, name)
        reference.save(problems.reference_path(path), dtype="float16")
    print(f"test accuracy {accuracy:.4f} on {len(test_images):,} images, {path}")
    return path


def checked(job: ClassifierJob) -> ClassifierJob:
    """The job; InputError for an augmentation or momentum that cannot be."""
    side = min(job.network.image_shape[:2])
    if not 0 <= job.shift < side or not 0 <= job.cut <= side:
        raise InputError(
            f"shift must be 0 to {side - 1} and cut 0 to {side} for images of side {side}, got"
            f" {job.shift} and {job.cut}"
        )
    if job.warp and (job.flip or job.shift or job.cut):
        raise InputError("flip, shift and cut take the place of warp: set warp to false")
    if job.momentum is not None and not 0 <= job.momentum < 1:
        raise InputError(f"momentum must be at least 0 and below 1, got {job.momentum}")
    return job


def change(job: ClassifierJob) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The job's augmentation, (key, images) -> images."""
    if job.warp:
        return training.augment
    return partial(training.flip_shift_cut, flip=job.flip, shift=job.shift, cut=job.cut)


def _fresh(module, optimiser, job: ClassifierJob, images: np.ndarray) -> training.TrainState:
    state = training.init_state(module, optimiser, jax.random.key(job.seed))
    if job.network.norm == "batch":
        params = {**state.params, "whitening": jnp.asarray(whitening(data.to_unit(images)))}
        state = state._replace(params=params, ema=params)
    return state


if __name__ == "__main__":
    runs.main(lambda: run(tyro.cli(Options)))
