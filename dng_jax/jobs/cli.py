"""How a job starts and ends: streams, exit codes, and the progress a person sees.

Exit codes: 0 done, 2 bad input or numbers that are not finite (one sentence on stderr, no
traceback), 130 interrupted; anything else is a fault of ours and keeps its traceback.

What is printed is for people, results are in files: a reader that has gone away (`| head`) and a
terminal without a character that a table holds cost no results.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO, TypeVar

from dng_jax import disk
from dng_jax.errors import InputError, NonFiniteError

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

INTERRUPTED = 130
GRACE = 3.0


def start(job: Callable[[], object]) -> None:
    """The job as this process's program; ends the process as `main` does.

    A job draws into files: the backend that a notebook leaves in MPLBACKEND, which matplotlib
    refuses where it cannot import it, is not asked for.
    """
    os.environ["MPLBACKEND"] = "agg"
    sys.stdout, sys.stderr = _patient(sys.stdout), _patient(sys.stderr)
    _heed_interrupts()
    try:
        main(job)
    except SystemExit as left:
        if left.code != INTERRUPTED:
            raise
        _leave()


def main(job: Callable[[], object]) -> None:
    """Runs the job; raises SystemExit with the exit codes at the top of this file."""
    try:
        job()
    except (InputError, NonFiniteError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if (found := disk.refusal(error)) is None:
            raise
        what, (reason, remedy) = error.filename or "the results", found
        print(f"error: cannot write {what} ({reason}): {remedy}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def parse(options: type[T], package: str) -> T:
    """The options that the command line spells; --help is headed by the package's docstring."""
    import tyro

    from dng_jax.jobs.options import as_typed, program

    about = as_typed(sys.modules[package].__doc__ or "")
    return tyro.cli(options, prog=program(package), description=about)


def progress_bar() -> Progress:
    """One line per task: name, bar, share, elapsed and remaining time."""
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description:>14}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )


def _heed_interrupts() -> None:
    """Ends this process GRACE seconds after a Ctrl-C that nobody else handles.

    Python raises KeyboardInterrupt once it is its turn again, and that is not before a compilation
    is over; one that is raised inside a callback of jax is lost. So a thread watches too.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    except ValueError:  # not the main thread: no signal comes here
        return

    def watch() -> None:
        while number := os.read(read, 1):
            usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
            if number[0] == signal.SIGINT and usual:
                time.sleep(GRACE)
                if sys.stdout.isatty():
                    print("\x1b[?25h", end="")  # the cursor, which a progress bar hides
                print("interrupted", file=sys.stderr)
                _leave()

    threading.Thread(target=watch, daemon=True).start()


def _leave() -> None:
    # Not by way of the interpreter, which would wait for, or crash, threads that still compile.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


class _Patient(io.FileIO):
    """A file whose reader may go away: what nobody reads any more is dropped."""

    def write(self, data) -> int:  # type: ignore[override]
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def _patient(stream: TextIO) -> TextIO:
    """The stream without its two ways to fail; as it is where it is no file."""
    try:
        stream.flush()
        raw = _Patient(stream.fileno(), "w", closefd=False)
    except (AttributeError, OSError, ValueError):
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        # Of a character that the terminal does not have, its number.
        errors="backslashreplace",
        line_buffering=True,
    )
