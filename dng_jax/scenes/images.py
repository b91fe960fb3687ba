"""Scenes made of the embedded digits (dng_jax.data.digits): M of 8x8 pixels side by side.

    y_m uniform over 0..9, independent;   x_m one of the images of class y_m, all equally likely

so that what a prompt should give is known by counting: of two even digits 36% show a four.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax import data
from dng_jax.errors import InputError
from dng_jax.scenes.prompts import CELLS_MAX

SIZE = 8  # of a cell, pixels


def scenes(
    cells: int, count: int, key: jax.Array, *, split: str = "all"
) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 [count, 8, 8 cells, 1] in [-1, 1] and labels int32 [count, cells].

    key: typed PRNG key []; the same key gives the same scenes. split: of the digits, "train",
    "test" or "all". InputError unless 1 <= cells <= 6 and count >= 1.
    """
    if not 1 <= cells <= CELLS_MAX:
        raise InputError(f"a scene has 1 to {CELLS_MAX} cells, got {cells}")
    if count < 1:
        raise InputError(f"name at least 1 scene to make, got {count}")
    images, classes = digits(split)
    members = [np.flatnonzero(classes == k) for k in range(10)]
    which, within = jax.random.split(key)
    labels = np.asarray(jax.random.randint(which, (count, cells), 0, 10, jnp.int32))
    uniform = np.asarray(jax.random.uniform(within, (count, cells)), np.float64)
    sizes, first = np.array([len(m) for m in members]), np.concatenate(members)
    starts = np.cumsum(sizes) - sizes
    index = first[starts[labels] + np.floor(uniform * sizes[labels]).astype(int)]
    return side_by_side(images[index]), labels


def digits(split: str = "all") -> tuple[np.ndarray, np.ndarray]:
    """The digits a scene is made of: float32 [N, 8, 8, 1] in [-1, 1], labels int32 [N]."""
    images, labels, _ = data.load("digits", split)
    return data.to_unit(images), labels


def side_by_side(cells):
    """Cells [N, M, H, W, C] as scenes [N, H, M W, C]; NumPy or JAX arrays."""
    n, m, h, w, c = cells.shape
    return cells.swapaxes(1, 2).reshape(n, h, m * w, c)


def apart(scenes):
    """Scenes [N, 8, 8 M, C] as their cells [N, M, 8, 8, C]; NumPy or JAX arrays."""
    if scenes.ndim != 4 or scenes.shape[1] != SIZE or scenes.shape[2] % SIZE:
        raise InputError(
            f"scenes have shape [N, {SIZE}, {SIZE} cells, channels], got {tuple(scenes.shape)}"
        )
    n, h, width, c = scenes.shape
    return scenes.reshape(n, h, width // SIZE, SIZE, c).swapaxes(1, 2)
