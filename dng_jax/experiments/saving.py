"""Generated images as files that other programs read, with their labels beside.

    pixel = round(127.5 (x + 1)), x in [-1, 1] clipped: uint8, the inverse of dng_jax.data.to_unit

    png     FOLDER/RULE/00000.png, ..., and FOLDER/RULE/labels.csv (file, seed, label)
    npz     FOLDER/RULE.npz: images uint8 [N, H, W, C], labels int [N], seeds int [N]

Labels are the classifier's numbers of classes. RULE is the rule in words, with a dash for what a
file's name should not hold.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dng_jax import data, disk
from dng_jax.data.picture import as_picture
from dng_jax.errors import InputError, choose
from dng_jax.experiments.rule_specs import CALIBRATION
from dng_jax.jobs.tables import write_csv

KINDS = ("png", "npz")
LONGEST = 150  # disks take 255 bytes, and of a cell or a half-written file there is more


class Labelled(NamedTuple):
    """Images float [N, H, W, C] in [-1, 1], labels int [N], and the seed they came from."""

    images: np.ndarray
    labels: np.ndarray
    seed: int


def check(kind: str | None, channels: int) -> None:
    """InputError for a kind that is not of KINDS, or cannot hold images of so many channels."""
    if kind is None:
        return
    choose(kind, KINDS, "kind of --save-images")
    if kind == "png" and channels not in (1, 3):
        raise InputError(f"a PNG has 1 or 3 channels, the images {channels}: use npz")


def save(folder: Path, rule: str, parts: Sequence[Labelled], kind: str) -> None:
    """Writes the images of one rule, of several seeds one after the other."""
    images = data.to_pixels(np.concatenate([part.images for part in parts]))
    labels = np.concatenate([part.labels for part in parts])
    seeds = np.concatenate([np.full(len(part.labels), part.seed, np.uint64) for part in parts])
    name = file_name(rule)
    if kind == "npz":
        with disk.whole(folder / f"{name}.npz") as path:
            np.savez_compressed(path, images=images, labels=labels, seeds=seeds)
        return
    files = [f"{i:05d}.png" for i in range(len(images))]
    for file, image in zip(files, images, strict=True):
        with disk.whole(folder / name / file) as path:
            as_picture(image).save(path)
    write_csv(folder / name / "labels.csv", [{"file": files, "seed": seeds, "label": labels}])


def file_name(rule: str) -> str:
    """A rule in words as a file's name of at most LONGEST bytes; of a calibration's path its stem
    and a digest."""

    def short(found: re.Match) -> str:
        return f"{Path(found[0]).stem}-{_digest(found[0])}"

    named = re.sub(rf"(?<=,{CALIBRATION}=)[^,()]*/[^,()]*", short, rule)
    name = re.sub(r"[^\w.,+=-]+", "-", named).strip("-")
    if len(name.encode()) <= LONGEST:
        return name
    end = f"-{_digest(rule)}"
    return name.encode()[: LONGEST - len(end)].decode(errors="ignore") + end


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
