"""How images of one's own are named: folder:PATH[@SIZE]. For options, so it imports nothing heavy.

PREFIX              "folder:"
parse(name)         (PATH, SIZE)
shown(name)         the name for records, without the folders above
"""

from __future__ import annotations

import os

PREFIX = "folder:"


def parse(name: str) -> tuple[str, str | None]:
    """(PATH with ~ expanded, SIZE as it was written or None) of folder:PATH[@SIZE].

    A folder may have an @ in its name: what is there as it is written has no SIZE.
    """
    text = name.removeprefix(PREFIX)
    path = os.path.expanduser(text)
    before, at, after = text.rpartition("@")
    if not at or os.path.dirname(after) or os.path.exists(path):
        return path, None
    return os.path.expanduser(before), after


def shown(dataset: str) -> str:
    """The name of a data set for records that others read: of folder:PATH, PATH's last part alone.

    Other names are as they are.
    """
    if not dataset.startswith(PREFIX):
        return dataset
    path, size = parse(dataset)
    last = os.path.basename(os.path.abspath(path))
    return f"{PREFIX}{last}" if size is None else f"{PREFIX}{last}@{size}"
