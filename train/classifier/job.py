"""From the command line's options to the weights; see train.classifier."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from dng_jax import data, nets, training, weights
from dng_jax.errors import InputError
from dng_jax.jobs.options import shown
from dng_jax.metrics import Reference, features
from dng_jax.training import batch_statistics
from dng_jax.training.checkpoints import disk_errors

from .. import finish, images, session, start, steps
from ..options import ClassifierOptions


def run(options: ClassifierOptions) -> Path | None:
    """Trains, tests on "test", writes weights and card; returns the file, None when stopped."""
    # ---- parse
    options.check()
    place = start.place(options)
    found = images.load(options, len(place.devices))
    job, labels = found.options.job, found.labels
    classes = job.network.num_classes
    if few := np.flatnonzero(np.bincount(labels, minlength=classes) < 2).tolist():
        # Said now, not after the training: the reference statistics need two of each.
        raise InputError(
            f"classes {few} have fewer than two images in {job.dataset}, split {job.split}: choose"
            " another split, or number classes from 0"
        )
    test_images, test_labels, _ = data.load(job.dataset, "test")
    run = start.prepare("classifier", found, place, nets.Classifier)

    # ---- build
    step = steps.of_classifier(job, run.module, place.split)

    # ---- train
    ended = session.train(run, step)
    if ended is None or not place.first:
        return None
    state, seconds = ended

    # ---- test, in float32
    module, params = nets.Classifier(job.network), jax.device_get(state.ema)
    used = found.images[: job.examples]
    if job.network.norm == "batch":
        params = batch_statistics.exact(module, params, used, job.batch_size)
        state = state._replace(ema=params)
    right = [
        training.count_right(module, params, test_images[i : i + 500], test_labels[i : i + 500])
        for i in range(0, len(test_images), 500)
    ]
    accuracy = int(np.sum(right)) / len(test_images)

    # ---- write
    measured = {"test_accuracy": f"{accuracy:.4f}", "test_images": str(len(test_images))}
    path = finish.write(run, state, seconds, measured)
    with disk_errors("write the model", run.out):
        # Through the weights as they are stored: those will classify generated images.
        stored, params, _ = weights.load(path)
        classify, name = features.classifier(stored, params), f"{shown(job.dataset)}-classifier"
        reference = Reference.of_images(classify, found.images, labels, classes, extractor=name)
        reference.save(Reference.path_beside(path), dtype="float16")
    print(f"test accuracy {accuracy:.4f} on {len(test_images):,} images, {path}")
    return path
