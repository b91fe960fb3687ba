"""From the command line's options to the folder of a model; see train.text_to_image.

Two trainings, one after the other, each of which goes on from its newest saved state: the
autoencoder, in the folder autoencoder/ of the run, then text encoder and U-Net on its latents.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax

from dng_jax import data
from dng_jax.sampling import root_key
from dng_jax.scenes import captions
from dng_jax.scenes import images as scenes
from dng_jax.stable_diffusion import saving, vocabulary
from dng_jax.stable_diffusion import schedule as schedules
from dng_jax.stable_diffusion.clip_text import CLIPTextModel
from dng_jax.stable_diffusion.pipeline import Pipeline
from dng_jax.stable_diffusion.unet import UNet2DConditionModel
from dng_jax.stable_diffusion.vae import AutoencoderKL
from dng_jax.training import TrainState, autoencoder, text_to_image

from .. import finish, images, prompted, session, start
from ..options import TextToImageOptions


def run(options: TextToImageOptions) -> Path | None:
    """Trains both, writes the folder and its card; returns the folder, None when stopped."""
    # ---- parse
    options.check()
    place, job, out = start.place(options), options.job, options.folder
    images.must_divide(job.batch_size, len(place.devices))
    unit, labels = scenes.scenes(job.cells, job.examples, root_key(job.seed), split=job.split)
    pixels, rows = data.to_pixels(unit), text_to_image.rows_by_kind(labels)
    known, words = captions.captions(job.cells, empty=job.empty_captions), captions.words()
    tokenizer = vocabulary.tokenizer_of(words, job.network.text_length)
    prompts = text_to_image.Prompts(tokenizer(list(known.texts)), known.allowed, known.probability)
    start.open_run(out, job, options.resume, place)

    # ---- the autoencoder
    sizes, dtype = job.network, place.dtype(job.precision)
    first = start.phase(
        "text_to_image",
        dataclasses.replace(options, job=job.autoencoder),
        out / "autoencoder",
        place,
        (AutoencoderKL(sizes.autoencoder(), dtype), {"kind": "autoencoder"} | sizes.to_dict()),
        (pixels, labels),
    )
    step = autoencoder.make_autoencoder_step(
        first.module, first.optimiser, job.batch_size, job.ema_decay, job.autoencoder_kl,
        place.split,
    )  # fmt: skip
    ended = session.train(first, step)
    if ended is None:
        return None
    seconds, vae_params = ended[1], jax.device_get(ended[0].ema)
    plain = AutoencoderKL(sizes.autoencoder())
    error = autoencoder.reconstruction_error(plain, vae_params, pixels[:4096])
    latents, factor = autoencoder.encode(plain, vae_params, pixels)
    place.show(f"autoencoder: rms of reconstructions {error:.4f}, scaling factor {factor:g}")

    # ---- text encoder and U-Net
    module = text_to_image.TextToImage(sizes, len(vocabulary.tokens(words)), dtype)
    second = start.phase(
        "text_to_image",
        options,
        out,
        place,
        (module, {"kind": "text-to-image"} | sizes.to_dict()),
        (latents, rows),
        text_to_image.calmed,
    )
    levels = schedules.from_config(sizes.scheduler())
    step = text_to_image.make_text_to_image_step(
        module, second.optimiser, levels.levels, prompts, job.batch_size, job.ema_decay,
        place.split,
    )  # fmt: skip
    every = max(1, job.steps // 4) if options.sample_every is None else options.sample_every
    vae = AutoencoderKL(sizes.autoencoder(factor))
    unet = UNet2DConditionModel(sizes.unet(), dtype)

    def all_params(state: TrainState) -> dict[str, Any]:
        return {**jax.device_get(state.ema), "vae": vae_params}

    def draw(state: TrainState) -> None:
        encoder = CLIPTextModel(sizes.text_encoder(module.vocab_size))
        model = Pipeline(unet, vae, encoder, tokenizer, levels, all_params(state))
        path = out / "samples" / f"step-{int(state.step):06d}.png"
        prompted.draw(model, sizes.image_shape[:2], path, write=place.first)

    ended = session.train(second, step, sample_every=every, sample=draw if every else None)
    if ended is None or not place.first:
        return None

    # ---- write
    state, own = ended

    def save(folder: Path) -> dict[str, Any]:
        params = all_params(state)
        saving.save(folder, sizes, words, params, factor, options.dtype)
        return params

    measured = {
        "schedule": "cosine, 1,000 levels",
        "autoencoder": f"{job.autoencoder_steps:,} steps in {seconds:.0f} s",
        "reconstruction_rms": f"{error:.4f}",
        "scaling_factor": f"{factor:g}",
    }
    grid = f"samples/step-{job.steps:06d}.png" if every else None
    path = finish.write_folder(second, state, seconds + own, measured, save, grid)
    print(path)
    return path
