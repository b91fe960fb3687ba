"""Options of eval.tune."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from dng_jax.experiments.rule_specs import TrackerOptions
from dng_jax.experiments.source import Source
from dng_jax.jobs.devices import Devices
from dng_jax.jobs.options import DataOptions


@dataclass(frozen=True)
class Config:
    """The search of a rule's numbers."""

    dataset: str = "digits"
    """Data set to generate: digits, mnist, cifar10, or another with a network and a classifier."""
    forbid: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Class to forbid, by name or number; repeat for several. Default: class 0."""
    space: tuple[str, ...] = ("dng:pair scale=.1..10:log tau=.2..2 drift=0..0.8",)
    """Rules and what to search of each, "RULE LEAF=LOW..HIGH[:log][:POINTS] LEAF=A,B": leaves
    scale, the rule's settings (tau, delta, drift, prior, skip, every, ...), lo, hi, steps,
    sampler."""
    objectives: tuple[str, ...] = ("leak", "kl")
    """Measures to minimise: leak, kl, frechet, calls."""
    constraints: tuple[str, ...] = ()
    """What a setting must keep to, as 'leak<=0.5%' or 'calls<=100'."""
    search: str = "tpe"
    """Who proposes settings: grid, random, tpe or nsga2."""
    trials: int = 256
    """Settings of the whole study, at least 1; a grid has its own number."""
    points: int = 5
    """Of a grid, points of a range that does not say how many; at least 1."""
    block: int = 64
    """Settings asked and run together, at least 1."""
    samples: int = 512
    """Images per setting, at least 2; rounded up to whole batches."""
    first_samples: int | None = None
    """Successive halving: images per setting of the first rung, at least 2; the best of it go on
    to eta times as many, and so on up to --samples. Default: no halving."""
    eta: int = 3
    """Halving lets 1 of so many settings go on, at least 2."""
    batch: int = 64
    """Images of a setting sampled at once, at least 2."""
    chunk: str = "auto"
    """Settings that the network sees at once: a number, or auto, what the device has memory for; on
    a CPU auto is one."""
    seed: int = 1
    """Seed of the search, 0 to 2^64 - 1."""
    fresh_seed: int = 2
    """Seed of the front's judgement, 0 to 2^64 - 2; the chosen setting is told from the next."""
    judged: int = 12
    """Settings that are judged, at least 1: the front, and the ranks behind it."""
    judge_samples: int = 2048
    """Images of each of them, at least 2."""
    against: tuple[str, ...] = ()
    """Rules made by hand, as --rules of eval.class_removal takes them, to be judged on the same
    images: a row each, and their KL where they and the front have the same leak."""
    source: Annotated[Source, tyro.conf.arg(name="")] = field(default_factory=Source)
    sampler: str = "ddpm"
    """Step table where a space names none: ddpm, ddpm-paper, ddim, euler, euler-ancestral."""
    steps: int = 50
    """Sampling steps where a space names none, 1 to 1000."""
    options: Annotated[TrackerOptions, tyro.conf.arg(name="")] = field(
        default_factory=TrackerOptions
    )
    engine: str = "process"
    """Where workers run: process (this one), submitit (SLURM) or ray, each of its own extra."""
    workers: int = 2
    """Workers of an engine, at least 1."""
    cluster: str | None = None
    """Of submitit: slurm, local or debug. Default: slurm where there is one, else local."""
    address: str | None = None
    """Of ray: the cluster's address. Default: this machine."""
    resources: tuple[str, ...] = ()
    """Of a worker, KEY=VALUE as submitit's update_parameters or ray.remote take them:
    timeout_min=60 gpus_per_node=1 slurm_partition=gpu, or num_gpus=1."""
    dry_run: bool = False
    """Say what would run, judgement included: programs, shapes, images, network calls, operations,
    memory, devices; sample nothing."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    devices: Annotated[Devices, tyro.conf.arg(name="")] = field(default_factory=Devices)
    out: str | None = None
    """Folder of the study; default runs/tune-DATASET."""
    resume: bool = False
    """Go on with the study in --out, or join the processes that are at work on it."""
