"""From the words of a rule (dng_jax.experiments.rule_specs) to the rule, for one problem."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from dng_jax import guidance, posterior
from dng_jax.compatibility import refuse_table
from dng_jax.errors import InputError
from dng_jax.experiments import calibrations, image_rules, own_rules
from dng_jax.experiments.problems import Problem
from dng_jax.experiments.rejection import rejection
from dng_jax.experiments.rule_specs import (
    OF_IMAGES,
    REFERENCE,
    RETRAINED,
    SKIPPED,
    Spec,
    TrackerOptions,
)
from dng_jax.rules import class_roles
from dng_jax.steps import StepTable


def build(
    spec: Spec, problem: Problem, options: TrackerOptions, sampler: str = "ddpm", steps: int = 50
) -> Any:
    """The rule for a problem and a step table, or a Rejection.

    InputError where the problem's networks cannot serve it, or its numbers make no sense.
    """
    if spec.asks_every_class and problem.images is not None:
        raise InputError(
            f"{spec} asks for every class, but images are forbidden and no class: leave it out, or"
            " take pair or odds for a tracker"
        )
    if spec.asks_every_class and not problem.knows_classes:
        raise InputError(
            f"{spec} asks for every class, the network only knows the forbidden ones: leave it out,"
            " or choose another --network"
        )
    rule = _plain(spec, problem, options, sampler, steps)
    _answered(spec, rule, problem)
    if "skip" in spec.numbers:
        refused(spec, rule, problem.table(sampler, steps))
    if spec.interval is None:
        return rule
    low, high = spec.interval
    return guidance.interval(rule, sigma_min=low, sigma_max=high)


def tracker(spec: Spec, problem: Problem, options: TrackerOptions, sampler: str, steps: int) -> Any:
    """The tracker of a problem's forbidden classes."""
    numbers: dict[str, Any] = {n: v for n, v in spec.numbers.items() if n not in SKIPPED}
    options = dataclasses.replace(options, **numbers)
    name = (spec.tracker or "classes").partition("-")[0]
    k = problem.info.num_classes
    if name == "exact":
        if problem.mixture is None:
            images = problem.images
            if images is not None and images.absent:
                raise InputError(
                    f"the tracker 'exact' needs forbidden images that are patterns of the exact"
                    f" model, {images.absence}: raise --patterns, or leave them out of the folder"
                )
            raise InputError("the tracker 'exact' needs --denoiser exact")
        if spec.settings:
            raise InputError(f"{spec}: the exact posterior has no settings")
        return posterior.oracle(problem.mixture, problem.forbidden_components)
    shared: dict[str, Any] = {
        "temperature": options.tau,
        "delta": options.delta,
        "drift": options.drift,
        "probes": options.probes,
    }
    if spec.calibration is not None and problem.images is not None:
        raise InputError(f"{spec}: calibrations are fitted to classes, not to images: leave it out")
    if spec.calibration is not None:
        if options.tau != 1:
            raise InputError(f"{spec}: --tau and a calibration both set the temperature")
        found = calibrations.find(spec.calibration, problem, sampler, steps)
        shared |= calibrations.correction(spec.calibration, name, found).options()
    if name == "classes":
        if options.prior is not None:
            raise InputError("--prior belongs to pair and odds: classes starts from all classes")
        return posterior.classes(k, problem.forbidden, **shared)
    prior = problem.prior if options.prior is None else options.prior
    make: Any = posterior.pair if name == "pair" else posterior.odds
    return make(prior, negatives=problem.negatives, **shared)


def negative_prompt(spec: Spec, negatives: tuple[str, ...], scale: float) -> Any:
    """Negative prompting of a spec, at one step in `every` where it names that."""
    rule = guidance.negative_prompt(scale, negatives=negatives)
    if "every" not in spec.numbers:
        return rule
    try:
        return guidance.periodic(rule, spec.numbers["every"])
    except InputError as error:
        raise InputError(f"{spec}: {error}") from None


def skipping(spec: Spec) -> dict[str, Any]:
    """The arguments of `dynamic_negative` that a spec's skip and every are; InputError for every
    alone."""
    numbers = spec.numbers
    if "every" in numbers and "skip" not in numbers:
        raise InputError(f"{spec}: every belongs to skip, give both")
    return {
        name: numbers[word]
        for word, name in zip(SKIPPED, ("skip_below", "every"), strict=True)
        if word in numbers
    }


