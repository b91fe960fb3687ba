r"""Safe Denoiser (Kim et al., NeurIPS 2025, arXiv 2502.08011).

    x0_safe = x0 + b (x0 - x0_unsafe)                                                  (theorem)
    b(x_t)  = P(U) p_t(x_t | U) / [ (1 - P(U)) p_t(x_t | not U) ]        the exact odds of U

x0 [B, ...] the base's denoised image, x0_unsafe that of the unsafe set U (the role "negative"; for
a set of images in closed form, dng_jax.denoisers.image_set), b [B]. In predictions this is
delta = -b (eps_n - eps_b): Dynamic Negative Guidance with the exact posterior, b being p/(1 - p).
The densities are not known of a network, so the paper takes for b a kernel of the set, and applies
it in the noisy part of the chain alone:

    b = scale * Z(x0) where sigma/alpha > sigma_min, else 0

with Z the kernel mass of width h (dng_jax.guidance.image_kernel). `exact_odds` of a
mixture, the oracle of dng_jax.posterior, goes in the same place, at scale 1.

The authors' program differs: it subtracts scale * x0_unsafe from x0 without the term b x0, where
Z passes a threshold, takes the weights of x0_unsafe at x0 rather than x_t, with distances that are
not squared, and noises the result afresh. Scales do not carry over.
"""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp

from dng_jax.guidance.image_kernel import (
    checked_images,
    critical,
    denoised,
    log_mass,
)
from dng_jax.rules import Stateless, Step, number, one_each, per_sample, pytree, static

_LOG_ODDS_MAX = 80.0  # beyond this the odds leave float32


class Odds(Protocol):
    """What says how far x_t belongs to the set: log b at scale 1, [B], -inf where it does not."""

    def log_odds(self, step: Step) -> jax.Array: ...


@pytree
class KernelOdds:
    """log Z(x0) above a critical level, -inf below. Make it with `kernel_odds`."""

    images: jax.Array
    width: jax.Array
    sigma_min: jax.Array

    def log_odds(self, step: Step) -> jax.Array:
        """log b at scale 1, [B]."""
        mass = log_mass(denoised(step), self.images, self.width)
        return jnp.where(critical(step, self.sigma_min), mass, -jnp.inf)


@pytree
class SafeDenoiser(Stateless):
    """Away from the negative by odds that no chain is tracked for. Make it with
    `safe_denoiser`."""

    odds: Odds
    guidance_scale: jax.Array
    negative: str = static(default="negative")

    @property
    def roles(self) -> tuple[str, ...]:
        return ("base", self.negative)

    def apply(self, state, step: Step):
        odds = jnp.exp(jnp.minimum(self.odds.log_odds(step), _LOG_ODDS_MAX))
        b = one_each(self.guidance_scale, step.x, "guidance_scale") * odds
        away = step.base - step.preds[self.negative]
        return per_sample(b, step.x) * away, state, {"lambda": b}


def kernel_odds(images, width: float, *, sigma_min: float = 0.0) -> KernelOdds:
    """The kernel mass of images [N, ...] in the place of odds.

    width: h > 0, a distance between whole images (not per pixel); sigma_min: critical level >= 0.
    """
    return KernelOdds(
        checked_images(images),
        number(width, "width", low=0, open_=True, axes=0),
        number(sigma_min, "sigma_min", low=0, axes=0),
    )


def safe_denoiser(
    odds: Odds, guidance_scale: float = 1.0, *, negative: str = "negative"
) -> SafeDenoiser:
    """Safe Denoiser with any odds: `kernel_odds`, or dng_jax.posterior.oracle of a mixture.

    guidance_scale >= 0, a number or one per image [B]; 0 is unguided.
    """
    return SafeDenoiser(odds, number(guidance_scale, "guidance_scale", low=0), negative)
