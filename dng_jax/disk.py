"""Files that appear whole or not at all, and what a disk refuses, in one sentence.

    with disk.whole(path) as part:          a temporary beside path, renamed when the block ends
        save(part)

A refusal of the disk is told apart from every other fault, whoever wrote: Python, C++ or a thread.

    ENOSPC, EDQUOT           no room
    EROFS, EACCES, EFBIG     not allowed here, or not so large
    EIO                      the disk itself

Files written by C++ fail with an error of any type that has only the text of these.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dng_jax.errors import InputError

_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NUMBERS = (*_ROOM, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EIO)


class RefusedError(InputError):
    """A disk refused to write; an enclosing `refused` says it in its own words instead."""

    def __init__(self, doing: str, reason: str, remedy: str, otherwise: str) -> None:
        super().__init__(f"cannot {doing} ({reason}): {remedy}, {otherwise}")
        self.reason, self.remedy = reason, remedy


@contextmanager
def whole(path: str | os.PathLike) -> Iterator[Path]:
    """The path of a temporary file of the same ending, to be written inside the block.

    It becomes `path`, replacing what is there, when the block ends, and is removed when the block
    fails: a reader never sees half a file. The folder is made where it is missing. RefusedError, an
    InputError, where the disk refuses.
    """
    path = Path(path)
    # In the same folder, because os.replace is atomic within one file system only.
    part = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    with refused(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            with open(part, "rb") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def refused(doing: str, otherwise: str = "or name another path") -> Iterator[None]:
    """Turns what a disk refuses inside the block into one sentence, a RefusedError.

    "cannot DOING (reason): remedy, OTHERWISE"; any other error passes as it is.
    """
    try:
        yield
    except RefusedError as error:
        raise RefusedError(doing, error.reason, error.remedy, otherwise) from error
    except Exception as error:
        found = None if isinstance(error, InputError) else refusal(error)
        if found is None:
            raise
        raise RefusedError(doing, *found, otherwise) from error


def refusal(error: BaseException) -> tuple[str, str] | None:
    """Reason and remedy, both a few lower-case words; None for what is no fault of the disk.

    An OSError that has a number is classified by that alone, anything else by its text.
    """
    number = getattr(error, "errno", None) if isinstance(error, OSError) else None
    if number is None:
        text = str(error).lower()
        number = next((n for n in _NUMBERS if os.strerror(n).lower() in text), None)
    if number not in _NUMBERS:
        return None
    remedy = "make room" if number in _ROOM else "see to the folder and its disk"
    return os.strerror(number).lower(), remedy
