r"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598, in the scale convention of
Stable Diffusion):

    eps = eps_base + w (eps_positive - eps_base)        w = 0 unguided, 1 conditional, > 1 sharpened
"""

from __future__ import annotations

import jax

from dng_jax.rules import Stateless, Step, number, pytree, static


@pytree
class ClassifierFree(Stateless):
    """Make it with `classifier_free`."""

    guidance_scale: jax.Array
    positive: str = static(default="positive")

    @property
    def roles(self) -> tuple[str, ...]:
        return ("base", self.positive)

    def apply(self, state, step: Step):
        return self.guidance_scale * (step.preds[self.positive] - step.base), state, {}


def classifier_free(guidance_scale: float, *, positive: str = "positive") -> ClassifierFree:
    """CFG towards the role `positive`; guidance_scale any real number, 1 is plain conditioning."""
    return ClassifierFree(number(guidance_scale, "guidance_scale"), positive)
