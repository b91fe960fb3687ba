r"""The trunk of the residual classifier, for photographs, after Jordan 2024, arXiv 2404.00498.

    x = gelu([W x; -W x])                      W: whitens 2x2 patches, fixed (`whitening`)
    x = gelu(bn(maxpool2(conv3(x))));  x = x + gelu(bn(conv3(x)))          per stage
    f = mean of x over positions [B, F]

    bn(x) = (x - mean) / sqrt(variance + 1e-6) + 8 shift                 per channel

While training, mean and variance are those of the batch. At evaluation they are the two tensors in
`params`, so one image's logits never depend on another's; they get no gradient, and
dng_jax.training.batch_statistics.exact sets them after the training. A step of gradient descent on
`shift` moves bn by 64 times the rate (Jordan 2024: biases learn 64 times as fast as weights).

The classes' names are those of their parameters in model files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.nets.convolution import conv3x3_product_gradient

FIXED = ("whitening", "mean", "variance")  # tensors of `params` that no gradient reaches


def trunk(
    x: jax.Array, kernel: jax.Array, widths: Sequence[int], dtype: Any, train: bool
) -> jax.Array:
    """Images [B, H, W, C] -> features float32 [B, widths[-1]], one stage for each of the widths.

    kernel [2, 2, C, 4 C]: W. dtype: what convolutions compute in, None for float32. To be called by
    a compact module, whose parameters the layers' are.
    """
    kernel = jax.lax.stop_gradient(jnp.concatenate([kernel, -kernel], -1))
    x = nn.gelu(_patches(x, kernel, dtype))
    for width in widths:
        x = nn.gelu(BatchNorm(dtype)(_halve(Conv3(width, dtype)(x)), train))
        x = x + nn.gelu(BatchNorm(dtype)(Conv3(width, dtype)(x), train))
    return jnp.mean(x.astype(jnp.float32), (1, 2))


class Conv3(nn.Module):
    """3x3 convolution without a bias, [B, h, w, c] -> [B, h, w, width], from `identity`."""

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", identity, (3, 3, x.shape[-1], self.width), jnp.float32)
        return conv3x3_product_gradient(*(jnp.asarray(a, self.dtype) for a in (x, kernel)))


class BatchNorm(nn.Module):
    """bn of the file's docstring, [B, h, w, c] -> the same; computes in float32.

    train=True with mutable=["statistics"] also returns mean and variance of the batch, float32 [c].
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, x, train: bool):
        size = (x.shape[-1],)
        mean = self.param("mean", nn.initializers.zeros, size, jnp.float32)
        variance = self.param("variance", nn.initializers.ones, size, jnp.float32)
        shift = self.param("shift", nn.initializers.zeros, size, jnp.float32)
        x = x.astype(jnp.float32)
        if train:
            mean = jnp.mean(x, (0, 1, 2))
            variance = jnp.mean((x - mean[None, None, None]) ** 2, (0, 1, 2))
            for name, value in (("mean", mean), ("variance", variance)):
                self.sow("statistics", name, value, reduce_fn=lambda _, new: new, init_fn=lambda: 0)
        scale = jax.lax.rsqrt(variance + 1e-6)
        offset = 8 * shift - mean * scale
        y = x * scale[None, None, None] + offset[None, None, None]
        return y.astype(self.dtype or jnp.float32)


def identity(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Kernel [3, 3, I, O]: the first outputs copy the inputs, the others uniform +-(9 I)^-1/2."""
    _, _, inputs, outputs = shape
    kernel = jax.random.uniform(key, shape, dtype, -1, 1) / math.sqrt(9 * inputs)
    few = min(inputs, outputs)
    one = jnp.zeros((3, 3, inputs, few), dtype).at[1, 1].set(jnp.eye(inputs, few, dtype=dtype))
    return kernel.at[..., :few].set(one)


def whitening(images: np.ndarray) -> np.ndarray:
    """W float32 [2, 2, C, 4 C] of images [N, H, W, C] in [-1, 1].

    The principal directions of 2x2 patches, by falling variance v, each over sqrt(v + 5e-4).
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
