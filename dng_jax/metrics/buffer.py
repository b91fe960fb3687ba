"""Feature vectors kept as they come, for statistics over pairs of samples.

A mean over all pairs (KID) and a manifold of nearest neighbours (recall) need every feature vector
again when a new one arrives: what they stream into is the list itself. Memory: n d values of the
dtype given (float32: 4 n d bytes, 1 MB for 2,048 x 128, 410 MB for 50,000 x 2,048), bounded by
`limit`. Order does not matter to those statistics but for rounding, so parts can be merged freely.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dng_jax.errors import InputError

LIMIT = 100_000


def feature_rows(batch, width: int | None = None) -> np.ndarray:
    """batch as [N, d] of finite float32 or float64 (N may be 0); InputError otherwise.

    width: the d it must have; None for any.
    """
    batch = np.asarray(batch)
    if batch.dtype != np.float32:
        batch = batch.astype(np.float64)
    if batch.ndim != 2 or batch.shape[1] != (batch.shape[1] if width is None else width):
        raise InputError(
            f"features must have shape [N, {'d' if width is None else width}], "
            f"got {list(batch.shape)}: flatten each image to a row"
        )
    if not np.all(np.isfinite(batch)):
        bad = int(np.argmin(np.isfinite(batch).all(axis=1)))
        raise InputError(f"the features of sample {bad} are not finite: leave it out and say so")
    return batch


@dataclass(frozen=True, eq=False)
class FeatureBuffer:
    """All feature vectors seen so far. Immutable: `update` and `merge` return a new one."""

    width: int
    parts: tuple[np.ndarray, ...] = ()
    limit: int = LIMIT

    @property
    def count(self) -> int:
        """Samples kept."""
        return sum(len(part) for part in self.parts)

    def update(self, batch) -> FeatureBuffer:
        """With a batch [N, width] added; InputError for other features, or more than `limit`."""
        # A copy, since the caller's buffer may be filled again.
        return self._with((feature_rows(batch, self.width).copy(),))

    def merge(self, other: FeatureBuffer) -> FeatureBuffer:
        """The features of both."""
        if self.width != other.width:
            raise InputError(
                f"cannot merge {self.width} and {other.width} features"
                ": use one feature extractor for both"
            )
        return self._with(other.parts)

    def array(self) -> np.ndarray:
        """[n, width], in the order they came."""
        return np.concatenate(self.parts) if self.parts else np.zeros((0, self.width), np.float32)

    def _with(self, parts: tuple[np.ndarray, ...]) -> FeatureBuffer:
        kept = replace(self, parts=self.parts + tuple(part for part in parts if len(part)))
        if kept.count > self.limit:
            raise InputError(
                f"{kept.count} samples to keep, the limit is {self.limit}: raise it, or use "
                "precision without recall, which keeps no features"
            )
        return kept
