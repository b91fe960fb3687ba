"""One labelled image of one's own, and which images and classes make a data set together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dng_jax.errors import InputError

LARGEST_SIDE = 64  # of images that are taken at their own size


class Example(NamedTuple):
    """Pixels uint8 [H, W, C] and label; sha256 of what it was read from; its split, None where the
    SHA-256 decides."""

    pixels: np.ndarray
    label: int
    sha256: str
    split: str | None = None


def check_names(source: Any, names: Sequence[str]) -> tuple[str, ...]:
    """The class names; InputError for fewer than two, or one that no table can show."""
    if len(names) < 2:
        raise InputError(
            f"{source} has {len(names)} class{'es' * (len(names) != 1)}: it takes at least two,"
            " each with images (of a folder: in a folder named as the class)"
        )
    for name in names:
        if not name.isprintable() or not name.strip():
            raise InputError(
                f"{source} has a class named {name!r}: rename it to UTF-8 text that can be printed"
            )
    return tuple(names)


def check_size(name: str, source: Any, shape: Sequence[int], size: int | None) -> None:
    """InputError for images [H, W, C] that no size was asked for and that are large."""
    if size is None and max(shape[:2]) > LARGEST_SIDE:
        raise InputError(
            f"{source} is larger than {LARGEST_SIDE}x{LARGEST_SIDE}: make it smaller by {name}@32,"
            " say"
        )
