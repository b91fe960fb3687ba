"""Files that appear whole or not at all, and what a disk refuses, in one sentence.

    with disk.whole(path) as part:          a temporary beside path, renamed when the block ends
        save(part)

A refusal of the disk is told apart from every other fault, whoever wrote: Python, C++ or a thread.

    ENOSPC, EDQUOT           no room
    EROFS, EACCES, EFBIG     not allowed here, or not so large
    EIO                      the disk itself

Files written by C++ fail with an error of any type that has only the text of these, and a file that
cannot be closed any more hides the first refusal behind an error of its own.

    disk.sweep(folder)                  what killed processes left of temporaries is removed

    disk.check_file(path)               before a file is read: it is there, and a file
    disk.check_memory(path, size)       before its numbers are allocated: they fit

    disk.digest(folder)                 sha256 of what is in it
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dng_jax.errors import InputError

_ROOM = (errno.ENOSPC, errno.EDQUOT)
_PART = re.compile(r"\.(?P<name>.+)\.(?P<by>\d+)-[0-9a-f]{6}(?P<suffix>(?:\.[^.]+)?)")
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
    # Process numbers alone are not enough: jobs in containers have the same ones.
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(3)}{path.suffix}")
    with refused(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            with open(part, "rb") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def sweep(folder: str | os.PathLike) -> None:
    """Removes what `whole` left below a folder in processes that were killed.

    For a folder in which nobody else is at work: a process of another machine may look dead here.
    """
    for part in Path(folder).rglob(".*"):
        found = _PART.fullmatch(part.name)
        if found and Path(found["name"]).suffix == found["suffix"] and not _lives(int(found["by"])):
            with contextlib.suppress(OSError):
                part.unlink()


def _lives(number: int) -> bool:
    """Whether another process of this number runs; on Windows, where to ask is to kill, none."""
    if os.name == "nt" or number == os.getpid():
        return False
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


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

    An OSError that has a number is classified by that alone, anything else by its text, or by the
    error that it hides.
    """
    number = getattr(error, "errno", None) if isinstance(error, OSError) else None
    if number is None:
        text = str(error).lower()
        number = next((n for n in _NUMBERS if os.strerror(n).lower() in text), None)
    if number not in _NUMBERS:
        hidden = error.__cause__ or error.__context__
        return None if isinstance(error, OSError) or hidden is None else refusal(hidden)
    remedy = "make room" if number in _ROOM else "see to the folder and its disk"
    return os.strerror(number).lower(), remedy


def check_file(path: str | os.PathLike) -> int:
    """The size of a file in bytes; InputError where there is none, or what is there is no file.

    A pipe would be waited for, and a device read without end.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} does not exist: check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise InputError(f"{path!s} cannot be read ({_reason(error)}): check the path") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
        raise InputError(f"{path} is {kind}, no file: check the path")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} cannot be read (permission denied): see to its permissions")
    return found.st_size


def check_memory(what: object, size: int, remedy: str = "is it the right file?") -> None:
    """InputError where so many bytes cannot be had; `what` needs them, `remedy` ends the message.

    Linux grants memory that is not there and kills whoever uses it, so it is asked before.
    """
    free = free_memory()
    if free is not None and size > free:
        raise InputError(
            f"{what} needs {size / 2**30:,.1f} GiB of memory and {free / 2**30:,.1f} GiB are free:"
            f" {remedy}"
        )


def free_memory() -> int | None:
    """Bytes that can be allocated here, limits of a container included; None where unknown."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())  # "max" where there is none
        found.append(limit - int((group / "memory.current").read_text()))
    return max(0, min(found)) if found else None


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


def digest(folder: str | os.PathLike, *patterns: str) -> str:
    """sha256, 64 hexadecimal digits, of the files of a folder and of their names in it; of those of
    the patterns (as Path.rglob takes them) alone, where there are any."""
    found, folder = hashlib.sha256(), Path(folder)
    matching = {path for pattern in patterns or ("*",) for path in folder.rglob(pattern)}
    for path in sorted(p for p in matching if p.is_file()):
        found.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()
