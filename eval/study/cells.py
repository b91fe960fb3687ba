"""Cells of a study: one forbidden set, one family of rules over its settings, one seed.

A cell is one compiled sweep and one file, cells/PART/NAME.npz:

    labels    uint8 [S, n]       what the classifier calls sample i under setting s (wider for
                                 K > 255)
    features  float16 [S, n, F]  the classifier's features (float32 where they are too large)
    record    JSON              the cell as it was asked for, settings and all

Sample i of a cell has noise of its own, fixed by (seed, forbidden set, i): the rules of one
forbidden set share it, other forbidden sets do not.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dng_jax import arrays, disk
from dng_jax.errors import InputError
from dng_jax.experiments import rule_builders, rule_specs
from dng_jax.experiments.generating import Draw, generate
from dng_jax.experiments.problems import Problem
from dng_jax.experiments.rule_specs import TrackerOptions
from dng_jax.experiments.saving import file_name
from dng_jax.jobs import runs

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
        family = file_name(self.family)
        return f"{self.part}/{classes}_{family}_{self.steps}_seed{self.seed}"

    @property
    def cost(self) -> int:
        """Sampling steps of all images, for the progress bar."""
        return len(self.settings) * self.samples * self.steps


@dataclass(frozen=True)
class Found:
    """What came out: labels uint8 [S, n], features float16 [S, n, F]; per image, [S]: network
    calls, None where there is no network, and how often it asked for roles on demand, None where
    the rule has none (dng_jax.experiments.generating)."""

    labels: np.ndarray
    features: np.ndarray
    calls: np.ndarray | None
    asked: np.ndarray | None = None


def load(folder: Path, cell: Cell) -> Found | None:
    """The finished cell; None where it is not there, InputError where its file cannot be read."""
    path = folder / "cells" / f"{cell.name}.npz"
    if not path.exists():
        return None
    try:
        found = arrays.read_npz(path)
        record, calls = json.loads(str(found["record"])), np.asarray(found["calls"], float)
        # One number for all settings, as cells were written once.
        calls = np.broadcast_to(calls, (len(cell.settings),))
        asked = np.broadcast_to(found.get("asked", 0.0), calls.shape)
        labels, features = found["labels"], found["features"]
    except (InputError, LookupError, ValueError, TypeError, OverflowError, RecursionError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path} cannot be read ({reason}): remove it, and --resume") from error
    if record != runs.to_json(cell):
        raise InputError(f"{path} was made with other settings: remove it, or choose another --out")
    shape = (len(cell.settings), cell.samples)
    fits = labels.shape == shape and features.ndim == 3 and features.shape[:2] == shape
    fits = fits and bool(np.isfinite(calls).all() and np.isfinite(asked).all())
    if not fits or labels.dtype.kind not in "iu" or features.dtype.kind != "f":
        raise InputError(f"{path} does not hold what it says it does: remove it, and --resume")
    counted = [counts if (counts > 0).all() else None for counts in (calls, asked)]
    return Found(labels, features, *counted)


def save(folder: Path, cell: Cell, found: Found) -> None:
    """Writes the cell, whole or not at all."""
    path = folder / "cells" / f"{cell.name}.npz"
    with disk.refused(f"write {path}", "or choose another --out"), disk.whole(path) as part:
        np.savez_compressed(
            part,
            labels=found.labels,
            features=found.features,
            calls=0 if found.calls is None else found.calls,
            asked=0 if found.asked is None else found.asked,
            record=json.dumps(runs.to_json(cell)),
        )


def drawn_together(cell: Cell, other: Cell) -> bool:
    """Whether one run of the sampler serves both: rejections of one unguided run."""
    alike = dataclasses.replace(other, family=cell.family, settings=cell.settings) == cell
    return alike and all(rule_specs.parse(c.family).name == "reject" for c in (cell, other))


def run(problem: Problem, cell: Cell) -> Found:
    """Samples and classifies the cell."""
    return run_together(problem, [cell])[0]


def run_together(problem: Problem, cells: Sequence[Cell]) -> list[Found]:
    """The same for cells that are drawn together."""
    cell, rules, ends = cells[0], [], [0]
    for one in cells:
        spec, where = rule_specs.parse(one.family), (one.sampler, one.steps)
        rules += [
            rule_builders.build(spec.with_scale(s.scale), problem, s.options, *where)
            for s in one.settings
        ]
        ends.append(len(rules))
    found = generate(
        problem,
        problem.table(cell.sampler, cell.steps),
        rules,
        Draw(cell.samples, cell.seed, first_sample(cell), BATCH, keep=0),
    )
    # The reference comes in whole rounds of the allowed classes: what is too much is left out.
    labels = found.labels[:, : cell.samples].astype(np.min_scalar_type(problem.info.num_classes))
    features = _small(found.features[:, : cell.samples])
    ran = [None] * len(rules) if found.ran is None else found.ran.tolist()
    calls = np.array(
        [problem.network_calls(r, cell.steps, a) or 0 for r, a in zip(rules, ran, strict=True)]
    )
    counts = (calls if calls.all() else None, found.asked)
    return [
        Found(labels[a:b], features[a:b], *(None if c is None else c[a:b] for c in counts))
        for a, b in itertools.pairwise(ends)
    ]


def _small(features: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = features.astype(np.float16)
    return half if np.isfinite(half).all() else features.astype(np.float32)


def first_sample(cell: Cell) -> int:
    """Index of the cell's first sample among those of its seed."""
    if len(cell.forbidden) == 1:
        return cell.forbidden[0] * NOISE_STRIDE
    # Beyond the blocks of single classes, up to what fold_in takes as a number (32 bits).
    hashed = zlib.crc32(repr(cell.forbidden).encode()) % (SET_BLOCKS - FIRST_SET_BLOCK)
    return (FIRST_SET_BLOCK + hashed) * NOISE_STRIDE
