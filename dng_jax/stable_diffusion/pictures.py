r"""Latents of a chain -> pictures, as diffusers makes them.

images = decode(latents / scaling_factor)        float32, about [-1, 1]
pixels = round(255 clip(images / 2 + 1/2, 0, 1)) uint8
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from dng_jax.stable_diffusion.vae import AutoencoderKL


@functools.partial(jax.jit, static_argnames="vae")
def decode(vae: AutoencoderKL, params: Any, latents: jax.Array) -> Any:
    """Images float32 [B, H, W, C] of scaled latents float32 [B, h, w, C], compiled."""
    with jax.default_matmul_precision("highest"):  # else a GPU rounds products to TF32
        return vae.apply({"params": params}, latents, method="decode")


def decoded(vae: AutoencoderKL, params: Any, latents: Any) -> np.ndarray:
    """Images float32 [B, H, W, C], not clipped, of a U-Net's latents [B, h, w, C].

    One after the other, since the decoder takes more memory than the U-Net.
    """
    scaled = np.asarray(latents, np.float32) / np.float32(vae.config.scaling_factor)
    return np.concatenate([np.asarray(decode(vae, params, one[None])) for one in scaled])


def pixels(images: np.ndarray) -> np.ndarray:
    """uint8 of the shape of images, floats about [-1, 1]."""
    within = np.clip(np.asarray(images, np.float32) / 2 + np.float32(0.5), 0, 1)
    return np.round(within * np.float32(255)).astype(np.uint8)
