r"""The twin of dng_jax.nets.UNet in PyTorch, NCHW in the memory format channels_last.

    network = unet(module.config, params)       params {path: array}, those of weights.files.flat
    network(x [B, C, H, W], logsnr [B][, label [B]]) -> [B, C, H, W], of heads [B, K+1, C, H, W]

Layers are named as those of the Flax module, whose equations stand in dng_jax/nets/unet.py; what
Flax numbers is a ModuleList here. Evaluation alone: there is no dropout.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dng_jax.errors import InputError
from dng_jax.nets.config import UNetConfig
from dng_jax.weights import parts

LISTS = r"\b(ResBlock|Attention|Down|Up)_(\d+)"


def unet(
    config: UNetConfig, params: Mapping[str, np.ndarray], dtype: torch.dtype = torch.float32
) -> UNet:
    """The network with these parameters, for evaluation, convolutions and products in `dtype`.

    InputError for the embedding by timesteps, which it does not have.
    """
    if config.embedding != "logsnr":
        raise InputError(f"the twin in PyTorch embeds logsnr, and not {config.embedding}")
    network = UNet(config)
    network.load_state_dict(
        {
            re.sub(LISTS, r"\1.\2", parts.torch_name(path)): torch.tensor(
                parts.to_torch(np.asarray(value), path)
            )
            for path, value in params.items()
        }
    )
    for layer in network.modules():
        if isinstance(layer, Conv | Dense):
            layer.to(dtype)
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


class Conv(nn.Conv2d):
    """Convolution in the type of its weights."""

    def forward(self, x):
        return super().forward(x.to(self.weight.dtype))


class Dense(nn.Linear):
    """A product over the channels of [B, c, h, w], or over the last axis of anything else."""

    def forward(self, x):
        x = x.to(self.weight.dtype)
        if x.ndim < 4:
            return super().forward(x)
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GroupNorm(nn.GroupNorm):
    """In float32, answering in the type of x."""

    def __init__(self, channels: int) -> None:
        super().__init__(math.gcd(32, max(1, channels // 4), channels), channels, eps=1e-6)

    def forward(self, x):
        return super().forward(x.float()).to(x.dtype)


class ResBlock(nn.Module):
    """x [B, c, h, w], e [B, E] -> [B, features, h, w]."""

    def __init__(self, inputs: int, features: int, config: UNetConfig) -> None:
        super().__init__()
        self.scale_shift = config.scale_shift
        self.GroupNorm_0 = GroupNorm(inputs)
        self.Conv3_0 = conv3(inputs, features)
        self.Dense_0 = Dense(config.embed_channels, features * (2 if config.scale_shift else 1))
        self.GroupNorm_1 = GroupNorm(features)
        self.Conv3_1 = conv3(features, features)
        self.skip = Dense(inputs, features) if inputs != features else nn.Identity()

    def forward(self, x, e):
        h = self.Conv3_0(F.silu(self.GroupNorm_0(x)))
        if self.scale_shift:
            h = modulated(self.GroupNorm_1(h), self.Dense_0(F.silu(e)))
        else:
            h = self.GroupNorm_1(h + self.Dense_0(F.silu(e))[:, :, None, None])
        return self.skip(x) + self.Conv3_1(F.silu(h))


class Attention(nn.Module):
    """One head over positions, with a residual, [B, c, h, w] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.GroupNorm_0 = GroupNorm(channels)
        self.query, self.key, self.value, self.out = (Dense(channels, channels) for _ in range(4))

    def forward(self, x):
        flat = self.GroupNorm_0(x).permute(0, 2, 3, 1).flatten(1, 2)[:, None]
        q, k, v = self.query(flat[:, 0]), self.key(flat[:, 0]), self.value(flat[:, 0])
        seen = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.out(seen).transpose(1, 2).unflatten(2, x.shape[2:])


