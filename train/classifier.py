"""Trains the classifier that judges samples: python -m train.classifier --preset digits"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import jax
import numpy as np
import tyro

from dng_jax import data, nets, training, weights
from dng_jax.errors import InputError
from dng_jax.jobs import cli
from dng_jax.metrics import Reference, features
from dng_jax.training.checkpoints import disk_errors
from train import finish, presets, session, start
from train.options import Options


def run(options: Options) -> Path | None:
    """Trains, judges on "test", writes weights and card; returns the file, None when stopped."""
    # ---- parse
    job = options.job(presets.CLASSIFIER)
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
        job.steps, job.learning_rate, job.warmup, job.weight_decay, job.clip
    )
    fresh = partial(training.init_state, module, optimiser, jax.random.key(job.seed))
    init = start.read_init(options.init, fresh)
    start.open_run(out, job, options.resume, where, init)

    # ---- build
    state = start.first_state(fresh, init, out, where)
    step = training.make_classifier_step(
        module, optimiser, job.batch_size, job.ema_decay, job.smoothing, where.split
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
        stored, params, _ = weights.load(path)
        look, name = features.judge(stored, params), f"{job.dataset}-classifier"
        classes = job.network.num_classes
        reference = Reference.of_images(look, every, every_label, classes, extractor=name)
        reference.save(Reference.path_beside(path), dtype="float16")
    print(f"test accuracy {accuracy:.4f} on {len(test_images):,} images, {path}")
    return path


if __name__ == "__main__":
    cli.main(lambda: run(tyro.cli(Options)))
