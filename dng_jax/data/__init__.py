"""Image data sets as arrays, and the way pixels become floats.

    x = pixel / 127.5 - 1,   pixel in 0..255, x in [-1, 1]

| name | images | classes | what it is |
|---|---|---|---|
| digits | 1,797 of 8x8x1 | 10 | embedded in scikit-learn, see digits.py |
| mnist, fashion_mnist | 60,000 + 10,000 of 28x28x1 | 10 | idx files, see raw.py |
| cifar10 | 50,000 + 10,000 of 32x32x3 | 10 | the "binary version", see raw.py |
| folder:PATH[@SIZE] | | | images of one's own, see own.py |
| any other | | | a set prepared by TensorFlow Datasets, see prepared.py |

Where the files are looked for, in this order, is in search.py. Raw files are checked against
their published SHA-256 on every load (0.2 s for the 184 MB of CIFAR-10), so what comes back is the
official data set or an error. The order of examples is that of the raw files, from data prepared
here (builders.py) too; data prepared by others keeps the order of its own shuffle.

This package is where the library reads files: decoded once, a set is a uint8 array that fits on
the device, and batch i of epoch e is an index into it.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from dng_jax.data import digits, folder, network, own, prepared, raw, search
from dng_jax.data.info import SPLITS, Info, must_fit, to_pixels, to_unit
from dng_jax.errors import InputError, MissingDataError, choose

__all__ = ["SPLITS", "Info", "describe", "load", "load_images", "must_fit", "to_pixels", "to_unit"]


def load(
    name: str,
    split: str = "all",
    *,
    data_dir: str | os.PathLike | None = None,
    download: bool = True,
) -> tuple[np.ndarray, np.ndarray, Info]:
    """Returns images uint8 [N, H, W, C] in 0..255, labels int32 [N], and Info.

    split: "train", "test", or "all" (the two in this order, or the one of them that a TensorFlow
    data set has; for digits, the order of the source). data_dir: look here, and nowhere else, for
    raw files and for data prepared by TensorFlow Datasets. download: fetch and prepare mnist,
    fashion_mnist and cifar10 where they are found nowhere; without a network this ends at once.
    Images of one's own are read-only: the next who asks gets the same arrays.

    Raises InputError for an unknown name or split, a data set that is not there (with what was
    looked for, where, and what to do), truncated or altered files (named with their checksum), and
    prepared sets that are no classification of uint8 images of one size.
    """
    choose(split, SPLITS, "split")
    if name == "digits":
        return digits.load(split)
    if name.startswith(own.PREFIX):
        return own.load(name, split)
    paths = search.paths(data_dir)
    source = raw.SETS.get(name)
    if source is not None and (read := raw.locate(source, paths.raw)) is not None:
        return raw.load(source, split, read)
    place = prepared.locate(name, paths.prepared)
    if place is None:
        if source is None:
            raise InputError(_unknown(name, paths))
        raw.refuse_pickles(source, paths.raw)
        place = _download(source, paths, download)
    return prepared.load(name, split, place)


def load_images(folder_of_images: Path) -> np.ndarray:
    """Images uint8 [N, H, W, C] of a folder of PNG, JPEG and WebP files, in the order of their
    names; see folder.read_images."""
    return folder.read_images(folder_of_images)


def describe(name: str) -> Info:
    """What a data set is, without its files where the library knows it (all but prepared sets)."""
    if name in raw.SETS:
        return raw.SETS[name].info
    return load(name)[2]


def _download(source: raw.Source, paths: search.Paths, allowed: bool) -> Path:
    if not allowed:
        raise MissingDataError(_missing(source, paths, "allow the download"))
    if paths.prepared[-1].parts[0].startswith("~"):
        remedy = "name a folder for the download by TFDS_DATA_DIR: no home folder is known here"
        raise MissingDataError(_missing(source, paths, remedy))
    if not prepared.installed():
        remedy = f"{prepared.INSTALL} and try again, to download it"
        raise MissingDataError(_missing(source, paths, remedy))
    try:
        network.check(source.url + next(iter(source.downloads)))
    except OSError as error:
        raise MissingDataError(_missing(source, paths, f"go online ({error})")) from None
    prepared.tfds()
    from dng_jax.data import builders  # imported late: it imports TensorFlow Datasets

    return builders.prepare(source, paths.prepared[-1])


def _missing(source: raw.Source, paths: search.Paths, remedy: str) -> str:
    files = raw.looked_for(source)
    folders = raw.folders(source, paths.raw)
    raws = f"no {files} in {_listed(folders)}" if folders else f"{search.VARIABLE} is not set"
    return (
        f"data set '{source.info.name}' not found: {raws}, nothing prepared by TensorFlow Datasets"
        f" in {_listed(paths.prepared)}; name a folder that holds {files} by {search.VARIABLE} or a"
        f" job's --data-dir, or {remedy}"
    )


def _unknown(name: str, paths: search.Paths) -> str:
    known = ("digits", *raw.SETS, f"{own.PREFIX}PATH", *prepared.names(paths.prepared))
    try:
        choose(name, known, "data set")
    except InputError as error:
        hint = str(error)
    else:  # there is a folder of that name, but no version in it
        hint = f"data set '{name}' is not prepared"
    extra = "" if prepared.installed() else f" ({prepared.INSTALL})"
    return (
        f"{hint}, or prepare it by TensorFlow Datasets{extra}, as array_record, in"
        f" {_listed(paths.prepared)}, or in a folder named by a job's --data-dir"
    )


def _listed(folders) -> str:
    return ", ".join(map(str, folders))
