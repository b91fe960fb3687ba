"""How a job starts and ends: exit codes, and the progress a person sees.

Exit codes: 0 done, 2 bad input or numbers that are not finite (one sentence on stderr, no
traceback), 130 interrupted; anything else is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import tyro
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dng_jax import disk
from dng_jax.errors import InputError, NonFiniteError
from dng_jax.jobs.options import program

T = TypeVar("T")


def main(job: Callable[[], object]) -> None:
    """Runs the job; ends the process with the exit codes at the top of this file.

    if __name__ == "__main__":
        cli.main(lambda: class_removal(tyro.cli(Config)))
    """
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
        sys.exit(130)


def parse(options: type[T], package: str) -> T:
    """The options that the command line spells; --help is headed by the package's docstring."""
    about = sys.modules[package].__doc__
    return tyro.cli(options, prog=program(package), description=about)


def progress_bar() -> Progress:
    """One line per task: name, bar, share, elapsed and remaining time."""
    return Progress(
        TextColumn("{task.description:>14}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
