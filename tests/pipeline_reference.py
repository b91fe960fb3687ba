"""A tiny Stable Diffusion with weights that are functions of their names, and what it makes.

    python -m tests.pipeline_reference     writes tests/golden/pipeline.npz anew, where torch,
                                           transformers and diffusers are installed (made by 2.13.0,
                                           5.24.0 and 0.42.1)

latents, pixels      what StableDiffusionPipeline makes of PROMPTS with the sampler's own noise
tokens               of the prompts "", PROMPT and NEGATIVE
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dng_jax import sampling
from dng_jax.stable_diffusion.clip_config import text_config
from dng_jax.stable_diffusion.clip_text import CLIPTextModel
from dng_jax.stable_diffusion.hub import LAYOUTS
from dng_jax.weights import files, parts, tensors
from tests import stable_diffusion_reference, text_reference
from tests.stable_diffusion_here import module_of, params_of

RECORD = Path(__file__).parent / "golden" / "pipeline.npz"
PROMPT, NEGATIVE = "a photo of the cat", "the cat er!"
STEPS, SIZE, SCALE, IMAGES = 20, 16, 7.5, 2
# Attention in the middle alone: what all layers make is compared elsewhere.
UNET = stable_diffusion_reference.TINY["sd1"] | {
    "down_block_types": ["DownBlock2D"] * 2,
    "up_block_types": ["UpBlock2D"] * 2,
}
VAE = stable_diffusion_reference.TINY["vae"]
# As configurations from before transformers 4.31 are, with a table of positions besides.
TEXT = {
    "model_type": "clip_text_model",
    "architectures": ["CLIPTextModel"],
    "vocab_size": len(text_reference.vocabulary()),
    "hidden_size": UNET["cross_attention_dim"],
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 2,
}
SCHEDULER = text_reference.SCHEDULER
_OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.6.0",
    "feature_extractor": [None, None],
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def modules() -> dict[str, Any]:
    """The networks by their folders."""
    encoder = CLIPTextModel(text_config(TEXT))
    return {"unet": module_of(UNET), "vae": module_of(VAE), "text_encoder": encoder}


def parameters() -> dict[str, dict]:
    """Their parameters."""
    return {part: params_of(module) for part, module in modules().items()}


def write(folder: Path) -> Path:
    """A pipeline's folder as they lie on the hub: old names of attention, positions, PNDM."""
    configs = {"unet": UNET, "vae": VAE, "text_encoder": TEXT}
    for part, params in parameters().items():
        arrays = {
            _legacy(parts.torch_name(path), part): parts.to_torch(np.asarray(value), path)
            for path, value in files.flat(params).items()
        }
        if part == "text_encoder":
            arrays["text_model.embeddings.position_ids"] = np.arange(77)[None]
        (folder / part).mkdir(parents=True)
        tensors.write(folder / part / LAYOUTS[part].file(), arrays, {"format": "pt"})
        (folder / part / "config.json").write_text(json.dumps(configs[part]))
    text_reference.write_tokenizer(folder / "tokenizer")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    (folder / "model_index.json").write_text(json.dumps(_INDEX))
    return folder


def keys() -> jax.Array:
    """Of the images."""
    return sampling.sample_keys(0, IMAGES)


