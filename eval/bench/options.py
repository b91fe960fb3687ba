"""Options of the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from dng_jax.jobs.devices import Devices
from dng_jax.jobs.options import RunOptions


@dataclass(frozen=True)
class Config:
    """Benchmarks."""

    suite: tyro.conf.Positional[str] = "sampling"
    """What is measured: sampling, throughput, hopfield or text-to-image."""
    samples: int = 512
    """Images per run of the suites sampling and throughput, at least 1."""
    steps: int = 50
    """Sampling steps of the suite sampling, 1 to 1000."""
    pairs: int = 7
    """Alternating pairs per figure, at least 1; 3 for the sweep."""
    networks: tuple[str, ...] = ("mnist-small",)
    """Networks of the throughput suite, PRESET[:CONDITIONING]; mnist and cifar10 want a GPU."""
    batch: int = 256
    """Images per training step in the throughput suite, at least 1."""
    shrink: int = 1
    """Divides the sizes of the suites hopfield and text-to-image, for a quick look; at least 1."""
    devices: Annotated[Devices, tyro.conf.arg(name="")] = field(default_factory=Devices)
    run: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
