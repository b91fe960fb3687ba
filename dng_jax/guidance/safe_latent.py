r"""Safe Latent Diffusion, in the two forms met in the field.

Without a text prompt, as the DNG paper compares it (Koulischer et al., ICLR 2025, arXiv 2410.14398;
elementwise in the image):

    d  = eps_base - eps_neg
    m  = where(d < threshold, min(1, scale |d|), 0)
    g  = -m d + s_m v;     v <- beta_m v + (1 - beta_m) g;     v_0 = 0
    eps = eps_base - lambda g

With a prompt, as its own paper has it (Schramowski et al. 2023, arXiv 2211.05105, eq. 5-8):

    d  = eps_pos - eps_neg
    mu = where(d < threshold, min(1, scale |d|), 0)
    gamma = mu (eps_neg - eps_base) + s_m v;     v <- beta_m v + (1 - beta_m) gamma;     v_0 = 0
    eps = eps_base + w (eps_pos - eps_base - s [step >= warmup] gamma)

s = 1 is the paper's. Of several negatives each has a gamma and a v of its own, and the gammas add.
Both are one rule: the first is the second with eps_pos = eps_base, so that
gamma = mu (eps_neg - eps_base) = -mu d, w = lambda and warmup = 0. Outside an interval of noise
levels they fall back to eps_pos: the base, or with a prompt the prompt alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dng_jax.errors import choose, distinct_roles
from dng_jax.rules import Move, Step, number, per_sample, pytree, static

SETTINGS = ("warmup", "scale", "threshold", "momentum_scale", "momentum_beta")


@pytree
class SafeLatent:
    """State: the momentum v of every negative, shaped as x. Make it with `safe_latent` or
    `safe_latent_prompt`."""

    guidance_scale: jax.Array
    strength: jax.Array
    warmup: jax.Array
    scale: jax.Array
    threshold: jax.Array
    momentum_scale: jax.Array
    momentum_beta: jax.Array
    positive: str = static(default="base")
    negatives: tuple[str, ...] = static(default=("negative",))

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(("base", self.positive, *self.negatives)))

    def init_state(self, x):
        return tuple(jnp.zeros_like(x) for _ in self.negatives)

    def apply(self, state, step: Step):
        positive = step.preds[self.positive]
        names = ("guidance_scale", "strength", *SETTINGS)
        guidance_scale, strength, warmup, scale, threshold, momentum_scale, momentum_beta = (
            per_sample(getattr(self, name), step.x, name) for name in names
        )
        gammas, states = [], []
        for role, v in zip(self.negatives, state, strict=True):
            negative = step.preds[role]
            d = positive - negative
            mask = jnp.where(d < threshold, jnp.minimum(1.0, scale * jnp.abs(d)), 0.0)
            gamma = mask * (negative - step.base) + momentum_scale * v
            states.append(momentum_beta * v + (1 - momentum_beta) * gamma)
            gammas.append(gamma)
        active = step.row.index.astype(warmup.dtype) >= warmup
        unsafe = jnp.where(active, strength * sum(gammas[1:], gammas[0]), 0.0)
        return guidance_scale * (positive - step.base - unsafe), tuple(states), {}

    def outside(self, step: Step):
        """The prompt alone; the base where there is none."""
        return step.preds[self.positive] - step.base

    def update(self, state, step: Step, move: Move):
        return state


def safe_latent(
    guidance_scale: float,
    *,
    scale: float = 100.0,
    threshold: float = 0.04,
    momentum_scale: float = 0.2,
    momentum_beta: float = 0.1,
    negative: str = "negative",
) -> SafeLatent:
    """SLD without a prompt; guidance_scale = lambda >= 0, 0 is unguided."""
    settings = (0, scale, threshold, momentum_scale, momentum_beta)
    return _make(guidance_scale, 1.0, settings, "base", (negative,))


PRESETS = {
    "medium": (10, 1000.0, 0.01, 0.3, 0.4),
    "strong": (7, 2000.0, 0.025, 0.5, 0.7),
    "max": (0, 5000.0, 1.0, 0.5, 0.7),
}


def safe_latent_prompt(
    guidance_scale: float = 7.5,
    *,
    preset: str = "medium",
    strength: float = 1.0,
    positive: str = "positive",
    negatives: tuple[str, ...] = ("negative",),
    **changes: float,
) -> SafeLatent:
    """SLD on top of CFG, with the presets of its paper ("medium", "strong", "max").

    guidance_scale: w >= 0; strength: s >= 0, 0 is CFG; changes: any of warmup (steps), scale,
    threshold, momentum_scale, momentum_beta.
    """
    values = dict(zip(SETTINGS, PRESETS[choose(preset, PRESETS, "SLD preset")], strict=True))
    for name in changes:
        choose(name, SETTINGS, "SLD setting")
    values |= changes
    return _make(guidance_scale, strength, tuple(values.values()), positive, negatives)


def _make(
    guidance_scale, strength, settings, positive: str, negatives: tuple[str, ...]
) -> SafeLatent:
    warmup, scale, threshold, momentum_scale, momentum_beta = settings
    return SafeLatent(
        number(guidance_scale, "guidance_scale", low=0),
        number(strength, "strength", low=0),
        number(warmup, "warmup", low=0),
        number(scale, "scale", low=0),
        number(threshold, "threshold"),
        number(momentum_scale, "momentum_scale", low=0),
        number(momentum_beta, "momentum_beta", low=0, high=1),
        positive,
        distinct_roles(negatives, "negative role"),
    )
