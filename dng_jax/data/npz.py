"""One .npz file of labelled images, as np.savez writes it; never pickles.

images     uint8 [N, H, W] grey, or [N, H, W, C], C = 1 or 3
labels     whole numbers [N], 0 to K - 1, every one of them
classes    names [K] of the classes (text); where it is left out, their numbers are the names
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from dng_jax import arrays
from dng_jax.data import picture
from dng_jax.data.examples import Example, check_names, check_size
from dng_jax.errors import InputError

MOST_CLASSES = 1000


def read(path: Path, size: int | None, name: str) -> tuple[tuple[str, ...], list[Example]]:
    """Class names and examples, size: see picture.resized; name: of the set, for messages.

    InputError for a file that lacks an array or holds one of another shape or dtype, for fewer than
    two classes and for an empty one.
    """
    held = arrays.read_npz(path)
    images, labels = _images(path, held), _labels(path, held)
    if len(images) != len(labels):
        raise InputError(f"{path} has {len(images)} images and {len(labels)} labels: make them one")
    names = check_names(path, _names(path, held, labels))
    if outside := [int(label) for label in labels if not 0 <= label < len(names)][:1]:
        raise InputError(f"{path} has a label {outside[0]}: labels are 0 to {len(names) - 1}")
    if empty := sorted({*range(len(names))} - {*labels.tolist()}):
        raise InputError(f"class '{names[empty[0]]}' has no image in {path}: add some")
    check_size(name, path, images.shape[1:], size)
    return names, [
        Example(
            pixels if size is None else picture.resized(pixels, size),
            int(label),
            hashlib.sha256(pixels.tobytes()).hexdigest(),
        )
        for pixels, label in zip(images, labels, strict=True)
    ]


def _images(path: Path, held: dict[str, np.ndarray]) -> np.ndarray:
    images = _array(path, held, "images")
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise InputError(
            f"images in {path} must be uint8 [N, H, W] or [N, H, W, C], C = 1 or 3, got"
            f" {images.dtype} {list(held['images'].shape)}"
        )
    if not images.size:
        raise InputError(f"{path} has no images: add some")
    return images


def _labels(path: Path, held: dict[str, np.ndarray]) -> np.ndarray:
    labels = _array(path, held, "labels")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(
            f"labels in {path} must be whole numbers [N], got {labels.dtype} {list(labels.shape)}"
        )
    return labels


def _names(path: Path, held: dict[str, np.ndarray], labels: np.ndarray) -> list[str]:
    if "classes" not in held:
        return [str(k) for k in range(min(int(labels.max()) + 1, MOST_CLASSES))]
    names = held["classes"]
    if names.ndim != 1 or names.dtype.kind != "U":
        raise InputError(
            f"classes in {path} must be text [K], got {names.dtype} {list(names.shape)}"
        )
    if len({*names.tolist()}) < len(names):
        raise InputError(f"classes in {path} have one name twice: rename one")
    return names.tolist()


def _array(path: Path, held: dict[str, np.ndarray], name: str) -> np.ndarray:
    if name not in held:
        raise InputError(
            f"{path} has no array '{name}': write it by np.savez(file, images=..., labels=...)"
        )
    return held[name]
