"""python -m train.tune"""

from __future__ import annotations

from dng_jax.jobs import cli

from .options import parse


def main() -> None:
    """Parses the command line, and only then imports what takes seconds to import."""
    options = parse()
    from . import job

    job.run(options)


def start() -> None:
    """The job as a program."""
    cli.start(main)


if __name__ == "__main__":
    start()
