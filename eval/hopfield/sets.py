"""Pattern sets by name.

equidistant   --count, --dimension, --norm, --angle (degrees)
random        --count, --dimension, --norm
ultrametric   --groups, --count (patterns in all), --norm, --within, --between
digits, mnist, any data set of dng_jax.data: the first --count images, equally many per class
              (of the test split, but of all of digits and of folder:PATH), centred and of unit norm
              unless --normalise says otherwise
FILE.npy      rows [N, d], or images [N, ...] flattened: all of them, or the first --count, as
              they are unless --normalise says otherwise
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax import arrays, data
from dng_jax.data import own
from dng_jax.errors import InputError, choose
from dng_jax.jobs.options import shown
from hopfield_jax import energy, patterns, spectrum
from hopfield_jax.energy import Memory

from .options import Source

MADE = ("equidistant", "random", "ultrametric")
AS_THEY_ARE: dict[str, object] = {"dimension": None, "norm": 1.0}
GROUPED: dict[str, object] = {"groups": 4, "within": 0.8, "between": 0.0}
UNUSED: dict[str, dict[str, object]] = {  # options that a kind of set does not look at
    "equidistant": {"normalise": None} | GROUPED,
    "random": {"normalise": None, "angle": 90.0} | GROUPED,
    "ultrametric": {"normalise": None, "angle": 90.0},
    "images or rows of a file": AS_THEY_ARE | {"angle": 90.0} | GROUPED,
}
MOST_NUMBERS = 2**28  # of a made set, 2 GiB
WORDS = {"none": "as they are", "unit": "unit norm", "centred-unit": "centred, unit norm"}


@dataclass(frozen=True)
class PatternSet:
    """Patterns [N, d] float64, their classes [N] or None, a name; whether the theory is exact; info
    of the data set that they are from, None of others."""

    name: str
    patterns: np.ndarray
    labels: np.ndarray | None
    energy: Literal["dot", "euclidean"]
    equidistant: bool = False
    info: data.Info | None = None

    @property
    def count(self) -> int:
        """N."""
        return len(self.patterns)

    @property
    def scale(self) -> float:
        """beta_eff / beta."""
        return float(spectrum.beta_eff(self.patterns))

    def memory(self) -> Memory:
        """In the precision that is switched on (common.precise)."""
        dtype = jnp.float64 if jax.config.values["jax_enable_x64"] else jnp.float32
        return energy.memory(self.patterns, self.energy, dtype=dtype)


def build(source: Source, seed: int = 0, count: int = 16) -> PatternSet:
    """The set that the options describe; InputError where they describe none.

    count: how many patterns are made where the options do not say.
    """
    if source.count is not None and source.count < 2:
        raise InputError(f"--count must be at least 2 patterns, got {source.count}")
    if source.count is not None and source.count > 65_536:
        raise InputError(f"--count must be at most 65536 patterns, got {source.count}")
    kind = source.patterns if source.patterns in MADE else "images or rows of a file"
    for option, default in UNUSED[kind].items():
        if getattr(source, option) != default:
            raise InputError(f"--{option} says nothing about {kind}: leave it out")
    made = (source.count or count) * (source.dimension or 1)
    if source.patterns in MADE and made > MOST_NUMBERS:
        raise InputError(
            f"{source.count or count} patterns of {source.dimension} dimensions are too many"
            " numbers: lower --count or --dimension"
        )
    choose(source.energy, ("dot", "euclidean"), "energy")
    labels, info = None, None
    if source.patterns.endswith(".npy"):
        normalise = source.normalise or "none"
        x = patterns.from_images(_rows(source.patterns, source.count), normalise)
        name = f"{Path(source.patterns).stem} ({WORDS[normalise]})"
    elif source.patterns in MADE:
        x, labels = _made(source, source.count or count, seed)
        name = source.patterns
    else:
        normalise = source.normalise or "centred-unit"
        x, labels, info = _images(source.patterns, source.count or 60, normalise, seed)
        name = f"{shown(source.patterns)} ({WORDS[normalise]})"
    x = patterns.check(x)
    energy_name = "" if source.energy == "dot" else ", Euclidean energy"
    title = f"{name}, N = {len(x)}, d = {x.shape[1]}{energy_name}"
    return PatternSet(title, x, labels, source.energy, source.patterns == "equidistant", info)


def infos(prepared: Any) -> Iterator[data.Info]:
    """Of every data set in what a subcommand prepared: problems and pattern sets, in lists and
    tuples of any depth."""
    if (info := getattr(prepared, "info", None)) is not None:
        yield info
    elif isinstance(prepared, list | tuple):
        for part in prepared:
            yield from infos(part)


def _made(source: Source, count: int, seed: int):
    if source.patterns == "equidistant":
        angle = math.radians(source.angle)
        return patterns.equidistant(count, source.dimension, source.norm, angle), None
    if source.patterns == "random":
        d = 64 if source.dimension is None else source.dimension
        return patterns.random(seed, count, d, source.norm), None
    each, rest = divmod(count, source.groups) if source.groups > 0 else (0, 1)
    if rest:
        raise InputError(
            f"{count} patterns cannot be split into {source.groups} equal groups:"
            " choose --count as a multiple of --groups"
        )
    x = patterns.ultrametric(
        source.groups, each, source.norm**2, source.within, source.between, source.dimension
    )
    return x, np.repeat(np.arange(source.groups), each)


def _images(name: str, count: int, normalise, seed: int):
    small = name == "digits" or name.startswith(own.PREFIX)
    images, labels, info = data.load(name, "all" if small else "test")
    if count > len(images):
        raise InputError(f"{name} has {len(images)} images, --count asks for {count}")
    # Equally many per class, so that no class leads the mean; seed 0 keeps the order of the source.
    order = np.arange(len(labels))
    if seed:
        order = np.random.default_rng(seed).permutation(order)
    rank = np.empty(len(labels), int)
    for label in range(info.num_classes):
        members = order[labels[order] == label]
        rank[members] = np.arange(len(members))
    chosen = order[np.lexsort((labels[order], rank[order]))][:count]
    return patterns.from_images(images[chosen], normalise), labels[chosen], info


def _rows(name: str, count: int | None) -> np.ndarray:
    try:
        rows = arrays.read_npy(name)
    except InputError as error:
        raise InputError(f"{error}; --patterns names a .npy file of rows [N, d]") from None
    if rows.ndim < 2:
        raise InputError(f"{name} must hold patterns as rows [N, d], got shape {list(rows.shape)}")
    if rows.dtype.kind not in "fiub" or rows.dtype.names:
        raise InputError(f"{name} must hold real numbers, got {rows.dtype}: store float32")
    if count is not None and count > len(rows):
        raise InputError(f"{name} has {len(rows)} rows, --count asks for {count}")
    # Whole numbers are numbers here; only bytes are pixels.
    return rows[:count] if rows.dtype == np.uint8 else rows[:count].astype(np.float64)
