"""python -m eval.hopfield"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tyro

from dng_jax.jobs import cli
from dng_jax.jobs.options import as_typed, program

from . import __doc__ as sheet
from .options import COMMANDS


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Parses and runs one subcommand; arguments default to the command line's."""
    config = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog=program(__package__),
        description=as_typed(sheet),
        args=arguments,
        sort_subcommands=False,
    )
    from . import job

    return job.run(config)


def start() -> None:
    """The job as a program."""
    cli.start(main)


if __name__ == "__main__":
    start()
