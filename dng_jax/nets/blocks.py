r"""The layers that several networks share, [B, h, w, c] -> [B, h', w', c'], NHWC.

Conv3, GroupNorm, Attention, Down, Up, space_to_depth and depth_to_space; ResBlock, whose equation
stands in unet.py. Parameters are float32; `dtype` is what products and convolutions compute in,
None for float32.

Two things here are as they are for a CPU, where XLA is slow (measured): 3x3 convolutions
(convolution.py), and `block_average`, the means of groups of channels.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype

from dng_jax.nets import convolution


def space_to_depth(x: jax.Array, factor: int) -> jax.Array:
    """[B, H, W, C] -> [B, H/f, W/f, f f C]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // factor, factor, w // factor, factor, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // factor, w // factor, factor**2 * c)


def depth_to_space(x: jax.Array, factor: int) -> jax.Array:
    """[B, h, w, f f C] -> [B, h f, w f, C], the inverse of `space_to_depth`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, factor, factor, c // factor**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * factor, w * factor, c // factor**2)


def mean_pool(x: jax.Array, factor: int) -> jax.Array:
    """[B, H, W, C] -> means over f x f squares, [B, H/f, W/f, C], in the dtype of x."""
    if factor == 1:
        return x
    b, h, w, c = x.shape
    return x.reshape(b, h // factor, factor, w // factor, factor, c).mean((2, 4))


class Conv3(nn.Module):
    """3x3 convolution, zero padding, bias; kernel [3, 3, C_in, features] as in nn.Conv."""

    features: int
    zero: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.zeros if self.zero else nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (3, 3, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return convolution.conv3x3(x, kernel) + bias[None, None, None]


class GroupNorm(nn.Module):
    """Group normalisation with a learned scale and bias, [B, h, w, c] -> the same.

    Groups of channels share mean and variance (Wu & He 2018); variance as E[(x - mean)^2], since
    E[x^2] - E[x]^2 loses digits in float32 where the mean is large. Computes in float32 and answers
    in the dtype of x.
    """

    @nn.compact
    def __call__(self, x):
        c, dtype = x.shape[-1], x.dtype
        x = x.astype(jnp.float32)
        groups = groups_of(c)
        scale = self.param("scale", nn.initializers.ones, (c,), jnp.float32)[None, None, None]
        bias = self.param("bias", nn.initializers.zeros, (c,), jnp.float32)[None, None, None]
        centred = x - block_average(x.mean((1, 2)), groups)[:, None, None]
        variance = block_average((centred**2).mean((1, 2)), groups)[:, None, None]
        return (centred * (jax.lax.rsqrt(variance + 1e-6) * scale) + bias).astype(dtype)


def groups_of(channels: int) -> int:
    """Into how many groups GroupNorm puts them: 32 of a multiple of 128, fewer of fewer."""
    return math.gcd(32, max(1, channels // 4), channels)


def block_average(x: jax.Array, groups: int) -> jax.Array:
    """x [B, c] float32 -> every channel's mean over its group, [B, c].

    By a product with a [c, c] block matrix: on a CPU five times as fast as a reduction over groups.
    """
    c = x.shape[-1]
    average = np.kron(np.eye(groups), np.full([c // groups] * 2, groups / c))
    return jnp.matmul(x, jnp.asarray(average, x.dtype), precision="highest")


class ResBlock(nn.Module):
    """The residual block of the equation sheet: x [B, h, w, c], e [B, E] -> [B, h, w, features]."""

    features: int
    dropout: float
    scale_shift: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x, e, train: bool = False):
        dense, conv3 = partial(nn.Dense, dtype=self.dtype), partial(Conv3, dtype=self.dtype)
        h = conv3(self.features)(nn.silu(GroupNorm()(x)))
        if self.scale_shift:
            scale, shift = jnp.split(dense(2 * self.features)(nn.silu(e))[:, None, None], 2, -1)
            h = GroupNorm()(h) * (1 + scale) + shift
        else:
            h = GroupNorm()(h + dense(self.features)(nn.silu(e))[:, None, None])
        h = nn.Dropout(self.dropout, deterministic=not train)(nn.silu(h))
        h = conv3(self.features, zero=True)(h)
        if x.shape[-1] != self.features:
            x = dense(self.features, name="skip")(x)
        return x + h


class Attention(nn.Module):
    """Single-head self-attention over positions with a residual, [B, h, w, c] -> the same."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        b, h, w, c = x.shape
        dense = partial(nn.Dense, dtype=self.dtype)
        flat = GroupNorm()(x).reshape(b, h * w, c)
        q, k, v = (dense(c, name=name)(flat) for name in ("query", "key", "value"))
        scores = jnp.einsum("bqc,bkc->bqk", q, k, preferred_element_type=jnp.float32)
        weights = nn.softmax(scores * c**-0.5, axis=-1).astype(v.dtype)
        out = dense(c, kernel_init=nn.initializers.zeros, name="out")(weights @ v)
        return x + out.reshape(b, h, w, c)


class Down(nn.Module):
    """Halves the sides, keeps the channels."""

    resample: str
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        c, dtype = x.shape[-1], self.dtype
        if self.resample == "shuffle":
            return nn.Dense(c, dtype=dtype)(space_to_depth(x, 2))
        return nn.Conv(c, (3, 3), strides=2, padding=((0, 1), (0, 1)), dtype=dtype)(x)


class Up(nn.Module):
    """Doubles the sides; "conv" keeps the channels, "shuffle" goes to `features` of them."""

    resample: str
    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        if self.resample == "shuffle":
            return depth_to_space(nn.Dense(4 * self.features, dtype=self.dtype)(x), 2)
        return Conv3(x.shape[-1], dtype=self.dtype)(x.repeat(2, axis=1).repeat(2, axis=2))
