"""Options that no rule of the run would notice, which are refused by their names."""

from __future__ import annotations

from collections.abc import Sequence

from dng_jax.denoisers.branches import REFERENCE
from dng_jax.errors import InputError
from dng_jax.experiments.prompt_rules import RAW, PromptRule

from .options import Config


def check(config: Config, rules: Sequence[PromptRule]) -> None:
    """InputError for a --variant or a --guidance-scale that reaches none of the rules."""
    usual, negatives = Config(), ("negative", REFERENCE)
    of_variant = [made.rule for made in rules if made.variant != RAW]
    away = any(role.startswith(negatives) for rule in of_variant for role in rule.roles)
    if config.variant != usual.variant and not away and not (config.variant == "c" and of_variant):
        raise InputError(
            f"--variant {config.variant} says what a negative prompt is compared with, and no rule"
            " here asks for that (unguided does not, and inplace, sld and feedback take raw"
            " predictions): leave it out"
        )
    guided = config.variant != "c" and of_variant
    scaled = any(made.takes_w for made in rules)
    if config.guidance_scale != usual.guidance_scale and not guided and not scaled:
        why = "variant c is without it" if of_variant else "feedback has a scale of its own"
        raise InputError(
            f"--guidance-scale {config.guidance_scale:g} is of classifier-free guidance, and {why}:"
            " leave it out"
        )
