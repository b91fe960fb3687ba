"""What a data set is, the names of its splits, and the scale of its pixels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SPLITS = ("train", "test", "all")


class Info(NamedTuple):
    """What a data set is: its name, classes and the shape (H, W, C) of one image."""

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]


def to_unit(images):
    """uint8 in 0..255 -> float32 in [-1, 1], any shape, of NumPy or JAX; other dtypes pass."""
    if images.dtype != np.uint8:
        return images
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def parts(split: str) -> tuple[str, ...]:
    """The splits that are concatenated: "all" is train followed by test."""
    return ("train", "test") if split == "all" else (split,)
