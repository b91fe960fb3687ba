r"""What the rules of a set of images share: distances to it, its kernel mass, shifts of x_0.

    x0   = (x - sigma eps_b) / alpha             the base's denoised image, [B, ...]
    q_k  = |x0 - z_k|^2                          [B, N], summed over the d elements of an image
    Z    = sum_k exp(-q_k / (2 h^2))             kernel mass, [B]; h: width of the kernel

A sum, as the authors' programs have it, so that near one image its push does not depend on how many
others there are. Z is measured at x0: at x_t itself a kernel of any useful width vanishes, since a
noised copy of z_k lies sqrt(d) sigma from alpha z_k. A rule that moves x0 by g moves the prediction
by

    delta = -(alpha / sigma) g

A critical level stands for the critical time of the papers: the rule acts where
sigma/alpha > sigma_min, the noisy part of the chain, and leaves the base alone after.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError
from dng_jax.rules import Step, known, per_sample


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


def log_mass(x: jax.Array, images: jax.Array, width: jax.Array) -> jax.Array:
    """log Z, [B], at x [B, ...] of images [N, ...] of one shape."""
    _check_shapes(x, images)
    squares = jax.lax.map(lambda z: _square(x - z[None]), images)
    # The nearest is taken off before the division: of a narrow kernel's exponents, 1e11 and more, a
    # compiled program may round one twice, differently, and their difference leaves float32.
    nearest = jnp.min(squares, axis=0)
    beyond = jnp.sum(jnp.exp(-(squares - nearest[None]) / (2 * width**2)), axis=0)
    return jnp.log(beyond) - nearest / (2 * width**2)


def weighted_differences(
    x: jax.Array, images: jax.Array, weight: Callable[[jax.Array], jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """sum_k weight(q_k) (x - z_k), [B, ...], and sum_k weight(q_k), [B].

    x [B, ...], images [N, ...] of one shape; weight: squared distances [B] -> [B] >= 0.
    """
    _check_shapes(x, images)

    # One image after the other, by its difference itself: |x|^2 - 2 <x, z> + |z|^2, and
    # (sum_k w_k) x - sum_k w_k z_k, lose near an image every digit of what they should tell.
    def add(sums, z):
        difference = x - z[None]
        w = weight(_square(difference))
        return (sums[0] + per_sample(w, x) * difference, sums[1] + w), None

    # every carry is made from x, so that vmap and explicit sharding see its axes
    zero = (x - images[:1]) * 0
    return jax.lax.scan(add, (zero, _square(zero)), images)[0]


def moved(step: Step, shift: jax.Array) -> jax.Array:
    """The delta that moves x0 by a shift [B, ...]."""
    return -step.row.alpha / step.row.sigma * shift


def critical(step: Step, sigma_min: jax.Array) -> jax.Array:
    """Whether the step is above the critical level, bool []."""
    return step.row.sigma / step.row.alpha > sigma_min


def _square(x: jax.Array) -> jax.Array:
    return jnp.sum(x**2, axis=tuple(range(1, x.ndim)))


def _check_shapes(x: jax.Array, images: jax.Array) -> None:
    if x.shape[1:] != images.shape[1:]:
        raise InputError(
            f"the images of the set have shape {images.shape[1:]}, those sampled {x.shape[1:]}"
        )
