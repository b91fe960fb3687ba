"""A folder of folders named as the classes: PATH/cat/1.png, PATH/dog/2.jpg, ...

Classes are in the order of their names, which are compared as Unicode's composed form (NFC), so
that a copy made by another system has the same. Where PATH holds just the folders train and test,
these are the splits. Names that begin with a dot, and files of other endings, are passed over.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dng_jax import disk
from dng_jax.data import picture
from dng_jax.data.examples import Example, check_names, check_size
from dng_jax.errors import InputError


def read(root: Path, size: int | None, name: str) -> tuple[tuple[str, ...], list[Example]]:
    """Class names and examples, size: see picture.resized; name: of the set, for messages.

    InputError for fewer than two classes, an empty one, images of several sizes or modes, or one
    that cannot be read.
    """
    splits = {split: _classes(folder) for split, folder in _splits(root).items()}
    names = check_names(root, _class_names(root, splits))
    files = [
        (path, label, split)
        for split, folders in splits.items()
        for label, class_name in enumerate(names)
        for path in _files(folders[class_name])
    ]
    found: list[Example] = []
    for path, label, split in files:
        disk.check_file(path)
        content = path.read_bytes()
        pixels = picture.decode(content, path, size)
        if not found:
            disk.check_memory(root, 2 * len(files) * pixels.size)
        else:
            _alike(name, (files[0][0], found[0].pixels), (path, pixels))
        check_size(name, path, pixels.shape, size)
        found.append(Example(pixels, label, hashlib.sha256(content).hexdigest(), split))
    return names, found


def _splits(root: Path) -> dict[str | None, Path]:
    """Folders by the split that they hold; None where the hash decides."""
    if {path.name for path in _folders(root)} == {"train", "test"}:
        named = [part for part in ("train", "test") if list(_folders(root / part))]
        return {part: root / part for part in named} or {None: root}
    return {None: root}


def _classes(root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in _folders(root):
        name = unicodedata.normalize("NFC", path.name)
        if name in found:
            raise InputError(f"{root} has two folders that are both called '{name}': rename one")
        found[name] = path
    return found


def _class_names(root: Path, splits: dict[str | None, dict[str, Path]]) -> list[str]:
    several = [sorted(classes) for classes in splits.values()]
    names = several[0]
    for other in several[1:]:
        if other != names:
            odd = sorted({*names} ^ {*other})[0]
            raise InputError(f"class '{odd}' is not in both {root}/train and {root}/test: add it")
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


def _alike(name: str, first: tuple[Path, np.ndarray], other: tuple[Path, np.ndarray]) -> None:
    (a, before), (b, pixels) = first, other
    if pixels.shape[2] != before.shape[2]:
        grey, colour = (b, a) if pixels.shape[2] == 1 else (a, b)
        raise InputError(f"{grey} is grey and {colour} is in colour: make all of them one or other")
    if pixels.shape != before.shape:
        raise InputError(f"{a} and {b} differ in size: resize and crop them by {name}@32, say")
