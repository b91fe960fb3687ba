"""python -m eval.tune"""

from __future__ import annotations

from dng_jax.jobs import cli

from .options import Config

start = cli.program(Config, __package__)

if __name__ == "__main__":
    start()
