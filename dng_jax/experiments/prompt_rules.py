"""From the words of a rule (dng_jax.experiments.rule_specs) to the rule, away from prompts.

    unguided    the base of the variant: classifier-free guidance towards the prompt
    np=0.5      negative prompting: base - 0.5 (negative - base)
    sld=1       Safe Latent Diffusion as its own paper has it ("medium"), its term lambda times
    dng:pair=5  Dynamic Negative Guidance; tracker pair (the usual one here) or odds
    MODULE:FACTORY=SCALE, interval(LO,HI,RULE)

Variants and roles: dng_jax.denoisers.branches. All rules but sld take the roles of the variant that
is asked for, sld the raw predictions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from dng_jax import guidance, posterior
from dng_jax.denoisers.branches import POSITIVE, REFERENCE
from dng_jax.errors import InputError
from dng_jax.experiments import own_rules, rule_specs
from dng_jax.experiments.rule_specs import Spec, TrackerOptions

NAMES = ("unguided", "np", "sld", "dng")
TRACKERS = ("pair", "odds")
PRIOR = 0.01
SCALE_MAX = 10.0  # of lambda_t where there is a drift (dng_jax.guidance.dynamic_negative)
RAW = "raw"


class PromptRule(NamedTuple):
    """A rule, and the variant whose roles it takes."""

    rule: Any
    variant: str


def parse_all(texts: Sequence[str]) -> list[Spec]:
    """Reads the rules; InputError for what cannot be read, or is no rule of prompts."""
    return [_of_prompts(rule_specs.parse(text, TRACKERS[0])) for text in texts]


def build(
    spec: Spec,
    negatives: tuple[str, ...],
    variant: str,
    guidance_scale: float,
    options: TrackerOptions | None = None,
) -> PromptRule:
    """The rule for negatives of these roles; guidance_scale: w, which sld guides with itself.

    InputError for a rule that needs a negative where there is none, and numbers that make no sense.
    """
    if not negatives and spec.name != "unguided" and not spec.is_own:
        raise InputError(f"{spec} guides away from a negative prompt: give one with --negative")
    rule = _plain(spec, negatives, guidance_scale, options or TrackerOptions())
    if spec.interval is not None:
        low, high = spec.interval
        rule = guidance.interval(rule, sigma_min=low, sigma_max=high)
    return PromptRule(rule, RAW if spec.name == "sld" else variant)


def _of_prompts(spec: Spec) -> Spec:
    if not spec.is_own and spec.name not in NAMES:
        raise InputError(
            f"{spec} is a rule of classes or images: with prompts take {', '.join(NAMES)} or"
            " MODULE:FACTORY"
        )
    if spec.tracker not in (None, *TRACKERS):
        raise InputError(
            f"{spec}: the tracker {spec.tracker} is of classes, with prompts take pair or odds"
        )
    if spec.calibration is not None:
        raise InputError(f"{spec}: calibrations are fitted to classes, not to prompts")
    return spec


def _plain(spec: Spec, negatives: tuple[str, ...], w: float, options: TrackerOptions) -> Any:
    scale = 1.0 if spec.scale is None else spec.scale
    if spec.is_own:
        return own_rules.make(spec.name, scale, negatives)
    if spec.name == "unguided":
        return guidance.unguided()
    if spec.name == "np":
        return guidance.negative_prompt(scale, negatives=negatives)
    if spec.name == "sld":
        # Together w (A - u - scale sum_k gamma_k).
        rest = guidance.classifier_free((1 - scale * len(negatives)) * w, positive=POSITIVE)
        parts = [
            guidance.safe_latent_prompt(scale * w, positive=POSITIVE, negative=role)
            for role in negatives
        ]
        return guidance.sum_of(rest, *parts)
    numbers: dict[str, Any] = spec.numbers
    options = dataclasses.replace(options, **numbers)
    make: Any = posterior.pair if spec.tracker == "pair" else posterior.odds
    tracker = make(
        PRIOR if options.prior is None else options.prior,
        negatives=negatives,
        temperature=options.tau,
        delta=options.delta,
        drift=options.drift,
        probes=options.probes,
        reference=REFERENCE,
    )
    return guidance.dynamic_negative(tracker, scale, scale_max=SCALE_MAX if options.drift else None)
