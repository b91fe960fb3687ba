"""From the command line's options to the folder of a model; see train.text_to_image.

Two trainings, one after the other, each of which goes on from its newest saved state: the
autoencoder, in the folder autoencoder/ of the run, then text encoder and U-Net on its latents.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dng_jax.stable_diffusion import saving
from dng_jax.stable_diffusion import schedule as schedules
from dng_jax.stable_diffusion.clip_text import CLIPTextModel
from dng_jax.stable_diffusion.pipeline import Pipeline
from dng_jax.stable_diffusion.unet import UNet2DConditionModel
from dng_jax.stable_diffusion.vae import AutoencoderKL
from dng_jax.training import TrainState, autoencoder, text_to_image

from .. import finish, images, prompted, session, start
from ..options import TextToImageOptions
from . import material
from .material import Material


class Encoded(NamedTuple):
    """The trained autoencoder: params; scaled latents of all scenes, and the factor of the scale;
    facts: how well it does."""

    params: Any
    latents: np.ndarray
    factor: float
    facts: dict[str, str]
    seconds: float


def run(options: TextToImageOptions) -> Path | None:
    """Trains both, writes the folder and its card; returns the folder, None when stopped."""
    # ---- parse
    options.check()
    place, job, out = start.place(options), options.job, options.folder
    images.must_divide(job.batch_size, len(place.devices))
    found = material.load(job)
    start.open_run(out, job, options.resume, place)

    # ---- the autoencoder
    encoded = train_autoencoder(options, found, place)
    if encoded is None:
        return None

    # ---- text encoder and U-Net
    sizes, dtype = job.network, place.dtype(job.precision)
    module = text_to_image.TextToImage(sizes, found.vocab_size, dtype)
    second = start.phase(
        "text_to_image", options, out, place, module, "text-to-image",
        (encoded.latents, found.rows), text_to_image.calmed,
    )  # fmt: skip
    schedule = schedules.from_config(sizes.scheduler())
    step = text_to_image.make_text_to_image_step(
        module, second.optimiser, schedule.levels, found.prompts, job.batch_size, job.ema_decay,
        place.split,
    )  # fmt: skip
    every = max(1, job.steps // 4) if options.sample_every is None else options.sample_every
    draw = drawer(second, found, encoded, schedule) if every else None
    ended = session.train(second, step, sample_every=every, sample=draw)
    if ended is None or not place.first:
        return None

    # ---- write
    state, seconds = ended

    def save(folder: Path) -> dict[str, Any]:
        params = networks(state, encoded)
        saving.save(folder, sizes, found.words, params, encoded.factor, options.dtype)
        return params

    facts = {"schedule": "cosine, 1,000 levels", **encoded.facts}
    grid = f"samples/step-{job.steps:06d}.png" if every else None
    path = finish.write_folder(second, state, encoded.seconds + seconds, facts, save, grid)
    print(path)
    return path


def train_autoencoder(
    options: TextToImageOptions, found: Material, place: start.Place
) -> Encoded | None:
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
    params = jax.device_get(ended[0].ema)
    error = autoencoder.reconstruction_error(module, params, found.pixels)
    latents, factor = autoencoder.encode(module, params, found.pixels)
    facts = {
        "autoencoder": f"{job.autoencoder_steps:,} steps in {ended[1]:.0f} s",
        "reconstruction_rms": f"{error:.4f}",
        "scaling_factor": f"{factor:g}",
    }
    place.show(", ".join(f"{name.replace('_', ' ')} {said}" for name, said in facts.items()))
    return Encoded(params, latents, factor, facts, ended[1])


def networks(state: TrainState, encoded: Encoded) -> dict[str, Any]:
    """The averaged parameters of all three networks."""
    return {**jax.device_get(state.ema), "vae": encoded.params}


def drawer(
    run: start.Run, found: Material, encoded: Encoded, schedule: schedules.ModelSchedule
) -> Callable[[TrainState], None]:
    """What writes the sample grid of a state."""
    sizes = run.module.config
    unet = UNet2DConditionModel(sizes.unet(), run.module.dtype)
    vae = AutoencoderKL(sizes.autoencoder(encoded.factor))
    encoder = CLIPTextModel(sizes.text_encoder(found.vocab_size))

    def draw(state: TrainState) -> None:
        params = networks(state, encoded)
        size = sizes.image_shape[:2]
        model = Pipeline(unet, vae, encoder, found.tokenizer, schedule, params, size)
        path = run.out / "samples" / f"step-{int(state.step):06d}.png"
        prompted.draw(model, size, path, write=run.place.first)

    return draw
