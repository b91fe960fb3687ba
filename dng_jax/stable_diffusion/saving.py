r"""A text-to-image model as the folder that StableDiffusionPipeline of diffusers reads.

    saving.save("model", sizes, words, {"unet": .., "text_encoder": .., "vae": ..}, 1.2, "float16")

    model_index.json      what is what
    unet/  vae/  text_encoder/    config.json and the weights
    tokenizer/            vocab.json, merges.txt and the special tokens
    scheduler/            scheduler_config.json
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dng_jax import disk
from dng_jax.stable_diffusion import vocabulary
from dng_jax.stable_diffusion.clip_config import text_json
from dng_jax.stable_diffusion.clip_text import CLIPTextModel
from dng_jax.stable_diffusion.config_json import unet_json, vae_json
from dng_jax.stable_diffusion.sizes import Sizes
from dng_jax.stable_diffusion.unet import UNet2DConditionModel
from dng_jax.stable_diffusion.vae import AutoencoderKL
from dng_jax.weights import parts
from dng_jax.weights.diffusers_files import Layout

TEXT = Layout("CLIPTextModel", "transformers", "model")
_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DDPMScheduler"],
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
}


def save(
    folder: str | os.PathLike,
    sizes: Sizes,
    words: Sequence[str],
    params: Mapping[str, Mapping],
    scaling_factor: float,
    dtype: str = "float32",
) -> None:
    """Writes the folder; model_index.json comes last, so that a folder that has it is whole.

    words: of the vocabulary; params: of "unet", "vae" and "text_encoder"; scaling_factor: of the
    latents; dtype: of the weights, float32, float16 or bfloat16. InputError as of `parts.save`.
    """
    folder = Path(folder)
    unet, vae = sizes.unet(), sizes.autoencoder(scaling_factor)
    text = sizes.text_encoder(len(vocabulary.tokens(words)))
    default_size = {"sample_size": list(sizes.latent_shape[:2])}
    parts.save(
        folder / "unet", UNet2DConditionModel(unet), params["unet"], unet_json(unet) | default_size,
        Layout("UNet2DConditionModel"), dtype=dtype,
    )  # fmt: skip
    parts.save(
        folder / "vae", AutoencoderKL(vae), params["vae"],
        vae_json(vae) | {"sample_size": list(sizes.image_shape[:2])},
        Layout("AutoencoderKL"), dtype=dtype,
    )  # fmt: skip
    parts.save(
        folder / "text_encoder", CLIPTextModel(text), params["text_encoder"], text_json(text),
        TEXT, dtype=dtype,
    )  # fmt: skip
    vocabulary.write(folder / "tokenizer", words, sizes.text_length)
    _write(folder / "scheduler" / "scheduler_config.json", sizes.scheduler())
    _write(folder / "model_index.json", _INDEX)


def _write(path: Path, values: Mapping[str, Any]) -> None:
    with disk.whole(path) as part:
        part.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
