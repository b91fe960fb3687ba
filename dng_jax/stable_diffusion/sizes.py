"""A small text-to-image model by a few numbers: from them follow the sizes of its networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dng_jax.errors import InputError, choose
from dng_jax.nets import checks
from dng_jax.nets.config import Config
from dng_jax.stable_diffusion.config import UNetConfig, VAEConfig

if TYPE_CHECKING:
    from dng_jax.stable_diffusion.clip_config import CLIPTextConfig

PREDICTIONS = {"eps": "epsilon", "v": "v_prediction"}


@dataclass(frozen=True)
class Sizes(Config):
    """Of a U-Net with attention to the text at every level, an autoencoder and a text encoder."""

    image_shape: tuple[int, int, int] = (8, 16, 1)
    """Height, width, channels; the sides divide by the factors of autoencoder and U-Net."""
    parameterisation: str = "v"
    """v or eps: what the U-Net predicts."""
    channels: tuple[int, ...] = (40, 80)
    """Channels of every level of the U-Net, multiples of groups and heads."""
    layers: int = 1
    """Resnets of a level of the U-Net, at least 1; on the way up it has one more."""
    heads: int = 4
    """Heads of attention, of U-Net and text encoder, at least 1."""
    groups: int = 8
    """Groups of every group normalisation, at least 1."""
    autoencoder_channels: tuple[int, ...] = (16, 32)
    """Channels of every level of the autoencoder, multiples of groups; each level but one halves
    the sides."""
    autoencoder_layers: int = 1
    """Resnets of a level of the encoder, at least 1; the decoder has one more."""
    latent_channels: int = 4
    """Channels of the latents, at least 1."""
    text_width: int = 64
    """Channels of the text, a multiple of heads."""
    text_layers: int = 2
    """Layers of the text encoder, at least 1."""
    text_length: int = 16
    """The most tokens of a prompt, start and end included, at least 3."""

    def __post_init__(self) -> None:
        checks.tuple_of(1, "image_shape", self.image_shape, length=3)
        choose(self.parameterisation, PREDICTIONS, "parameterisation")
        checks.whole_numbers(1, layers=self.layers, heads=self.heads, groups=self.groups)
        checks.whole_numbers(1, text_width=self.text_width, text_layers=self.text_layers)
        checks.whole_numbers(3, text_length=self.text_length)
        if self.text_width % self.heads:
            raise InputError(f"text_width {self.text_width} does not divide by heads {self.heads}")
        whole = self.autoencoder().factor * 2 ** (len(self.unet().block_out_channels) - 1)
        if any(side % whole for side in self.image_shape[:2]):
            raise InputError(
                f"images of {self.image_shape[0]}x{self.image_shape[1]}: autoencoder and U-Net"
                f" together take sides that are multiples of {whole}"
            )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the latents of an image."""
        height, width = (side // self.autoencoder().factor for side in self.image_shape[:2])
        return height, width, self.latent_channels

    def unet(self) -> UNetConfig:
        """The U-Net's own sizes."""
        levels = len(self.channels)
        return UNetConfig(
            in_channels=self.latent_channels,
            out_channels=self.latent_channels,
            block_out_channels=self.channels,
            attention_down=(True,) * levels,
            attention_up=(True,) * levels,
            layers_per_block=(self.layers,) * levels,
            transformer_layers_per_block=(1,) * levels,
            num_heads=(self.heads,) * levels,
            cross_attention_dim=self.text_width,
            norm_num_groups=self.groups,
        )

    def autoencoder(self, scaling_factor: float = 1.0) -> VAEConfig:
        """Those of the autoencoder."""
        return VAEConfig(
            in_channels=self.image_shape[2],
            out_channels=self.image_shape[2],
            latent_channels=self.latent_channels,
            block_out_channels=self.autoencoder_channels,
            layers_per_block=self.autoencoder_layers,
            norm_num_groups=self.groups,
            scaling_factor=scaling_factor,
        )

    def text_encoder(self, vocab_size: int) -> CLIPTextConfig:
        """Those of the text encoder; the last token of the vocabulary ends a prompt."""
        from dng_jax.stable_diffusion.clip_config import CLIPTextConfig  # imported late: it is slow

        return CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=self.text_width,
            intermediate_size=4 * self.text_width,
            projection_dim=self.text_width,
            num_hidden_layers=self.text_layers,
            num_attention_heads=self.heads,
            max_position_embeddings=self.text_length,
            eos_token_id=vocab_size - 1,
        )

    def scheduler(self) -> dict[str, object]:
        """The scheduler_config.json: a cosine schedule of 1,000 levels (Nichol & Dhariwal 2021)."""
        return {
            "_class_name": "DDPMScheduler",
            "num_train_timesteps": 1000,
            "beta_schedule": "squaredcos_cap_v2",
            "beta_start": 0.0001,
            "beta_end": 0.02,
            "trained_betas": None,
            "prediction_type": PREDICTIONS[self.parameterisation],
            "timestep_spacing": "trailing",
            "steps_offset": 1,  # of no effect on this spacing; diffusers warns of any other
            "variance_type": "fixed_small",
            "clip_sample": False,
            "thresholding": False,
        }

    def example(self) -> tuple[np.ndarray, ...]:
        """Latents, timestep and tokens of one image, all zero."""
        latents = np.zeros((1, *self.latent_shape), np.float32)
        return latents, np.zeros(1, np.float32), np.zeros((1, self.text_length), np.int32)
