"""The autoencoder of a text-to-image run: trained here, or another model's; and what it makes of
the scenes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dng_jax.disk import digest
from dng_jax.errors import InputError
from dng_jax.stable_diffusion import pipeline
from dng_jax.stable_diffusion.sizes import Sizes
from dng_jax.stable_diffusion.vae import AutoencoderKL
from dng_jax.training import autoencoder

from .. import session, start
from ..options import TextToImageOptions
from .material import Material


class Encoded(NamedTuple):
    """params: of the autoencoder; scaled latents of all scenes, and the factor of the scale;
    facts: how well it does; seconds of its training."""

    params: Any
    latents: np.ndarray
    factor: float
    facts: dict[str, str]
    seconds: float


def trained(options: TextToImageOptions, found: Material, place: start.Place) -> Encoded | None:
    """The first training, or its end where it has ended before; None when stopped."""
    job, sizes = options.job, options.job.network
    # In float32 everywhere: it is small, and what it loses no U-Net brings back.
    module = AutoencoderKL(sizes.autoencoder())
    first = start.phase(
        "text_to_image",
        dataclasses.replace(options, job=job.autoencoder),
        options.folder / "autoencoder",
        place,
        module,
        "autoencoder",
        (found.pixels, found.labels),
    )
    step = autoencoder.make_autoencoder_step(
        module, first.optimiser, job.batch_size, job.ema_decay, job.autoencoder_kl,
        place.split,
    )  # fmt: skip
    ended = session.train(first, step)
    if ended is None:
        return None
    said = f"{job.autoencoder_steps:,} steps in {ended[1]:.0f} s"
    return _encoded(module, jax.device_get(ended[0].ema), None, said, ended[1], found, place)


def read(folder: Path | None, sizes: Sizes) -> start.Init | None:
    """The autoencoder of a model's folder; InputError for one that is not of these sizes."""
    if folder is None:
        return None
    module, params = pipeline.load_autoencoder(folder)
    factor = module.config.scaling_factor
    if module.config != sizes.autoencoder(factor):
        raise InputError(
            f"{folder} has an autoencoder of other sizes than this job's: leave out --autoencoder,"
            " or choose its preset and --network options"
        )
    sha256 = digest(folder / "vae", "*.json", "*.safetensors")
    facts = {"file": folder.absolute().name, "sha256": sha256}
    return start.Init(folder, (params, factor), facts)


def taken(init: start.Init, sizes: Sizes, found: Material, place: start.Place) -> Encoded:
    """What another model's autoencoder makes of the scenes."""
    params, factor = init.params
    said = f"of {init.facts['file']}, sha256 of its vae {init.facts['sha256'][:12]}"
    return _encoded(AutoencoderKL(sizes.autoencoder()), params, factor, said, 0.0, found, place)


def _encoded(
    module: AutoencoderKL,
    params: Any,
    factor: float | None,
    said: str,
    seconds: float,
    found: Material,
    place: start.Place,
) -> Encoded:
    error = autoencoder.reconstruction_error(module, params, found.pixels)
    latents, factor = autoencoder.encode(module, params, found.pixels, factor)
    facts = {
        "autoencoder": said,
        "reconstruction_rms": f"{error:.4f}",
        "scaling_factor": f"{factor:g}",
    }
    place.show(", ".join(f"{name.replace('_', ' ')} {text}" for name, text in facts.items()))
    return Encoded(params, latents, factor, facts, seconds)
