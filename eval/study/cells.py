"""Cells of a study: one forbidden set, one family of rules over its settings, one seed.

A cell is one compiled sweep and one file, cells/PART/NAME.npz:

    labels    uint8 [S, n]      what the judge calls sample i under setting s (wider for K > 255)
    features  float16 [S, n, F]  the judge's features
    record    JSON              the cell as it was asked for, settings and all

Sample i of a cell has noise of its own, fixed by (seed, forbidden set, i): the rules of one
forbidden set share it, other forbidden sets do not.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax import disk, initial_noise, sample, sample_keys, sweep
from dng_jax.errors import InputError
from dng_jax.experiments import rule_specs
from dng_jax.experiments.generating import network_calls
from dng_jax.experiments.problems import Problem
from dng_jax.experiments.rule_specs import TrackerOptions
from dng_jax.jobs import devices, runs
from dng_jax.sampling import check_finite
from dng_jax.steps import StepTable

BATCH = 1024
NOISE_STRIDE = 1_000_000
FIRST_SET_BLOCK, SET_BLOCKS = 1000, 4294


@dataclass(frozen=True)
class Setting:
    """One point of a curve: a rule's scale (None where it has none) and its tracker's numbers."""

    scale: float | None = None
    options: TrackerOptions = field(default_factory=TrackerOptions)


@dataclass(frozen=True)
class Cell:
    """What is asked for; `name` is its file's."""

    part: str
    forbidden: tuple[int, ...]
    family: str
    settings: tuple[Setting, ...]
    steps: int
    sampler: str
    seed: int
    samples: int

    @property
    def name(self) -> str:
        """Part and file name."""
        classes = "+".join(map(str, self.forbidden))
        family = self.family.replace(":", "-")
        return f"{self.part}/{classes}_{family}_{self.steps}_seed{self.seed}"


@dataclass(frozen=True)
class Found:
    """What came out: labels uint8 [S, n], features float16 [S, n, F]; network calls an image."""

    labels: np.ndarray
    features: np.ndarray
    calls: int | None


def load(folder: Path, cell: Cell) -> Found | None:
    """The finished cell; None where it is not there, InputError where its file cannot be read."""
    path = folder / "cells" / f"{cell.name}.npz"
    if not path.exists():
        return None
    try:
        with np.load(path) as arrays:
            record = json.loads(str(arrays["record"]))
            calls = int(arrays["calls"])
            found = Found(arrays["labels"], arrays["features"], calls if calls > 0 else None)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read ({error}): remove it, and --resume") from error
    if record != runs.to_json(cell):
        raise InputError(f"{path} was made with other settings: remove it, or choose another --out")
    return found


def save(folder: Path, cell: Cell, found: Found) -> None:
    """Writes the cell, whole or not at all."""
    path = folder / "cells" / f"{cell.name}.npz"
    with disk.whole(path) as part:
        np.savez_compressed(
            part,
            labels=found.labels,
            features=found.features,
            calls=found.calls or 0,
            record=json.dumps(runs.to_json(cell)),
        )


def run(problem: Problem, cell: Cell) -> Found:
    """Samples and judges the cell."""
    table = problem.table(cell.sampler, cell.steps)
    spec = rule_specs.parse(cell.family)
    rules = [rule_specs.build(spec.with_scale(s.scale), problem, s.options) for s in cell.settings]
    if spec.name == "floor":
        images = _floor(problem, table, rules[0], cell)
    else:
        images = _sample(problem.denoiser, problem, table, rules, cell, cell.samples)
    labels, features = _judge(problem, images)
    return Found(labels, features, network_calls(problem, rules[0], cell.steps))


def first_sample(cell: Cell) -> int:
    """Index of the cell's first sample among those of its seed."""
    if len(cell.forbidden) == 1:
        return cell.forbidden[0] * NOISE_STRIDE
    # Beyond the blocks of single classes, up to what fold_in takes as a number (32 bits).
    hashed = zlib.crc32(repr(cell.forbidden).encode()) % (SET_BLOCKS - FIRST_SET_BLOCK)
    return (FIRST_SET_BLOCK + hashed) * NOISE_STRIDE


def _floor(problem: Problem, table: StepTable, rule: Any, cell: Cell) -> np.ndarray:
    allowed = np.flatnonzero(problem.allowed)
    size = -(-cell.samples // len(allowed))  # one size, so that one program serves all classes
    parts = [
        _sample(problem.conditioned(int(k)), problem, table, [rule], cell, size, i * size)
        for i, k in enumerate(allowed)
    ]
    # Class after class in turn, so that cutting to the cell's size keeps them balanced.
    images = np.stack(parts, axis=2)
    return images.reshape(1, -1, *images.shape[3:])[:, : cell.samples]


def _sample(denoiser, problem, table, rules, cell: Cell, count: int, start: int = 0) -> np.ndarray:
    out = []
    for first in range(0, count, BATCH):
        size = min(BATCH, count - first)
        begin = first_sample(cell) + start + first
        # A few samples more, left out below, where the devices could not share them evenly.
        keys = sample_keys(cell.seed, devices.divisible(size), begin)
        keys, x = devices.spread((keys, initial_noise(keys, problem.info.shape, table)))
        if rule_specs.has_numbers(rules[0]):
            result = sweep(denoiser, table, rules, keys, x)
            for i in range(len(rules)):
                check_finite(result._replace(bad_step=result.bad_step[i]), cell.steps, begin)
            out.append(np.asarray(result.x)[:, :size])
        else:
            result = sample(denoiser, table, rules[0], keys, x)
            check_finite(result, cell.steps, begin)
            out.append(np.asarray(result.x)[None, :size])
    return np.concatenate(out, axis=1)


def _judge(problem: Problem, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    judged = [problem.judge(x) for x in images]
    labels = np.stack([labels for labels, _ in judged])
    labels = labels.astype(np.min_scalar_type(problem.info.num_classes))
    return labels, np.stack([f for _, f in judged]).astype(np.float16)
