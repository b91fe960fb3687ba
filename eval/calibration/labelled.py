"""Labelled images of a data set."""

from __future__ import annotations

import numpy as np

from dng_jax import data
from dng_jax.errors import MissingDataError


def labelled_images(dataset: str, count: int) -> tuple[np.ndarray, np.ndarray] | MissingDataError:
    """The first images, in [-1, 1], and their labels; of those that the network has not seen,
    where there are any. A bundled network can be tested without them: then what `data.load` says
    about them."""
    try:
        split = "all" if dataset == "digits" else "test"
        images, labels, _ = data.load(dataset, split)
    except MissingDataError as error:
        return error
    return data.to_unit(images[:count]), labels[:count]
