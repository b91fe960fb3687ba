r"""What members of a search are compared by: losses of held-out images, free of what is searched.

A training loss holds its own weights, dropout and smoothing, so that two of different numbers
cannot be compared. A yardstick is (params, images uint8 [N, H, W, C], labels int32 [N], key) ->
{name: mean over the images, float32 []}, without dropout or augmentation; "loss" is minimised.

Diffusion: images at stratified noise levels of the schedule (dng_jax.training.diffusion, no focus),
their noise and levels drawn from key,

    none   |f(x) - y|^2;     label, heads   |f_k(x) - y|^2 + |f_0(x) - y|^2 / 2

f_k told the class (label k, head k), f_0 not (null label, last head): the half is a fixed choice,
whatever weight a member trains with. Classifier: cross-entropy without smoothing, and accuracy.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from dng_jax.data import to_unit
from dng_jax.schedules import Schedule
from dng_jax.training.diffusion import UNCONDITIONAL_WEIGHT, diffusion_loss, stratified_logsnr
from dng_jax.training.members import Yardstick


def of_diffusion(module, schedule: Schedule) -> Yardstick:
    """Loss of a denoiser; of conditioning label and heads also its two parts."""
    label = module.config.conditioning == "label"

    def yardstick(params, images, labels, key):
        level_key, noise_key = jax.random.split(key)
        logsnr = stratified_logsnr(level_key, len(images), schedule)
        x0 = to_unit(images)
        loss, parts = diffusion_loss(module, params, x0, labels, logsnr, noise_key, False)
        if not label:
            return parts
        null = jnp.full_like(labels, module.config.num_classes)
        blind, _ = diffusion_loss(module, params, x0, null, logsnr, noise_key, False)
        whole = loss + UNCONDITIONAL_WEIGHT * blind
        return {"loss": whole, "loss_class": loss, "loss_unconditional": blind}

    return yardstick


def of_classifier(module) -> Yardstick:
    """Log loss in nats and accuracy of a classifier."""

    def yardstick(params, images, labels, key):
        del key
        logits = module.apply({"params": params}, to_unit(images))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        right = jnp.argmax(logits, -1).astype(labels.dtype) == labels
        return {"loss": loss, "accuracy": jnp.mean(right)}

    return yardstick
