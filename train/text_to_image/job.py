"""From the command line's options to the folder of a model; see train.text_to_image.

Two trainings, one after the other, each of which goes on from its newest saved state: the
autoencoder, in the folder autoencoder/ of the run, unless one is taken from another model; then
text encoder and U-Net on its latents.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from dng_jax.stable_diffusion import saving
from dng_jax.stable_diffusion import schedule as schedules
from dng_jax.stable_diffusion.clip_text import CLIPTextModel
from dng_jax.stable_diffusion.pipeline import Pipeline
from dng_jax.stable_diffusion.unet import UNet2DConditionModel
from dng_jax.stable_diffusion.vae import AutoencoderKL
from dng_jax.training import TrainState, text_to_image

from .. import finish, images, prompted, session, start
from ..options import TextToImageOptions
from . import encoding, material
from .encoding import Encoded
from .material import Material


def run(options: TextToImageOptions) -> Path | None:
    """Trains both, writes the folder and its card; returns the folder, None when stopped."""
    # ---- parse
    options.check()
    place, job, out = start.place(options), options.job, options.folder
    images.must_divide(job.batch_size, len(place.devices))
    found = material.load(job)
    taken = encoding.read(options.autoencoder, job.network)
    start.open_run(out, job, options.resume, place, taken, option="--autoencoder", always=True)

    # ---- the autoencoder
    if taken is None:
        encoded = encoding.trained(options, found, place)
    else:
        encoded = encoding.taken(taken, job.network, found, place)
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
