r"""Training a text-to-image model on latents z_0 of images and their captions c:

    x = alpha_t z_0 + sigma_t eps,     |f(x, t, encode(c)) - y|^2     y: eps or v

a mean over numbers and batch, for U-Net f and text encoder at once; the autoencoder is left alone.

t: stratified over the T levels of the schedule, floor(T ((u + i / B) mod 1)), as the network will
be asked for whole ones. Captions and images: a caption first, then an image that fulfils it, out of
a table of images by what is on them (dng_jax.scenes.captions).

Parts of the loss, by log-SNR: low, below -2 (a blur); middle; high, above 2 (details).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding

from dng_jax.errors import InputError
from dng_jax.schedules import Schedule
from dng_jax.stable_diffusion.clip_text import CLIPTextModel
from dng_jax.stable_diffusion.sizes import Sizes
from dng_jax.stable_diffusion.unet import UNet2DConditionModel
from dng_jax.training import stable_targets
from dng_jax.training.optimiser import Step, TrainState, make_step, split_batch

EDGES = (-2.0, 2.0)  # of low and high log-SNR
# What is added to something else, and the last layer: they start at zero (Ho et al. 2020).
_ADDED = ("conv2", "proj_out", "conv_out")


class Prompts(NamedTuple):
    """C captions: tokens int32 [C, L]; allowed bool [C, S], which of S kinds of images fulfil
    each; probability [C], how often each is drawn."""

    tokens: np.ndarray
    allowed: np.ndarray
    probability: np.ndarray


class TextToImage(nn.Module):
    """Text encoder and U-Net as one: `apply({"params": p}, x, t, tokens)` -> float32 [B, h, w, c].

    x [B, h, w, c] latents, t [B], tokens int32 [B, L]. Parameters: "text_encoder" and "unet", each
    that of the module of its own. dtype: as of these.
    """

    config: Sizes
    vocab_size: int
    dtype: Any = None

    def setup(self):
        self.text_encoder = CLIPTextModel(self.config.text_encoder(self.vocab_size), self.dtype)
        self.unet = UNet2DConditionModel(self.config.unet(), self.dtype)

    def __call__(self, x: jax.Array, t: jax.Array, tokens: jax.Array) -> jax.Array:
        return self.unet(x, t, self.text_encoder(tokens).last)


def rows_by_kind(labels: np.ndarray) -> np.ndarray:
    """[10^M, N_max] int32 numbers of the scenes of every label tuple, the last digit fastest.

    labels int [N, M], digits 0..9. InputError for tuples without scenes.
    """
    cells = labels.shape[1]
    kinds = labels @ 10 ** np.arange(cells)[::-1]
    if missing := 10**cells - len(np.unique(kinds)):
        raise InputError(
            f"{missing} of {10**cells} label tuples have no scene among {len(labels)}: take more"
            " --examples"
        )
    return stable_targets.rows_by_class(kinds, 10**cells)


def calmed(state: TrainState) -> TrainState:
    """The fresh state with the last layer of every branch of the U-Net, and of itself, at zero."""

    def one(path, leaf):
        return jnp.zeros_like(leaf) if any(part.key in _ADDED for part in path) else leaf

    params = state.params | {"unet": jax.tree.map_with_path(one, state.params["unet"])}
    return state._replace(params=params, ema=params)


def text_to_image_loss(
    module: TextToImage,
    params: Any,
    z: jax.Array,
    tokens: jax.Array,
    t: jax.Array,
    schedule: Schedule,
    key: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss (scalar) and its parts, for clean latents z [B, h, w, c] at the levels t int32 [B].

    tokens int32 [B, L]; key: of the noise.
    """

    def at(values):
        return jnp.asarray(values, jnp.float32)[t]

    alpha, sigma = (at(values)[:, None, None, None] for values in (schedule.alpha, schedule.sigma))
    eps = jax.random.normal(key, z.shape, z.dtype)
    x = alpha * z + sigma * eps
    target = eps if module.config.parameterisation == "eps" else alpha * eps - sigma * z
    out: Any = module.apply({"params": params}, x, t, tokens)
    errors = jnp.mean((out - target) ** 2, axis=(1, 2, 3))
    loss, logsnr, (low, high) = jnp.mean(errors), at(schedule.logsnr), EDGES
    parts = {
        "loss_low": logsnr < low,
        "loss_middle": (low <= logsnr) & (logsnr <= high),
        "loss_high": logsnr > high,
    }
    return loss, {"loss": loss, **{name: _mean(errors, of) for name, of in parts.items()}}


def _mean(values: jax.Array, chosen: jax.Array) -> jax.Array:
    """Of those that are chosen, 0 where there are none."""
    count = jnp.sum(chosen.astype(values.dtype))
    return jnp.sum(jnp.where(chosen, values, 0.0)) / jnp.maximum(count, 1.0)


def draw(
    key: jax.Array, prompts: Prompts, rows: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """Captions [count], as their numbers, and images [count] that fulfil them, as theirs.

    rows int32 [S, N_max]: numbers of the images of every kind, `stable_targets.rows_by_class`.
    """
    caption_key, kind_key, row_key = jax.random.split(key, 3)
    logits = jnp.log(jnp.asarray(prompts.probability, jnp.float32))
    captions = jax.random.categorical(caption_key, logits, shape=(count,))
    allowed = jnp.where(jnp.asarray(prompts.allowed), 0.0, -jnp.inf)
    kinds = jax.random.categorical(kind_key, allowed[captions])
    return captions, rows[kinds, jax.random.randint(row_key, (count,), 0, rows.shape[1])]


def make_text_to_image_step(
    module: TextToImage,
    optimiser: optax.GradientTransformation,
    schedule: Schedule,
    prompts: Prompts,
    batch_size: int,
    ema_decay: float,
    sharding: NamedSharding | None = None,
) -> Step:
    """The compiled step (state, latents, rows) -> (state, metrics).

    latents float32 [N, h, w, c]: all of them, scaled, on the device; rows as of `draw`; sharding as
    of `make_diffusion_step`.
    """
    levels = len(schedule.alpha)

    def loss(params, latents, rows, key):
        batch_key, level_key, noise_key = jax.random.split(key, 3)
        captions, images = draw(batch_key, prompts, rows, batch_size)
        even = jnp.arange(batch_size, dtype=jnp.float32) / batch_size
        u = (jax.random.uniform(level_key, (), jnp.float32) + even) % 1
        t = jnp.minimum((u * levels).astype(jnp.int32), levels - 1)
        tokens = jnp.asarray(prompts.tokens)[captions]
        z, tokens, t = split_batch((latents[images], tokens, t), sharding)
        return text_to_image_loss(module, params, z, tokens, t, schedule, noise_key)

    return make_step(loss, optimiser, ema_decay, sharding)
