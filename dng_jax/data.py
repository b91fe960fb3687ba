"""Image data sets as arrays, and the way pixels become floats.

    x = pixel / 127.5 - 1,   pixel in 0..255, x in [-1, 1]

digits: the 1,797 images of 8x8 pixels that scikit-learn embeds (UCI "Optical Recognition of
Handwritten Digits"; grey levels 0..16 become 0..255). Nothing is downloaded.

A split is a pure function of the data: within each class, every fifth image in the order of the
source is "test", the others are "train"; "all" keeps the order of the source.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dng_jax.errors import choose

SPLITS = ("train", "test", "all")


class Info(NamedTuple):
    """What a data set is: its name, classes and the shape (H, W, C) of one image."""

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]


def load(name: str, split: str = "all") -> tuple[np.ndarray, np.ndarray, Info]:
    """Returns images uint8 [N, H, W, C] in 0..255, labels int32 [N], and Info.

    Raises InputError for an unknown name or split.
    """
    if name == "mnist":
        return _mnist(split)
    choose(name, LOADERS, "data set")
    choose(split, SPLITS, "split")
    images, labels, info = LOADERS[name]()
    if split == "all":
        return images, labels, info
    chosen = _every_fifth(labels)
    if split == "train":
        chosen = ~chosen
    return images[chosen], labels[chosen], info


def to_unit(images: np.ndarray) -> np.ndarray:
    """uint8 in 0..255 -> float32 in [-1, 1], any shape."""
    return np.asarray(images, np.float32) / np.float32(127.5) - np.float32(1)


def _every_fifth(labels: np.ndarray) -> np.ndarray:
    # Ranks within the class rather than a shuffle: no random stream whose version could change.
    rank = np.zeros(len(labels), int)
    for label in np.unique(labels):
        rank[labels == label] = np.arange(np.sum(labels == label))
    return rank % 5 == 4


def _digits() -> tuple[np.ndarray, np.ndarray, Info]:
    from sklearn.datasets import load_digits  # imported late: scikit-learn takes a second to load

    source = load_digits()
    images = np.round(source.images * (255 / 16)).astype(np.uint8)[..., None]
    names = tuple(str(k) for k in range(10))
    return images, source.target.astype(np.int32), Info("digits", 10, names, (8, 8, 1))


def _mnist(split: str) -> tuple[np.ndarray, np.ndarray, Info]:
    import gzip
    from pathlib import Path

    root = Path(__file__).resolve().parents[2] / "shared" / "data" / "mnist"
    part = {"train": "train", "test": "t10k"}[split]
    raw = gzip.decompress((root / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((root / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    images = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28, 1)
    names = tuple(str(k) for k in range(10))
    y = np.frombuffer(labels, np.uint8, offset=8).astype(np.int32)
    return images, y, Info("mnist", 10, names, (28, 28, 1))


LOADERS: dict[str, Callable[[], tuple[np.ndarray, np.ndarray, Info]]] = {"digits": _digits}
