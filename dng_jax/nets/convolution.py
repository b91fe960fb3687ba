r"""3x3 convolutions that are quick on a CPU: `same`, and `conv3` and `for_few_positions` besides.

    y_p = sum over d of x_(p+d) K_d,     dK_d = sum over images and p of x_(p+d)^T dy_p

`same` is what networks call. It takes fewer products than the definition (winograd.py): of images
up to 2x2 in batches of IMAGES or more, three times as fast as the nine products that serve smaller
batches, which are five times as fast as XLA on a CPU; and on a CPU, of higher images with at least
CHANNELS channels on both sides and POSITIONS positions in the batch, in float32 or float64: 1.1 (14
rows) to 1.6 times as fast (32 rows). Where it is differentiated the latter is XLA's, with which a
training step is 3 to 7% faster. All else is XLA's.

`conv3`: XLA computes dK as a convolution of its own, whose window is the image: measured on 2 cores
at 15x15 positions, 64 -> 256 channels, 7 Gflop/s where the forward pass has 64. Here it is one
product of the nine shifted copies of x with dy for a few images at a time, which stay in the cache,
summed by a loop: 70 Gflop/s. On other platforms the gradient is XLA's. The loop runs over the
batch: batches split over several CPU devices would be gathered for it.

`for_few_positions`: of small images the whole convolution is one product of the nine shifted
copies, which is not large then: a U-Net of Stable Diffusion with 48 and 96 channels on latents of
4x8, batch 128, takes .70 CPU-s for its gradient where XLA's convolutions take 1.16.

Shapes: x [B, H, W, I], kernel [3, 3, I, O], y [B, H, W, O], all of one float type.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dng_jax.nets import winograd

FEW = 4  # images per product of conv3's gradient
SMALL = 128  # positions of an image in for_few_positions
IMAGES = 64  # of 2x2; of fewer the matrix costs more than it saves
CHANNELS = 32
POSITIONS = 1024  # of a batch; likewise the kernels' transform


def same(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [B, H, W, I], kernel [3, 3, I, O] of the same type -> [B, H, W, O], zeros outside."""
    b, h, w, i = x.shape
    if h * w <= 4:
        square = h <= 2 and w <= 2 and b >= IMAGES
        return (winograd.of_two_by_two if square else nine_products)(x, kernel)
    pays = h >= winograd.ROWS and b * h * w >= POSITIONS and min(i, kernel.shape[-1]) >= CHANNELS
    return (quick if pays and jnp.finfo(x.dtype).bits >= 32 else plain)(x, kernel)


@jax.custom_jvp
def quick(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same by fewer products on a CPU; where it is differentiated all of it is `plain`."""
    return jax.lax.platform_dependent(x, kernel, cpu=winograd.along_height, default=plain)


@quick.defjvp
def _quick_jvp(primals, tangents):
    (x, kernel), (dx, dk) = primals, tangents
    return plain(x, kernel), plain(dx, kernel) + plain(x, dk)


def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [B, H, W, I], kernel [3, 3, I, O] -> [B, H, W, O], zeros outside."""
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
def conv3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [B, H, W, I], kernel [3, 3, I, O] of the same type -> [B, H, W, O], zeros outside."""
    return plain(x, kernel)


def _forward(x, kernel):
    return plain(x, kernel), (x, kernel)


def _backward(saved, dy):
    x, kernel = saved
    (dx,) = jax.vjp(lambda x: plain(x, kernel), x)[1](dy)
    dk = jax.lax.platform_dependent(x, dy, cpu=kernel_by_products, default=kernel_by_convolution)
    return dx, dk


conv3.defvjp(_forward, _backward)


def kernel_by_convolution(x: jax.Array, dy: jax.Array) -> jax.Array:
    """The gradient dK [3, 3, I, O] as XLA takes it; x [B, H, W, I], dy [B, H, W, O]."""
    kernel = jnp.zeros((3, 3, x.shape[-1], dy.shape[-1]), x.dtype)
    return jax.vjp(lambda kernel: plain(x, kernel), kernel)[1](dy)[0]


def kernel_by_products(x: jax.Array, dy: jax.Array) -> jax.Array:
    """The same by products of FEW images each, summed in float32; see the file's docstring."""
    (b, h, w, i), o = x.shape, dy.shape[-1]
    few = math.gcd(b, FEW)

    def add(total, part):
        x, dy = part
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        nine = [x[:, r : r + h, c : c + w] for r in range(3) for c in range(3)]
        rows = jnp.concatenate(nine, -1).reshape(-1, 9 * i)
        product = jnp.matmul(rows.T, dy.reshape(-1, o), preferred_element_type=jnp.float32)
        return total + product, None

    parts = x.reshape(-1, few, h, w, i), dy.reshape(-1, few, h, w, o)
    total, _ = jax.lax.scan(add, jnp.zeros((9 * i, o), jnp.float32), parts)
    return total.reshape(3, 3, i, o).astype(x.dtype)


def for_few_positions(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **how: Any,
) -> jax.Array:
    """The convolution that nn.Conv takes as `conv_general_dilated`: as products on a CPU.

    Of 3x3 kernels, of one stride for both sides, and of images of up to SMALL pixels; every
    other convolution, and all of them on accelerators, are XLA's. how: what nn.Conv passes besides.
    """

    def usual(lhs, rhs):
        return jax.lax.conv_general_dilated(lhs, rhs, window_strides, padding, **how)

    stride, other = window_strides
    if rhs.shape[:2] != (3, 3) or stride != other or math.prod(lhs.shape[1:3]) > SMALL:
        return usual(lhs, rhs)

    def products(lhs, rhs):
        return nine_products(lhs, rhs, stride, padding)

    return jax.lax.platform_dependent(lhs, rhs, cpu=products, default=usual)