class Down(nn.Module):
    """Halves the sides."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.shuffle = config.resample == "shuffle"
        if self.shuffle:
            self.Dense_0 = Dense(4 * channels, channels)
        else:
            self.Conv_0 = Conv(channels, channels, 3, stride=2)

    def forward(self, x):
        if self.shuffle:
            return self.Dense_0(space_to_depth(x, 2))
        return self.Conv_0(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    """Doubles the sides."""

    def __init__(self, channels: int, features: int, config: UNetConfig) -> None:
        super().__init__()
        self.shuffle = config.resample == "shuffle"
        if self.shuffle:
            self.Dense_0 = Dense(channels, 4 * features)
        else:
            self.Conv3_0 = conv3(channels, channels)

    def forward(self, x):
        if self.shuffle:
            return depth_to_space(self.Dense_0(x), 2)
        return self.Conv3_0(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class UNet(nn.Module):
    """See the file's docstring; made by `unet`."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = c = config
        widths = [c.channels * m for m in c.multipliers]
        pixel = c.patch**2 * c.image_shape[-1]
        waves = np.geomspace(0.05, 4.0, max(1, min(c.channels, 128) // 2))
        self.register_buffer("waves", torch.tensor(waves).float(), persistent=False)
        # The embedding of the noise level is float32 whatever the rest is.
        self.Dense_0 = nn.Linear(2 * len(waves), c.embed_channels)
        self.Dense_1 = nn.Linear(c.embed_channels, c.embed_channels)
        if c.conditioning == "label" or (c.conditioning == "heads" and c.global_channels):
            self.Embed_0 = nn.Embedding(c.num_classes + 1, c.embed_channels)
        self.Conv3_0 = conv3(pixel, c.channels)
        self.ResBlock, self.Attention, self.Down, self.Up = (nn.ModuleList() for _ in range(4))
        self._trunk(widths)
        self.GroupNorm_0 = GroupNorm(widths[0])
        if c.conditioning != "heads":
            self.Conv3_1 = conv3(widths[0], pixel)
            return
        self.Conv3_1 = conv3(widths[0], c.head_channels)
        self.Dense_2 = Dense(c.embed_channels, 2 * c.head_channels)
        self.GroupNorm_1 = GroupNorm(c.head_channels)
        outputs = (c.num_classes + 1) * pixel
        if c.head_kernel == 1:
            self.heads = Dense(c.head_channels, outputs)
        else:
            self.Conv3_2 = conv3(c.head_channels, outputs)
        if c.global_channels:
            self._global_layers(widths[0])

    def _trunk(self, widths: list[int]) -> None:
        c, h = self.config, self.config.channels
        skips = [h]
        for level, width in enumerate(widths):
            for _ in range(c.blocks):
                self.ResBlock.append(ResBlock(h, width, c))
                h = width
                if level in c.attention_levels:
                    self.Attention.append(Attention(h))
                skips.append(h)
            if level + 1 < len(widths):
                self.Down.append(Down(h, c))
                skips.append(h)
        for i in range(c.middle_blocks):
            if i == 1 and c.attention_levels:
                self.Attention.append(Attention(h))
            self.ResBlock.append(ResBlock(h, widths[-1], c))
            h = widths[-1]
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(c.blocks + 1):
                self.ResBlock.append(ResBlock(h + skips.pop(), width, c))
                h = width
                if level in c.attention_levels:
                    self.Attention.append(Attention(h))
            if level > 0:
                self.Up.append(Up(h, widths[level - 1], c))
                h = widths[level - 1] if c.resample == "shuffle" else h

    def _global_layers(self, width: int) -> None:
        c = self.config
        height, across, colours = c.image_shape
        pooled = c.patch * c.global_pool if c.global_pool > 1 else 1
        features = (
            width * (height // c.patch // c.global_pool) * (across // c.patch // c.global_pool)
        )
        image = colours * (height // pooled) * (across // pooled)
        self.gather = Dense(features + image, c.global_channels)
        self.LayerNorm_0 = nn.LayerNorm(c.global_channels, eps=1e-6)
        self.modulate = Dense(c.embed_channels, 2 * c.global_channels)
        self.mix = Dense(c.global_channels, c.global_channels)
        self.spread = Dense(c.global_channels, height * across * colours)

    def forward(self, x, logsnr, label=None):
        c = self.config
        blocks, attentions = iter(self.ResBlock), iter(self.Attention)
        downs, ups = iter(self.Down), iter(self.Up)
        angle = logsnr[:, None] * self.waves
        e = self.Dense_0(torch.cat([angle.sin(), angle.cos()], -1))
        e = self.Dense_1(F.silu(e))
        if c.conditioning == "label":
            e = e + self.Embed_0(label)

        levels = range(len(c.multipliers))
        h = self.Conv3_0(space_to_depth(x, c.patch))
        skips = [h]
        for level in levels:
            for _ in range(c.blocks):
                h = next(blocks)(h, e)
                if level in c.attention_levels:
                    h = next(attentions)(h)
                skips.append(h)
            if level + 1 < len(levels):
                h = next(downs)(h)
                skips.append(h)
        for i in range(c.middle_blocks):
            if i == 1 and c.attention_levels:
                h = next(attentions)(h)
            h = next(blocks)(h, e)
        for level in reversed(levels):
            for _ in range(c.blocks + 1):
                h = next(blocks)(torch.cat([h, skips.pop()], 1), e)
                if level in c.attention_levels:
                    h = next(attentions)(h)
            if level > 0:
                h = next(ups)(h)
        h = F.silu(self.GroupNorm_0(h))
        if c.conditioning != "heads":
            return depth_to_space(self.Conv3_1(h), c.patch).float()
        out = self._heads(h, e)
        return (out + self._global(h, x, e) if c.global_channels else out).float()

    def _heads(self, h, e):
        c = self.config
        h = F.silu(modulated(self.GroupNorm_1(self.Conv3_1(h)), self.Dense_2(F.silu(e))))
        out = depth_to_space((self.heads if c.head_kernel == 1 else self.Conv3_2)(h), c.patch)
        return out.unflatten(1, (c.num_classes + 1, c.image_shape[-1]))

    def _global(self, h, x, e):
        c = self.config
        height, width, colours = c.image_shape
        e = F.silu(e[:, None] + self.Embed_0.weight)
        pooled = [
            F.avg_pool2d(h, c.global_pool),
            F.avg_pool2d(x, c.patch * c.global_pool if c.global_pool > 1 else 1).to(h.dtype),
        ]
        flat = torch.cat([p.permute(0, 2, 3, 1).flatten(1) for p in pooled], -1)
        z = self.LayerNorm_0(self.gather(flat).float())[:, None]
        scale, shift = self.modulate(e).float().chunk(2, -1)
        z = F.silu(self.mix(F.silu(z * (1 + scale) + shift)))
        out = self.spread(z).unflatten(-1, (height, width, colours))
        return out.permute(0, 1, 4, 2, 3)


def conv3(inputs: int, features: int) -> Conv:
    """3x3, zeros outside."""
    return Conv(inputs, features, 3, padding=1)


def modulated(h, scale_and_shift):
    """h (1 + scale) + shift of [B, c, h, w] by [B, 2 c]."""
    scale, shift = scale_and_shift[:, :, None, None].chunk(2, 1)
    return h * (1 + scale) + shift


def space_to_depth(x, factor: int):
    """[B, C, H, W] -> [B, f f C, H/f, W/f], channels as in dng_jax.nets.blocks."""
    b, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(b, h // factor, factor, w // factor, factor, c)
    x = x.transpose(2, 3).reshape(b, h // factor, w // factor, factor**2 * c)
    return x.permute(0, 3, 1, 2)


def depth_to_space(x, factor: int):
    """[B, f f C, h, w] -> [B, C, h f, w f], the inverse of `space_to_depth`."""
    b, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(b, h, w, factor, factor, c // factor**2)
    x = x.transpose(2, 3).reshape(b, h * factor, w * factor, c // factor**2)
    return x.permute(0, 3, 1, 2)
