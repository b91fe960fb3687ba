"""What a study computes: the cells of each of its parts.

GRIDS, SEVERAL   scales of each family of rules, of the curves and of several classes
KNOBS            values of lambda_0, tau, drift, delta and prior, one at a time
STEP_COUNTS      sampling steps;  SET_SIZES: how many classes at once
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dng_jax.errors import InputError
from dng_jax.experiments import rule_specs
from dng_jax.experiments.rule_specs import Spec, TrackerOptions

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
BASELINES = ("unguided", rule_specs.REFERENCE, rule_specs.RETRAINED)
# About the default of each: lambda_0 = tau = 1, no offset, prior 1/K.
KNOBS: dict[str, tuple[float, ...]] = {
    "lambda_0": (0.5, 1.0, 2.0, 5.0),
    "tau": (0.25, 0.5, 2.0),
    "drift": (0.25, 0.5, 1.0),
    "delta": (2e-4, 2e-3, 2e-2),
    "prior": (0.01, 0.03, 0.3),
}
PLAIN_TRACKERS = ("dng:pair", "dng:classes")  # of the parts sensitivity and steps
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
    has = (True, knows_classes, config.source.retrained is not None)
    baselines = [name for name, there in zip(BASELINES, has, strict=True) if there]
    grids = grids_of(config.families)
    trackers = [f for f in grids if f in PLAIN_TRACKERS]
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
            together = [name for name in baselines if name != rule_specs.RETRAINED]
            for family in (*together, *(f for f in grids if f in SEVERAL)):
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


def grids_of(families: tuple[str, ...]) -> dict[str, tuple[float | None, ...]]:
    """Scales of every family named, those given with it or the study's own."""
    grids: dict[str, tuple[float | None, ...]] = {}
    for word in families:
        spec, given = _family(word)
        scales: tuple[float | None, ...] = given
        family = spec.family
        if family in BASELINES:
            raise InputError(f"{family} is part of every study: leave it out of --families")
        if family in grids:
            raise InputError(f"--families names '{family}' twice: give all its scales at once")
        if not scales:
            plain = dataclasses.replace(spec, settings=(), interval=None).family
            scales = GRIDS.get(plain) or (spec.scale,)
        if len(set(scales)) < len(scales):
            raise InputError(f"--families: '{word}' names a scale twice")
        grids[family] = tuple(sorted(scales, key=lambda s: s or 0.0))
    return grids


def calibrated(families: tuple[str, ...], calibration: str | None) -> tuple[str, ...]:
    """The families with a calibration, where they track kernels and name none themselves."""

    def with_it(word: str) -> str:
        spec = _family(word)[0]
        if spec.with_calibration(calibration) == spec:
            return word
        inner, closed = (word[:-1], ")") if word.endswith(")") else (word, "")
        return f"{inner},{rule_specs.CALIBRATION}={calibration}{closed}"

    return tuple(with_it(word) for word in families)


def _family(word: str) -> tuple[Spec, tuple[float, ...]]:
    """NAME[:TRACKER][=SCALE,SCALE,...][,SETTING=VALUE]... -> the rule, and the scales given."""
    before, _, inner = word.rpartition("(") if word.startswith("interval(") else ("", "", word)
    low_high = ""
    if before:
        *levels, inner = inner.rstrip(")").split(",", 2)
        low_high = ",".join(levels)
    head, *more = inner.split(",")
    name, given, first = head.partition("=")
    texts = [first] * bool(given) + [part for part in more if "=" not in part]
    rule = ",".join([name, *(part for part in more if "=" in part)])

    def spec(scaled: str) -> Spec:
        text = scaled if not before else f"interval({low_high},{scaled})"
        try:
            return rule_specs.parse(text)
        except InputError as error:
            raise InputError(f"--families: {error}") from None

    scales = [spec(rule.replace(name, f"{name}={text}", 1)).scale for text in texts]
    return spec(rule), tuple(s for s in scales if s is not None)
