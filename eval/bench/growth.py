"""How sampling with DNG grows: with images, steps, classes and settings, three doublings of each.

    python -m eval.bench growth

Around 32 images, 10 steps, 10 classes and one setting of DNG (classes), on a network of the preset
digits with random weights and as many heads as there are classes; an exponent of 1 is work in
proportion, below it a part that does not grow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from dng_jax import (
    denoisers,
    guidance,
    initial_noise,
    nets,
    posterior,
    sample_keys,
    schedules,
    steps,
    sweep,
)
from dng_jax.jobs.tables import Table
from dng_jax.training import presets

from . import scaling
from .options import Config

OCTAVES = 3


class Sizes(NamedTuple):
    """Those of one program."""

    images: int = 32
    steps: int = 10
    classes: int = 10
    settings: int = 1


def measure(config: Config) -> Iterator[tuple[str, dict[str, Any], Table]]:
    """A part for each size: seconds, their exponent, and how far the worst is off the line."""
    usual = Sizes()
    usual = usual._replace(images=config.samples or usual.images, steps=config.steps or usual.steps)
    for axis, first in usual._asdict().items():
        sizes = [first * 2**octave for octave in range(OCTAVES + 1)]
        runs = {size: program(usual._replace(**{axis: size})) for size in sizes}
        found = {axis: scaling.measured(runs, config.pairs)}
        yield axis, found, scaling.table_of(found)


def program(sizes: Sizes) -> Callable[[], jax.Array]:
    """A sweep of so many settings, [settings, images, 8, 8, 1]."""
    network = dataclasses.replace(presets.diffusion("digits").network, num_classes=sizes.classes)
    module = nets.UNet(network)
    params = jax.jit(module.init)(jax.random.key(0), *network.example())["params"]
    denoise = denoisers.from_module(module, params)
    table = steps.ddpm(schedules.linear(), sizes.steps)
    keys = sample_keys(0, sizes.images)
    x = initial_noise(keys, network.image_shape, table)
    tracker = posterior.classes(sizes.classes, (0,))
    rules = [guidance.dynamic_negative(tracker, 1.0 + k) for k in range(sizes.settings)]
    return lambda: sweep(denoise, table, rules, keys, x).x
