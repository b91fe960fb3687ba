"""digits: the 1,797 images of 8x8 pixels that scikit-learn embeds.

UCI "Optical Recognition of Handwritten Digits"; grey levels 0..16 become 0..255. Nothing is
downloaded. Within each class, every fifth image in the order of the source is "test", the others
are "train"; "all" keeps the order of the source.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from dng_jax.data.info import Info

INFO = Info("digits", 10, tuple(str(k) for k in range(10)), (8, 8, 1))


def load(split: str) -> tuple[np.ndarray, np.ndarray, Info]:
    """Images uint8 [N, 8, 8, 1], labels int32 [N], INFO."""
    table = _source()
    images = np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)[..., None]
    labels = table[:, -1].astype(np.int32)
    if split == "all":
        return images, labels, INFO
    chosen = _every_fifth(labels)
    if split == "train":
        chosen = ~chosen
    return images[chosen], labels[chosen], INFO


def _source() -> np.ndarray:
    """Grey levels 0..16 of 64 pixels, and the label, [1797, 65]."""
    package = importlib.util.find_spec("sklearn")
    for place in package.submodule_search_locations or () if package else ():
        # Its file without itself, which takes a second to import.
        file = Path(place) / "datasets" / "data" / "digits.csv.gz"
        if file.exists():
            return np.loadtxt(file, np.uint8, delimiter=",")
    from sklearn.datasets import load_digits

    source = load_digits()
    return np.column_stack([source.data, source.target])


def _every_fifth(labels: np.ndarray) -> np.ndarray:
    # Ranks within the class rather than a shuffle: no random stream whose version could change.
    rank = np.zeros(len(labels), int)
    for label in np.unique(labels):
        rank[labels == label] = np.arange(np.sum(labels == label))
    return rank % 5 == 4
