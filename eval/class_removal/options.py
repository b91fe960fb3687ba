"""Options of eval.class_removal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from dng_jax.experiments.rule_specs import TrackerOptions
from dng_jax.experiments.source import Source
from dng_jax.jobs.devices import Devices
from dng_jax.jobs.options import DataOptions, RunOptions
from dng_jax.jobs.processes import Processes

IMAGE_RULES = (
    "unguided", "np=0.3", "dng:pair", "safe=1", "sgf=1", "spell=1.6", "reject:pair=1.2",
)  # fmt: skip
DEFAULT_RULES = (
    "unguided", "reference", "np=0.3", "sld=0.5", "dng:pair", "dng:odds", "dng:classes",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Class removal: guided sampling, a classifier, a table, pictures."""

    dataset: str = "digits"
    """Data set to generate: digits, mnist, cifar10, or another with a network and a classifier."""
    forbid: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Class to forbid, by name or number; repeat for several. Default: class 0."""
    forbid_images: str | None = None
    """Folder of PNG, JPEG or WebP images to forbid in the place of classes, at the network's size.
    Default rules: unguided np=.3 dng:pair safe=1 sgf=1 spell=1.6 reject:pair=1.2."""
    bandwidth: float | None = None
    """Of the forbidden images' mixture, the standard deviation of a pixel (pixels -1 to 1).
    Default: .15."""
    radius: float | None = None
    """Distance (over all pixels, -1 to 1) to a forbidden image within which a sample counts as one.
    Default: what holds 95% of a mixture's draws at a bandwidth of .15, whatever --bandwidth is."""
    rules: tuple[str, ...] = DEFAULT_RULES
    """Rules, as NAME[:TRACKER][=SCALE][,SETTING=VALUE]: unguided, np=.3, sld=3, cfg=2, feedback=.9,
    dng:pair=5,tau=.2,drift=.5,prior=.01, reject:pair=1.2 (images drawn per kept one), reference,
    retrained; a rule of your own as MODULE:FACTORY=SCALE. Quote parentheses:
    'interval(.1,5,dng=2)'."""
    settings: str | None = None
    """best.json of eval.tune: its rule beside those of --rules (default: unguided), its data set,
    classes, network, step table and trackers' numbers where no option says another."""
    tracker: str | None = None
    """Tracker of a dng or reject that names none: pair, odds, classes or (exact denoiser) exact.
    Default: classes."""
    calibration: str | None = None
    """Calibration of every tracker, unless its rule names one or a tau: a file of eval.calibration,
    or bundled. Default: none."""
    source: Annotated[Source, tyro.conf.arg(name="")] = field(default_factory=Source)
    sampler: str = "ddpm"
    """Step table: ddpm, ddpm-paper, ddim, euler, euler-ancestral."""
    steps: int = 50
    """Sampling steps, 1 to 1000."""
    samples: int = 1024
    """Images per rule and seed, at least 2."""
    seeds: tuple[int, ...] = (0,)
    """Seeds, 0 to 2^64 - 1; counts are pooled over them and kept seed by seed in results.json."""
    batch: int = 512
    """Images sampled at once by each process, at least 1; changes them to rounding. On a CPU 64 of
    28x28 pixels take a fifth less time each than 512."""
    options: Annotated[TrackerOptions, tyro.conf.arg(name="")] = field(
        default_factory=TrackerOptions
    )
    save_images: str | None = None
    """Write the images, as 8-bit pixels with their labels: png, one file each, or npz, one file per
    rule. Default: none."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    devices: Annotated[Devices, tyro.conf.arg(name="")] = field(default_factory=Devices)
    processes: Annotated[Processes, tyro.conf.arg(name="")] = field(default_factory=Processes)
    run: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
