"""Flax Linen networks: the diffusion U-Net in its three forms, and the classifier.

    unet         x, logsnr[, label] -> eps, v or x0: one class, every class, or all heads at once
    classifier   x -> logits and features
    blocks       the layers they are made of
    config       UNetConfig, ClassifierConfig: their sizes
    checks       refusals of sizes and inputs that they cannot have

Sizes that were trained, with their costs and numbers, are the presets of
dng_jax/training/presets.py.
"""

from __future__ import annotations

from typing import Any

from dng_jax.errors import InputError, choose
from dng_jax.nets.classifier import Classifier
from dng_jax.nets.config import ClassifierConfig, UNetConfig
from dng_jax.nets.unet import UNet

__all__ = [
    "Classifier",
    "ClassifierConfig",
    "UNet",
    "UNetConfig",
    "build",
    "describe",
]

_KINDS: dict[str, tuple[Any, Any]] = {
    "unet": (UNet, UNetConfig),
    "classifier": (Classifier, ClassifierConfig),
}


def describe(module: UNet | Classifier) -> dict:
    """The module's configuration as plain JSON values; `build` turns it back into the module."""
    kind = "unet" if isinstance(module, UNet) else "classifier"
    return {"kind": kind, **module.config.to_dict()}


def build(config: dict) -> UNet | Classifier:
    """The module that `describe` described; raises InputError for an unknown kind or field."""
    fields = dict(config)
    if "kind" not in fields:
        raise InputError("the network's configuration has no 'kind': write it with nets.describe")
    kind = choose(fields.pop("kind"), _KINDS, "kind of network")
    module, config_type = _KINDS[kind]
    return module(config_type.from_dict(fields))
