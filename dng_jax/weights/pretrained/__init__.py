"""Small trained networks that come with the library; one model card (.md) beside each.

digits-heads       U-Net with one output head a class and an unconditional one: the default network
digits-label       class-conditional U-Net with label dropout (label K is the null label)
digits-classifier  classifier that judges generated digits
mnist-heads        U-Net with one output head a class and an unconditional one, 28x28
mnist-classifier   classifier that judges generated MNIST digits, with its reference statistics
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from dng_jax.errors import choose
from dng_jax.metrics import Reference
from dng_jax.weights import files as checkpoints

NAMES = (
    "digits-heads",
    "digits-label",
    "digits-classifier",
    "mnist-heads",
    "mnist-classifier",
)


def reference(name: str) -> Reference | None:
    """What the training images look like to a bundled classifier; None where that is not bundled
    (digits: the data set is embedded)."""
    choose(name, NAMES, "pretrained network")
    source = resources.files(__name__) / f"{name}.reference.safetensors"
    if not source.is_file():
        return None
    with resources.as_file(source) as path:
        return Reference.load(path)


def stored(name: str) -> bytes:
    """The file of a bundled network as it is stored."""
    choose(name, NAMES, "pretrained network")
    return (resources.files(__name__) / f"{name}.safetensors").read_bytes()


def load(name: str) -> tuple[Any, dict, dict]:
    """Returns (module, params, config) of a bundled network; raises InputError for another name."""
    choose(name, NAMES, "pretrained network")
    with resources.as_file(resources.files(__name__) / f"{name}.safetensors") as path:
        return checkpoints.load_model(path)
