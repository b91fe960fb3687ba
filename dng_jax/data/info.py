"""What a data set is, which networks fit it, the names of its splits, the scale of its pixels."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError

SPLITS = ("train", "test", "all")


class Info(NamedTuple):
    """What a data set is: its name, classes and the shape (H, W, C) of one image.

    sha256: of class names, labels and pixels, of images of one's own; None for sets that others
    keep.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    sha256: str | None = None

    @property
    def key(self) -> str:
        """What tells data sets apart: the name, or of one's own images, which may move, the
        checksum."""
        return self.name if self.sha256 is None else f"images {self.sha256[:16]}"

    @property
    def facts(self) -> dict[str, Any] | None:
        """What run.json keeps of images of one's own; None of a set that others keep."""
        if self.sha256 is None:
            return None
        return {"key": self.key, "sha256": self.sha256, "classes": self.class_names}


def must_fit(network: Any, info: Info, name: str, remedy: str = "choose another network") -> None:
    """InputError unless a network's configuration has the image_shape and num_classes of the data.

    name: what the network is called in the message; remedy: what it ends with.
    """
    if tuple(network.image_shape) != tuple(info.shape) or network.num_classes != info.num_classes:
        shape, wanted = ("x".join(map(str, s)) for s in (network.image_shape, info.shape))
        raise InputError(
            f"{name} is made for {network.num_classes} classes of images {shape}, {info.name} has"
            f" {info.num_classes} of {wanted}: {remedy}"
        )


def to_unit(images):
    """Pixels 0..255 of any integer dtype -> float32 in [-1, 1], any shape, of NumPy or JAX.

    Floating ones are taken to be in [-1, 1] already, and pass.
    """
    if not hasattr(images, "dtype"):
        images = np.asarray(images)
    if jnp.issubdtype(images.dtype, jnp.floating):
        return images
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_pixels(x) -> np.ndarray:
    """The inverse of `to_unit`: float in [-1, 1], clipped, any shape -> uint8 0..255, rounded."""
    return np.rint((np.clip(np.asarray(x, np.float32), -1, 1) + 1) * np.float32(127.5)).astype(
        np.uint8
    )


def parts(split: str) -> tuple[str, ...]:
    """The splits that are concatenated: "all" is train followed by test."""
    return ("train", "test") if split == "all" else (split,)
