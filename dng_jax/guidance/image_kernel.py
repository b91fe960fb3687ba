r"""What the rules of a set of images share: distances to it, its kernel mass, shifts of x_0.

    x0   = (x - sigma eps_b) / alpha             the base's denoised image, [B, ...]
    q_k  = |x0 - z_k|^2                          [B, N], summed over the d elements of an image
    Z    = sum_k exp(-q_k / (2 h^2))             kernel mass, [B]; h: width of the kernel
    w    = softmax_k( -q_k / (2 h^2) )           [B, N]

A sum, as the authors' programs have it, so that near one image its push does not depend on how many
others there are. Z is measured at x0: at x_t itself a kernel of any useful width vanishes, since a
noised copy of z_k lies sqrt(d) sigma from alpha z_k. A rule that moves x0 by g moves the prediction
by

    delta = -(alpha / sigma) g

A critical level stands for the critical time of the papers: the rule acts where
sigma/alpha > sigma_min, the noisy part of the chain, and leaves the base alone after.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError
from dng_jax.rules import Step, known


def checked_images(images) -> jax.Array:
    """Images [N, ...] as float32; InputError for none, or numbers that are not finite."""
    images = jnp.asarray(images, jnp.float32)
    if images.ndim < 2 or len(images) == 0:
        raise InputError(f"a set of images has shape [N, ...] with N >= 1, got {images.shape}")
    if known(images) and not np.isfinite(np.asarray(images)).all():
        raise InputError("the images of a set must be finite numbers")
    return images


def denoised(step: Step) -> jax.Array:
    """x0 of the base prediction, [B, ...]."""
    return (step.x - step.row.sigma * step.base) / step.row.alpha


def square_distances(x: jax.Array, images: jax.Array) -> jax.Array:
    """|x_b - z_k|^2, [B, N] >= 0, of x [B, ...] and images [N, ...] of one shape."""
    if x.shape[1:] != images.shape[1:]:
        raise InputError(
            f"the images of the set have shape {images.shape[1:]}, those sampled {x.shape[1:]}"
        )
    a, z = x.reshape(len(x), -1), images.reshape(len(images), -1)
    inner = jnp.einsum("bd,kd->bk", a, z, precision="highest")
    return jnp.maximum(jnp.sum(a**2, 1)[:, None] - 2 * inner + jnp.sum(z**2, 1)[None], 0.0)


def log_mass(squares: jax.Array, width: jax.Array) -> jax.Array:
    """log Z, [B], of squared distances [B, N]."""
    return jax.nn.logsumexp(-squares / (2 * width**2), axis=1)


def combined(weights: jax.Array, images: jax.Array) -> jax.Array:
    """sum_k weights[:, k] z_k, [B, ...]."""
    flat = images.reshape(len(images), -1)
    mean = jnp.einsum("bk,kd->bd", weights, flat, precision="highest")
    return mean.reshape(len(weights), *images.shape[1:])


def moved(step: Step, shift: jax.Array) -> jax.Array:
    """The delta that moves x0 by a shift [B, ...]."""
    return -step.row.alpha / step.row.sigma * shift


def critical(step: Step, sigma_min: jax.Array) -> jax.Array:
    """Whether the step is above the critical level, bool []."""
    return step.row.sigma / step.row.alpha > sigma_min
