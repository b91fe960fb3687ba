"""What the averaged weights draw: a grid of images, the same noise at every step of training.

Rows: the unconditional prediction first, then every class; one row for an unconditional network.
Column i of every row starts from the same noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dng_jax import denoisers, guidance, initial_noise, plots, sample, sample_keys, steps
from dng_jax.nets import UNet
from dng_jax.schedules import Schedule

COLUMNS, STEPS = 8, 25


def grid(
    module: UNet, params: Any, schedule: Schedule, classes: Sequence[str]
) -> tuple[np.ndarray, list[str]]:
    """Images float32 [rows, 8, H, W, C] by 25 DDIM steps, and the names of the rows, those of the
    K classes among them."""
    config, k = module.config, module.config.num_classes
    table = steps.TABLES["ddim"](schedule, STEPS)
    keys = sample_keys(0, COLUMNS)
    noise = initial_noise(keys, config.image_shape, table)
    network = denoisers.from_module(module, params, {"shown": k})
    rows, names = [network], ["all"]
    if config.conditioning != "none":
        # One role, another class behind it: one program draws all rows.
        rows += [denoisers.with_conditions(network, {"shown": i}) for i in range(k)]
        names += classes
    rule = guidance.unguided("shown")
    images = [np.asarray(sample(row, table, rule, keys, noise).x) for row in rows]
    return np.nan_to_num(np.stack(images)), names


def draw(
    module: UNet,
    params: Any,
    schedule: Schedule,
    classes: Sequence[str],
    path: Path,
    *,
    write: bool = True,
) -> None:
    """Writes the grid to a PNG file. write False: only draws, so that processes keep together."""
    # Parameters that lie on devices of several processes cannot be used by one alone.
    images, names = grid(module, jax.device_get(params), schedule, classes)
    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
        plots.image_grid(images, path, names)
