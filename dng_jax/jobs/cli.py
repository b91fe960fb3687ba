"""How a job starts and ends: streams, exit codes, and the progress a person sees.

Exit codes: 0 done, 2 bad input, numbers that are not finite, a full disk or a device without memory
(one sentence on stderr, no traceback), 130 interrupted; anything else is a fault of ours and keeps
its traceback. What a person is warned of (UserWarning) is a sentence on stderr as well; warnings of
faults keep their place.

What is printed is for people, results are in files: a reader that has gone away (`| head`) and a
terminal without a character that a table holds cost no results.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO, TypeVar

from dng_jax import disk
from dng_jax.errors import InputError, NonFiniteError, printable
from dng_jax.jobs import compiled, interrupts

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

FULL = (
    "the device has too little memory for this run: take a smaller batch or smaller images, or give"
    " the memory back that other programs hold"
)


def start(job: Callable[[], object]) -> None:
    """The job as this process's program; ends the process as `main` does. What it compiles is kept
    for the next run (dng_jax.jobs.compiled).

    A job draws into files: the backend that a notebook leaves in MPLBACKEND, which matplotlib
    refuses where it cannot import it, is not asked for.
    """
    os.environ["MPLBACKEND"] = "agg"
    compiled.keep()
    patient_streams()
    interrupts.heed()
    try:
        main(job)
    except SystemExit as left:
        if left.code != interrupts.EXIT_CODE:
            raise
        interrupts.leave()


def patient_streams() -> None:
    """Lets this process print for a reader that has gone away, and on any terminal."""
    sys.stdout, sys.stderr = _patient(sys.stdout), _patient(sys.stderr)


def main(job: Callable[[], object]) -> None:
    """Runs the job; raises SystemExit with the exit codes at the top of this file."""
    try:
        with _warnings_in_a_sentence():
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
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
        print(f"error: {FULL}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(interrupts.EXIT_CODE)


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether it is JAX's, of a device without room; a process that never imported JAX has none."""
    jax = sys.modules.get("jax")
    ours = jax is not None and isinstance(error, jax.errors.JaxRuntimeError)
    return ours and "RESOURCE_EXHAUSTED" in str(error)


def parse(options: type[T], package: str) -> T:
    """The options that the command line spells; --help is headed by the package's docstring."""
    import tyro

    from dng_jax.jobs.options import as_typed, program

    about = as_typed(sys.modules[package].__doc__ or "")
    return tyro.cli(options, prog=program(package), description=about)


def program(options: type[object], package: str) -> Callable[[], None]:
    """The program of a job: main(options) in the module `job` of its package, which is imported,
    with all that takes seconds to import, when the command line has been parsed."""

    def parsed() -> None:
        config = parse(options, package)
        importlib.import_module(f"{package}.job").main(config)

    return functools.partial(start, parsed)


def progress_bar(shown: bool = True) -> Progress:
    """One line per task: name, bar, share, elapsed and remaining time; where it is shown."""
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
        disable=not shown,
    )


@contextlib.contextmanager
def speaking(allowed: bool) -> Iterator[None]:
    """Where a block is not allowed to speak, nothing that it prints or warns people of is shown;
    the error that ends it still is."""
    if allowed:
        yield
        return
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", UserWarning)
        yield


@contextlib.contextmanager
def _warnings_in_a_sentence() -> Iterator[None]:
    """Shows each UserWarning once, without the line of code that gave it."""
    usual, said = warnings.showwarning, set()

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        if not issubclass(category, UserWarning):
            usual(message, category, filename, lineno, file, line)
            return
        sentence = printable(" ".join(str(message).split()))
        if sentence not in said:
            said.add(sentence)
            print(f"warning: {sentence}", file=file or sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


class _Patient(io.FileIO):
    """A file whose reader may go away: what nobody reads any more is dropped.

    A disk refuses once: the interpreter flushes what is left when the process ends, and would add a
    traceback to the sentence about it.
    """

    refused = False

    def write(self, data) -> int:  # type: ignore[override]
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)
        except OSError:
            if self.refused:
                return len(data)
            self.refused = True
            raise


def _patient(stream: TextIO) -> TextIO:
    """The stream without its two ways to fail; as it is where it is no file."""
    if isinstance(getattr(getattr(stream, "buffer", None), "raw", None), _Patient):
        return stream
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
