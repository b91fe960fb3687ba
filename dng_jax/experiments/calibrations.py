"""Fitted temperatures and offsets of trackers, as a file: made by eval.calibration, taken by jobs.

JSON, in text a person can read:

    format       "dng_jax calibration 1"
    dataset      what the network generates (dng_jax.data.Info.key)
    network      SHA-256 of its parameters (of the data, for the exact model): the fit is of one
                 network, and no other is taken
    sampler, steps    the step table it was fitted on
    trackers     name -> knots [n] (log-SNR), temperature [n], offset [n] (nats per unit of
                 log-SNR)
    fit          where the runs came from: seed, samples, the negative log-likelihoods

A name that ends in .json is a file; `bundled` is the calibration that lies beside a bundled
network.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dng_jax import disk
from dng_jax.errors import InputError, choose
from dng_jax.experiments import models, rule_specs
from dng_jax.experiments.problems import Problem
from dng_jax.weights import pretrained

FORMAT = "dng_jax calibration 1"
BUNDLED = "bundled"
LARGEST = 1000.0  # nats: far beyond any fit, and far below what float32 overflows with


class Correction(NamedTuple):
    """Of one tracker: log-SNR knots, temperatures and offsets there (dng_jax.posterior)."""

    knots: tuple[float, ...]
    temperature: tuple[float, ...]
    offset: tuple[float, ...]

    def options(self) -> dict[str, Any]:
        """As the factories of trackers take them."""
        return {"temperature": (self.knots, self.temperature), "offset": (self.knots, self.offset)}


def of_tracker(tracker: Any) -> Correction:
    """The temperature and offset of a fitted tracker, at the knots of the temperature."""
    knots = np.asarray(tracker.temperature.knots, np.float64)
    own = tracker.offset
    offset = np.interp(knots, np.asarray(own.knots, np.float64), np.asarray(own.values, np.float64))
    values = np.asarray(tracker.temperature.values, np.float64)
    return Correction(*(tuple(map(float, part)) for part in (knots, values, offset)))


@dataclass(frozen=True)
class Calibration:
    """What a calibration file holds; see the file's docstring."""

    dataset: str
    network: str
    sampler: str
    steps: int
    trackers: dict[str, Correction]
    fit: dict[str, Any] = field(default_factory=dict)


def save(path: str | Path, calibration: Calibration) -> Path:
    """Writes the file, whole or not at all."""
    path, found = Path(path), _plain(calibration) | {"format": FORMAT}
    with disk.whole(path) as part:
        part.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path


def load(path: str | Path) -> Calibration:
    """Reads a file; InputError where it is none of this format."""
    disk.check_memory(path, 10 * disk.check_file(path))
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "it is no JSON"
        raise InputError(
            f"calibration {path} cannot be read ({reason}): name a file that eval.calibration wrote"
        ) from error
    try:
        return _read(stored)
    except (KeyError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"{path} is no calibration of this library ({reason}): name a file that"
            " eval.calibration wrote"
        ) from error


def find(name: str, problem: Problem, sampler: str, steps: int) -> Calibration:
    """The calibration of that name, a file or BUNDLED, for a problem and step table.

    InputError where it is of another data set, network or step table.
    """
    found = load(name) if name != BUNDLED else _bundled(problem)
    asked = {"data set": problem.info.key, "sampler": sampler, "number of steps": steps}
    held = (found.dataset, found.sampler, found.steps)
    for (what, wanted), there in zip(asked.items(), held, strict=True):
        if wanted != there:
            raise InputError(
                f"calibration {name} is of {what} {there}, not {wanted}: fit one with"
                " eval.calibration"
            )
    if found.network != fingerprint(problem):
        raise InputError(
            f"calibration {name} is of another network than {problem.network}: fit one with"
            " eval.calibration"
        )
    return found


