"""How near samples come to forbidden images, and the samples that stay away from them: the rest,
whose classes and features are compared with the data's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dng_jax.experiments.generating import Generated
from dng_jax.experiments.image_sets import ForbiddenImages
from dng_jax.metrics import Share, share


class Nearness(NamedTuple):
    """Samples beside the forbidden images: distances to the nearest of them (mean and its 95%
    interval, least, median), and the share within the radius."""

    mean: float
    low: float
    high: float
    least: float
    median: float
    inside: Share


def nearness(images: ForbiddenImages, by_seed: Sequence[Generated]) -> Nearness:
    """How near the samples of one rule come, over its seeds; all images must have been kept."""
    d = np.concatenate([images.distances(g.images[0]) for g in by_seed])
    error = 1.96 * d.std(ddof=1) / np.sqrt(len(d))
    inside = share(int((d <= images.radius).sum()), len(d))
    return Nearness(
        d.mean(), d.mean() - error, d.mean() + error, d.min(), float(np.median(d)), inside
    )


def rest(images: ForbiddenImages, generated: Generated) -> Generated:
    """The samples of one rule that do not count as forbidden; all images must have been kept."""
    kept = ~images.inside(generated.images[0])
    return dataclasses.replace(
        generated,
        labels=generated.labels[:, kept],
        batches=(generated.features[:, kept],),
        streams=1,
        images=generated.images[:, kept],
    )
