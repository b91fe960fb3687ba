"""Random changes of images: of digits (`augment`), and of photographs (`flip_shift_cut`)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates


def augment(key: jax.Array, images: jax.Array) -> jax.Array:
    """Random affine maps, contrast, noise; images [B, H, W, C] in [-1, 1] -> the same shape.

    Rotation +-12 degrees, scale +-10%, shear +-.1, shift +-8% of the side, bilinear with the
    darkest value outside; contrast x .8 to 1.1; Gaussian noise of a strength uniform in 0 to .25.
    """
    b, h, w, _ = images.shape
    keys = jax.random.split(key, 6)

    def spread(i, low, high, shape=(b,)):
        return jax.random.uniform(keys[i], shape, jnp.float32, low, high)

    angle, zoom, shear = spread(0, -0.21, 0.21), spread(1, 0.9, 1.1), spread(2, -0.1, 0.1)
    shift = spread(3, -0.08, 0.08, (b, 2)) * jnp.array([[h, w]], jnp.float32)
    cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
    matrix = jnp.stack([jnp.stack([cos, shear - sin], -1), jnp.stack([sin, cos], -1)], -2)
    centre = (jnp.array([[[h, w]]], jnp.float32) - 1) / 2
    places = (jnp.arange(n, dtype=jnp.float32) for n in (h, w))
    grid = jnp.stack(jnp.meshgrid(*places, indexing="ij"), -1) - centre

    def warp(image, matrix, shift):
        rows, columns = jnp.moveaxis(grid @ matrix.T + centre + shift[None, None], -1, 0)

        def sample(plane):
            return map_coordinates(plane, [rows, columns], 1, mode="constant", cval=-1.0)

        return jax.vmap(sample, -1, -1)(image)

    x = jax.vmap(warp)(images, matrix, shift)
    contrast, strength = jnp.split(spread(4, 0.0, 1.0, (b, 2)), 2, -1)
    x = (x + 1) * (0.8 + 0.3 * contrast[..., None, None]) - 1
    noise = jax.random.normal(keys[5], x.shape, x.dtype) * (0.25 * strength[..., None, None])
    return jnp.clip(x + noise, -1, 1)


def mirror(key: jax.Array, images: jax.Array) -> jax.Array:
    """Each of images [..., H, W, C] mirrored left to right with probability 1/2."""
    mirrored = jax.random.bernoulli(key, jnp.float32(0.5), (*images.shape[:-3], 1, 1, 1))
    return jnp.where(mirrored, images[..., ::-1, :], images)


def flip_shift_cut(
    key: jax.Array, images: jax.Array, flip: bool, shift: int, cut: int
) -> jax.Array:
    """For photographs: mirrored left to right half of the time, moved, a square cut out.

    images [B, H, W, C] in [-1, 1] -> the same shape. Moved by -shift to shift pixels along both
    axes, shift below both sides, the image mirrored beyond its border; a square of side `cut`, 0 to
    the shorter side, anywhere inside becomes 0 (DeVries & Taylor 2017, arXiv 1708.04552). Every
    image has draws of its own.
    """
    b, h, w, c = images.shape
    flip_key, shift_key, cut_key = jax.random.split(key, 3)
    if flip:
        images = mirror(flip_key, images)
    if shift:
        rows, columns = jax.random.randint(shift_key, (2, b), 0, 2 * shift + 1, jnp.int32)
        wide = jnp.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), "reflect")

        def window(image, row, column):
            return jax.lax.dynamic_slice(image, (row, column, jnp.int32(0)), (h, w, c))

        images = jax.vmap(window)(wide, rows, columns)
    if cut:
        sizes = jnp.array([[h - cut + 1], [w - cut + 1]], jnp.int32)
        rows, columns = jax.random.randint(cut_key, (2, b), 0, sizes, jnp.int32)

        def inside(count, first):
            offset = jnp.arange(count, dtype=jnp.int32)[None] - first[:, None]
            return (offset >= 0) & (offset < cut)

        hole = inside(h, rows)[:, :, None] & inside(w, columns)[:, None, :]
        images = jnp.where(hole[..., None], 0.0, images)
    return images
