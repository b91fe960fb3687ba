r"""3x3 convolutions that are quick on a CPU, zeros outside the image.

    y_p = sum over d of x_(p+d) K_d,     dK_d = sum over images and p of x_(p+d)^T dy_p

On accelerators all of them are XLA's. On a CPU XLA loops over images of fewer than TAPS positions,
at a tenth of its speed or less; the rest it convolves well, but no faster than the definition asks.
`python -m eval.bench convolutions` times what stands here against it.

`conv3x3` is what U-Nets call. Of images of fewer than TAPS positions it is one product of the nine
shifted copies, or of all pixels with all where they are 2x2 in batches of IMAGES or more. Of images
with ROWS rows or more, CHANNELS channels on both sides and POSITIONS positions in the batch, in
float32 or float64, it takes fewer products than the definition (winograd.py); where that is
differentiated it is XLA's, with which a training step is faster. All else is XLA's. Which way is
taken depends on the size of the batch, and so does a sample, to rounding.

`conv3x3_product_gradient` is what the residual classifier calls. XLA computes dK as a convolution
of its own, whose window is the image: slow on a CPU, where it is here one product of the nine
shifted copies of x with dy for a few images at a time, which stay in the cache, summed by a loop.
The loop runs over the batch: batches split over several CPU devices would be gathered for it.

`conv_general_dilated` is what the layers of Stable Diffusion hand to nn.Conv: `conv3x3` for what it
can do, and the products for strides and other padding.

Shapes: x [B, H, W, I], kernel [3, 3, I, O], y [B, H, W, O], all of one float type.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from dng_jax.nets import winograd

TAPS = 9  # of a kernel
IMAGES = 64  # of 2x2; of fewer the matrix costs more than it saves
CHANNELS = 32
POSITIONS = 1024  # of a batch; likewise the kernels' transform
FEW = 4  # images per product of the gradient dK


def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [B, H, W, I], kernel [3, 3, I, O] of the same type -> [B, H, W, O]."""
    b, h, w, i = x.shape
    if h * w < TAPS:
        square = h <= 2 and w <= 2 and b >= IMAGES
        products = winograd.of_two_by_two if square else nine_products
        return jax.lax.platform_dependent(x, kernel, cpu=products, default=xla_conv)
    pays = h >= winograd.ROWS and b * h * w >= POSITIONS and min(i, kernel.shape[-1]) >= CHANNELS
    return (winograd_conv if pays and jnp.finfo(x.dtype).bits >= 32 else xla_conv)(x, kernel)


@jax.custom_jvp
def winograd_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Winograd's on a CPU, XLA's elsewhere; where it is differentiated all of it is XLA's."""
    return jax.lax.platform_dependent(x, kernel, cpu=winograd.along_height, default=xla_conv)


@functools.partial(winograd_conv.defjvp, symbolic_zeros=True)
def _jvp(primals, tangents):
    (x, kernel), (dx, dk) = primals, tangents
    parts = []
    # What does not vary would cost a convolution with zeros.
    if not isinstance(dx, SymbolicZero):
        parts.append(xla_conv(dx, kernel))
    if not isinstance(dk, SymbolicZero):
        parts.append(xla_conv(x, dk))
    y = xla_conv(x, kernel)
    return y, functools.reduce(jnp.add, parts) if parts else jnp.zeros_like(y)


def xla_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [B, H, W, I], kernel [3, 3, I, O] -> [B, H, W, O]."""
    dims = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims)


def nine_products(
    x: jax.Array,
    kernel: jax.Array,
    stride: int = 1,
    padding: Sequence[tuple[int, int]] = ((1, 1), (1, 1)),
) -> jax.Array:
    """The same as one matrix product of nine shifted copies; stride and padding of the sides."""
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    h, w = padded.shape[1] - 2, padded.shape[2] - 2
    shifts = [padded[:, i : i + h : stride, j : j + w : stride] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifts, -1) @ kernel.reshape(-1, kernel.shape[-1])


@jax.custom_vjp
def conv3x3_product_gradient(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [B, H, W, I], kernel [3, 3, I, O] of the same type -> [B, H, W, O]."""
    return conv3x3(x, kernel)


def _forward(x, kernel):
    return xla_conv(x, kernel), (x, kernel)


def _backward(saved, dy):
    x, kernel = saved
    (dx,) = jax.vjp(lambda x: xla_conv(x, kernel), x)[1](dy)
    dk = jax.lax.platform_dependent(x, dy, cpu=kernel_by_products, default=kernel_by_convolution)
    return dx, dk


conv3x3_product_gradient.defvjp(_forward, _backward)


def kernel_by_convolution(x: jax.Array, dy: jax.Array) -> jax.Array:
    """The gradient dK [3, 3, I, O] as XLA takes it; x [B, H, W, I], dy [B, H, W, O]."""
    kernel = jnp.zeros((3, 3, x.shape[-1], dy.shape[-1]), x.dtype)
    return jax.vjp(lambda kernel: xla_conv(x, kernel), kernel)[1](dy)[0]


def kernel_by_products(x: jax.Array, dy: jax.Array) -> jax.Array:
    """The same by products of FEW images each, summed in float32 or float64 (docstring above)."""
    (b, h, w, i), o = x.shape, dy.shape[-1]
    few, kind = math.gcd(b, FEW), jnp.float64 if x.dtype == jnp.float64 else jnp.float32

    def add(total, part):
        x, dy = part
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        nine = [x[:, r : r + h, c : c + w] for r in range(3) for c in range(3)]
        rows = jnp.concatenate(nine, -1).reshape(-1, 9 * i)
        product = jnp.matmul(rows.T, dy.reshape(-1, o), preferred_element_type=kind)
        return total + product, None

    parts = x.reshape(-1, few, h, w, i), dy.reshape(-1, few, h, w, o)
    total, _ = jax.lax.scan(add, jnp.zeros((9 * i, o), kind), parts)
    return total.reshape(3, 3, i, o).astype(x.dtype)


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **how: Any,
) -> jax.Array:
    """What nn.Conv takes as `conv_general_dilated`, NHWC, without groups or dilation; how: what
    nn.Conv passes besides."""

    def usual(lhs, rhs):
        return jax.lax.conv_general_dilated(lhs, rhs, window_strides, padding, **how)

    stride, other = window_strides
    if rhs.shape[:2] != (3, 3) or stride != other:
        return usual(lhs, rhs)
    if stride == 1 and tuple(map(tuple, padding)) == ((1, 1), (1, 1)):
        return conv3x3(lhs, rhs)
    if math.prod(lhs.shape[1:3]) >= TAPS:
        return usual(lhs, rhs)

    def products(lhs, rhs):
        return nine_products(lhs, rhs, stride, padding)

    return jax.lax.platform_dependent(lhs, rhs, cpu=products, default=usual)
