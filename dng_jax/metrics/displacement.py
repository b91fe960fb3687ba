r"""How far a rule moves images that start from the same noise: its invasiveness.

rms_b = sqrt( mean over elements of (a_b - b_b)^2 )
"""

from __future__ import annotations

import numpy as np

from dng_jax.errors import InputError


def rms_distance(a, b) -> np.ndarray:
    """Root mean square difference of each image, float64 [B], of a and b [B, ...] in their units.

    InputError for arrays of two shapes.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim < 2:
        raise InputError(f"images to compare have shapes {a.shape} and {b.shape}: draw them alike")
    return np.sqrt(((a - b) ** 2).reshape(len(a), -1).mean(1))
