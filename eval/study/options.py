"""Options of the study, and what makes two studies the same."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from dng_jax.errors import InputError, choose
from dng_jax.experiments import rule_specs
from dng_jax.experiments.source import CLASS, Source
from dng_jax.jobs.devices import Devices
from dng_jax.jobs.options import DataOptions, at_least, distinct, seed

from . import plan

if TYPE_CHECKING:
    from dng_jax import data


@dataclass(frozen=True)
class Config:
    """The study of one data set."""

    dataset: str = "digits"
    """Data set: digits, mnist, cifar10, or another with a network and a classifier."""
    forbid: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Class to forbid, by name or number; repeat for several, each on its own. Default: every
    class in turn."""
    parts: tuple[str, ...] = plan.PARTS
    """Parts: curves, sensitivity, steps, several, path, calibration."""
    families: tuple[str, ...] = tuple(plan.GRIDS)
    """Rules on the study's grid of scales, or NAME[:TRACKER]=SCALE,SCALE,...[,SETTING=VALUE]: as
    --rules of eval.class_removal takes them, with several scales."""
    calibration: str | None = None
    """Calibration of every tracker of --families that names none and no tau: a file of
    eval.calibration, or bundled. Default: none."""
    source: Annotated[Source, tyro.conf.arg(name="")] = field(default_factory=Source)
    sampler: str = "ddpm"
    """Step table: ddpm, ddpm-paper, ddim, euler, euler-ancestral."""
    steps: int = 50
    """Sampling steps, 1 to 1000; the part `steps` has its own."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the curves, 0 to 2^64 - 1; the other parts use the first."""
    samples: int = 700
    """Images per forbidden class, setting and seed, of the curves; at least 2."""
    part_samples: int = 210
    """Images per forbidden class and setting, of the other parts; at least 2."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    devices: Annotated[Devices, tyro.conf.arg(name="")] = field(default_factory=Devices)
    out: str | None = None
    """Folder of the study; default runs/study-DATASET."""
    resume: bool = False
    """Go on with the study in --out: finished cells are kept."""


def check(config: Config) -> None:
    """Refuses what makes no sense before anything is computed."""
    at_least(2, samples=config.samples, part_samples=config.part_samples)
    distinct(parts=config.parts, seeds=config.seeds, families=config.families)
    seed(seeds=config.seeds)
    for part in config.parts:
        choose(part, plan.PARTS, "part")
    if "calibration" in config.parts and config.steps < 4:
        raise InputError(f"the part calibration needs --steps of at least 4, got {config.steps}")
    specs = [rule_specs.parse(family) for family in plan.grids_of(config.families)]
    rule_specs.check_taken(specs, "--families", config.calibration)
    grids = plan.grids_of(plan.calibrated(config.families, config.calibration))
    alone = [part for part in config.parts if part in ("sensitivity", "steps")]
    if alone and not set(grids) & set(plan.PLAIN_TRACKERS):
        raise InputError(
            f"the part {alone[0]} is about {' and '.join(plan.PLAIN_TRACKERS)} as they are: add one"
            " to --families, or leave it out of --parts"
        )


def one_class(option: str, names: tuple[str, ...], chosen: tuple[int, ...]) -> None:
    """InputError where the name of one class's network would stand for several classes."""
    if names and len(chosen) != 1 and not any(CLASS in name for name in names):
        raise InputError(
            f"--{option} holds the network of one class: name it with --forbid, got {len(chosen)},"
            " or write {k} in the place of its number"
        )


def without_classes(config: Config, chosen: tuple[int, ...]) -> Config:
    """The study of the paper's two networks: one class, and rules that ask for no other."""
    negatives = config.source.negatives
    if not negatives:
        raise InputError(
            f"{config.source.network} knows no classes: name a model file of the forbidden one with"
            " --negatives"
        )
    one_class("negatives", negatives, chosen)
    parts = tuple(p for p in config.parts if p not in ("several", "calibration"))
    grids = plan.grids_of(config.families)
    asking = {f for f in grids if rule_specs.parse(f).asks_every_class}
    families = tuple(f for f in config.families if not set(plan.grids_of((f,))) & asking)
    if not parts or not families:
        raise InputError(
            f"{config.source.network} knows no classes: parts several and calibration, and the"
            " rules dng:classes, ask for all of them"
        )
    return dataclasses.replace(config, parts=parts, families=families)


def identity(config: Config, info: data.Info, chosen: tuple[int, ...]) -> dict[str, Any]:
    """What makes two studies the same: everything a cell does not record itself. info: of its data
    set; chosen: the classes that are forbidden.

    InputError where a network of one of these is not there.
    """
    from dng_jax.experiments import calibrations, models

    source = config.source
    if source.denoiser != "exact":
        # Under its full name: which one is bundled may change.
        full = models.full_name(config.dataset, source.network)
        source = dataclasses.replace(source, network=full)
    weights = models.fingerprint(config.dataset, config.source, chosen, info.num_classes)
    used = {rule_specs.parse(f).calibration for f in plan.grids_of(config.families)} - {None}
    held = {
        str(name): calibrations.digest(str(name), config.dataset, config.source.network)
        for name in used
    }
    return {
        "job": "study",
        "dataset": info.key,
        "source": source,
        "weights": weights,
    } | ({"calibrations": held} if held else {})
