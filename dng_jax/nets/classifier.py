r"""Convolutional classifiers of generated images, in two forms.

norm "none": small, for digits.

    x [B, H, W, C] in [-1, 1] -> stages of (conv3, relu) x 2, 2x2 mean pool between stages
                              -> features f = relu(dense(flat)) [B, F] -> logits [B, K]

norm "batch": a residual network for photographs, after Jordan 2024, arXiv 2404.00498.

    x = gelu([W x; -W x])                      W: whitens 2x2 patches, fixed (`whitening`)
    x = gelu(bn(maxpool2(conv3(x))));  x = x + gelu(bn(conv3(x)))          per stage
    f = mean of x over positions [B, F],   logits = dense(f / 4) [B, K]

f, the penultimate layer, is the space in which a Frechet distance is taken.

    bn(x) = (x - mean) / sqrt(variance + 1e-6) + 8 shift                 per channel

While training, mean and variance are those of the batch. At evaluation they are the two tensors in
`params`, so one image's logits never depend on another's; they get no gradient, and
dng_jax.training.batch_statistics.exact sets them after the training. A step of gradient descent on
`shift` moves bn by 64 times the rate (Jordan 2024: biases learn 64 times as fast as weights).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError, choose
from dng_jax.nets.config import Config
from dng_jax.nets.convolution import conv3

NORMS = ("none", "batch")


@dataclass(frozen=True)
class ClassifierConfig(Config):
    """Static description of a classifier; see the file's docstring."""

    image_shape: tuple[int, int, int]
    """H, W, C."""
    num_classes: int = 10
    """K, at least 2."""
    widths: tuple[int, ...] = (32, 48)
    """Channels of each stage, every stage half as large as the one before."""
    features: int = 64
    """F, the width of the penultimate layer; of norm batch, the channels of one more stage."""
    dropout: float = 0.2
    """In front of the logits, 0 to below 1."""
    norm: str = "none"
    """none, or batch: a residual network with batch normalisation, for photographs."""

    def __post_init__(self):
        choose(self.norm, NORMS, "norm")
        if not self.widths or min(self.widths) < 1:
            raise InputError(f"widths must be one or more numbers from 1, got {list(self.widths)}")
        for name, low in (("num_classes", 2), ("features", 1)):
            if getattr(self, name) < low:
                raise InputError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        # With norm "batch" the patches take a row and a column, and every stage halves.
        batch = self.norm == "batch"
        halvings = len(self.widths) + (1 if batch else -1)
        if min(self.image_shape[:2]) - batch < 2**halvings:
            raise InputError(
                f"images of {self.image_shape[0]}x{self.image_shape[1]} cannot be halved"
                f" {halvings} times: name fewer widths"
            )


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
        batch = c.norm == "batch"
        f = (self._residual(x, train) if batch else self._plain(x)).astype(jnp.float32)
        dropped = nn.Dropout(c.dropout, deterministic=not train)(f)
        logits = nn.Dense(c.num_classes, name="logits")(dropped / 4 if batch else dropped)
        return (logits, f) if features else logits

    def _plain(self, x):
        c = self.config
        for i, width in enumerate(c.widths):
            if i > 0:
                x = nn.avg_pool(x, (2, 2), (2, 2))
            for _ in range(2):
                x = nn.relu(nn.Conv(width, (3, 3), dtype=self.dtype)(x))
        flat = x.reshape(x.shape[0], -1)
        return nn.relu(nn.Dense(c.features, dtype=self.dtype, name="features")(flat))

    def _residual(self, x, train):
        def conv(x, width):
            return Conv3(width, self.dtype)(x)

        def norm(x):
            return nn.gelu(BatchNorm(self.dtype)(x, train))

        size = 4 * x.shape[-1]
        kernel = self.param("whitening", nn.initializers.orthogonal(), (2, 2, x.shape[-1], size))
        kernel = jax.lax.stop_gradient(jnp.concatenate([kernel, -kernel], -1))
        x = nn.gelu(_patches(x, kernel, self.dtype))
        for width in (*self.config.widths, self.config.features):
            x = norm(_halve(conv(x, width)))
            x = x + norm(conv(x, width))
        return jnp.mean(x.astype(jnp.float32), (1, 2))


class Conv3(nn.Module):
    """3x3 convolution without a bias, from the kernel `identity`."""

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", identity, (3, 3, x.shape[-1], self.width))
        return conv3(*(jnp.asarray(a, self.dtype) for a in (x, kernel)))


class BatchNorm(nn.Module):
    """Normalises every channel of x [B, H, W, C]; see the file's docstring.

    train=True with mutable=["statistics"] also returns mean and variance of the batch, float32 [C].
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, x, train: bool):
        size = (x.shape[-1],)
        mean = self.param("mean", nn.initializers.zeros, size)
        variance = self.param("variance", nn.initializers.ones, size)
        shift = self.param("shift", nn.initializers.zeros, size)
        if train:
            y = x.astype(jnp.float32)
            mean = jnp.mean(y, (0, 1, 2))
            variance = jnp.mean((y - mean) ** 2, (0, 1, 2))
            for name, value in (("mean", mean), ("variance", variance)):
                self.sow("statistics", name, value, reduce_fn=lambda _, new: new, init_fn=lambda: 0)
        scale = jax.lax.rsqrt(variance + 1e-6)
        return (x * scale + (8 * shift - mean * scale)).astype(self.dtype or jnp.float32)


def identity(key, shape, dtype=jnp.float32):
    """Kernel [3, 3, I, O]: the first outputs copy the inputs, the others uniform +-(9 I)^-1/2."""
    _, _, inputs, outputs = shape
    kernel = jax.random.uniform(key, shape, dtype, -1, 1) / np.sqrt(9 * inputs)
    few = min(inputs, outputs)
    one = jnp.zeros((3, 3, inputs, few), dtype).at[1, 1].set(jnp.eye(inputs, few, dtype=dtype))
    return kernel.at[..., :few].set(one)


def whitening(images: np.ndarray) -> np.ndarray:
    """[2, 2, C, 4 C]: the principal directions of 2x2 patches, each over its standard deviation.

    images [N, H, W, C] in [-1, 1]; directions are of the second moments about the mean.
    """
    x = np.asarray(images, np.float64)
    parts = [x[:, i : x.shape[1] - 1 + i, j : x.shape[2] - 1 + j] for i in (0, 1) for j in (0, 1)]
    flat = np.concatenate(parts, -1).reshape(-1, 4 * x.shape[-1])
    values, vectors = np.linalg.eigh(np.cov(flat, rowvar=False))
    kernel = vectors[:, ::-1] / np.sqrt(values[::-1] + 5e-4)
    return kernel.reshape(2, 2, x.shape[-1], -1).astype(np.float32)


def _patches(x, kernel, dtype):
    x, kernel = (jnp.asarray(a, dtype) for a in (x, kernel))
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _halve(x):
    """Max pool 2x2, as maxima of slices: XLA differentiates its own five times as slowly on CPUs.

    A last odd row or column is left out.
    """
    b, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c)
    rows = jnp.maximum(x[:, :, 0], x[:, :, 1])
    return jnp.maximum(rows[:, :, :, 0], rows[:, :, :, 1])
