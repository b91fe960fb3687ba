"""Options of eval.exact."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from dng_jax.jobs.options import RunOptions


@dataclass(frozen=True)
class Config:
    """Measures the exactly solvable models."""

    samples: int = 4096
    """Images per figure on the digits mixture, at least 2; twice as many points in the plane."""
    seed: int = 0
    """Seed of every run, 0 to 2^64 - 1: all of them start from one noise."""
    run: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
