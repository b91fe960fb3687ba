r"""SPELL, sparse repellency (Kirchhof et al., ICML 2025, arXiv 2410.06025).

    x0' = x0 + scale sum_k relu( r / |x0 - z_k| - 1 ) (x0 - z_k)

x0 [B, ...] the base's denoised image, z_k [N, ...] the shielded images, r the radius of the ball
around each. At scale 1 one ball's term moves x0 to its surface, and outside all balls the rule does
nothing; the paper overcompensates by 1.6. (The role of a negative, and of its denoiser, is not
asked for.)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dng_jax.guidance.image_kernel import checked_images, denoised, moved, weighted_differences
from dng_jax.rules import Stateless, Step, number, one_each, per_sample, pytree

# The direction at the centre itself is unknown, and its term 0: no distance counts as less. Its
# square is far from what float32 rounds to 0.
LEAST = 1e-12


@pytree
class SparseRepellency(Stateless):
    """Out of the balls around a set of images. Make it with `sparse_repellency`."""

    images: jax.Array
    guidance_scale: jax.Array
    radius: jax.Array

    @property
    def roles(self) -> tuple[str, ...]:
        return ("base",)

    def apply(self, state, step: Step):
        x0 = denoised(step)

        def outward(squares):
            return jnp.maximum(self.radius / jnp.maximum(jnp.sqrt(squares), LEAST) - 1, 0.0)

        shift, total = weighted_differences(x0, self.images, outward)
        scale = one_each(self.guidance_scale, step.x, "guidance_scale")
        return moved(step, per_sample(scale, step.x) * shift), state, {"lambda": scale * total}


def sparse_repellency(images, radius: float, guidance_scale: float = 1.6) -> SparseRepellency:
    """SPELL with images [N, ...] in the units of x.

    radius: r > 0, a distance between whole images; guidance_scale >= 0, a number or one per image
    [B], 0 is unguided.
    """
    return SparseRepellency(
        checked_images(images),
        number(guidance_scale, "guidance_scale", low=0),
        number(radius, "radius", low=0, open_=True, axes=0),
    )
