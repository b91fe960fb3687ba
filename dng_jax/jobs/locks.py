"""One job at a time in a folder: a lock that ends with the process that holds it.

    locks.hold(folder)      InputError where another process holds it

The file .lock in the folder, locked by the operating system (flock; msvcrt.locking on Windows), so
that a job killed in any way leaves nothing to clear away: the file stays, the lock does not. A
process holds its folders until it ends, and may take one again. On a file system that has no locks
nothing is refused, and nothing taken for abandoned.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from dng_jax.errors import InputError

NAME = ".lock"
NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # a link in a folder from elsewhere may lead anywhere
_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_PLACE = 1 << 30  # of the locked byte: far beyond the text, which Windows could not read otherwise
_held: dict[tuple[int, int], int] = {}


def hold(folder: str | os.PathLike) -> bool:
    """Takes the lock of a folder that exists, for the rest of this process.

    True where nobody can have been at work there a moment ago: the lock is new and a real one.
    InputError, naming the other process, where it is taken; OSError where the file cannot be made.
    """
    path = Path(folder) / NAME
    file = os.open(path, os.O_RDWR | os.O_CREAT | NO_LINK, 0o666)
    try:
        found = os.fstat(file)
        place = found.st_dev, found.st_ino
        if place in _held:
            os.close(file)
            return False
        locked = _lock(file)
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

    def _lock(file: int) -> bool:
        os.lseek(file, _PLACE, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _lock(file: int) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Some network file systems have no locks: a job must run there too.
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
            return False
        return True
