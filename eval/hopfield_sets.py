"""Pattern sets by name, and what every subcommand of `eval.hopfield` does around its work.

equidistant   --count, --dimension, --norm, --angle (degrees)
random        --count, --dimension, --norm
ultrametric   --groups, --count (patterns in all), --norm, --within, --between
digits, mnist, any data set of dng_jax.data      the first --count images, equally many a class
              (test split where there is one), normalised by --normalise
FILE.npy      rows [N, d], or images [N, ...] flattened; normalised by --normalise
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax import data
from dng_jax.errors import InputError, choose
from eval import runs
from hopfield_jax import energy, patterns, spectrum
from hopfield_jax.energy import Memory

MADE = ("equidistant", "random", "ultrametric")
PRECISIONS = {"float32": jnp.float32, "float64": jnp.float64}


@dataclass(frozen=True)
class Source:
    """Which patterns are stored; see the file's docstring."""

    patterns: str = "equidistant"
    """equidistant, random, ultrametric, digits, mnist, another data set, or FILE.npy."""
    count: int = 16
    """Number of patterns N (FILE.npy: at most so many of its rows)."""
    dimension: int | None = None
    """Dimension d of made patterns; default: as few as they need, 64 for random ones."""
    norm: float = 1.0
    """Norm of made patterns."""
    angle: float = 90.0
    """Angle between equidistant patterns, in degrees."""
    groups: int = 4
    """Groups of ultrametric patterns; within and between are inner products."""
    within: float = 0.8
    between: float = 0.0
    normalise: Literal["none", "unit", "centred-unit"] = "centred-unit"
    """What is done to images, or to the rows of FILE.npy."""
    energy: Literal["dot", "euclidean"] = "dot"
    """dot-product energy, or the Euclidean one, under which every pattern is retrievable."""


@dataclass(frozen=True)
class Common:
    """Options of every subcommand."""

    seed: int = 0
    precision: Literal["float32", "float64"] = "float64"
    """Of the fixed-point search; critical values are good to about 1e-4 in float32."""
    out: str | None = None
    """Folder of the results; default: a new one, runs/hopfield-NAME, runs/hopfield-NAME-2, ..."""
    overwrite: bool = False


@dataclass(frozen=True)
class PatternSet:
    """Patterns [N, d] float64, their classes [N] or None, and a short name."""

    name: str
    patterns: np.ndarray
    labels: np.ndarray | None
    energy: Literal["dot", "euclidean"]

    @property
    def scale(self) -> float:
        """beta_eff / beta."""
        return float(spectrum.beta_eff(self.patterns))

    def memory(self) -> Memory:
        """In the precision that is switched on (`precise`)."""
        dtype = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32  # type: ignore[attr-defined]
        return energy.memory(self.patterns, self.energy, dtype=dtype)


def build(source: Source, seed: int = 0) -> PatternSet:
    """The set that the options describe; InputError where they describe none."""
    if source.count < 2:
        raise InputError(f"--count must be at least 2 patterns, got {source.count}")
    choose(source.energy, ("dot", "euclidean"), "energy")
    labels = None
    if source.patterns.endswith(".npy"):
        x = patterns.from_images(_rows(source.patterns)[: source.count], source.normalise)
        name = Path(source.patterns).stem
    elif source.patterns in MADE:
        x, labels = _made(source, seed)
        name = source.patterns
    else:
        x, labels = _images(source, seed)
        name = f"{source.patterns} ({source.normalise})"
    x = patterns.check(x)
    return PatternSet(f"{name}, N = {len(x)}, d = {x.shape[1]}", x, labels, source.energy)


def _made(source: Source, seed: int):
    if source.patterns == "equidistant":
        angle = math.radians(source.angle)
        return patterns.equidistant(source.count, source.dimension, source.norm, angle), None
    if source.patterns == "random":
        return patterns.random(seed, source.count, source.dimension or 64, source.norm), None
    each, rest = divmod(source.count, source.groups) if source.groups > 0 else (0, 1)
    if rest:
        raise InputError(
            f"{source.count} patterns cannot be split into {source.groups} equal groups:"
            " choose --count as a multiple of --groups"
        )
    x = patterns.ultrametric(
        source.groups, each, source.norm**2, source.within, source.between, source.dimension
    )
    return x, np.repeat(np.arange(source.groups), each)


def _images(source: Source, seed: int):
    name = source.patterns
    images, labels, info = data.load(name, "all" if name == "digits" else "test")
    if source.count > len(images):
        raise InputError(f"{name} has {len(images)} images, --count asks for {source.count}")
    # Equally many a class, so that no class leads the mean; seed 0 keeps the order of the source.
    order = np.arange(len(labels))
    if seed:
        order = np.random.default_rng(seed).permutation(order)
    rank = np.empty(len(labels), int)
    for label in range(info.num_classes):
        members = order[labels[order] == label]
        rank[members] = np.arange(len(members))
    chosen = order[np.lexsort((labels[order], rank[order]))][: source.count]
    return patterns.from_images(images[chosen], source.normalise), labels[chosen]


def _rows(name: str) -> np.ndarray:
    try:
        rows = np.load(name, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"cannot read {name} as an array of patterns ({error}): name a .npy file of rows [N, d]"
        ) from None
    if rows.ndim < 2:
        raise InputError(f"{name} must hold patterns as rows [N, d], got shape {list(rows.shape)}")
    return rows


@contextlib.contextmanager
def precise(precision: str) -> Iterator[None]:
    """Runs its block in the named precision."""
    choose(precision, PRECISIONS, "precision")
    with jax.enable_x64(precision == "float64"):
        yield


def between(low: float | None, high: float | None, default: tuple[float, float], count: int):
    """count values of beta_eff, evenly spaced in their logarithm."""
    low, high = default[0] if low is None else low, default[1] if high is None else high
    if not (math.isfinite(low) and math.isfinite(high) and 0 < low < high):
        raise InputError(
            f"beta_eff must run from a number > 0 to a larger one, got {low:g} to {high:g}:"
            " set --low and --high"
        )
    if count < 2:
        raise InputError(f"--betas must be at least 2, got {count}")
    return np.geomspace(low, high, count)


def at_least(name: str, value: int, low: int) -> None:
    """InputError where a count is too small."""
    if value < low:
        raise InputError(f"--{name} must be at least {low}, got {value}")


def write_csv(path: Path, columns: Mapping[str, Any]) -> None:
    """Columns of one length, by name, as CSV with all digits."""
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(arrays)
    writer.writerows(zip(*(a.tolist() for a in arrays.values()), strict=True))
    runs.write_text(path, text.getvalue())


def unsettled_note(what: str, rows) -> str | None:
    """One sentence that names rows without a certified minimum, None where there are none."""
    rows = list(map(str, np.asarray(rows).ravel().tolist()))
    if not rows:
        return None
    shown = ", ".join(rows[:8]) + (", ..." if len(rows) > 8 else "")
    return f"no certified minimum for {len(rows)} {what}: {shown}; they are left out, not counted"
