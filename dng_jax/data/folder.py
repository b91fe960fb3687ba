"""Images of one's own: folder:PATH, a folder of folders named as the classes.

    folder:PATH          PATH/cat/1.png, PATH/dog/2.jpg, ...; every image of one size
    folder:PATH@32       the shorter side resized to 32, then the middle 32x32 pixels

Classes are in the order of their names. Where PATH holds just the folders train and test, these
are the splits. Otherwise an image is "test" where the SHA-256 of its file is a multiple of 5:
about a fifth of every class, and adding an image moves no other.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dng_jax import disk
from dng_jax.data import picture
from dng_jax.data.info import Info, parts
from dng_jax.errors import InputError

PREFIX = "folder:"
LARGEST_SIDE = 64  # of images that are taken at their own size


def load(name: str, split: str) -> tuple[np.ndarray, np.ndarray, Info]:
    """Images uint8 [N, H, W, C], labels int32 [N], Info of a name folder:PATH[@SIZE].

    "all" is train followed by test. InputError for a folder that is no classification: fewer than
    two classes, an empty one, images of several sizes or modes, or one that cannot be read.
    """
    root, size = _parse(name)
    splits = _splits(root)
    names = _class_names(root, splits)
    found: dict[str, list[tuple[np.ndarray, int]]] = {"train": [], "test": []}
    first: tuple[Path, np.ndarray] | None = None
    for own, folder in splits.items():
        for label, class_name in enumerate(names):
            for path in _files(folder / class_name):
                disk.check_file(path)
                content = path.read_bytes()
                pixels = picture.decode(content, path, size)
                first = first or (path, pixels)
                _alike(name, first, path, pixels, size)
                found[own or _by_hash(content)].append((pixels, label))
    for part, examples in found.items():
        missing = sorted(set(range(len(names))) - {label for _, label in examples})
        if missing and (part == "train" or not examples):
            raise InputError(
                f"{root} has no image of class '{names[missing[0]]}' for the split {part}: add more"
                " images, or make folders train and test"
            )
    chosen = [example for part in parts(split) for example in found[part]]
    images = np.stack([pixels for pixels, _ in chosen])
    labels = np.array([label for _, label in chosen], np.int32)
    return images, labels, Info(name, len(names), tuple(names), images.shape[1:])


def _parse(name: str) -> tuple[Path, int | None]:
    text = name.removeprefix(PREFIX)
    whole, size = Path(os.path.expanduser(text)), None
    before, at, after = text.rpartition("@")
    if at and not whole.exists():  # a folder may have an @ in its name
        whole = Path(os.path.expanduser(before))
        if not after.isascii() or not after.isdigit() or not 4 <= int(after[:6]) <= 1024:
            raise InputError(f"the size after @ must be 4 to 1024, got '{after}' in {name}")
        size = int(after)
    if not text or not whole.is_dir():
        raise InputError(f"{whole if text else name} is no folder: write {PREFIX}PATH[@SIZE]")
    return whole, size


def _splits(root: Path) -> dict[str, Path]:
    """Folders by the split that they hold; "" where the hash decides."""
    if {path.name for path in _folders(root)} == {"train", "test"}:
        return {part: root / part for part in ("train", "test") if list(_folders(root / part))} or {
            "": root
        }
    return {"": root}


def _class_names(root: Path, splits: dict[str, Path]) -> list[str]:
    several = [sorted(path.name for path in _folders(folder)) for folder in splits.values()]
    names = several[0]
    for other in several[1:]:
        if other != names:
            odd = sorted(set(names) ^ set(other))[0]
            raise InputError(f"class '{odd}' is not in both {root}/train and {root}/test: add it")
    if len(names) < 2:
        raise InputError(
            f"{root} has {len(names)} class{'es' * (len(names) != 1)}: it takes at least two"
            " folders, named as the classes, with images in them"
        )
    return names


def _folders(root: Path) -> Iterator[Path]:
    for path in _entries(root):
        if path.is_dir():
            yield path


def _files(folder: Path) -> list[Path]:
    found = [path for path in _entries(folder) if path.suffix.lower() in picture.ENDINGS]
    if not found:
        raise InputError(
            f"class '{folder.name}' has no image ({', '.join(picture.ENDINGS)}) in {folder}: add"
            " some, or remove the folder"
        )
    return found


def _entries(folder: Path) -> list[Path]:
    # Never deeper than this one folder: a loop of links has nothing to go round in.
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}): check the path") from None


def _by_hash(content: bytes) -> str:
    return "test" if int(hashlib.sha256(content).hexdigest(), 16) % 5 == 0 else "train"


def _alike(
    name: str, first: tuple[Path, np.ndarray], path: Path, pixels: np.ndarray, size: int | None
) -> None:
    if pixels.shape[2] != first[1].shape[2]:
        grey, colour = (path, first[0]) if pixels.shape[2] == 1 else (first[0], path)
        raise InputError(f"{grey} is grey and {colour} is in colour: make all of them one or other")
    if pixels.shape != first[1].shape:
        raise InputError(
            f"{first[0]} and {path} differ in size: resize and crop them by {name}@32, say"
        )
    if size is None and max(pixels.shape) > LARGEST_SIDE:
        raise InputError(
            f"{path} is larger than {LARGEST_SIDE}x{LARGEST_SIDE}: make it smaller by {name}@32,"
            " say"
        )
