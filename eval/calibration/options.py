"""Options of eval.calibration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from dng_jax.experiments import rule_specs
from dng_jax.experiments.source import Source
from dng_jax.jobs.devices import Devices
from dng_jax.jobs.options import DataOptions, RunOptions

TRACKERS = rule_specs.FITTED


@dataclass(frozen=True)
class Config:
    """Calibration of the tracked posterior."""

    dataset: str = "digits"
    """Data set: digits, mnist, cifar10, or another with a network and a classifier."""
    source: Annotated[Source, tyro.conf.arg(name="")] = field(default_factory=Source)
    base: str = "model"
    """What the unguided runs follow: model, the base prediction; mixture, the classes' own,
    weighted by the `classes` tracker (what that tracker guides from by default)."""
    samplers: tuple[str, ...] = ("ddpm", "ddpm-paper", "ddim")
    """Step tables: ddpm, ddpm-paper, ddim, euler, euler-ancestral; the deterministic ones, ddim and
    euler, are tracked with the divergence probe."""
    trackers: tuple[str, ...] = TRACKERS
    """Trackers to replay: pair, odds, classes."""
    information: bool = False
    """Report the information budget of the denoiser instead: what its predictions know of the
    class, in nats. Nothing is sampled; labelled images are noised on the levels of ddpm."""
    steps: int = 50
    """Sampling steps, or levels of --information (fewer end at a lower log-SNR), 1 to 1000."""
    samples: int = 2048
    """Unguided runs, even, at least 4; half of them fit, half of them test. Of --information: the
    labelled images, as far as there are so many."""
    batch: int = 512
    """Runs sampled at once, at least 1; does not change them."""
    knots: int = 8
    """Knots of the temperature over log-SNR, at least 2 and below --steps."""
    seed: int = 0
    """Seed of the runs, 0 to 2^64 - 2; the forward chains take the next one."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    devices: Annotated[Devices, tyro.conf.arg(name="")] = field(default_factory=Devices)
    run: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
