"""Vectors of a curve, the bars at its points, and the columns of a legend."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from dng_jax.errors import InputError


def legend_columns(names: Collection[str]) -> int:
    """Columns of a legend below a figure that holds these names."""
    # It holds about 84 letters, and the room of 7 for each marker.
    return min(4, len(names), max(1, 84 // (max(map(len, names)) + 7)))


def vector(values, name: str) -> np.ndarray:
    """The values as float64 [N]; InputError, which names the curve, for another shape."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise InputError(f"'{name}' needs vectors, got shape {list(values.shape)}")
    return values


def bar_lengths(value, low, high, name: str) -> np.ndarray | None:
    """Distances [2, N] of values [N] to their two bounds, as errorbar wants them; None without."""
    if low is None or high is None:
        return None
    if low.shape != value.shape or high.shape != value.shape:
        raise InputError(f"curve '{name}' needs bounds as long as its {len(value)} points")
    # A bound can pass its value by rounding, or where a corrected estimate fell below 0.
    return np.maximum(0, np.stack([value - low, high - value]))
