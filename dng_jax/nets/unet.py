r"""A U-Net that predicts the noise (or v, or x0), in three forms.

Input, NHWC float32, variance preserving:

    x = alpha x0 + sigma eps,   alpha^2 + sigma^2 = 1,   logsnr = log(alpha^2 / sigma^2)

    conditioning   call                    returns                 heads or roles
    "none"         (x, logsnr)             [B, H, W, C]            p(x) alone
    "label"        (x, logsnr, label)      [B, H, W, C]            label k: class k; K: null label
    "heads"        (x, logsnr)             [B, K+1, H, W, C]       head k: class k; head K: p(x)

Residual block (Ho et al. 2020, appendix B), e the embedding of logsnr (and of the label):

    h = conv3(silu(norm(x)));   h = norm(h) + shift(e)   or   norm(h) (1 + scale(e)) + shift(e)
    y = skip(x) + conv3(dropout(silu(h)))                       conv3 here starts at zero

The paper-sized form adds e before the second norm, which leaves its parameter count untouched;
scale and shift after it (Dhariwal & Nichol 2021, arXiv 2105.05233) is what small networks use.

"heads" is a class-blind trunk: every class is predicted from the same features g by

    out = conv3(silu(norm(conv3(g)) (1 + scale(e)) + shift(e))),   (K+1) C outputs a pixel

so the K+1 predictions that a `classes` tracker needs cost one network call. These differ linearly
in features that all classes share. That is too little at high noise, where the denoised image of a
class is a global shape of its own; `global_channels` > 0 adds to every head a small dense network
over all positions, modulated by an embedding e_k of noise level and class:

    z = norm(dense([features; x]))      once
    z_k = silu(z (1 + scale(e_k)) + shift(e_k));   out_k += dense(silu(dense(z_k))),  H W C numbers

Embedding of the noise level: sin and cos of logsnr times geometric frequencies, .05 to 4 radians a
unit: the discrete levels of a schedule (about .02 apart) stay smooth, the ends stay distinct.

`patch` = p folds p x p pixels into channels before the first convolution (space to depth) and
unfolds them after the last one: 1/p^2 of the work. `head_kernel` = 1 makes the last convolution of
"heads" a product per position: with p = 4 its (K+1) p^2 C outputs would cost half of the network.

Precision: parameters are float32; `UNet(config, dtype)` says what convolutions and matrix products
compute in. With bfloat16 the norms, attention's softmax, the embedding of the noise level and the
output stay float32. None: all of it float32.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype

from dng_jax.errors import InputError, choose
from dng_jax.schedules import PARAMETERISATIONS

CONDITIONINGS = ("none", "label", "heads")


@dataclass(frozen=True)
class UNetConfig:
    """Static description of a U-Net; plain values only, so that it round-trips through JSON.

    image_shape (H, W, C); num_classes K; multipliers: channels of level i are channels *
    multipliers[i], each level half as large; blocks: residual blocks a level on the way down (one
    more on the way up); attention_levels: indices of levels with self-attention (and then in the
    middle too); resample: "conv" (strided, nearest + conv3) or "shuffle" (space to depth and back
    around a matrix product: cheap on a CPU); scale_shift: how the noise level enters a block.
    """

    image_shape: tuple[int, int, int]
    num_classes: int = 10
    conditioning: str = "none"
    parameterisation: str = "eps"
    channels: int = 64
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 2
    middle_blocks: int = 2
    attention_levels: tuple[int, ...] = ()
    dropout: float = 0.0
    patch: int = 1
    head_channels: int = 128
    head_kernel: int = 3
    global_channels: int = 0
    embed_channels: int = 256
    resample: str = "conv"
    scale_shift: bool = False

    def __post_init__(self):
        choose(self.conditioning, CONDITIONINGS, "conditioning")
        choose(self.parameterisation, PARAMETERISATIONS, "parameterisation")
        choose(self.resample, ("conv", "shuffle"), "resample")
        if not self.multipliers or min(self.multipliers) < 1:
            raise InputError(
                f"multipliers must be one or more numbers from 1, got {list(self.multipliers)}"
            )
        for low, names in (
            (1, ("num_classes", "channels", "embed_channels", "head_channels")),
            (0, ("blocks", "middle_blocks", "global_channels")),
        ):
            for name in names:
                if not getattr(self, name) >= low:
                    raise InputError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if self.patch not in (1, 2, 4):
            raise InputError(f"patch {self.patch} is not supported: choose 1, 2 or 4")
        if self.head_kernel not in (1, 3):
            raise InputError(f"head_kernel {self.head_kernel} is not supported: choose 1 or 3")
        factor = self.patch * 2 ** (len(self.multipliers) - 1)
        if any(side % factor for side in self.image_shape[:2]):
            raise InputError(
                f"images of {self.image_shape[0]}x{self.image_shape[1]} do not divide by {factor}: "
                "use fewer levels (multipliers) or a smaller patch"
            )

    def to_dict(self) -> dict:
        """Plain JSON values; tuples become lists."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict) -> UNetConfig:
        """The inverse of `to_dict`; raises InputError for an unknown field."""
        return config_from_dict(cls, values)


