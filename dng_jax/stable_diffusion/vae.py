r"""The autoencoder of Stable Diffusion: AutoencoderKL of diffusers.

    encode    images [B, H, W, 3] in [-1, 1] -> mean and log-variance of the latents [B, h, w, 4]
    decode    latents [B, h, w, 4]           -> images [B, H, W, 3], about [-1, 1]

    H = 2^(levels - 1) h.  quant_conv ends encode, post_quant_conv begins decode, both of them 1x1.

The U-Net works on config.scaling_factor times these latents: divide by it before `decode`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dng_jax.errors import InputError
from dng_jax.stable_diffusion.blocks import DownBlock, MidBlock, UpBlock
from dng_jax.stable_diffusion.config import VAEConfig
from dng_jax.stable_diffusion.layers import RIGHT_AND_BOTTOM, Attention, Resnet, conv, group_norm

_EPS = 1e-6  # of every norm


class AutoencoderKL(nn.Module):
    """`apply({"params": p}, x, method="encode" or "decode")`; see the file's docstring.

    Called without a method it encodes and decodes: what `init` needs. Inputs of any float type,
    outputs float32; InputError for other shapes. dtype: of the convolutions and products, None for
    float32, in which Stable Diffusion XL has to be decoded.
    """

    config: VAEConfig
    dtype: Any = None

    def setup(self):
        c = self.config
        self.encoder = Encoder(c, self.dtype)
        self.decoder = Decoder(c, self.dtype)
        self.quant_conv = conv(2 * c.latent_channels, None, self.dtype, 1)
        self.post_quant_conv = conv(c.latent_channels, None, self.dtype, 1)

    def __call__(self, images):
        return self.decode(self.encode(images)[0])

    def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log-variance, float32 [B, h, w, latent_channels]; log-variances in [-30, 20]."""
        _check("images", images, self.config.in_channels, self.config.factor)
        moments = self.quant_conv(self.encoder(images.astype(jnp.float32))).astype(jnp.float32)
        mean, logvar = jnp.split(moments, 2, -1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Images float32 [B, H, W, out_channels], not clipped."""
        _check("latents", latents, self.config.latent_channels, 1)
        return self.decoder(self.post_quant_conv(latents.astype(jnp.float32))).astype(jnp.float32)


class Encoder(nn.Module):
    """Images [B, H, W, 3] -> [B, h, w, 2 latent_channels]."""

    config: VAEConfig
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        c, dtype = self.config, self.dtype
        resnet, attention = _parts(c, dtype)
        last = len(c.block_out_channels) - 1
        h = conv(c.block_out_channels[0], "conv_in", dtype)(x)
        for i, width in enumerate(c.block_out_channels):
            padding = RIGHT_AND_BOTTOM if i < last else None
            block = DownBlock(
                width, c.layers_per_block, resnet, None, padding, dtype, name=f"down_blocks.{i}"
            )
            h, _ = block(h)
        h = MidBlock(resnet, attention, name="mid_block")(h)
        h = nn.silu(group_norm(h, c.norm_num_groups, _EPS, "conv_norm_out"))
        return conv(2 * c.latent_channels, "conv_out", dtype)(h)


class Decoder(nn.Module):
    """Latents [B, h, w, latent_channels] -> [B, H, W, out_channels]."""

    config: VAEConfig
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        c, dtype = self.config, self.dtype
        resnet, attention = _parts(c, dtype)
        widths = c.block_out_channels[::-1]
        h = conv(widths[0], "conv_in", dtype)(x)
        h = MidBlock(resnet, attention, name="mid_block")(h)
        for i, width in enumerate(widths):
            up = i + 1 < len(widths)
            h = UpBlock(
                width, c.layers_per_block + 1, resnet, None, up, dtype, name=f"up_blocks.{i}"
            )(h)
        h = nn.silu(group_norm(h, c.norm_num_groups, _EPS, "conv_norm_out"))
        return conv(c.out_channels, "conv_out", dtype)(h)


def _parts(c: VAEConfig, dtype: Any) -> tuple[partial, partial]:
    resnet = partial(Resnet, groups=c.norm_num_groups, eps=_EPS, dtype=dtype)
    attention = partial(
        Attention, heads=1, bias=True, groups=c.norm_num_groups, eps=_EPS, dtype=dtype
    )
    return resnet, attention


def _check(name: str, x: jax.Array, channels: int, divisor: int) -> None:
    if x.ndim != 4 or x.shape[-1] != channels or any(s % divisor for s in x.shape[1:3]):
        sides = f", sides multiples of {divisor}" if divisor > 1 else ""
        raise InputError(
            f"{name} have shape {x.shape}: this autoencoder takes [B, h, w, {channels}]{sides}"
        )
