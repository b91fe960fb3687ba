"""A folder of folders named as the classes: PATH/cat/1.png, PATH/dog/2.jpg, ...

Classes are in the order of their names, which are compared as Unicode's composed form (NFC), so
that a copy made by another system has the same. Where PATH holds just the folders train and test,
these are the splits. Names that begin with a dot, files of other endings, and images that lie
outside the folders of classes are passed over; where images are missing, their number is said.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dng_jax import disk
from dng_jax.data import picture
from dng_jax.data.examples import Example, check_names, check_size
from dng_jax.errors import InputError, counted


class File(NamedTuple):
    """One image: where it is, its class, its split (None where the hash decides)."""

    path: Path
    label: int
    split: str | None


def listed(root: Path) -> tuple[tuple[str, ...], list[File]]:
    """Class names and files; InputError for fewer than two classes, or an empty one."""
    splits = {split: _classes(folder) for split, folder in _splits(root).items()}
    found_names = _class_names(root, splits)
    for folders in splits.values():
        for path in folders.values():
            _check_depth(root, path)
    few = passed_over(root) if len(found_names) < 2 else ""
    names = check_names(f"{root}{few}", found_names)
    files = [
        File(path, label, split)
        for split, folders in splits.items()
        for label, class_name in enumerate(names)
        for path in _files(root, folders[class_name])
    ]
    return names, files


def decoded(root: Path, files: Sequence[File], size: int | None, name: str) -> list[Example]:
    """The examples of `listed`, size: see picture.resized; name: of the set, for messages.

    InputError for images of several sizes or modes, or one that cannot be read.
    """
    found: list[Example] = []
    for path, label, split in files:
        if disk.check_file(path) > picture.LARGEST_FILE:
            raise InputError(
                f"{path} has more bytes than {picture.LARGEST // 10**6} million pixels need:"
                " replace or remove it"
            )
        content = path.read_bytes()
        pixels = picture.decode(content, path, size)
        if not found:
            check_size(name, path, pixels.shape, size)  # the remedy for too many bytes as well
            disk.check_memory(root, 2 * len(files) * pixels.size)
        else:
            _alike(
                (files[0].path, found[0].pixels),
                (path, pixels),
                f"resize and crop them by {name}@32, say",
            )
        found.append(Example(pixels, label, hashlib.sha256(content).hexdigest(), split))
    return found


def read_images(root: Path) -> np.ndarray:
    """The images right in a folder, without classes: uint8 [N, H, W, C], in the order of names.

    InputError for what is no folder, none in it, images of several sizes or modes, or one that
    cannot be read.
    """
    if not root.is_dir():
        raise InputError(f"{root} is no folder: name one that holds the images")
    files = [path for path in _images(root) if not path.is_dir()]
    if not files:
        raise InputError(f"{root} has no image ({', '.join(picture.ENDINGS)}): add some")
    found: list[np.ndarray] = []
    for path in files:
        disk.check_file(path)
        pixels = picture.decode(path.read_bytes(), path, None)
        if not found:
            disk.check_memory(root, 2 * len(files) * pixels.size)
        else:
            _alike((files[0], found[0]), (path, pixels), "make them of one size")
        found.append(pixels)
    return np.stack(found)


def _splits(root: Path) -> dict[str | None, Path]:
    """Folders by the split that they hold; None where the hash decides."""
    if {path.name for path in _folders(root)} != {"train", "test"}:
        return {None: root}
    named = [part for part in ("train", "test") if any(_folders(root / part))]
    if not named:  # pictures of trains and of tests
        return {None: root}
    for bare in {"train", "test"}.difference(named):
        raise InputError(
            f"{root / bare} has no folders of classes, as {root / named[0]} has, and"
            f" {counted(len(_images(root / bare)), 'image')} outside of such: sort these into"
            f" folders named as the classes, or give {root / named[0]} alone, of which a fifth is"
            " held out"
        )
    return {part: root / part for part in named}


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
        if os.path.isdir(path):  # pathlib's raises where it is not permitted to look
            yield path


def _files(root: Path, folder: Path) -> list[Path]:
    found = _images(folder)
    if not found:
        raise InputError(
            f"class '{folder.name}' has no image ({', '.join(picture.ENDINGS)}) in"
            f" {folder}{passed_over(root)}: add some, or remove the folder"
        )
    return found


def _images(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.suffix.lower() in picture.ENDINGS]


def _check_depth(root: Path, folder: Path) -> None:
    if not _images(folder) and any(_folders(folder)):
        raise InputError(
            f"{folder} has folders and no image in it: what is read is {root}/CLASS/IMAGE, or"
            " train/CLASS/IMAGE and test/CLASS/IMAGE where these two are its only folders: move or"
            " remove the others"
        )


def passed_over(root: Path) -> str:
    """What lies in a folder that is not read, in brackets after a space; "" where nothing does."""
    tops = list(_splits(root).values())
    loose = sum(len(_images(top)) for top in {root, *tops})
    seen = {root, *tops, *(path for top in tops for path in _folders(top))}
    others = [
        path.suffix.lower()
        for folder in seen
        for path in _entries(folder)
        if path.suffix.lower() not in picture.ENDINGS and not os.path.isdir(path)
    ]
    said = []
    if loose:
        said.append(f"{counted(loose, 'image')} outside the folders of classes")
    if others:
        endings = ", ".join(sorted({*filter(None, others)})[:5])
        said.append(f"{counted(len(others), 'file')} of other endings{endings and f', {endings}'}")
    return f" (passed over: {'; '.join(said)})" if said else ""


def _entries(folder: Path) -> list[Path]:
    # Never deeper than this one folder: a loop of links has nothing to go round in.
    if os.path.isdir(folder) and not os.access(folder, os.X_OK):  # listed, but nothing is found
        raise InputError(f"{folder} cannot be entered (permission denied): see to its permissions")
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}): check the path") from None


def _alike(first: tuple[Path, np.ndarray], other: tuple[Path, np.ndarray], remedy: str) -> None:
    (a, before), (b, pixels) = first, other
    if pixels.shape[2] != before.shape[2]:
        grey, colour = (b, a) if pixels.shape[2] == 1 else (a, b)
        raise InputError(f"{grey} is grey and {colour} is in colour: make all of them one or other")
    if pixels.shape != before.shape:
        raise InputError(f"{a} and {b} differ in size: {remedy}")