def correction(name: str, tracker: str, calibration: Calibration) -> Correction:
    """What the calibration of that name says of a tracker; InputError where it has none."""
    choose(tracker, calibration.trackers, f"tracker in calibration {name}")
    return calibration.trackers[tracker]


def digest(name: str, dataset: str, network: str) -> str:
    """SHA-256 of what a calibration of that name says, so that another fit is recognised."""
    path = pretrained.calibration(models.full_name(dataset, network)) if name == BUNDLED else name
    held = json.dumps(_plain(load(path)), sort_keys=True) if path is not None else ""
    return hashlib.sha256(held.encode()).hexdigest()


def fingerprint(problem: Problem) -> str:
    """SHA-256 of the parameters of a problem's network, or of the data of the exact model."""
    held = problem.mixture
    if held is None:  # several networks have no `params` of their own
        held = getattr(problem.denoiser, "params", problem.denoiser)
    hashed = hashlib.sha256()
    for path, leaf in sorted(jax.tree_util.tree_leaves_with_path(held), key=lambda p: str(p[0])):
        values = np.ascontiguousarray(leaf)
        hashed.update(f"{jax.tree_util.keystr(path)} {values.shape}".encode())
        hashed.update(values.astype("<f4").tobytes())
    return hashed.hexdigest()


def _plain(calibration: Calibration) -> dict[str, Any]:
    trackers = {name: one._asdict() for name, one in calibration.trackers.items()}
    return vars(calibration) | {"trackers": trackers}


def _bundled(problem: Problem) -> Calibration:
    path = pretrained.calibration(problem.network or "")
    if path is None:
        raise InputError(
            f"no calibration comes with {problem.network or 'the exact model'}: fit one with"
            " eval.calibration, and name its file"
        )
    return load(path)


def _read(stored: Any) -> Calibration:
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise ValueError(f"its format is not '{FORMAT}'")
    for name in ("dataset", "network", "sampler"):
        if not isinstance(stored[name], str):
            raise ValueError(f"{name} is no text")
    if type(stored["steps"]) is not int or stored["steps"] < 1:  # True is an int
        raise ValueError("steps is no whole number of at least 1")
    named, fit = stored["trackers"], stored.get("fit", {})
    if not isinstance(named, dict) or not {*named} & {*rule_specs.FITTED}:
        raise ValueError(f"it has none of the trackers {', '.join(rule_specs.FITTED)}")
    # Flat, so that `digest` can write whatever was read here: deep JSON exhausts the stack.
    if not isinstance(fit, dict) or any(isinstance(v, dict | list) for v in fit.values()):
        raise ValueError("fit is no object of plain values")
    known = {n: stored[n] for n in ("dataset", "network", "sampler", "steps")}
    trackers = {name: _correction(name, one) for name, one in named.items()}
    return Calibration(**known, trackers=trackers, fit=fit)


def _correction(tracker: str, stored: Any) -> Correction:
    if not isinstance(stored, dict):
        raise ValueError(f"tracker {tracker} is no object")
    knots, values, offset = (_numbers(stored[name], name) for name in Correction._fields)
    held = np.asarray(knots, np.float32)  # as the trackers hold them: two knots may be one there
    if not len(knots) == len(values) == len(offset) or np.any(np.diff(held) <= 0):
        raise ValueError("it needs as many temperatures and offsets as knots, which increase")
    if min(values) < 0:
        raise ValueError("temperatures must be >= 0")
    return Correction(knots, values, offset)


def _numbers(stored: Any, name: str) -> tuple[float, ...]:
    """A list of numbers of at most LARGEST, either sign; ValueError for anything else."""
    if not isinstance(stored, list) or not stored:
        raise ValueError(f"{name} is no list of numbers")
    # A comparison with NaN is False, and whole numbers beyond any float are compared exactly.
    if not all(type(v) in (int, float) and abs(v) <= LARGEST for v in stored):
        raise ValueError(f"{name} must hold numbers between -{LARGEST:g} and {LARGEST:g}")
    return tuple(map(float, stored))
