r"""The layers of the U-Net and the autoencoder, named as in diffusers.

Images are NHWC, [B, h, w, c]. A layer has the name that it has in torch, dots included
("resnets.0"): the path of a parameter, joined by dots, is the name of its tensor in diffusers'
files, but for the last word (dng_jax/weights/parts.py).

    resnet        h = conv1(silu(norm1(x)));   h = h + time_emb_proj(silu(e))   where there is an e
                  y = conv_shortcut(x) + conv2(silu(norm2(h)))
    attention     y = to_out.0(softmax(q k^T / sqrt(d)) v) for each head of width d; k, v of a text
    transformer   y = x + proj_out(blocks(proj_in(norm(x)))), positions as tokens; in a block
                  x = x + attn1(norm1(x));   x = x + attn2(norm2(x), text);   x = x + ff(norm3(x))
                  ff(x) = net.2(a gelu(b)),   [a, b] = net.0.proj(x),   gelu by erf

The eps of every norm is an argument. That of the transformer's first norm is 1e-6 and that of its
blocks 1e-5 in all of these networks, which is the default.

Parameters are float32; `dtype` is what products and convolutions compute in, None for float32.
Norms and softmax are float32 whatever it is.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dng_jax.nets.convolution import conv_general_dilated

Padding = tuple[tuple[int, int], tuple[int, int]]
AROUND: Padding = ((1, 1), (1, 1))
RIGHT_AND_BOTTOM: Padding = ((0, 1), (0, 1))
NONE: Padding = ((0, 0), (0, 0))
_convolution = partial(nn.Conv, conv_general_dilated=conv_general_dilated)


def conv(features: int, name: str | None, dtype: Any, size: int = 3) -> nn.Conv:
    """A convolution with a bias, size x size, that keeps the sides."""
    padding = NONE if size == 1 else AROUND
    return _convolution(features, (size, size), 1, padding, dtype=dtype, name=name)


def group_norm(x: jax.Array, groups: int, eps: float, name: str) -> jax.Array:
    """Group normalisation of [B, ..., c] with a scale and a bias, in the dtype of x."""
    # The fast variance, E[x^2] - E[x]^2, loses digits where the mean is large.
    norm = nn.GroupNorm(groups, epsilon=eps, use_fast_variance=False, dtype=jnp.float32, name=name)
    return norm(x.astype(jnp.float32)).astype(x.dtype)


def layer_norm(x: jax.Array, eps: float, name: str) -> jax.Array:
    """Layer normalisation of [B, N, c] with a scale and a bias, in the dtype of x."""
    norm = nn.LayerNorm(epsilon=eps, use_fast_variance=False, dtype=jnp.float32, name=name)
    return norm(x.astype(jnp.float32)).astype(x.dtype)


class TimeEmbedding(nn.Module):
    """Two dense layers with a silu between them, [B, I] -> [B, features]."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        h = nn.silu(nn.Dense(self.features, dtype=self.dtype, name="linear_1")(x))
        return nn.Dense(self.features, dtype=self.dtype, name="linear_2")(h)


class Resnet(nn.Module):
    """The residual block, x [B, h, w, c], e [B, E] or None -> [B, h, w, features]."""

    features: int
    groups: int
    eps: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x, e=None):
        c, dtype = self.features, self.dtype
        h = nn.silu(group_norm(x, self.groups, self.eps, "norm1"))
        h = conv(c, "conv1", dtype)(h)
        if e is not None:
            h = h + nn.Dense(c, dtype=dtype, name="time_emb_proj")(nn.silu(e))[:, None, None]
        h = nn.silu(group_norm(h, self.groups, self.eps, "norm2"))
        h = conv(c, "conv2", dtype)(h)
        if x.shape[-1] != c:
            x = conv(c, "conv_shortcut", dtype, 1)(x)
        return x + h


