"""Search paths: where data sets are looked for.

With an explicit folder: there, and nowhere else. Otherwise, first hit wins:

1. raw files in the folder that the environment variable DNG_JAX_DATA names;
2. sets prepared by TensorFlow Datasets in $DNG_JAX_DATA, then in $TFDS_DATA_DIR or else in
   ~/tensorflow_datasets; the last is where a download is prepared.

The raw files of a set lie in a subfolder of its name (<folder>/mnist/*.gz), in that of torchvision
(<folder>/MNIST/raw) or in the folder itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from dng_jax.errors import InputError

VARIABLE = "DNG_JAX_DATA"


class Paths(NamedTuple):
    """Folders to search, in order, for raw files and for prepared sets (at least one)."""

    raw: tuple[Path, ...]
    prepared: tuple[Path, ...]


def paths(data_dir: str | os.PathLike | None) -> Paths:
    """The folders to search. Raises InputError where one that a person named is not there."""
    if data_dir is not None:
        only = (_existing(data_dir, "data_dir"),)
        return Paths(only, only)
    named = os.environ.get(VARIABLE)
    own = (_existing(named, VARIABLE),) if named else ()
    tfds = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Paths(own, (*own, _expanded(tfds)))


def _existing(folder: str | os.PathLike, named_by: str) -> Path:
    path = _expanded(folder)
    if not path.is_dir():
        raise InputError(f"{named_by} names {path}, which is no folder: create it or name another")
    return path


def _expanded(folder: str | os.PathLike) -> Path:
    # In containers and for cron there may be no home: then ~ stays, and nothing is found in it.
    return Path(os.path.expanduser(folder))
