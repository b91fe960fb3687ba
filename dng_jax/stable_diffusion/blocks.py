"""Levels of the U-Net and the autoencoder, of the layers in layers.py.

    down      `layers` times a resnet (and attention), then a downsampler but for the last level
    middle    resnet, attention, resnet
    up        `layers` times a resnet (and attention), then an upsampler but for the last level

resnet, attention: what makes such a layer of a name (and a resnet of its number of channels);
attention None for none. e [B, E] is the embedding of the time, text [B, M, D] what the U-Net's
attention looks at; the autoencoder has neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from dng_jax.stable_diffusion.layers import Downsample, Padding, Upsample


class DownBlock(nn.Module):
    """x [B, h, w, c] -> (y [B, h/2, w/2, features], the outputs of all its layers in turn).

    padding: of the downsampler, None for no downsampler (y is then [B, h, w, features]).
    """

    features: int
    layers: int
    resnet: Callable[..., nn.Module]
    attention: Callable[..., nn.Module] | None
    padding: Padding | None
    dtype: Any = None

    @nn.compact
    def __call__(self, x, e=None, text=None):
        outputs = []
        for i in range(self.layers):
            x = self.resnet(self.features, name=f"resnets.{i}")(x, e)
            if self.attention is not None:
                x = self.attention(name=f"attentions.{i}")(x, text)
            outputs.append(x)
        if self.padding is not None:
            x = Downsample(self.padding, self.dtype, name="downsamplers.0")(x)
            outputs.append(x)
        return x, outputs


class MidBlock(nn.Module):
    """x [B, h, w, c] -> the same."""

    resnet: Callable[..., nn.Module]
    attention: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x, e=None, text=None):
        x = self.resnet(x.shape[-1], name="resnets.0")(x, e)
        x = self.attention(name="attentions.0")(x, text)
        return self.resnet(x.shape[-1], name="resnets.1")(x, e)


class UpBlock(nn.Module):
    """x [B, h, w, c] -> [B, 2h, 2w, features], or [B, h, w, features] where up is False.

    skips: outputs of the way down, the last of which is taken off before every resnet; none in the
    autoencoder.
    """

    features: int
    layers: int
    resnet: Callable[..., nn.Module]
    attention: Callable[..., nn.Module] | None
    up: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x, skips=None, e=None, text=None):
        for i in range(self.layers):
            if skips is not None:
                x = jnp.concatenate([x, skips.pop()], -1)
            x = self.resnet(self.features, name=f"resnets.{i}")(x, e)
            if self.attention is not None:
                x = self.attention(name=f"attentions.{i}")(x, text)
        return Upsample(self.dtype, name="upsamplers.0")(x) if self.up else x
