r"""Training an autoencoder, latents z = mean + deviation eps of images x (Kingma & Welling 2014):

    |decode(z) - x|^2 + kl KL(N(mean, deviation^2) || N(0, 1))       means over pixels, over numbers

With a small weight `kl` latents keep what is in the image, and the noise that it lets in keeps
neighbours alike (Rombach et al. 2022, arXiv 2112.10752, section 3.1, without their discriminator).

A diffusion model is trained on the means, times the scaling factor 1 / std of all their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding

from dng_jax.data import to_unit
from dng_jax.training.optimiser import Step, make_step, split_batch

AT_ONCE = 512  # images per call of `encode` and `reconstruction_error`


def autoencoder_loss(
    module: Any, params: Any, x: jax.Array, kl: float, key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss (scalar) and its parts: rms, of the reconstruction, and kl, per number of the latents.

    module: an AutoencoderKL; x [B, H, W, C] in [-1, 1]; key: of the noise.
    """
    mean, logvar = module.apply({"params": params}, x, method="encode")
    z = mean + jnp.exp(logvar / 2) * jax.random.normal(key, mean.shape, mean.dtype)
    squares = jnp.mean((module.apply({"params": params}, z, method="decode") - x) ** 2)
    divergence = 0.5 * jnp.mean(mean**2 + jnp.exp(logvar) - 1 - logvar)
    loss = squares + kl * divergence
    return loss, {"loss": loss, "rms": jnp.sqrt(squares), "kl": divergence}


def make_autoencoder_step(
    module: Any,
    optimiser: optax.GradientTransformation,
    batch_size: int,
    ema_decay: float,
    kl: float,
    sharding: NamedSharding | None = None,
) -> Step:
    """The compiled step (state, images, labels) -> (state, metrics).

    images [N, H, W, C] uint8: all of them, on the device; labels: not used. sharding: as of
    `make_diffusion_step`.
    """

    def loss(params, images, labels, key):
        batch_key, noise_key = jax.random.split(key)
        rows = jax.random.randint(batch_key, (batch_size,), 0, len(images))
        (x,) = split_batch((to_unit(images[rows]),), sharding)
        return autoencoder_loss(module, params, x, kl, noise_key)

    return make_step(loss, optimiser, ema_decay, sharding)


def encode(
    module: Any, params: Any, images: np.ndarray, factor: float | None = None
) -> tuple[np.ndarray, float]:
    """Scaled latents float32 [N, h, w, c] of images uint8 [N, H, W, C], and the scaling factor:
    by default what gives them standard deviation 1."""

    @jax.jit
    def means(params, x):
        return module.apply({"params": params}, to_unit(x), method="encode")[0]

    found = np.concatenate([np.asarray(means(params, part)) for part in _parts(images)])
    if factor is None:
        factor = float(f"{1 / found.std(dtype=np.float64):.5g}")  # as it will stand in config.json
    return found * np.float32(factor), factor


def reconstruction_error(module: Any, params: Any, images: np.ndarray) -> float:
    """Root mean square of decode(mean) - x, x in [-1, 1], over images uint8 [N, H, W, C]."""

    @jax.jit
    def squares(params, x):
        x = to_unit(x)
        mean, _ = module.apply({"params": params}, x, method="encode")
        return jnp.sum((module.apply({"params": params}, mean, method="decode") - x) ** 2)

    found = sum(float(squares(params, part)) for part in _parts(images))
    return float(np.sqrt(found / images.size))


def _parts(images: np.ndarray) -> Iterator[np.ndarray]:
    return (images[i : i + AT_ONCE] for i in range(0, len(images), AT_ONCE))
