r"""Safety-Guided Flow (Kim, Kim and Park, ICLR 2026, arXiv 2603.13300).

The squared maximum mean discrepancy between x0 and a set of images z_k [N, ...], with the kernel
exp(-|a - b|^2 / (2 h^2)), has the gradient (2/h^2) Z(x0) [x0 - sum_k w_k z_k], up which x0 moves:

    x0' = x0 + lambda(t) (2/h^2) Z(x0) [x0 - sum_k w_k z_k],    lambda(t) = 0 after a critical time

Z [B] as in dng_jax.guidance.image_kernel, w = softmax_k( -|x0 - z_k|^2 / (2 h^2) ) [B, N]. The
bracket is the gradient of the Euclidean Hopfield energy of the set,
-h^2 log sum_k exp(-|x - z_k|^2 / (2 h^2)), at beta = 1/h^2. The number that is set here is
without units, guidance_scale = 2 lambda / h^2: at 1, an x0 at one lone image's kernel top moves as
far again from it. It acts where sigma/alpha > sigma_min.

The authors' program (github MingyuKim87/SGF, read, not run) takes the kernel exp(-gamma |a - b|^2)
with gamma from nearest neighbours, lets it act in the first 22 to 40% of the chain, noises the
result afresh, and adds to x0 the gradient of the kernel itself, .015 to .03 times
-2 gamma Z [x0 - sum_k w_k z_k]: towards the set, where the derivation has it go away. This is the
derivation.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dng_jax.guidance.image_kernel import (
    checked_images,
    critical,
    denoised,
    moved,
    weighted_differences,
)
from dng_jax.rules import Stateless, Step, number, one_each, per_sample, pytree


@pytree
class SafetyFlow(Stateless):
    """Up the discrepancy from a set of images. Make it with `safety_flow`."""

    images: jax.Array
    guidance_scale: jax.Array
    width: jax.Array
    sigma_min: jax.Array

    @property
    def roles(self) -> tuple[str, ...]:
        return ("base",)

    def apply(self, state, step: Step):
        scale = one_each(self.guidance_scale, step.x, "guidance_scale")
        scale = jnp.where(critical(step, self.sigma_min), scale, 0.0)

        def kernel(squares):
            return jnp.exp(-squares / (2 * self.width**2))

        # Z w_k is the kernel at z_k, so that Z [x0 - sum_k w_k z_k] takes no softmax.
        shift, mass = weighted_differences(denoised(step), self.images, kernel)
        return moved(step, per_sample(scale, step.x) * shift), state, {"lambda": scale * mass}


def safety_flow(
    images, guidance_scale: float, width: float, *, sigma_min: float = 0.0
) -> SafetyFlow:
    """SGF with images [N, ...] in the units of x.

    guidance_scale: 2 lambda / h^2 >= 0, a number or one per image [B], 0 is unguided; width:
    h > 0, a distance between whole images; sigma_min: critical level sigma/alpha >= 0.
    """
    return SafetyFlow(
        checked_images(images),
        number(guidance_scale, "guidance_scale", low=0),
        number(width, "width", low=0, open_=True, axes=0),
        number(sigma_min, "sigma_min", low=0, axes=0),
    )
