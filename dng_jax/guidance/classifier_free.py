r"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598, in the scale convention of
Stable Diffusion):

    eps = eps_base + w (eps_positive - eps_base)        w = 0 unguided, 1 conditional, > 1 sharpened

Outside an interval of noise levels it falls back to w = 1 (Kynkaanniemi et al. 2024, arXiv
2404.07724, eq. 5).
"""

from __future__ import annotations

import jax

from dng_jax.rules import Stateless, Step, number, per_sample, pytree, static


@pytree
class ClassifierFree(Stateless):
    """Make it with `classifier_free`."""

    guidance_scale: jax.Array
    positive: str = static(default="positive")

    @property
    def roles(self) -> tuple[str, ...]:
        return ("base", self.positive)

    def apply(self, state, step: Step):
        scale = per_sample(self.guidance_scale, step.x, "guidance_scale")
        return scale * (step.preds[self.positive] - step.base), state, {}

    def outside(self, step: Step):
        """The condition alone."""
        return step.preds[self.positive] - step.base


def classifier_free(guidance_scale: float, *, positive: str = "positive") -> ClassifierFree:
    """CFG towards the role `positive`; guidance_scale any real number, or one per image [B].

    0 is unguided, 1 plain conditioning.
    """
    return ClassifierFree(number(guidance_scale, "guidance_scale"), positive)
