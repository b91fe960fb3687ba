"""Guidance rules by name, as jobs take them: NAME[:TRACKER][=SCALE].

unguided            the base model
np=0.3              negative prompting, lambda = 0.3
sld=0.5              Safe Latent Diffusion without a prompt, lambda = 0.5
dng=1  dng:pair=5   Dynamic Negative Guidance, lambda_0, with a tracker: pair, odds, classes
dng:exact           the same with the exact posterior (--denoiser exact only)
reference           the allowed classes in equal parts, sampled class-conditionally: what a perfect
                    rule scores
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dng_jax.errors import InputError, choose

if TYPE_CHECKING:
    from dng_jax.experiments.problems import Problem

REFERENCE = "reference"
RULES = ("unguided", "np", "sld", "dng", REFERENCE)
TRACKERS = ("pair", "odds", "classes", "classes-model", "exact")
SCALES = {"np": 0.3, "sld": 0.5, "dng": 1.0}


@dataclass(frozen=True)
class TrackerOptions:
    """Numbers of the trackers of dng rules."""

    tau: float = 1.0
    """Temperature of the likelihood ratio, >= 0; 1 is Bayes' rule."""
    delta: float = 0.0
    """The paper's offset, a squared distance in units of the pixels (-1 to 1)."""
    drift: float = 0.0
    """Portable offset: the fraction of a step's expected drift that is given back, 0 to 1."""
    prior: float | None = None
    """Prior of each forbidden class for pair and odds, between 0 and 1; default: 1 / classes."""
    probes: int = 0
    """Random probes of the divergence term per step, at least 0; deterministic samplers need 1."""


@dataclass(frozen=True)
class Spec:
    """A parsed rule: its name, tracker (dng only) and scale (where it has one)."""

    name: str
    tracker: str | None
    scale: float | None

    def __str__(self) -> str:
        tracker = f":{self.tracker}" if self.tracker else ""
        return f"{self.name}{tracker}" + (f"={self.scale:g}" if self.scale is not None else "")

    @property
    def family(self) -> str:
        """The rule without its scale: what a trade-off curve runs along."""
        return self.name + (f":{self.tracker}" if self.tracker else "")

    @property
    def is_reference(self) -> bool:
        """Whether this samples the class-conditional reference."""
        return self.name == REFERENCE

    def with_scale(self, scale: float | None) -> Spec:
        """The same rule at another scale; None keeps the one it has."""
        return self if scale is None else dataclasses.replace(self, scale=scale)


def parse(text: str, tracker: str = "classes") -> Spec:
    """Reads one rule; `tracker` is that of a dng without one. InputError says what is wrong."""
    head, _, number = text.partition("=")
    name, _, named = head.partition(":")
    choose(name, RULES, "rule")
    if named and name != "dng":
        raise InputError(f"rule '{text}': only dng takes a tracker, as in dng:pair")
    chosen = choose(named or tracker, TRACKERS, "tracker") if name == "dng" else None
    if name not in SCALES:
        if number:
            raise InputError(f"rule '{text}': {name} takes no scale")
        return Spec(name, None, None)
    try:
        scale = float(number) if number else SCALES[name]
    except ValueError:
        raise InputError(f"rule '{text}': '{number}' is not a number") from None
    if not 0 <= scale < float("inf"):
        raise InputError(f"rule '{text}': the scale must be a finite number >= 0")
    return Spec(name, chosen, scale)


def build(spec: Spec, problem: Problem, options: TrackerOptions) -> Any:
    """The rule for a problem; InputError where the problem's networks cannot serve it."""
    from dng_jax import guidance

    asks_all = spec.is_reference or (spec.tracker or "").startswith("classes")
    if asks_all and not problem.knows_classes:
        raise InputError(
            f"{spec} asks for every class, the network only knows the forbidden ones: leave it out,"
            " or choose another --network"
        )
    if spec.name == "unguided":
        return guidance.unguided()
    if spec.is_reference:
        return guidance.unguided("positive")
    scale = SCALES[spec.name] if spec.scale is None else spec.scale
    if spec.name == "np":
        return guidance.negative_prompt(scale, negatives=problem.negatives)
    if spec.name == "sld":
        rules = [guidance.safe_latent(scale, negative=role) for role in problem.negatives]
        return rules[0] if len(rules) == 1 else guidance.sum_of(*rules)
    name, _, base = (spec.tracker or "classes").partition("-")
    return guidance.dynamic_negative(tracker(name, problem, options), scale, base=base or None)


def has_numbers(rule: Any) -> bool:
    """Whether there is anything to sweep over."""
    import jax

    return bool(jax.tree.leaves(rule))


def parameters(value: Any) -> Any:
    """A rule's numbers and kind, for a record; arrays of more than 64 numbers as their shape."""
    import jax

    if dataclasses.is_dataclass(value):
        fields = {f.name: parameters(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__} | fields
    if isinstance(value, tuple):
        return [parameters(v) for v in value]
    if isinstance(value, jax.Array) and value.size > 64:
        return {"shape": value.shape}
    return value


def tracker(name: str, problem: Problem, options: TrackerOptions) -> Any:
    """The tracker of a problem's forbidden classes."""
    from dng_jax import posterior

    k = problem.info.num_classes
    if name == "exact":
        if problem.mixture is None:
            raise InputError("the tracker 'exact' needs --denoiser exact")
        return posterior.oracle(problem.mixture, problem.forbidden)
    shared: dict[str, Any] = {
        "temperature": options.tau,
        "delta": options.delta,
        "drift": options.drift,
        "probes": options.probes,
    }
    if name == "classes":
        if options.prior is not None:
            raise InputError("--prior belongs to pair and odds: classes starts from all classes")
        return posterior.classes(k, problem.forbidden, **shared)
    prior = 1 / k if options.prior is None else options.prior
    make: Any = posterior.pair if name == "pair" else posterior.odds
    return make(prior, negatives=problem.negatives, **shared)