class Attention(nn.Module):
    """Attention of x [B, ..., c] to a text [B, M, D], or to x itself -> the shape of x.

    bias: whether q, k and v have one. groups above 0: x is normalised first, in so many groups,
    and added in the end, as in the autoencoder.
    """

    heads: int
    bias: bool = False
    groups: int = 0
    eps: float = 1e-6
    dtype: Any = None

    @nn.compact
    def __call__(self, x, text=None):
        b, c = x.shape[0], x.shape[-1]
        h = group_norm(x, self.groups, self.eps, "group_norm") if self.groups else x
        h = h.reshape(b, -1, c)
        context = h if text is None else text

        def by_heads(name, of):
            projected = nn.Dense(c, self.bias, self.dtype, name=name)(of)
            return projected.reshape(*of.shape[:2], self.heads, c // self.heads)

        q, k, v = by_heads("to_q", h), by_heads("to_k", context), by_heads("to_v", context)
        h = jax.lax.platform_dependent(q, k, v, cpu=attend_by_head, default=attend)
        h = nn.Dense(c, dtype=self.dtype, name="to_out.0")(h.reshape(b, -1, c)).reshape(x.shape)
        return x + h if self.groups else h


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v, q [B, N, H, d], k and v [B, M, H, d] -> [B, N, H, d]."""
    with jax.numpy_dtype_promotion("standard"):  # it promotes halves itself
        return jax.nn.dot_product_attention(q, k, v)


def attend_by_head(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """The same with the weights [B, N, M] of one head at a time in memory.

    Those of all 8 heads are 0.5 GB for an image of 512 pixels, and double what a network needs.
    """

    def one(head):
        q, k, v = head
        scores = jnp.einsum("bnd,bmd->bnm", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores * q.shape[-1] ** -0.5, axis=-1)
        return jnp.einsum("bnm,bmd->bnd", weights.astype(v.dtype), v)

    heads = tuple(jnp.moveaxis(a, 2, 0) for a in (q, k, v))
    return jnp.moveaxis(jax.lax.map(one, heads), 0, 2)


class FeedForward(nn.Module):
    """The gated network of a transformer's block, [B, N, c] -> the same."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        c = x.shape[-1]
        a, b = jnp.split(nn.Dense(8 * c, dtype=self.dtype, name="net.0.proj")(x), 2, -1)
        return nn.Dense(c, dtype=self.dtype, name="net.2")(a * nn.gelu(b, approximate=False))


class TransformerBlock(nn.Module):
    """Self-attention, attention to the text, feed-forward; x [B, N, c], text [B, M, D]."""

    heads: int
    eps: float = 1e-5
    dtype: Any = None

    @nn.compact
    def __call__(self, x, text):
        attention = partial(Attention, self.heads, dtype=self.dtype)
        x = x + attention(name="attn1")(layer_norm(x, self.eps, "norm1"))
        x = x + attention(name="attn2")(layer_norm(x, self.eps, "norm2"), text)
        return x + FeedForward(self.dtype, name="ff")(layer_norm(x, self.eps, "norm3"))


class Transformer(nn.Module):
    """The transformer of the file's docstring, x [B, h, w, c], text [B, M, D] -> [B, h, w, c].

    linear: whether proj_in and proj_out are dense layers or 1x1 convolutions, which compute the
    same and are stored in another shape.
    """

    heads: int
    depth: int
    linear: bool
    groups: int
    eps: float = 1e-6
    dtype: Any = None

    @nn.compact
    def __call__(self, x, text):
        b, height, width, c = x.shape

        def project(name):
            if self.linear:
                return nn.Dense(c, dtype=self.dtype, name=name)
            return conv(c, name, self.dtype, 1)

        h = project("proj_in")(group_norm(x, self.groups, self.eps, "norm")).reshape(b, -1, c)
        for i in range(self.depth):
            block = TransformerBlock(self.heads, dtype=self.dtype, name=f"transformer_blocks.{i}")
            h = block(h, text)
        return x + project("proj_out")(h.reshape(b, height, width, c))


class Downsample(nn.Module):
    """Halves the sides by a strided convolution, [B, h, w, c] -> [B, h/2, w/2, c].

    padding: AROUND in the U-Net, RIGHT_AND_BOTTOM in the autoencoder.
    """

    padding: Padding
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        down = _convolution(x.shape[-1], (3, 3), 2, self.padding, dtype=self.dtype, name="conv")
        return down(x)


class Upsample(nn.Module):
    """Doubles the sides, by repeating pixels, and convolves, [B, h, w, c] -> [B, 2h, 2w, c]."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        return conv(x.shape[-1], "conv", self.dtype)(x.repeat(2, axis=1).repeat(2, axis=2))
