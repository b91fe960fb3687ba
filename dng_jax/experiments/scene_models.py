"""Who draws scenes of digits, and who says what they show.

exact       the closed form (dng_jax.scenes.exact), classified by the exact posterior of a cell
digit-scenes, or a folder
            a trained text-to-image model in diffusers' layout, of images of 8 x 8 M pixels;
            classified by the bundled digits classifier, a cell at a time
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dng_jax import data, disk, steps
from dng_jax.errors import InputError
from dng_jax.experiments import classifiers
from dng_jax.scenes.exact import exact_scenes
from dng_jax.scenes.images import SIZE, apart
from dng_jax.schedules import cosine
from dng_jax.steps import StepTable
from dng_jax.weights import pretrained

EXACT = "exact"


class SceneModel(NamedTuple):
    """A text-to-image model of scenes.

    shape: of what is sampled; table: its steps, of so many; denoiser: raw roles {role: prompt} ->
    a Denoise; decode: samples [B, *shape] -> scenes float [B, 8, 8 M, 1]; classify: scenes ->
    labels int [B, M]; identity: what tells it from other models, and from others of its name.
    """

    name: str
    identity: str
    shape: tuple[int, ...]
    table: Callable[[int], StepTable]
    denoiser: Callable[[Mapping[str, str]], Any]
    decode: Callable[[Any], np.ndarray]
    classify: Callable[[np.ndarray], np.ndarray]


def load(name: str, cells: int) -> SceneModel:
    """The exact model, or that of a folder; InputError where there is neither."""
    if name == EXACT:
        return _exact(cells)
    if not Path(name).is_dir() and name not in pretrained.FOLDERS:
        raise InputError(
            f"--model {name} is no folder: name that of a text-to-image model,"
            f" {', '.join(pretrained.FOLDERS)} or {EXACT}"
        )
    return _trained(name, cells)


def _exact(cells: int) -> SceneModel:
    model = exact_scenes(cells=cells)
    classify = jax.jit(lambda model, x: model.classify(x))
    return SceneModel(
        "the exact model",
        EXACT,
        (SIZE, SIZE * cells, 1),
        lambda count: steps.ddpm(cosine(), count),
        model.with_prompts,
        np.asarray,
        lambda scenes: np.asarray(classify(model, scenes)),
    )


def _trained(folder: str, cells: int) -> SceneModel:
    # imported late: text needs the extra of that name, the exact model does not
    from dng_jax.stable_diffusion import hub, pipeline

    model = pipeline.load(folder, dtype="float32")
    digits = classifiers.trained(data.describe("digits"), None)

    def classify(scenes: np.ndarray) -> np.ndarray:
        parts = apart(scenes)
        labels, _ = digits.classify(parts.reshape(-1, SIZE, SIZE, 1))
        return labels.reshape(parts.shape[:2])

    return SceneModel(
        Path(folder).name,
        disk.digest(hub.folder_of(folder)),
        model.latent_shape(SIZE, SIZE * cells),
        model.table,
        model.network,
        lambda latents: np.asarray(model.decode(latents)).mean(axis=-1, keepdims=True),
        classify,
    )
