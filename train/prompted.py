"""What the averaged weights of a text-to-image model draw: a grid of images by their prompts.

Rows: every prompt by itself and with classifier-free guidance of SCALE. Column i of every row
starts from the same noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dng_jax import guidance, initial_noise, plots, sample, sample_keys, steps
from dng_jax.denoisers.branches import branches, prompts_of
from dng_jax.stable_diffusion.pipeline import Pipeline

COLUMNS, STEPS, SCALE = 8, 25, 3.0
PROMPTS = ("", "even digits", "a four", "even digits and a four", "odd digits and a three")


def grid(
    model: Pipeline, size: tuple[int, int], prompts: Sequence[str] = PROMPTS
) -> tuple[np.ndarray, list[str]]:
    """Images float32 [rows, 8, H, W, C] by 25 DDIM steps, and the names of the rows; size: H, W."""
    table = model.schedule.table(STEPS, steps.ddim)
    keys = sample_keys(0, COLUMNS)
    noise = initial_noise(keys, model.latent_shape(*size), table)
    images, names = [], []
    for prompt in prompts:
        network = model.network(prompts_of("a", prompt, ""))
        for scale in (1.0, SCALE) if prompt else (1.0,):
            roles = branches(network, "a", scale)
            latents = sample(roles, table, guidance.unguided("base"), keys, noise).x
            images.append(model.decode(np.nan_to_num(np.asarray(latents))))
            names.append(f"{prompt or 'no prompt'}, w {scale:g}")
    return np.stack(images), names


def draw(model: Pipeline, size: tuple[int, int], path: Path, *, write: bool = True) -> None:
    """Writes the grid to a PNG file. write False: only draws, so that processes keep together."""
    images, names = grid(model, size)
    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
        plots.image_grid(images, path, names)
