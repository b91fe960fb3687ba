"""What a search minimises, and what it keeps to.

    leak       share of the forbidden classes among the samples, in [0, 1]
    kl         KL(target || generated) in nats, less its small-sample bias (dng_jax.metrics.shares)
    frechet    Frechet distance of the classifier's features to those of the data
    calls      network calls per image; of an exact denoiser, which has no network, its steps

A constraint is MEASURE<=NUMBER, of a leak also in per cent: leak<=0.5%. By how much a setting
violates it is value - NUMBER, at most 0 where it is kept.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dng_jax.errors import InputError, choose

MEASURES = ("leak", "kl", "frechet", "calls")
_CONSTRAINT = re.compile(r"([a-z]+)<=([^%]+)(%?)")


@dataclass(frozen=True)
class Constraint:
    """A measure and the most it may be."""

    measure: str
    most: float

    def __str__(self) -> str:
        return f"{self.measure} <= {shown(self.measure, self.most)}"

    def excess(self, found: Mapping[str, float]) -> float:
        """By how much it is violated; at most 0 where it is kept."""
        return found[self.measure] - self.most


@dataclass(frozen=True)
class Goals:
    """Objectives, all minimised, and constraints."""

    objectives: tuple[str, ...]
    constraints: tuple[Constraint, ...] = ()

    @property
    def measures(self) -> tuple[str, ...]:
        """What a front is over: objectives, and what constraints are about."""
        about = (constraint.measure for constraint in self.constraints)
        return tuple(dict.fromkeys([*self.objectives, *about]))

    def values(self, found: Mapping[str, float]) -> list[float]:
        """The objectives of one setting."""
        return [found[name] for name in self.objectives]

    def violation(self, found: Mapping[str, float]) -> float:
        """Sum of what its constraints are violated by, each as a share of its limit; 0 where all
        are kept."""
        excess = (c.excess(found) / (abs(c.most) or 1.0) for c in self.constraints)
        return sum(max(0.0, e) for e in excess)


def parse(objectives: Sequence[str], constraints: Sequence[str]) -> Goals:
    """Reads both; InputError for an unknown measure, or what is no constraint."""
    if not objectives:
        raise InputError("name at least one objective: leak, kl, frechet or calls")
    for name in objectives:
        choose(name, MEASURES, "objective")
    if len(set(objectives)) < len(objectives):
        raise InputError(f"--objectives {' '.join(objectives)} names one twice: leave one out")
    found = [_constraint(text) for text in constraints]
    about = [constraint.measure for constraint in found]
    if len(set(about)) < len(about):
        raise InputError("two constraints are about one measure: keep the stricter one")
    return Goals(tuple(objectives), tuple(found))


def shown(measure: str, value: float) -> str:
    """A value as a person reads it: a leak in per cent."""
    return f"{100 * value:.3g}%" if measure == "leak" else f"{value:.4g}"


def _constraint(text: str) -> Constraint:
    read = _CONSTRAINT.fullmatch(re.sub(r"\s", "", text))
    if read is None:
        raise InputError(f"'{text}' is no constraint: write MEASURE<=NUMBER, as in 'leak<=0.5%'")
    choose(read[1], MEASURES, "measure of a constraint")
    try:
        value = float(read[2])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"constraint '{text}': '{read[2]}' is not a number")
    if read[3] and read[1] != "leak":
        raise InputError(f"constraint '{text}': only a leak is given in per cent")
    most = value / 100 if read[3] else value
    if read[1] == "leak" and not 0 <= most <= 1:
        raise InputError(f"constraint '{text}': a leak lies between 0 and 100%")
    return Constraint(read[1], most + 0.0)  # -0 is 0
