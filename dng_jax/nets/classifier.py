r"""A small convolutional classifier of generated images.

    x [B, H, W, C] in [-1, 1] -> stages of (conv3, relu) x 2, 2x2 mean pool between stages
                              -> features f = relu(dense(flat)) [B, F] -> logits [B, K]

f, the penultimate layer, is the space in which a Frechet distance is taken. There is no
normalisation across pixels or examples, so one image's logits never depend on another's.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dng_jax.nets import checks
from dng_jax.nets.config import ClassifierConfig


class Classifier(nn.Module):
    """`apply({"params": p}, x)` -> logits [B, K]; features=True returns (logits, f [B, F]) instead.

    x [B, H, W, C] in [-1, 1], of any float type, taken as float32. train=True needs
    rngs={"dropout": key}.
    dtype: of the convolutions and products, None for float32; logits and features are float32.
    """

    config: ClassifierConfig
    dtype: Any = None

    @nn.compact
    def __call__(self, x, *, features: bool = False, train: bool = False):
        c = self.config
        checks.batch(x, c.image_shape)
        x = x.astype(jnp.float32)
        for i, width in enumerate(c.widths):
            if i > 0:
                # nn.avg_pool divides by an int, which strict promotion refuses.
                x = nn.pool(x, 0.0, jax.lax.add, (2, 2), (2, 2), "VALID") / 4.0
            for _ in range(2):
                x = nn.relu(nn.Conv(width, (3, 3), dtype=self.dtype)(x))
        flat = x.reshape(x.shape[0], -1)
        f = nn.relu(nn.Dense(c.features, dtype=self.dtype, name="features")(flat))
        f = f.astype(jnp.float32)
        dropped = nn.Dropout(c.dropout, deterministic=not train)(f)
        logits = nn.Dense(c.num_classes, name="logits")(dropped)
        return (logits, f) if features else logits
