"""Distances to the nearest image of a set."""

from __future__ import annotations

import numpy as np

from dng_jax.errors import InputError

_BLOCK = 1024  # images at once, so that a large set does not fill the memory


def nearest_distances(images, others) -> np.ndarray:
    """min_k |x_b - z_k|, the norm over all elements: float64 [B] of images [B, ...] and others
    [N, ...] of one shape, N >= 1."""
    x, z = np.asarray(images, np.float64), np.asarray(others, np.float64)
    if x.shape[1:] != z.shape[1:] or len(z) == 0:
        raise InputError(
            f"distances need two sets of images of one shape, got {list(x.shape)} and"
            f" {list(z.shape)}"
        )
    x, z = x.reshape(len(x), -1), z.reshape(len(z), -1)
    norms = np.sum(z**2, axis=1)
    found = [np.zeros(0)]
    for start in range(0, len(x), _BLOCK):
        part = x[start : start + _BLOCK]
        nearest = np.argmin(norms - 2 * part @ z.T, axis=1)
        found.append(np.linalg.norm(part - z[nearest], axis=1))
    return np.concatenate(found)
