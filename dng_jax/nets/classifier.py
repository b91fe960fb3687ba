r"""A small convolutional classifier that judges generated images.

    x [B, H, W, C] in [-1, 1] -> stages of (conv3, relu) x 2, 2x2 mean pool between stages
                              -> features f = relu(dense(flat)) [B, F] -> logits [B, K]

f, the penultimate layer, is the space in which a Frechet distance is taken. There is no
normalisation across pixels or examples, so one image's logits never depend on another's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from dng_jax.errors import InputError
from dng_jax.nets.unet import config_from_dict


@dataclass(frozen=True)
class ClassifierConfig:
    """Static description; widths: channels of each stage; features F: the penultimate layer."""

    image_shape: tuple[int, int, int]
    num_classes: int = 10
    widths: tuple[int, ...] = (32, 48)
    features: int = 64
    dropout: float = 0.2

    def __post_init__(self):
        if not self.widths or min(self.widths) < 1:
            raise InputError(f"widths must be one or more numbers from 1, got {list(self.widths)}")
        for name, low in (("num_classes", 2), ("features", 1)):
            if getattr(self, name) < low:
                raise InputError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if min(self.image_shape[:2]) < 2 ** (len(self.widths) - 1):
            raise InputError(
                f"images of {self.image_shape[0]}x{self.image_shape[1]} cannot be halved"
                f" {len(self.widths) - 1} times: name fewer widths"
            )

    def to_dict(self) -> dict:
        """Plain JSON values; tuples become lists."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict) -> ClassifierConfig:
        """The inverse of `to_dict`; raises InputError for an unknown field."""
        return config_from_dict(cls, values)


class Classifier(nn.Module):
    """`apply({"params": p}, x)` -> logits [B, K]; features=True returns (logits, f [B, F]) instead.

    x [B, H, W, C] float32 in [-1, 1]. train=True needs rngs={"dropout": key}.
    dtype: of the convolutions and products, None for float32; logits and features are float32.
    """

    config: ClassifierConfig
    dtype: Any = None

    @nn.compact
    def __call__(self, x, *, features: bool = False, train: bool = False):
        c = self.config
        for i, width in enumerate(c.widths):
            if i > 0:
                x = nn.avg_pool(x, (2, 2), (2, 2))
            for _ in range(2):
                x = nn.relu(nn.Conv(width, (3, 3), dtype=self.dtype)(x))
        flat = x.reshape(x.shape[0], -1)
        f = nn.relu(nn.Dense(c.features, dtype=self.dtype, name="features")(flat))
        f = f.astype(jnp.float32)
        dropped = nn.Dropout(c.dropout, deterministic=not train)(f)
        logits = nn.Dense(c.num_classes, name="logits")(dropped)
        return (logits, f) if features else logits


CLASSIFIER_CONFIGS = {
    "digits": ClassifierConfig((8, 8, 1), 10),
    "mnist": ClassifierConfig((28, 28, 1), 10, widths=(32, 64, 128), features=128, dropout=0.4),
    "fashion_mnist": ClassifierConfig(
        (28, 28, 1), 10, widths=(32, 64, 128), features=128, dropout=0.4
    ),
    "cifar10": ClassifierConfig(
        (32, 32, 3), 10, widths=(64, 128, 256, 256), features=256, dropout=0.4
    ),
}
