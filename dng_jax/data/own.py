"""Images of one's own: folder:PATH[@SIZE], where PATH is a folder or one .npz file.

    folder:PATH          every image at its own size, which is one
    folder:PATH@32       the shorter side resized to 32, then the middle 32x32 pixels

What a folder and a file hold, and what is refused of them: folder.py and npz.py. Where they do not
name the splits, an image is "test" where the SHA-256 of its file (.npz: of its pixels) is a
multiple of 5: about a fifth of every class, and adding an image moves no other. Within a split
images are in the order of that number: a shuffle, so that the first N are of all classes, which no
file system, name or date changes. 10,000 files take a second, or 2.6 s where they are noise of
64x64 pixels (one core of an AMD EPYC with other work); a process decodes them once (kept.py).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from dng_jax.data import folder, kept, npz
from dng_jax.data.examples import Example
from dng_jax.data.info import Info
from dng_jax.errors import InputError
from dng_jax.jobs.own_images import PREFIX, parse

Listed = tuple[tuple[str, ...], list[folder.File]]


def load(name: str, split: str) -> tuple[np.ndarray, np.ndarray, Info]:
    """Images uint8 [N, H, W, C], labels int32 [N], Info of a name folder:PATH[@SIZE]; the arrays
    are read-only.

    "all" is train followed by test. InputError for what is no classification: fewer than two
    classes, an empty one, images of several sizes or modes, or one that cannot be read.
    """
    path, size = _source(name)
    listed = folder.listed(path) if os.path.isdir(path) else None
    files = [path] if listed is None else [file.path for file in listed[1]]
    key, stamped = (os.path.abspath(path), size), kept.stamp(files)
    if (found := kept.find(key, stamped)) is None:
        found = _read(path, size, name, listed)
        if kept.stamp(files) == stamped:  # not changed while it was read
            kept.keep(key, stamped, found)
    part = {"train": slice(found.train), "test": slice(found.train, None), "all": slice(None)}
    images, labels = found.images[part[split]], found.labels[part[split]]
    return images, labels, Info(name, len(found.names), found.names, images.shape[1:], found.sha256)


def _read(path: Path, size: int | None, name: str, listed: Listed | None) -> kept.Kept:
    if listed is None:
        names, examples = npz.read(path, size, name)
    else:
        names, files = listed
        examples = folder.decoded(path, files, size, name)
    examples.sort(key=lambda example: (example.sha256, example.label))
    found: dict[str, list[Example]] = {}
    for part in ("train", "test"):
        mine = [one for one in examples if (one.split or _by_hash(one.sha256)) == part]
        missing = sorted({*range(len(names))} - {one.label for one in mine})
        if missing and (part == "train" or not mine):
            passed_over = "" if listed is None else folder.passed_over(path)
            raise InputError(
                f"{path} has no image of class '{names[missing[0]]}' for the split"
                f" {part}{passed_over}: add more images, or make folders train and test"
            )
        found[part] = mine
    train, both = len(found["train"]), [*found["train"], *found["test"]]
    images = np.stack([one.pixels for one in both])
    labels = np.array([one.label for one in both], np.int32)
    for array in (images, labels):
        array.setflags(write=False)  # they are handed out again
    return kept.Kept(names, images, labels, train, _digest(names, images, labels, train))


def _source(name: str) -> tuple[Path, int | None]:
    path, after = parse(name)
    if after is not None and not (
        after.isascii() and after.isdigit() and len(after) <= 4 and 4 <= int(after) <= 1024
    ):
        raise InputError(f"the size after @ must be 4 to 1024, got '{after}' in {name}")
    if not path or not _is_there(path):
        raise InputError(f"{path or name} is no folder and no .npz file: write {PREFIX}PATH[@SIZE]")
    return Path(path), None if after is None else int(after)


def _is_there(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a zero byte
        return False
    except OSError as error:
        raise InputError(
            f"{path} cannot be entered ({(error.strerror or str(error)).lower()}): check the path"
            " and its permissions"
        ) from None
    return os.path.isdir(path) or (path.endswith(".npz") and os.path.isfile(path))


def _by_hash(sha256: str) -> str:
    return "test" if int(sha256, 16) % 5 == 0 else "train"


def _digest(names: tuple[str, ...], images: np.ndarray, labels: np.ndarray, train: int) -> str:
    made = hashlib.sha256(json.dumps(names).encode())
    for part, rows in (("train", slice(train)), ("test", slice(train, None))):
        made.update(json.dumps([part, images[rows].shape]).encode())
        made.update(labels[rows].astype("<i4").tobytes())
        made.update(images[rows].tobytes())
    return made.hexdigest()
