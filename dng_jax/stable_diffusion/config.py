"""Sizes of the U-Net and the autoencoder; config_json.py reads them of diffusers' config.json."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dng_jax.errors import InputError
from dng_jax.nets import checks
from dng_jax.nets.config import Config


@dataclass(frozen=True)
class UNetConfig(Config):
    """Of UNet2DConditionModel; lists are by level, from the first on the way down."""

    in_channels: int = 4
    """Channels of the latents."""
    out_channels: int = 4
    """Channels of what is predicted."""
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    """Channels of every level."""
    attention_down: tuple[bool, ...] = (True, True, True, False)
    """Which levels have transformers on the way down."""
    attention_up: tuple[bool, ...] = (False, True, True, True)
    """The same of the way up, from the last level to the first."""
    layers_per_block: tuple[int, ...] = (2, 2, 2, 2)
    """Resnets of a level on the way down; on the way up it has one more."""
    transformer_layers_per_block: tuple[int, ...] = (1, 1, 1, 1)
    """Blocks of a transformer; the middle has those of the last level."""
    num_heads: tuple[int, ...] = (8, 8, 8, 8)
    """Heads of attention: what diffusers calls attention_head_dim, for historic reasons."""
    cross_attention_dim: int = 1280
    """Channels of the text."""
    use_linear_projection: bool = False
    """Dense layers around the transformers, not 1x1 convolutions."""
    norm_num_groups: int = 32
    """Groups of every group normalisation."""
    norm_eps: float = 1e-5
    """Added to the variance, in resnets and before the last convolution."""
    flip_sin_to_cos: bool = True
    """Cosines first, in the embeddings of time and sizes."""
    freq_shift: float = 0.0
    """Of their frequencies, 10000^(-i / (h - freq_shift))."""
    addition_time_embed_dim: int = 0
    """Channels of the embedding of each of the six numbers of XL; 0 for none of it."""
    projection_class_embeddings_input_dim: int = 0
    """Channels of the pooled text and the six embeddings together, 0 without them."""

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        checks.whole_numbers(
            1,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            cross_attention_dim=self.cross_attention_dim,
            norm_num_groups=self.norm_num_groups,
        )
        for name in ("layers_per_block", "transformer_layers_per_block", "num_heads"):
            checks.tuple_of(1, name, getattr(self, name), length=levels)
        _widths(self.block_out_channels, self.norm_num_groups)
        for name in ("attention_down", "attention_up"):
            if len(getattr(self, name)) != levels:
                raise InputError(f"{name} must have {levels} entries, got {getattr(self, name)}")
        attended = [*zip(self.attention_down, self.attention_up[::-1], strict=True)]
        for i, width in enumerate(self.block_out_channels):
            if (any(attended[i]) or i + 1 == levels) and width % self.num_heads[i]:
                raise InputError(
                    f"attention_head_dim {self.num_heads[i]}: {width} channels have no such heads"
                )
        for width in (self.block_out_channels[0], self.addition_time_embed_dim):
            if width % 2 or width == 2:
                raise InputError(f"an embedding of {width} channels: take an even number from 4")
        if self.pooled_dim < 0 or bool(self.pooled_dim) != bool(self.addition_time_embed_dim):
            raise InputError(
                "projection_class_embeddings_input_dim"
                f" {self.projection_class_embeddings_input_dim}:"
                f" it must be more than 6 addition_time_embed_dim, 6 x"
                f" {self.addition_time_embed_dim}"
            )

    @property
    def pooled_dim(self) -> int:
        """Channels of the pooled text that XL takes, 0 for the others."""
        return self.projection_class_embeddings_input_dim - 6 * self.addition_time_embed_dim

    def example(self) -> tuple[np.ndarray, ...]:
        """As in `Config`."""
        side = 2 ** (len(self.block_out_channels) - 1)
        shapes = [(1, side, side, self.in_channels), (1,), (1, 1, self.cross_attention_dim)]
        shapes += [(1, self.pooled_dim), (1, 6)] if self.pooled_dim else []
        return tuple(np.zeros(shape, np.float32) for shape in shapes)


@dataclass(frozen=True)
class VAEConfig(Config):
    """Of AutoencoderKL."""

    in_channels: int = 3
    """Channels of the images that are encoded."""
    out_channels: int = 3
    """Channels of those that are decoded."""
    latent_channels: int = 4
    """Channels of the latents."""
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    """Channels of every level, from the images on."""
    layers_per_block: int = 2
    """Resnets of a level of the encoder; the decoder has one more."""
    norm_num_groups: int = 32
    """Groups of every group normalisation."""
    scaling_factor: float = 0.18215
    """What latents are multiplied by for the U-Net."""

    def __post_init__(self) -> None:
        checks.whole_numbers(
            1,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            latent_channels=self.latent_channels,
            layers_per_block=self.layers_per_block,
            norm_num_groups=self.norm_num_groups,
        )
        _widths(self.block_out_channels, self.norm_num_groups)

    @property
    def factor(self) -> int:
        """Pixels of an image along the side of a latent."""
        return 2 ** (len(self.block_out_channels) - 1)

    def example(self) -> tuple[np.ndarray, ...]:
        """As in `Config`."""
        return (np.zeros((1, self.factor, self.factor, self.in_channels), np.float32),)


def _widths(widths: tuple[int, ...], groups: int) -> None:
    checks.tuple_of(1, "block_out_channels", widths)
    for width in widths:
        if width % groups:
            raise InputError(f"norm_num_groups {groups} does not divide {width} channels")
