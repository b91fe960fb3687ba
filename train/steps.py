"""The compiled step of a job's training, and what it computes in, from the job's fields.

A number of the job may be a traced array: train.tune trains members that differ in them by the very
step that trains one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from dng_jax import schedules, training
from dng_jax.training import Step, stable_targets
from dng_jax.training.jobs import ClassifierJob, DiffusionJob, Job


def optimiser_of(job: Job) -> Any:
    """The optimiser of a job."""
    momentum = job.momentum if isinstance(job, ClassifierJob) else None
    return training.make_optimiser(
        job.steps, job.learning_rate, job.warmup, job.weight_decay, job.clip, momentum
    )


def precision_of(option: str, platform: str) -> str:
    """float32 or bfloat16: of the option's auto the former on a CPU."""
    return ("float32" if platform == "cpu" else "bfloat16") if option == "auto" else option


def dtype_of(precision: str) -> Any:
    """What networks compute in: None for float32."""
    return jax.numpy.bfloat16 if precision == "bfloat16" else None


def of_diffusion(
    job: DiffusionJob, module: Any, labels: np.ndarray, sharding: NamedSharding | None = None
) -> Step:
    """labels int32 [N]: of the images that are trained on."""
    rows = stable_targets.rows_by_class(labels, job.network.num_classes) if job.references else None
    return training.make_diffusion_step(
        module,
        optimiser_of(job),
        schedules.linear(),
        job.batch_size,
        job.ema_decay,
        sharding,
        job.references,
        rows,
        job.flip,
        job.focus,
        job.label_dropout,
        job.unconditional_weight,
    )


def of_classifier(job: ClassifierJob, module: Any, sharding: NamedSharding | None = None) -> Step:
    """As `of_diffusion`."""
    return training.make_classifier_step(
        module,
        optimiser_of(job),
        job.batch_size,
        job.ema_decay,
        job.smoothing,
        sharding,
        change(job),
    )


def change(job: ClassifierJob) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The job's augmentation, (key, images [B, H, W, C]) -> images."""
    if job.warp:
        return training.augment
    return partial(training.flip_shift_cut, flip=job.flip, shift=job.shift, cut=job.cut)
