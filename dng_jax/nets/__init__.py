"""Flax Linen networks: the diffusion U-Net in its three forms, and the classifiers.

    unet         x, logsnr[, label] -> eps, v or x0: one class, every class, or all heads at once
    classifier   x -> logits and features, in two forms
    residual     the trunk of the one for photographs, with batch normalisation
    blocks       the layers that several networks share
    embeddings   of the noise level: log-SNR, or the timestep of a schedule
    convolution  3x3, with a gradient by the kernel that is quick on a CPU
    config       UNetConfig, ClassifierConfig: their sizes
    descriptions a network as JSON, and back
    checks       refusals of sizes and inputs that they cannot have

Sizes that were trained, with their costs and numbers, are the presets of
dng_jax/training/presets.py.
"""

from typing import TYPE_CHECKING

from dng_jax.lazy import exporter
from dng_jax.nets.config import ClassifierConfig, UNetConfig

__all__ = [
    "Classifier",
    "ClassifierConfig",
    "UNet",
    "UNetConfig",
    "build",
    "describe",
]

if TYPE_CHECKING:
    from dng_jax.nets.classifier import Classifier
    from dng_jax.nets.descriptions import build, describe
    from dng_jax.nets.unet import UNet
else:
    _HOMES = {
        "classifier": ("Classifier",),
        "descriptions": ("build", "describe"),
        "unet": ("UNet",),
    }
    __getattr__, __dir__ = exporter(__name__, __all__, _HOMES)
