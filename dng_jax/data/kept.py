"""The sets of one's own images that this process read last: the parts of a job decode them once.

A set is known by its files: which they are, how large, when each was last changed. One that has
changed within the last SETTLED seconds is not kept: a second change in the same tick of its file
system's clock would not show.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

MOST = 2**30  # bytes of images
SETTLED = 2.0  # seconds: the coarsest clock of a file system, FAT's


class Kept(NamedTuple):
    """Class names, images uint8 [N, H, W, C] and labels int32 [N], read-only, of which the first
    `train` are that split and the others "test"; sha256 of all this."""

    names: tuple[str, ...]
    images: np.ndarray
    labels: np.ndarray
    train: int
    sha256: str


_sets: dict[Hashable, tuple[str, Kept]] = {}  # the one that was asked for last at the end


def stamp(files: Sequence[Path]) -> str | None:
    """What tells the files from what they were before a change; None where that cannot be told."""
    settled = time.time_ns() - int(SETTLED * 1e9)
    made = hashlib.sha256()
    for path in files:
        try:
            found = os.stat(path)
        except OSError:
            return None  # whoever reads it says why
        changed = (found.st_mtime_ns, found.st_ctime_ns)
        if max(changed) > settled:
            return None
        made.update(
            repr(
                (os.path.abspath(path), found.st_dev, found.st_ino, found.st_size, changed)
            ).encode()
        )
    return made.hexdigest()


def find(key: Hashable, stamped: str | None) -> Kept | None:
    """The set that was kept under the key, if its files still have this stamp."""
    held = _sets.pop(key, None)
    if held is None or held[0] != stamped:
        return None
    _sets[key] = held
    return held[1]


def keep(key: Hashable, stamped: str | None, found: Kept) -> None:
    """Keeps the set, and lets go of those asked for longest ago, as far as MOST needs it."""
    if stamped is None or found.images.nbytes > MOST:
        return
    _sets[key] = stamped, found
    while sum(kept.images.nbytes for _, kept in _sets.values()) > MOST:
        del _sets[next(iter(_sets))]
