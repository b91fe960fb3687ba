"""python -m eval.class_removal"""

from __future__ import annotations

from dng_jax.jobs import cli

from .options import Config


def main() -> None:
    """Parses the command line, and only then imports what takes seconds to import."""
    config = cli.parse(Config, __package__)
    from . import job

    job.main(config)


def start() -> None:
    """The job as a program."""
    cli.start(main)


if __name__ == "__main__":
    start()
