r"""Convolutional classifiers of images, in two forms.

norm "none": small, for digits.

    x [B, H, W, C] in [-1, 1] -> stages of (conv3, relu) x 2, 2x2 mean pool between stages
                              -> features f = relu(dense(flat)) [B, F] -> logits [B, K]

norm "batch": a residual network for photographs, whose trunk is that of residual.py.

    x -> trunk of len(widths) + 1 stages, the last one of F channels -> f [B, F] -> dense(f / 4)

f, the penultimate layer, is the space in which a Frechet distance is taken. One image's logits
never depend on another's, but for batch normalisation while training.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dng_jax.nets import checks, residual
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
        batch = c.norm == "batch"
        x = x.astype(jnp.float32)
        f = (self._residual(x, train) if batch else self._plain(x)).astype(jnp.float32)
        dropped = nn.Dropout(c.dropout, deterministic=not train)(f)
        logits = nn.Dense(c.num_classes, name="logits")(dropped / 4.0 if batch else dropped)
        return (logits, f) if features else logits

    def _plain(self, x):
        c = self.config
        for i, width in enumerate(c.widths):
            if i > 0:
                # nn.avg_pool divides by an int, which strict promotion refuses.
                x = nn.pool(x, 0.0, jax.lax.add, (2, 2), (2, 2), "VALID") / 4.0
            for _ in range(2):
                x = nn.relu(nn.Conv(width, (3, 3), dtype=self.dtype)(x))
        flat = x.reshape(x.shape[0], -1)
        return nn.relu(nn.Dense(c.features, dtype=self.dtype, name="features")(flat))

    def _residual(self, x, train):
        c, channels = self.config, x.shape[-1]
        shape = (2, 2, channels, 4 * channels)
        kernel = self.param("whitening", nn.initializers.orthogonal(), shape, jnp.float32)
        return residual.trunk(x, kernel, (*c.widths, c.features), self.dtype, train)
