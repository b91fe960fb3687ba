r"""Training a classifier: cross-entropy with label smoothing, on augmented images."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding

from dng_jax.data import to_unit
from dng_jax.nets.residual import whitening
from dng_jax.training.augmentation import augment
from dng_jax.training.optimiser import Step, TrainState, make_step, split_batch

WHITENING_IMAGES = 5_000


def make_classifier_step(
    module,
    optimiser,
    batch_size: int,
    ema_decay: float,
    smoothing: float = 0.05,
    sharding: NamedSharding | None = None,
    change: Callable[[jax.Array, jax.Array], jax.Array] = augment,
) -> Step:
    """As diffusion.make_diffusion_step: (state, images uint8, labels) -> (state, metrics).

    change: (key, images [B, H, W, C] in [-1, 1]) -> the same shape, the augmentation.
    """

    def loss(params, images, labels, key):
        batch_key, augment_key, dropout_key = jax.random.split(key, 3)
        rows = jax.random.randint(batch_key, (batch_size,), 0, len(images), jnp.int32)
        x, y = split_batch((to_unit(images[rows]), labels[rows]), sharding)
        x = change(augment_key, x)
        logits = module.apply({"params": params}, x, train=True, rngs={"dropout": dropout_key})
        target = jax.nn.one_hot(y, logits.shape[-1], dtype=logits.dtype)
        target = optax.smooth_labels(target, smoothing)
        value = optax.softmax_cross_entropy(logits, target).mean()
        accuracy = jnp.mean(jnp.argmax(logits, -1).astype(y.dtype) == y)
        return value, {"loss": value, "accuracy": accuracy}

    return make_step(loss, optimiser, ema_decay, sharding)


@functools.partial(jax.jit, static_argnums=0)
def count_right(module, params, images: jax.Array, labels: jax.Array) -> jax.Array:
    """How many of images uint8 [N, H, W, C] a classifier puts into their class, int32 []."""
    logits = module.apply({"params": params}, to_unit(images))
    return jnp.sum(jnp.argmax(logits, -1).astype(labels.dtype) == labels)


def whitened(state: TrainState, images: np.ndarray) -> TrainState:
    """A fresh state of a network with norm batch, its first layer set from images uint8.

    images [N, H, W, C], of which the first WHITENING_IMAGES are looked at.
    """
    kernel = whitening(to_unit(images[:WHITENING_IMAGES]))
    params = {**state.params, "whitening": jnp.asarray(kernel)}
    return state._replace(params=params, ema=params)
