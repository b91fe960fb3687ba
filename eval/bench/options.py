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
    """What is measured: sampling, pytorch, kernels, convolutions, growth, start, memory,
    throughput, hopfield or text-to-image."""
    samples: int | None = None
    """Images per run, at least 1; default: a number of each suite, 256 in sampling."""
    steps: int | None = None
    """Sampling steps, 1 to 1000; default: a number of each suite, 50 in sampling."""
    pairs: int = 7
    """Rounds of the programs that take turns, at least 1; 3 for the sweep."""
    networks: tuple[str, ...] = ()
    """Of the suite throughput PRESET[:CONDITIONING] (default: mnist-small; mnist and cifar10 want a
    GPU); of pytorch (default: all) and kernels (default: mnist-heads) bundled networks, and cifar10
    with random weights."""
    threads: tuple[int, ...] = ()
    """Cores that the suite pytorch holds either side to, one after the other; default: 1, and all
    that there are."""
    dtype: str = "float32"
    """Of convolutions and products in the suite pytorch: float32 or bfloat16."""
    compiled: bool = True
    """Time torch.compile in the suite pytorch too; compiling takes it a minute or two a network."""
    batch: int = 256
    """Images per training step in the throughput suite, at least 1."""
    shrink: int = 1
    """Divides the sizes of the suites hopfield and text-to-image, and the number of convolutions,
    for a quick look; at least 1."""
    devices: Annotated[Devices, tyro.conf.arg(name="")] = field(default_factory=Devices)
    run: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
