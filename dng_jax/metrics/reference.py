r"""Real features of a data set, class by class, as one small file: a reference without the data.

Per class k: count n_k, mean [F], scatter [F, F] of all its images (dng_jax.metrics.frechet), and
the features of `keep` of them, for statistics over pairs (KID, precision and recall). Leaving
classes out is then a sum over the others.

Format: safetensors, with
    count [K] int64      mean [K, F] float64
    scatter [K, F (F + 1) / 2] float32             row by row, up to the diagonal: it is symmetric
    features [M, F] float32 or float16             labels [M] int32, ascending
and metadata format = "dng_jax reference 2", extractor = the name of the feature extractor, plus
whatever the writer adds. float32 scatter moves a Frechet distance by about 1e-7 of its traces. The
kept features come in equal numbers per class, whatever the class frequencies.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dng_jax import data
from dng_jax.errors import InputError, choose, some_classes
from dng_jax.metrics.buffer import feature_rows
from dng_jax.metrics.frechet import Moments
from dng_jax.weights import pretrained, tensors

FORMAT = "dng_jax reference 2"
KEPT_OF_IMAGES = 200
SHAPES = {"count": "K", "mean": "KF", "scatter": "KT", "features": "MF", "labels": "M"}


@dataclass(frozen=True, eq=False)
class Reference:
    """Moments of each of K classes; kept features [M, F] float32 and their labels [M] int64.

    extractor: what the features are, for instance "mnist-classifier"; compare with no others.
    """

    moments: tuple[Moments, ...]
    features: np.ndarray
    labels: np.ndarray
    extractor: str

    @classmethod
    def of(cls, features, labels, classes: int, *, extractor: str, keep: int = 300) -> Reference:
        """From real features [N, F] and labels [N]; keeps the first `keep` of each class."""
        features, labels = feature_rows(features), np.asarray(labels)
        if labels.shape != (len(features),) or not np.issubdtype(labels.dtype, np.integer):
            raise InputError(
                f"labels must be {len(features)} integers, one per feature vector, "
                f"got {labels.dtype} {list(labels.shape)}"
            )
        per_class = [features[labels == k] for k in range(classes)]
        if empty := [k for k, x in enumerate(per_class) if len(x) < 2]:
            raise InputError(
                f"classes {empty} have fewer than two real samples: number classes from 0"
            )
        if sum(map(len, per_class)) < len(labels):
            raise InputError(
                f"labels must lie in 0..{classes - 1}, got {labels.min()}..{labels.max()}"
            )
        kept = [x[:keep] for x in per_class]
        return cls(
            tuple(Moments.zero(features.shape[1]).update(x) for x in per_class),
            np.concatenate(kept).astype(np.float32),
            np.repeat(np.arange(classes), [len(x) for x in kept]),
            extractor,
        )

    @classmethod
    def of_images(
        cls, classify, images: np.ndarray, labels: np.ndarray, classes: int, *, extractor: str
    ) -> Reference:
        """From real images uint8 [N, H, W, C], through a classifier (dng_jax.metrics.features).

        classify: images in [-1, 1] -> (labels, features [B, F]); keeps 200 of each class.
        """
        seen = [
            classify(data.to_unit(images[first : first + 4096]))[1]
            for first in range(0, len(images), 4096)
        ]
        features = np.concatenate(seen)
        return cls.of(features, labels, classes, extractor=extractor, keep=KEPT_OF_IMAGES)

    @classmethod
    def bundled(cls, name: str) -> Reference | None:
        """Of the training images of a bundled classifier (dng_jax.weights.pretrained).

        None where none is bundled (digits: the data set itself is). InputError for another name.
        """
        with pretrained.path(name) as file:
            path = cls.path_beside(file)
            return cls.load(path) if path.exists() else None

    @staticmethod
    def path_beside(classifier: str | os.PathLike) -> Path:
        """Where the reference of a classifier's file lies: X.reference.safetensors beside X."""
        return Path(classifier).with_suffix(".reference.safetensors")

    def excluding(self, forbidden: Collection[int] = ()) -> tuple[Moments, np.ndarray]:
        """Moments and kept features [M', F] of the other classes together."""
        classes = len(self.moments)
        banned = some_classes(forbidden, classes) if forbidden else ()
        allowed = [k for k in range(classes) if k not in banned]
        moments = self.moments[allowed[0]]
        for k in allowed[1:]:
            moments = moments.merge(self.moments[k])
        return moments, self.features[np.isin(self.labels, allowed)]

    def save(
        self,
        path: str | os.PathLike,
        metadata: Mapping[str, str] | None = None,
        dtype: str = "float32",
    ) -> None:
        """Writes the file, whole or not at all; dtype "float16" halves the kept features."""
        choose(dtype, ("float32", "float16"), "dtype of kept features")
        with np.errstate(over="ignore"):
            features = self.features.astype(dtype)
        if not np.all(np.isfinite(features)):
            raise InputError(
                f"features up to {np.abs(self.features).max():.3g} do not fit {dtype}: use float32"
            )
        arrays = {
            "count": np.array([m.count for m in self.moments], np.int64),
            "mean": np.stack([m.mean for m in self.moments]),
            "scatter": np.stack([_triangle(m.scatter) for m in self.moments]).astype(np.float32),
            "features": features,
            "labels": self.labels.astype(np.int32),
        }
        text = {**(metadata or {}), "format": FORMAT, "extractor": self.extractor}
        tensors.write(path, arrays, text)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Reference:
        """Reads a file that `save` wrote; InputError for any other."""
        arrays, text = tensors.read(path)
        if text.get("format") != FORMAT or set(arrays) != set(SHAPES):
            raise InputError(f"{path} is no reference of this library: write one with save")
        sizes: dict[str, int] = {}
        for name, letters in SHAPES.items():
            shape = arrays[name].shape
            fits = len(shape) == len(letters) and all(
                sizes.setdefault(letter, n) == n for letter, n in zip(letters, shape, strict=True)
            )
            if not fits:
                raise InputError(f"{path}: {name} has shape {list(shape)}: make it again")
        classes, width = arrays["mean"].shape
        if sizes["T"] != width * (width + 1) // 2:
            raise InputError(
                f"{path}: scatter of {width} features has {sizes['T']} numbers per class: make it"
                " again"
            )
        for name, value in arrays.items():
            whole = name in ("count", "labels")
            if value.dtype.kind != ("i" if whole else "f") or not np.isfinite(value).all():
                kind = "whole" if whole else "finite"
                raise InputError(f"{path}: {name} must hold {kind} numbers: make it again")
        if (arrays["count"] < 2).any():
            raise InputError(f"{path}: count below 2 samples of each class: make it again")
        if (
            arrays["labels"].size
            and not 0 <= arrays["labels"].min() <= arrays["labels"].max() < classes
        ):
            raise InputError(f"{path}: labels outside 0..{classes - 1}: make it again")
        moments = zip(arrays["count"], arrays["mean"], arrays["scatter"], strict=True)
        return cls(
            tuple(Moments(int(n), m, _symmetric(s, width)) for n, m, s in moments),
            arrays["features"].astype(np.float32),
            arrays["labels"].astype(np.int64),
            text.get("extractor", ""),
        )


def _triangle(scatter: np.ndarray) -> np.ndarray:
    return scatter[np.tril_indices(len(scatter))]


def _symmetric(triangle: np.ndarray, width: int) -> np.ndarray:
    lower = np.zeros((width, width))
    lower[np.tril_indices(width)] = triangle
    return lower + np.tril(lower, -1).T
