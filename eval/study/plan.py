"""What a study computes: the cells of each of its parts.

GRIDS, SEVERAL   scales of each family of rules, of the curves and of several classes
KNOBS            values of lambda_0, tau, drift, delta and prior, one at a time
STEP_COUNTS      sampling steps;  SET_SIZES: how many classes at once
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dng_jax.errors import InputError
from dng_jax.experiments import rule_specs
from dng_jax.experiments.rule_specs import TrackerOptions

if TYPE_CHECKING:
    from .cells import Cell, Setting
    from .options import Config

PARTS = ("curves", "sensitivity", "steps", "several", "path", "calibration")
GRIDS: dict[str, tuple[float, ...]] = {
    "np": (0.15, 0.3, 0.5, 0.7, 1.0, 1.5),
    "sld": (0.25, 0.5, 0.75, 1.0, 1.5),
    "dng:pair": (1.0, 3.0, 10.0),
    "dng:odds": (1.0, 3.0),
    "dng:classes-model": (1.0,),
    "dng:classes": (0.6, 1.0, 2.0, 4.0),
}
BASELINES = ("unguided", rule_specs.REFERENCE)
# About the default of each: lambda_0 = tau = 1, no offset, prior 1/K.
KNOBS: dict[str, tuple[float, ...]] = {
    "lambda_0": (0.5, 1.0, 2.0, 5.0),
    "tau": (0.25, 0.5, 2.0),
    "drift": (0.25, 0.5, 1.0),
    "delta": (2e-4, 2e-3, 2e-2),
    "prior": (0.01, 0.03, 0.3),
}
SEVERAL: dict[str, tuple[float, ...]] = {
    "np": (0.3, 1.0),
    "sld": (0.5, 1.0),
    "dng:pair": (1.0, 3.0),
    "dng:classes": (1.0,),
}
STEP_COUNTS = (25, 50, 100, 250, 1000)
SET_SIZES = (2, 3, 5)


def cells(
    config: Config, chosen: tuple[int, ...], num_classes: int, knows_classes: bool = True
) -> Iterator[Cell]:
    """Every cell of the parts asked for; the seeds of the curves in turn, so that an unfinished
    study has whole ones."""
    from .cells import Cell, Setting

    plain: dict[str, Any] = {"sampler": config.sampler, "steps": config.steps}
    small: dict[str, Any] = {"seed": config.seeds[0], "samples": config.part_samples}
    baselines = BASELINES if knows_classes else ("unguided",)
    grids = grids_of(config.families)
    trackers = [f for f in grids if f in ("dng:pair", "dng:classes")]
    if "curves" in config.parts:
        for seed in config.seeds:
            for k in chosen:
                for family in (*baselines, *grids):
                    settings = tuple(Setting(s) for s in grids.get(family, (None,)))
                    yield Cell(
                        "curves", (k,), family, settings, seed=seed, samples=config.samples, **plain
                    )
    if "sensitivity" in config.parts:
        for k in chosen:
            for family in trackers:
                yield Cell("sensitivity", (k,), family, knobs(family), **plain, **small)
    if "steps" in config.parts:
        for count in STEP_COUNTS:
            for k in chosen:
                for family in trackers:
                    options: dict[str, Any] = plain | {"steps": count}
                    yield Cell("steps", (k,), family, (Setting(1.0),), **options, **small)
    if "several" in config.parts:
        for forbidden in sets_of(chosen, num_classes):
            for family in (*baselines, *(f for f in grids if f in SEVERAL)):
                settings = tuple(Setting(s) for s in SEVERAL.get(family, (None,)))
                yield Cell("several", forbidden, family, settings, **plain, **small)


def sets_of(chosen: tuple[int, ...], num_classes: int) -> list[tuple[int, ...]]:
    """Sets of 2, 3 and 5 neighbouring classes, from every other one of the chosen classes on."""
    sets = {
        tuple(sorted((k + i) % num_classes for i in range(size)))
        for size in SET_SIZES
        if size < num_classes
        for k in chosen[::2]
    }
    return sorted(sets, key=lambda s: (len(s), s))


def knobs(family: str) -> tuple[Setting, ...]:
    """One number of a tracker at a time, about the default setting, which comes first."""
    from .cells import Setting

    settings = [Setting(1.0)]
    for knob, values in KNOBS.items():
        if family == "dng:classes" and knob in ("prior", "drift", "delta"):
            continue  # it starts from all classes, and an offset common to all cancels
        for value in values:
            if knob == "lambda_0":
                settings.append(Setting(value))
            else:
                number: dict[str, Any] = {knob: value}
                changed = TrackerOptions(**number)
                settings.append(Setting(1.0, changed))
    return tuple(dict.fromkeys(settings))


def grids_of(families: tuple[str, ...]) -> dict[str, tuple[float, ...]]:
    """Scales of every family named, those given with it or the study's own."""
    grids: dict[str, tuple[float, ...]] = {}
    for word in families:
        family, given, text = word.partition("=")
        if family not in GRIDS:
            known = ", ".join(GRIDS)
            raise InputError(f"no grid of scales for '{family}': choose from {known}")
        if family in grids:
            raise InputError(f"--families names '{family}' twice: give all its scales at once")
        try:
            scales = tuple(float(part) for part in text.split(",")) if given else GRIDS[family]
        except ValueError:
            raise InputError(
                f"--families: '{word}' has a scale that is no number: write {family}=0.5,1"
            ) from None
        if not all(math.isfinite(s) and s >= 0 for s in scales) or len(set(scales)) < len(scales):
            raise InputError(f"--families: the scales of '{word}' must be >= 0, finite, none twice")
        grids[family] = tuple(sorted(scales))
    return grids
