"""Optuna's journal file in a run folder, for processes that may be killed at any moment.

A line of the file is one operation. Two things break it (Optuna 5):

    a process killed inside a line leaves half of it, the next one appends to that, and the file
        cannot be read any more
    Optuna's own locks are files that a killed process leaves, to be broken by force after 30 s

Here the lock is the operating system's, on the journal itself, and ends with its process; and who
takes it first cuts off a last line that was not finished. Such a line was never acknowledged to
anybody: its trial is asked, or told, again.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from dng_jax.errors import InputError
from dng_jax.jobs import locks

FILE = "journal.log"
EXTRA = "the search needs Optuna, of the extra tune: pip install 'dng-jax[tune]'"


def optuna() -> Any:
    """The module, quiet; InputError where it is not installed."""
    try:
        import optuna as module
    except ImportError:
        raise InputError(EXTRA) from None
    module.logging.set_verbosity(module.logging.ERROR)
    return module


def storage(folder: Path) -> Any:
    """The storage of a folder's journal, which is made where it is missing.

    InputError for a journal that cannot be read; OSError as the disk says it.
    """
    known, path = optuna(), folder / FILE
    lock = JournalLock(path)
    lock.acquire()
    try:
        check(path)
    finally:
        lock.release()
    backend = known.storages.journal.JournalFileBackend(str(path), lock_obj=lock)
    return known.storages.JournalStorage(backend)


def check(path: Path) -> None:
    """InputError for a line of a journal that is no operation, by its number."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                good = "op_code" in json.loads(line)
            except (ValueError, TypeError, RecursionError):
                good = False
            if not good:
                raise InputError(
                    f"{path}, line {number}, is no line of a journal: restore the file from a"
                    " copy, or remove that line and all after it, and go on with --resume"
                )


class JournalLock:
    """The lock of Optuna's file backend: acquire and release."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open = contextlib.ExitStack()

    def acquire(self) -> bool:
        """Waits for the journal, and cuts off half a line at its end."""
        cut_unfinished(self._open.enter_context(locks.waited(self.path)))
        return True

    def release(self) -> None:
        """Gives it to the next one."""
        self._open.close()


def cut_unfinished(file: int) -> None:
    """Cuts an open file off after its last line feed."""
    size = end = os.lseek(file, 0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 4096)
        os.lseek(file, start, os.SEEK_SET)
        found = os.read(file, end - start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        os.ftruncate(file, end)
