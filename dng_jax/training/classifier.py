r"""Training a classifier: cross-entropy with label smoothing, on augmented images."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import optax
from jax.scipy.ndimage import map_coordinates
from jax.sharding import NamedSharding

from dng_jax.data import to_unit
from dng_jax.training.optimiser import Step, make_step, split_batch


def make_classifier_step(
    module,
    optimiser,
    batch_size: int,
    ema_decay: float,
    smoothing: float = 0.05,
    sharding: NamedSharding | None = None,
) -> Step:
    """As diffusion.make_diffusion_step: (state, images uint8, labels) -> (state, metrics)."""

    def loss(params, images, labels, key):
        batch_key, augment_key, dropout_key = jax.random.split(key, 3)
        rows = jax.random.randint(batch_key, (batch_size,), 0, len(images))
        x, y = split_batch((to_unit(images[rows]), labels[rows]), sharding)
        x = augment(augment_key, x)
        logits = module.apply({"params": params}, x, train=True, rngs={"dropout": dropout_key})
        target = optax.smooth_labels(jax.nn.one_hot(y, logits.shape[-1]), smoothing)
        value = optax.softmax_cross_entropy(logits, target).mean()
        accuracy = jnp.mean(jnp.argmax(logits, -1) == y)
        return value, {"loss": value, "accuracy": accuracy}

    return make_step(loss, optimiser, ema_decay, sharding)


@functools.partial(jax.jit, static_argnums=0)
def count_right(module, params, images: jax.Array, labels: jax.Array) -> jax.Array:
    """How many of images uint8 [N, H, W, C] a classifier puts into their class, int32 []."""
    logits = module.apply({"params": params}, to_unit(images))
    return jnp.sum(jnp.argmax(logits, -1) == labels)


def augment(key: jax.Array, images: jax.Array) -> jax.Array:
    """Random affine maps, contrast, noise; images [B, H, W, C] in [-1, 1] -> the same shape.

    Rotation +-12 degrees, scale +-10%, shear +-.1, shift +-8% of the side, bilinear with the
    darkest value outside; contrast x .8 to 1.1; Gaussian noise of a strength uniform in 0 to .25.
    """
    b, h, w, _ = images.shape
    keys = jax.random.split(key, 6)

    def spread(i, low, high, shape=(b,)):
        return jax.random.uniform(keys[i], shape, minval=low, maxval=high)

    angle, zoom, shear = spread(0, -0.21, 0.21), spread(1, 0.9, 1.1), spread(2, -0.1, 0.1)
    shift = spread(3, -0.08, 0.08, (b, 2)) * jnp.array([h, w])
    cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
    matrix = jnp.stack([jnp.stack([cos, shear - sin], -1), jnp.stack([sin, cos], -1)], -2)
    centre = (jnp.array([h, w]) - 1) / 2
    grid = jnp.stack(jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij"), -1) - centre

    def warp(image, matrix, shift):
        rows, columns = jnp.moveaxis(grid @ matrix.T + centre + shift, -1, 0)

        def sample(plane):
            return map_coordinates(plane, [rows, columns], 1, mode="constant", cval=-1.0)

        return jax.vmap(sample, -1, -1)(image)

    x = jax.vmap(warp)(images, matrix, shift)
    contrast, strength = jnp.split(spread(4, 0.0, 1.0, (b, 2)), 2, -1)
    x = (x + 1) * (0.8 + 0.3 * contrast[..., None, None]) - 1
    noise = jax.random.normal(keys[5], x.shape) * (0.25 * strength[..., None, None])
    return jnp.clip(x + noise, -1, 1)
