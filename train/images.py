"""What a job trains on: its images, the network that fits them, the name they have in run.json."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from dng_jax import data
from dng_jax.errors import InputError
from dng_jax.experiments.classes import class_index
from dng_jax.jobs import runs
from dng_jax.jobs.options import shown
from dng_jax.training.jobs import DiffusionJob, Job

from .options import Options

O = TypeVar("O", bound=Options)  # noqa: E741


class Images(NamedTuple, Generic[O]):
    """images uint8 [N, H, W, C], labels int32 [N] of the job's split and classes; options: of the
    job, whose network fits them; info: of the whole set."""

    options: O
    images: np.ndarray
    labels: np.ndarray
    info: data.Info


def load(options: O, devices: int) -> Images[O]:
    """What the options name; InputError where that does not fit the job, or so many devices."""
    job = options.job
    must_divide(job.batch_size, devices)
    images, labels, info = data.load(job.dataset, job.split)
    options = fitted(options, info)
    job = options.job
    if isinstance(job, DiffusionJob):
        for field in ("only_class", "without_class"):
            if (name := getattr(job, field)) is None:
                continue
            k = class_index(name, info)
            # By its name in what is recorded, whichever way it was given.
            named: dict[str, Any] = {field: info.class_names[k]}
            job = dataclasses.replace(job, **named)
            kept = (labels == k) == (field == "only_class")
            images, labels = images[kept], labels[kept]
        options = dataclasses.replace(options, job=job)
    return Images(options, images, labels, info)


def must_divide(batch_size: int, devices: int) -> None:
    """InputError unless a batch splits evenly over so many devices."""
    if batch_size % devices:
        raise InputError(
            f"--batch-size {batch_size} does not divide by {devices} devices:"
            f" take {-(-batch_size // devices) * devices}"
        )


def fitted(options: O, info: data.Info) -> O:
    """The options with a network for these images, where the preset is for others.

    InputError where no network of the preset's form has their shape, or --network says otherwise.
    """
    job, base = options.job, options.base
    if job.dataset != base.dataset:
        own: Any = job.network
        usual = base.network
        same_shape, same_count = (
            getattr(own, name) == getattr(usual, name) for name in ("image_shape", "num_classes")
        )
        shape = info.shape if same_shape else own.image_shape
        count = info.num_classes if same_count else own.num_classes
        job = dataclasses.replace(job, network=_resized(own, shape, count, info))
        job.check()
        options = dataclasses.replace(options, job=job)
    remedy = "leave out --network.image-shape and --network.num-classes"
    data.must_fit(job.network, info, "the network", remedy)
    return options


def _resized(network: Any, shape: Sequence[int], count: int, info: data.Info) -> Any:
    def made(*shape: int) -> Any:
        return dataclasses.replace(network, image_shape=shape, num_classes=count)

    def possible(side: int) -> bool:
        with contextlib.suppress(InputError):
            return bool(made(side, side, shape[2]))
        return False

    try:
        return made(*shape)
    except InputError as error:
        if info.sha256 is None:
            raise
        near = sorted(range(4, 129), key=lambda side: abs(side - min(shape[:2])))
        sides = [side for side in near if possible(side)]
        if not sides:
            raise
        raise InputError(
            f"{error}; or resize your images: --dataset folder:PATH@{sides[0]}"
        ) from None


def recorded(job: Job, info: data.Info, out: Path, resume: bool) -> Job:
    """The job as run.json has it, which names no folders of this machine.

    A resumed run keeps the name that its images had when it began, and is known by their content:
    InputError where it is another.
    """
    named = dataclasses.replace(job, dataset=shown(job.dataset))
    stored = (runs.read_run(out) or {}) if resume else {}
    held, config = stored.get("data"), stored.get("config")
    if info.sha256 is None or not isinstance(held, dict) or not isinstance(config, dict):
        return named
    if held.get("sha256") != info.sha256:
        raise InputError(
            f"{out} was trained on other images than {job.dataset} holds now (sha256"
            f" {str(held.get('sha256'))[:12]}, not {info.sha256[:12]}): put them back, or choose"
            " another --out"
        )
    return dataclasses.replace(named, dataset=config.get("dataset", named.dataset))