def refused(spec: Spec, rule: Any, table: StepTable) -> None:
    """InputError where a rule cannot run on a table."""
    try:
        refuse_table(table, rule)
    except InputError as error:
        raise InputError(f"{spec}: {error}") from None


def feedback(spec: Spec, table: StepTable | None, probes: int) -> Any:
    """Feedback Guidance of a spec; table: the steps that activation times are of, without one they
    are checked and left out. InputError for one time without the other, or with tau or offset."""
    numbers, pi = spec.numbers, 0.9 if spec.scale is None else spec.scale
    times = numbers.keys() & {"t0", "t1"}
    if times and set(numbers) != {"t0", "t1"}:
        raise InputError(f"{spec}: give both t0 and t1, and then neither tau nor offset")
    if times and table is not None:
        return guidance.feedback_from_times(
            table, numbers["t0"], numbers["t1"], pi=pi, probes=probes
        )
    tau, offset = numbers.get("tau", 1.0), numbers.get("offset", 0.0)
    return guidance.feedback(pi, temperature=tau, offset=offset, probes=probes)


def parameters(value: Any) -> Any:
    """A rule's numbers and kind, for a record; arrays of more than 64 numbers as their shape."""
    if dataclasses.is_dataclass(value):
        fields = {f.name: parameters(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__} | fields
    if isinstance(value, tuple):
        return [parameters(v) for v in value]
    if isinstance(value, jax.Array) and value.size > 64:
        return {"shape": value.shape}
    return value


def _plain(spec: Spec, problem: Problem, options: TrackerOptions, sampler: str, steps: int) -> Any:
    """The rule at every noise level."""
    scale = 1.0 if spec.scale is None else spec.scale
    if spec.is_own:
        return own_rules.make(spec.name, scale, problem.negatives)
    if spec.name == "unguided":
        return guidance.unguided()
    if spec.name == REFERENCE:
        return guidance.unguided("positive")
    if spec.name == RETRAINED:
        if problem.retrained is None:
            raise InputError(
                "the rule retrained needs a network that never saw the forbidden class: name its"
                " model file with --retrained (train.diffusion --without-class makes one)"
            )
        problem.retrained()  # refused now, if it is
        return guidance.unguided(RETRAINED)
    if spec.name == "np":
        return negative_prompt(spec, problem.negatives, scale)
    if spec.name == "sld":
        rules = [guidance.safe_latent(scale, negative=role) for role in problem.negatives]
        return rules[0] if len(rules) == 1 else guidance.sum_of(*rules)
    if spec.name == "cfg":
        return guidance.classifier_free(scale)
    if spec.name == "feedback":
        return feedback(spec, problem.table(sampler, steps), options.probes)
    if spec.name in OF_IMAGES:
        return image_rules.build(spec, problem)
    tracked = tracker(spec, problem, options, sampler, steps)
    if spec.name == "reject":
        return rejection(guidance.dynamic_negative(tracked, 0.0, base="model"), scale)
    base = (spec.tracker or "").partition("-")[2]
    try:
        return guidance.dynamic_negative(tracked, scale, base=base or None, **skipping(spec))
    except InputError as error:
        raise InputError(f"{spec}: {error}") from None


def _answered(spec: Spec, rule: Any, problem: Problem) -> None:
    """InputError for a role that no network of the problem answers."""
    if not problem.knows_negatives and set(rule.roles) & set(problem.negatives):
        raise InputError(
            f"{spec} asks for the forbidden classes, which {problem.network} does not know: name a"
            " model file of each with --negatives"
        )
    known = {"base", *problem.negatives} | ({RETRAINED} if spec.name == RETRAINED else set())
    if problem.knows_classes:
        known |= {"positive", *class_roles(problem.info.num_classes)}
    if problem.mixture is not None:
        known.add("negative")
    unknown = [role for role in rule.roles if role not in known]
    if unknown:
        raise InputError(
            f"{spec} asks for the role '{unknown[0]}', which no network answers: choose from "
            + ", ".join(sorted(known))
        )
