r"""The U-Net of Stable Diffusion 1, 2 and XL: UNet2DConditionModel of diffusers.

    latents x_t [B, h, w, C] at the timesteps t [B], text [B, M, D] -> eps, v or x0 [B, h, w, C]

    e = time_embedding(cos and sin of t)
    XL: e += add_embedding([pooled text, cos and sin of each of the 6 time_ids])

time_ids, a name of diffusers, are pixels: height and width of the original image, top and left of
its crop, height and width of what is to be made (Podell et al. 2023, arXiv 2307.01952, 2.2).

What is predicted is said by the scheduler's configuration, not by that of the network.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from dng_jax.errors import InputError
from dng_jax.nets.embeddings import of_timestep
from dng_jax.stable_diffusion.blocks import DownBlock, MidBlock, UpBlock
from dng_jax.stable_diffusion.config import UNetConfig
from dng_jax.stable_diffusion.layers import (
    AROUND,
    Resnet,
    TimeEmbedding,
    Transformer,
    conv,
    group_norm,
)


class UNet2DConditionModel(nn.Module):
    """`apply({"params": p}, x, t, text[, pooled, time_ids])` -> float32 [B, h, w, C_out].

    x [B, h, w, C], of sides that divide by 2 for every level but one; t [B], int or float, 0 to
    999; text [B, M, cross_attention_dim], the text encoders' output. For XL only: pooled [B, P] of
    the second text encoder, time_ids [B, 6] of the file's docstring. InputError for other shapes.
    dtype: of the convolutions and products, None for float32 (layers.py).
    """

    config: UNetConfig
    dtype: Any = None

    @nn.compact
    def __call__(self, x, t, text, pooled=None, time_ids=None):
        c, dtype = self.config, self.dtype
        _check(c, x, t, text, pooled, time_ids)
        x, text = x.astype(jnp.float32), text.astype(jnp.float32)
        wave = partial(of_timestep, shift=c.freq_shift, cosine_first=c.flip_sin_to_cos)
        embed = partial(TimeEmbedding, 4 * c.block_out_channels[0], dtype)
        e = embed(name="time_embedding")(wave(t, c.block_out_channels[0]))
        if c.addition_time_embed_dim:
            waves = wave(time_ids.reshape(-1), c.addition_time_embed_dim).reshape(len(x), -1)
            added = jnp.concatenate([pooled.astype(jnp.float32), waves], -1)
            e = e + embed(name="add_embedding")(added)

        resnet = partial(Resnet, groups=c.norm_num_groups, eps=c.norm_eps, dtype=dtype)

        def attention(level):
            return partial(
                Transformer,
                c.num_heads[level],
                c.transformer_layers_per_block[level],
                c.use_linear_projection,
                c.norm_num_groups,
                dtype=dtype,
            )

        h = conv(c.block_out_channels[0], "conv_in", dtype)(x)
        skips, last = [h], len(c.block_out_channels) - 1
        for i, width in enumerate(c.block_out_channels):
            h, outputs = DownBlock(
                width,
                c.layers_per_block[i],
                resnet,
                attention(i) if c.attention_down[i] else None,
                AROUND if i < last else None,
                dtype,
                name=f"down_blocks.{i}",
            )(h, e, text)
            skips += outputs
        h = MidBlock(resnet, attention(last), name="mid_block")(h, e, text)
        for i, level in enumerate(range(last, -1, -1)):
            h = UpBlock(
                c.block_out_channels[level],
                c.layers_per_block[level] + 1,
                resnet,
                attention(level) if c.attention_up[i] else None,
                level > 0,
                dtype,
                name=f"up_blocks.{i}",
            )(h, skips, e, text)
        h = nn.silu(group_norm(h, c.norm_num_groups, c.norm_eps, "conv_norm_out"))
        return conv(c.out_channels, "conv_out", dtype)(h).astype(jnp.float32)


def _check(c, x, t, text, pooled, time_ids):
    divisor = 2 ** (len(c.block_out_channels) - 1)
    if x.ndim != 4 or x.shape[-1] != c.in_channels or any(s % divisor for s in x.shape[1:3]):
        raise InputError(
            f"latents have shape {x.shape}: this U-Net takes [B, h, w, {c.in_channels}], h and w"
            f" multiples of {divisor}"
        )
    wanted = {"t": (t, ()), "text": (text, (text.shape[1], c.cross_attention_dim))}
    if (pooled is None) != (c.pooled_dim == 0) or (time_ids is None) != (pooled is None):
        takes = "both pooled and time_ids" if c.pooled_dim else "neither pooled nor time_ids"
        raise InputError(f"this U-Net takes {takes}: see the docstring of UNet2DConditionModel")
    if pooled is not None:
        wanted |= {"pooled": (pooled, (c.pooled_dim,)), "time_ids": (time_ids, (6,))}
    for name, (value, shape) in wanted.items():
        if value.shape != (len(x), *shape):
            raise InputError(f"{name} has shape {value.shape}, not {(len(x), *shape)}")
