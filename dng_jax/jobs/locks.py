"""One job at a time in a folder: a lock that ends with the process that holds it.

    locks.hold(folder)      InputError where another process holds it
    locks.share(folder)     the same, but for others that share it
    locks.waited(path)      a file's lock inside a block, when whoever has it gives it up
    locks.lease(path)       a file's lock as long as this process lives, or gives it up
    locks.is_leased(path)   whether a process that lives has one
    locks.are_real(folder)  whether the file system has locks

The file .lock in the folder, locked by the operating system (flock; msvcrt.locking on Windows), so
that a job killed in any way leaves nothing to clear away: the file stays, the lock does not. A
process holds its folders until it ends, and may take one again. On a file system that has no locks
nothing is refused, and nothing taken for abandoned.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dng_jax.errors import InputError

NAME = ".lock"
NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # a link in a folder from elsewhere may lead anywhere
_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_PLACE = 1 << 30  # of the locked byte: far beyond the text, which Windows could not read otherwise
_held: dict[tuple[int, int], int] = {}
_WAIT = 0.02  # seconds between two looks at a lock that somebody has


def hold(folder: str | os.PathLike) -> bool:
    """Takes the lock of a folder that exists, for the rest of this process.

    True where nobody can have been at work there a moment ago: the lock is new and a real one.
    InputError, naming the other process, where it is taken; OSError where the file cannot be made.
    """
    return _take(folder, shared=False)


def share(folder: str | os.PathLike) -> None:
    """Takes the lock of a folder together with all others that share it, for the rest of this
    process; errors as of `hold`. On Windows nobody is refused."""
    if sys.platform != "win32":
        _take(folder, shared=True)


@contextlib.contextmanager
def waited(
    path: str | os.PathLike, say: Callable[[], object] = lambda: None, after: float = 3.0
) -> Iterator[int]:
    """Holds a file's lock inside the block, and waits for whoever has it; yields the open file.

    The file is made where it is missing, and stays. OSError where it cannot be. say: called once,
    where the wait has lasted `after` seconds.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | NO_LINK, 0o666)
    try:
        began, said = time.monotonic(), False
        while not _taken_now(file):
            if not said and time.monotonic() - began >= after:
                said = True
                say()
            time.sleep(_WAIT)
        yield file
    finally:
        os.close(file)


def lease(path: str | os.PathLike) -> int:
    """Makes a file that only this process holds, until os.close of what is returned, or its end.

    OSError where it cannot be made.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_LINK, 0o666)
    _lock(file)
    return file


def is_leased(path: str | os.PathLike) -> bool:
    """Whether a process that lives holds the file; on a file system without locks every file that
    is there counts as held."""
    try:
        file = os.open(path, os.O_RDWR | NO_LINK)
    except OSError:
        return False
    try:
        return not _lock(file)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        return True
    finally:
        os.close(file)


def are_real(folder: str | os.PathLike) -> bool:
    """Whether the file system of a folder, in which a file can be made, has locks at all."""
    with tempfile.TemporaryFile(dir=str(folder)) as file:
        return _lock(file.fileno())


def _taken_now(file: int) -> bool:
    try:
        _lock(file)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        return False
    return True


def _take(folder: str | os.PathLike, *, shared: bool) -> bool:
    path = Path(folder) / NAME
    file = os.open(path, os.O_RDWR | os.O_CREAT | NO_LINK, 0o666)
    try:
        found = os.fstat(file)
        place = found.st_dev, found.st_ino
        if place in _held:
            os.close(file)
            return False
        locked = _lock(file, shared)
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
    except OSError as error:
        by = (
            os.pread(file, 20, 0).decode("ascii", "replace").strip() if hasattr(os, "pread") else ""
        )
        os.close(file)
        if error.errno not in _TAKEN:
            raise
        whom = f" (process {by})" if by.isdigit() else ""
        raise InputError(
            f"{folder} is in use by another job{whom}: wait for it, or choose another --out"
        ) from None
    _held[place] = file
    return locked


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int, shared: bool = False) -> bool:
        os.lseek(file, _PLACE, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _lock(file: int, shared: bool = False) -> bool:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            # Some network file systems have no locks: a job must run there too.
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
            return False
        return True
