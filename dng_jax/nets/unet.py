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

    out = conv3(silu(norm(conv3(g)) (1 + scale(e)) + shift(e))),   (K+1) C outputs per pixel

so the K+1 predictions that a `classes` tracker needs cost one network call. These differ linearly
in features that all classes share. That is too little at high noise, where the denoised image of a
class is a global shape of its own; `global_channels` > 0 adds to every head a small dense network
over all positions, modulated by an embedding e_k of noise level and class:

    z = norm(dense([features; x]))      once; both as means over global_pool x global_pool squares
    z_k = silu(z (1 + scale(e_k)) + shift(e_k));   out_k += dense(silu(dense(z_k))),  H W C numbers

Embedding of the noise level: sin and cos of logsnr times geometric frequencies, .05 to 4 radians
per unit: the discrete levels of a schedule (about .02 apart) stay smooth, the ends stay distinct.
`embedding` = "timestep" is that of Ho et al.'s own networks instead (embeddings.py).

`patch` = p folds p x p pixels into channels before the first convolution (space to depth) and
unfolds them after the last one: 1/p^2 of the work. `head_kernel` = 1 makes the last convolution of
"heads" a product per position: with p = 4 its (K+1) p^2 C outputs would cost half of the network.

Precision: parameters are float32; `UNet(config, dtype)` says what convolutions and matrix products
compute in. With bfloat16 the norms, attention's softmax, the embedding of the noise level and the
output stay float32. None: all of it float32.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError
from dng_jax.nets import checks
from dng_jax.nets.blocks import (
    Attention,
    Conv3,
    Down,
    GroupNorm,
    ResBlock,
    Up,
    depth_to_space,
    mean_pool,
    space_to_depth,
)
from dng_jax.nets.config import UNetConfig
from dng_jax.nets.embeddings import embed


class UNet(nn.Module):
    """See the file's docstring for the three forms; `apply({"params": p}, x, logsnr[, label])`.

    x [B, H, W, C] and logsnr [B] (about -10 to 10) of any float type, taken as float32; label [B]
    int32 in 0..K for conditioning "label" only. train=True switches dropout on and needs
    rngs={"dropout": key}.
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
        checks.batch(x, c.image_shape, logsnr)
        dtype, x = self.dtype, x.astype(jnp.float32)
        e = nn.Dense(c.embed_channels)(embed(c.embedding, logsnr, c.channels))
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
        e = nn.silu(e[:, None] + classes[None])
        pooled = [
            mean_pool(h, c.global_pool),
            mean_pool(x, c.patch * c.global_pool if c.global_pool > 1 else 1).astype(h.dtype),
        ]
        flat = jnp.concatenate([p.reshape(b, -1) for p in pooled], -1)
        gathered = dense(c.global_channels, name="gather")(flat).astype(jnp.float32)
        z = nn.LayerNorm()(gathered)[:, None]
        modulation = dense(2 * c.global_channels, name="modulate")(e).astype(jnp.float32)
        scale, shift = jnp.split(modulation, 2, -1)
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
