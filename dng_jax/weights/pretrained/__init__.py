"""Small trained networks that come with the library; one model card (.md) beside each, and beside
generators the calibration of trackers on them (.json, see dng_jax.experiments.calibrations).

digits-heads       U-Net with one output head per class, one unconditional: the default
digits-label       class-conditional U-Net with label dropout (label K is the null label)
digits-classifier  classifier of generated digits
mnist-heads        U-Net with one output head per class, one unconditional, 28x28: the default
mnist-classifier   classifier of generated MNIST digits, with the reference of its training images
cifar10-label      class-conditional U-Net with label dropout, 32x32 in colour: the default
cifar10-classifier classifier of generated CIFAR-10 images, with the reference likewise
digit-scenes       a text-to-image model of two digits side by side, a folder of diffusers
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from dng_jax.errors import choose
from dng_jax.weights import files

NAMES = (
    "digits-heads",
    "digits-label",
    "digits-classifier",
    "mnist-heads",
    "mnist-classifier",
    "cifar10-label",
    "cifar10-classifier",
)
FOLDERS = ("digit-scenes",)


@contextmanager
def path(name: str) -> Iterator[Path]:
    """The file of a bundled network, wherever the package lies; InputError for another name.

    The reference of a classifier lies beside it, where it is bundled (dng_jax.metrics.reference).
    """
    choose(name, NAMES, "pretrained network")
    with resources.as_file(resources.files(__name__)) as folder:
        yield folder / f"{name}.safetensors"


def folder(name: str) -> Path:
    """The folder of a bundled text-to-image model (dng_jax.stable_diffusion.pipeline); InputError
    for another name."""
    choose(name, FOLDERS, "bundled text-to-image model")
    return Path(str(resources.files(__name__) / name))


def calibration(name: str) -> Path | None:
    """The calibration beside a bundled network; None where there is none, or no such network."""
    if name not in NAMES:
        return None
    with path(name) as file:
        beside = file.with_name(f"{name}.calibration.json")
        return beside if beside.exists() else None


def stored(name: str) -> bytes:
    """The file of a bundled network as it is stored; InputError for another name."""
    with path(name) as file:
        return file.read_bytes()


def load(name: str) -> tuple[Any, dict, dict]:
    """Returns (module, params, config) of a bundled network; InputError for another name."""
    with path(name) as file:
        return files.load(file)
