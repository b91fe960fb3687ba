"""From the words of a rule (dng_jax.experiments.rule_specs) to the rule, away from prompts.

u is the prediction for the empty prompt, A for the prompt, B for a negative one, w the scale of
classifier-free guidance; base and negative are what the variant makes of them
(dng_jax.denoisers.branches).

    unguided    the base of the variant: classifier-free guidance towards the prompt
    np=1        negative prompting: base - 1 (negative - base)
    inplace     Stable Diffusion's own: B + w (A - B), of one negative
    sld=1       Safe Latent Diffusion as its own paper has it ("medium"): w (A - u - 1 gamma)
    feedback=.9 Feedback Guidance towards the prompt, pi = .9; settings tau and offset, or the
                activation times t0 and t1
    dng:pair=1  Dynamic Negative Guidance; tracker pair (the usual one here) or odds; skip and every
                as with classes: the negatives are asked for where they may matter
    MODULE:FACTORY=SCALE, interval(LO,HI,RULE)

The scales shown are those of a rule without one. np and sld have others here than with classes:
against a prompt, 1 is negative prompting with the weight of the base and the paper's own SLD.
inplace, sld and feedback guide towards the prompt themselves, so they take the raw predictions,
whatever the variant; outside an interval they are the prompt alone, A. feedback does without w and
without negatives.

SCALE_MAX is the cap on lambda_t of dng. Without one, a posterior at its upper clamp of .99 makes 99
lambda_0 of it, which no image survives; at lambda_0 = 1 the cap binds from p = .91 on, and with a
drift it is what holds the image (dng_jax.guidance.dynamic_negative). The numbers of the DNG paper
belong to a rule without a cap: with its lambda_0 of 12 to 27, 10 is reached from p = .27 to .45 on,
so the study of the paper builds its rules with scale_max None. A rule that skips has the cap of
dng_jax.guidance.skipping.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from dng_jax import guidance, posterior
from dng_jax.denoisers.branches import POSITIVE, REFERENCE
from dng_jax.errors import InputError
from dng_jax.experiments import own_rules, rule_specs
from dng_jax.experiments.paper_prompts import PRIOR
from dng_jax.experiments.rule_builders import feedback, negative_prompt, skipping
from dng_jax.experiments.rule_specs import Kind, Spec, TrackerOptions
from dng_jax.steps import StepTable

RULES = {
    "unguided": Kind(),
    "np": rule_specs.RULES["np"]._replace(scale=1.0),
    "inplace": Kind(),
    "sld": Kind(1.0),
    "feedback": rule_specs.RULES["feedback"],
    "dng": rule_specs.RULES["dng"],
}
OF_RAW = ("inplace", "sld", "feedback")
WITHOUT_NEGATIVES = ("unguided", "feedback")
TRACKERS = ("pair", "odds")
SCALE_MAX = 10.0
RAW = "raw"


class PromptRule(NamedTuple):
    """A rule, the variant whose roles it takes, and whether w is a number of its own."""

    rule: Any
    variant: str
    takes_w: bool = False


def parse_all(texts: Sequence[str]) -> list[Spec]:
    """Reads the rules; InputError for what cannot be read, or is no rule of prompts."""
    kinds = rule_specs.RULES | RULES
    return [_of_prompts(rule_specs.parse(text, TRACKERS[0], kinds)) for text in texts]


def build(
    spec: Spec,
    negatives: tuple[str, ...],
    variant: str,
    guidance_scale: float,
    options: TrackerOptions | None = None,
    *,
    table: StepTable | None = None,
    scale_max: float | None = SCALE_MAX,
) -> PromptRule:
    """The rule for negatives of these roles.

    guidance_scale: w, of sld and inplace; table: the steps, which feedback's activation times are
    of (without one they are checked alone, so that a rule is refused before a model is loaded);
    scale_max: cap on lambda_t of dng, None for no cap. InputError for a rule that needs a negative
    where there is none, and numbers that make no sense.
    """
    if not negatives and spec.name not in WITHOUT_NEGATIVES and not spec.is_own:
        raise InputError(f"{spec} guides away from a negative prompt: give one with --negative")
    if spec.name == "dng":
        rule = _dynamic(spec, negatives, options or TrackerOptions(), scale_max)
    elif spec.name == "feedback":
        rule = feedback(spec, table, (options or TrackerOptions()).probes)
    else:
        rule = _plain(spec, negatives, guidance_scale)
    if spec.interval is not None:
        low, high = spec.interval
        rule = guidance.interval(rule, sigma_min=low, sigma_max=high)
    takes_w = spec.name in ("inplace", "sld")
    return PromptRule(rule, RAW if spec.name in OF_RAW else variant, takes_w)


def _of_prompts(spec: Spec) -> Spec:
    if not spec.is_own and spec.name not in RULES:
        raise InputError(
            f"{spec} is a rule of classes or images: with prompts take {', '.join(RULES)} or"
            " MODULE:FACTORY"
        )
    if spec.tracker not in (None, *TRACKERS):
        raise InputError(
            f"{spec}: the tracker {spec.tracker} is of classes, with prompts take pair or odds"
        )
    if spec.calibration is not None:
        raise InputError(f"{spec}: calibrations are fitted to classes, not to prompts")
    return spec


def _plain(spec: Spec, negatives: tuple[str, ...], w: float) -> Any:
    """A rule without a tracker."""
    scale = 1.0 if spec.scale is None else spec.scale
    if spec.is_own:
        return own_rules.make(spec.name, scale, negatives)
    if spec.name == "unguided":
        return guidance.unguided()
    if spec.name == "np":
        return negative_prompt(spec, negatives, scale)
    if spec.name == "inplace":
        if len(negatives) > 1:
            raise InputError(
                f"{spec} puts one negative in the place of the empty prompt, not {len(negatives)}:"
                " name them in one --negative, joined by commas"
            )
        return guidance.negative_in_place(w, positive=POSITIVE, negative=negatives[0])
    if w < 0:
        raise InputError(f"{spec} needs a --guidance-scale of 0 at least, got {w:g}")
    return guidance.safe_latent_prompt(w, strength=scale, positive=POSITIVE, negatives=negatives)


def _dynamic(
    spec: Spec, negatives: tuple[str, ...], options: TrackerOptions, scale_max: float | None
) -> Any:
    numbers = {n: v for n, v in spec.numbers.items() if n not in rule_specs.SKIPPED}
    options = dataclasses.replace(options, **numbers)  # type: ignore[arg-type]
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
    scale = 1.0 if spec.scale is None else spec.scale
    skipped = skipping(spec)
    # A rule that skips has a lower cap of its own.
    cap = None if skipped else scale_max
    try:
        return guidance.dynamic_negative(tracker, scale, scale_max=cap, **skipped)
    except InputError as error:
        raise InputError(f"{spec}: {error}") from None
