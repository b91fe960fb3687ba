r"""Negative prompting with a constant scale, in its two forms.

    away         eps = eps_base - lambda sum_k (eps_neg,k - eps_base)      CFG of weight -lambda
    in place     eps = eps_neg + w (eps_pos - eps_neg)                     the negative stands in
                 the place of the empty prompt of CFG, as Stable Diffusion pipelines have it

"In place" is CFG with the base swapped for the negative; it asks for no base prediction. Outside an
interval of noise levels the first falls back to the base, the second to w = 1, the prompt alone.
"""

from __future__ import annotations

import jax

from dng_jax.errors import distinct_roles
from dng_jax.rules import Stateless, Step, number, per_sample, pytree, static


@pytree
class NegativePrompt(Stateless):
    """Away from the negatives. Make it with `negative_prompt`."""

    guidance_scale: jax.Array
    negatives: tuple[str, ...] = static(default=("negative",))

    @property
    def roles(self) -> tuple[str, ...]:
        return ("base", *self.negatives)

    def apply(self, state, step: Step):
        away = sum(step.base - step.preds[role] for role in self.negatives)
        return per_sample(self.guidance_scale, step.x, "guidance_scale") * away, state, {}


@pytree
class NegativeInPlace(Stateless):
    """The negative in the place of the empty prompt. Make it with `negative_in_place`."""

    guidance_scale: jax.Array
    positive: str = static(default="positive")
    negative: str = static(default="negative")

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.positive, self.negative)

    def apply(self, state, step: Step):
        negative = step.preds[self.negative]
        scale = per_sample(self.guidance_scale, step.x, "guidance_scale")
        guided = negative + scale * (step.preds[self.positive] - negative)
        return guided - step.base, state, {}

    def outside(self, step: Step):
        """The prompt alone."""
        return step.preds[self.positive] - step.base


def negative_prompt(
    guidance_scale: float, *, negatives: tuple[str, ...] = ("negative",)
) -> NegativePrompt:
    """Constant push away from the negative roles; guidance_scale = lambda, 0 is unguided.

    guidance_scale: a number, or one per image [B]. InputError where a role is named twice.
    """
    return NegativePrompt(
        number(guidance_scale, "guidance_scale"), distinct_roles(negatives, "negative role")
    )


def negative_in_place(
    guidance_scale: float, *, positive: str = "positive", negative: str = "negative"
) -> NegativeInPlace:
    """CFG of weight w between two prompts; guidance_scale = w, 1 is the positive alone.

    guidance_scale: a number, or one per image [B].
    """
    return NegativeInPlace(number(guidance_scale, "guidance_scale"), positive, negative)
