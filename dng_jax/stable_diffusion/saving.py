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
from dng_jax.stable_diffusion import hub, vocabulary
from dng_jax.stable_diffusion.clip_config import text_json
from dng_jax.stable_diffusion.clip_text import CLIPTextModel
from dng_jax.stable_diffusion.config_json import unet_json, vae_json
from dng_jax.stable_diffusion.sizes import Sizes
from dng_jax.stable_diffusion.unet import UNet2DConditionModel
from dng_jax.stable_diffusion.vae import AutoencoderKL
from dng_jax.weights import parts

_MODEL = {
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
    shown = {"unet": sizes.latent_shape, "vae": sizes.image_shape}
    networks: dict[str, tuple[Any, dict[str, Any]]] = {
        "unet": (UNet2DConditionModel(unet), unet_json(unet)),
        "vae": (AutoencoderKL(vae), vae_json(vae)),
        "text_encoder": (CLIPTextModel(text), text_json(text)),
    }
    for part, (module, config) in networks.items():
        if part in shown:
            config["sample_size"] = list(shown[part][:2])  # what diffusers draws unless told
        layout = hub.LAYOUTS[part]
        parts.save(folder / part, module, params[part], config, layout, dtype=dtype)
    vocabulary.write(folder / "tokenizer", words, sizes.text_length)
    _write(folder / hub.SCHEDULER, sizes.scheduler())
    _write(folder / hub.INDEX, _MODEL)


def _write(path: Path, values: Mapping[str, Any]) -> None:
    with disk.whole(path) as part:
        part.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
