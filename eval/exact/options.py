"""Options of eval.exact."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from dng_jax.jobs.options import DataOptions, RunOptions


@dataclass(frozen=True)
class Config:
    """Measures the exactly solvable models."""

    datasets: tuple[str, ...] = ()
    """Data sets, as mixtures, on which to measure in place of all the rest how the error of each
    tracker grows with dimension and steps: digits, mnist, cifar10. Default: none."""
    steps: tuple[int, ...] = (25, 50, 100, 250)
    """Sampling steps of --datasets, 1 to 1000 each."""
    patterns: int | None = None
    """Images of each mixture of --datasets, at least 1. Default: 10,000, or all where there are
    fewer."""
    samples: int = 4096
    """Images per figure on the digits mixture or on --datasets, at least 2; twice as many points in
    the plane."""
    seed: int = 0
    """Seed of every run, 0 to 2^64 - 1: all of them start from one noise."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    run: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