def noise(table) -> tuple[np.ndarray, np.ndarray]:
    """x_T [B, h, w, C] and the noise of every step [T, B, h, w, C], as `sample` draws them."""
    shape = (SIZE // 2, SIZE // 2, 4)
    start = sampling.initial_noise(keys(), shape, table)

    def step(index):
        each = jax.vmap(lambda key: jax.random.fold_in(key, index))(keys())
        return jax.vmap(lambda key: jax.random.normal(key, shape, np.float32))(each)

    return np.asarray(start), np.asarray(jax.vmap(step)(np.asarray(table.index)))


def golden() -> dict[str, np.ndarray]:
    """The record."""
    with np.load(RECORD) as record:
        return dict(record)


# The tracker's numbers, with which p moves on this network and meets no clamp.
TAU, DELTA, PRIOR, LAMBDA = 2e-4, 0.01, 0.3, 1.0


def dng(eps: Callable, start: np.ndarray, noises: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DNG of variant b with the tracker pair, by the book and in float64: p [T, B], latents.

    eps(x [B, h, w, C], t) -> predictions for "", PROMPT and NEGATIVE. The steps are Ho et al. 2020,
    eq. 7, on the grid of diffusers, densities are written out.
    """
    betas = np.linspace(SCHEDULER["beta_start"] ** 0.5, SCHEDULER["beta_end"] ** 0.5, 1000) ** 2
    levels = np.cumprod(1 - betas)
    times = (np.arange(STEPS) * (1000 // STEPS))[::-1] + SCHEDULER["steps_offset"]
    x, p, trace = start.astype(np.float64), np.full(len(start), PRIOR), []
    for i, t in enumerate(times):
        last = i + 1 == STEPS
        level, after = levels[t], 1.0 if last else levels[times[i + 1]]
        beta = 1 - level / after
        variance = (1 - after) / (1 - level) * beta

        def mean(e, x=x, level=level, after=after, beta=beta):
            denoised = (x - np.sqrt(1 - level) * e) / np.sqrt(level)
            towards = np.sqrt(after) * beta / (1 - level) * denoised
            return towards + np.sqrt(1 - beta) * (1 - after) / (1 - level) * x

        empty, positive, negative = (np.asarray(e, np.float64) for e in eps(x, t))
        base, against = (empty + SCALE * (e - empty) for e in (positive, negative))
        scale = (LAMBDA * p / (1 - p))[:, None, None, None]
        trace.append(p)
        moved = mean(base - scale * (against - base)) + np.sqrt(variance) * noises[i]
        if not last:
            gap = _square(moved - mean(base)) - _square(moved - mean(against))
            p = np.clip(p * np.exp((TAU * gap + DELTA) / (2 * variance)), 1e-6, 0.99)
        x = moved
    return np.array(trace), x


def _square(difference: np.ndarray) -> np.ndarray:
    return (difference**2).reshape(len(difference), -1).sum(1)


def _legacy(name: str, part: str) -> str:
    for new, old in _OLD.items():
        if part == "vae":
            name = name.replace(f".{new}.", f".{old}.")
    return name


def diffusers_pipeline(folder: Path):
    """StableDiffusionPipeline with DDPM's steps."""
    import torch
    from diffusers import DDPMScheduler, StableDiffusionPipeline

    torch.set_num_threads(1)
    found = StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    found.scheduler = DDPMScheduler.from_config(found.scheduler.config, clip_sample=False)
    found.set_progress_bar_config(disable=True)
    return found


def diffusers_images(folder: Path, start: np.ndarray, noises: np.ndarray, steps: int = STEPS):
    """Latents float32 [B, h, w, C] and pixels uint8 that it makes with this noise."""
    import torch
    from diffusers.schedulers import scheduling_ddpm

    drawn = iter(noises)

    def given(shape, **more):
        return _torch(next(drawn))

    def run(kind):
        made = diffusers_pipeline(folder)(
            PROMPT,
            height=SIZE,
            width=SIZE,
            num_inference_steps=steps,
            guidance_scale=SCALE,
            num_images_per_prompt=len(start),
            latents=_torch(start),
            output_type=kind,
        )
        return made.images

    usual = scheduling_ddpm.randn_tensor
    scheduling_ddpm.randn_tensor = given
    try:
        latents = run("latent")
        drawn = iter(noises)
        pixels = np.stack([np.asarray(image) for image in run("pil")])
    finally:
        scheduling_ddpm.randn_tensor = usual
    assert isinstance(latents, torch.Tensor)
    return latents.permute(0, 2, 3, 1).numpy(), pixels


def _torch(value: np.ndarray):
    import torch

    return torch.tensor(np.asarray(value)).permute(0, 3, 1, 2)


if __name__ == "__main__":
    import tempfile

    from dng_jax.stable_diffusion import schedule

    table = schedule.from_config(SCHEDULER).table(STEPS)
    with tempfile.TemporaryDirectory() as scratch:
        place = write(Path(scratch) / "tiny")
        latents, pixels = diffusers_images(place, *noise(table))
        tokens = text_reference.tokens_of_transformers(place / "tokenizer", ["", PROMPT, NEGATIVE])
    np.savez_compressed(RECORD, latents=latents, pixels=pixels, tokens=tokens.astype(np.int16))