def config_from_dict(cls, values: dict):
    """Builds a frozen configuration from JSON values, lists becoming tuples."""
    known = [f.name for f in fields(cls)]
    for name in values:
        choose(name, known, f"field of {cls.__name__}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


_DIGITS = UNetConfig(
    image_shape=(8, 8, 1),
    conditioning="heads",
    parameterisation="v",
    channels=48,
    multipliers=(1, 2),
    blocks=1,
    middle_blocks=1,
    dropout=0.1,
    patch=2,
    # Every head reads the same features: these, not the trunk, are where classes are told apart.
    head_channels=128,
    embed_channels=128,
    resample="shuffle",
    scale_shift=True,
)
# 7x7 positions of 4x4 pixels: 72 Mflop an image with all heads (eval.bench throughput).
_MNIST_SMALL = UNetConfig(
    image_shape=(28, 28, 1),
    conditioning="heads",
    parameterisation="v",
    channels=64,
    multipliers=(1,),
    blocks=1,
    middle_blocks=2,
    patch=4,
    head_channels=128,
    head_kernel=1,
    global_channels=512,
    embed_channels=256,
    resample="shuffle",
    scale_shift=True,
)
# 8x8 and 4x4 positions of 4x4 pixels.
_CIFAR10_SMALL = replace(
    _MNIST_SMALL, image_shape=(32, 32, 3), channels=128, multipliers=(1, 2), middle_blocks=1
)
# Ho et al. 2020 and Koulischer et al. 2025: the sizes that the published numbers belong to.
_MNIST = UNetConfig(
    (28, 28, 1), 10, "none", channels=128, multipliers=(1, 2, 2), embed_channels=512
)
_CIFAR10 = UNetConfig(
    (32, 32, 3),
    10,
    "none",
    channels=128,
    multipliers=(1, 2, 2, 2),
    attention_levels=(1,),
    dropout=0.1,
    embed_channels=512,
)
CONFIGS = {
    "digits": _DIGITS,
    "digits-label": replace(_DIGITS, conditioning="label", channels=32),
    "mnist-small": _MNIST_SMALL,
    "mnist-small-label": replace(_MNIST_SMALL, conditioning="label"),
    "mnist-small-plain": replace(_MNIST_SMALL, conditioning="none"),
    "mnist": _MNIST,
    "mnist-heads": replace(_MNIST, conditioning="heads"),
    "mnist-label": replace(_MNIST, conditioning="label"),
    "cifar10-small": _CIFAR10_SMALL,
    "cifar10-small-label": replace(_CIFAR10_SMALL, conditioning="label"),
    "cifar10-small-plain": replace(_CIFAR10_SMALL, conditioning="none"),
    "cifar10": _CIFAR10,
    "cifar10-heads": replace(_CIFAR10, conditioning="heads"),
    "cifar10-label": replace(_CIFAR10, conditioning="label"),
}


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


def embed_logsnr(logsnr: jax.Array, channels: int) -> jax.Array:
    """[B] -> [B, channels]: sin and cos at geometric frequencies, float32."""
    frequency = jnp.asarray(np.geomspace(0.05, 4.0, channels // 2), jnp.float32)
    angle = logsnr.astype(jnp.float32)[:, None] * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class Conv3(nn.Module):
    """3x3 convolution, zero padding, bias; kernel [3, 3, C_in, features] as in nn.Conv."""

    features: int
    zero: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.zeros if self.zero else nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        if x.shape[1] * x.shape[2] > 4:
            dims = ("NHWC", "HWIO", "NHWC")
            return (
                jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims)
                + bias
            )
        # XLA's CPU convolution runs at a tenth of a matrix product's speed on 2x2 images.
        h, w = x.shape[1:3]
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifts = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
        return jnp.concatenate(shifts, -1) @ kernel.reshape(-1, self.features) + bias


class GroupNorm(nn.Module):
    """Group normalisation with a learned scale and bias, [B, h, w, c] -> the same.

    Groups of channels share mean and variance (Wu & He 2018); variance as E[(x - mean)^2], since
    E[x^2] - E[x]^2 loses digits in float32 where the mean is large. Groups are averaged by a
    product with a [c, c] block matrix: on a CPU five times as fast as a reduction over groups.
    Computes in float32 and answers in the dtype of x.
    """

    @nn.compact
    def __call__(self, x):
        c, dtype = x.shape[-1], x.dtype
        x = x.astype(jnp.float32)
        groups = math.gcd(32, max(1, c // 4))
        average = jnp.asarray(
            np.kron(np.eye(groups), np.full([c // groups] * 2, groups / c)), x.dtype
        )
        scale = self.param("scale", nn.initializers.ones, (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        highest = partial(jnp.matmul, precision="highest")
        centred = x - highest(x.mean((1, 2)), average)[:, None, None]
        variance = highest((centred**2).mean((1, 2)), average)[:, None, None]
        return (centred * (jax.lax.rsqrt(variance + 1e-6) * scale) + bias).astype(dtype)


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


class UNet(nn.Module):
    """See the file's docstring for the three forms; `apply({"params": p}, x, logsnr[, label])`.

    x [B, H, W, C] float32, logsnr [B] float32 (about -10 to 10), label [B] int32 in 0..K for
    conditioning "label" only. train=True switches dropout on and needs rngs={"dropout": key}.
    The output is float32, in `config.parameterisation`: read it with schedules.to_eps.
    dtype: of the convolutions and products, None for float32 (see the file's docstring).
    """

    config: UNetConfig
    dtype: Any = None

    @nn.compact
    def __call__(self, x, logsnr, label=None, *, train: bool = False):
        c = self.config
        if (label is not None) != (c.conditioning == "label"):
            raise InputError(
                f"a network with conditioning '{c.conditioning}' was called "
                f"{'with' if label is not None else 'without'} a label: only 'label' takes one"
            )
        dtype = self.dtype
        e = nn.Dense(c.embed_channels)(embed_logsnr(logsnr, min(c.channels, 128)))
        e = nn.Dense(c.embed_channels)(nn.silu(e))
        if c.conditioning == "label":
            e = e + nn.Embed(c.num_classes + 1, c.embed_channels)(label)

        widths = [c.channels * m for m in c.multipliers]
        block = lambda width: ResBlock(width, c.dropout, c.scale_shift, dtype)  # noqa: E731
        h = Conv3(c.channels, dtype=dtype)(space_to_depth(x, c.patch))
        skips = [h]
        for level, width in enumerate(widths):
            for _ in range(c.blocks):
                h = block(width)(h, e, train)
                if level in c.attention_levels:
                    h = Attention(dtype)(h)
                skips.append(h)
            if level + 1 < len(widths):
                h = Down(c.resample, dtype)(h)
                skips.append(h)
        for i in range(c.middle_blocks):
            if i == 1 and c.attention_levels:
                h = Attention(dtype)(h)
            h = block(widths[-1])(h, e, train)
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(c.blocks + 1):
                h = block(width)(jnp.concatenate([h, skips.pop()], -1), e, train)
                if level in c.attention_levels:
                    h = Attention(dtype)(h)
            if level > 0:
                h = Up(c.resample, widths[level - 1], dtype)(h)
        h = nn.silu(GroupNorm()(h))
        out = self._output(h, e)
        if c.conditioning == "heads" and c.global_channels:
            out = out + self._global(h, x, e)
        return out.astype(jnp.float32)

    def _global(self, h, x, e):
        c = self.config
        dense, b = partial(nn.Dense, dtype=self.dtype), len(x)
        classes = nn.Embed(c.num_classes + 1, c.embed_channels)(jnp.arange(c.num_classes + 1))
        e = nn.silu(e[:, None] + classes)
        flat = jnp.concatenate([h.reshape(b, -1), x.reshape(b, -1)], -1)
        z = nn.LayerNorm()(dense(c.global_channels, name="gather")(flat))[:, None]
        scale, shift = jnp.split(dense(2 * c.global_channels, name="modulate")(e), 2, -1)
        z = nn.silu(dense(c.global_channels, name="mix")(nn.silu(z * (1 + scale) + shift)))
        size = int(np.prod(c.image_shape))
        out = dense(size, kernel_init=nn.initializers.zeros, name="spread")(z)
        return out.reshape(b, c.num_classes + 1, *c.image_shape)

    def _output(self, h, e):
        c = self.config
        dense, conv3 = partial(nn.Dense, dtype=self.dtype), partial(Conv3, dtype=self.dtype)
        pixel = c.patch**2 * c.image_shape[-1]
        if c.conditioning != "heads":
            return depth_to_space(conv3(pixel, zero=True)(h), c.patch)
        h = conv3(c.head_channels)(h)
        scale, shift = jnp.split(dense(2 * c.head_channels)(nn.silu(e))[:, None, None], 2, -1)
        h = nn.silu(GroupNorm()(h) * (1 + scale) + shift)
        width = (c.num_classes + 1) * pixel
        last: nn.Module
        if c.head_kernel == 1:
            last = dense(width, kernel_init=nn.initializers.zeros, name="heads")
        else:
            last = conv3(width, zero=True)
        out = depth_to_space(last(h), c.patch)
        out = out.reshape(*out.shape[:3], c.num_classes + 1, c.image_shape[-1])
        return jnp.moveaxis(out, 3, 1)
