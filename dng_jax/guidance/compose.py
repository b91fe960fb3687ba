r"""Rules made of rules.

Sum        delta = sum_i delta_i; every rule sees the base prediction
Interval   delta inside low < logsnr(x_t) < high, 0 outside (limited-interval guidance,
           Kynkaanniemi et al. 2024, arXiv 2404.07724); the rule's tracker runs throughout
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError
from dng_jax.rules import Move, Rule, Step, number, pytree


@pytree
class Sum:
    """Deltas added; state and info are kept rule by rule. Make it with `sum_of`."""

    rules: tuple[Rule, ...]

    @property
    def roles(self) -> tuple[str, ...]:
        # Without a common base, two rules that return whole predictions would add up to two images.
        return tuple(dict.fromkeys(["base", *(role for rule in self.rules for role in rule.roles)]))

    def init_state(self, x):
        return tuple(rule.init_state(x) for rule in self.rules)

    def apply(self, state, step: Step):
        deltas, states, infos = zip(
            *(rule.apply(s, step) for rule, s in zip(self.rules, state, strict=True)), strict=True
        )
        info = {f"{name}:{i}": v for i, one in enumerate(infos) for name, v in one.items()}
        return sum(deltas), states, info

    def update(self, state, step: Step, move: Move):
        return tuple(rule.update(s, step, move) for rule, s in zip(self.rules, state, strict=True))


@pytree
class Interval:
    """A rule that guides only between two noise levels. Make it with `interval`."""

    rule: Rule
    low: jax.Array
    high: jax.Array

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(["base", *self.rule.roles]))

    def init_state(self, x):
        return self.rule.init_state(x)

    def apply(self, state, step: Step):
        delta, state, info = self.rule.apply(state, step)
        inside = (step.row.logsnr > self.low) & (step.row.logsnr < self.high)
        return jnp.where(inside, delta, 0.0), state, info

    def update(self, state, step: Step, move: Move):
        return self.rule.update(state, step, move)


def sum_of(*rules: Rule) -> Sum:
    """The sum of one or more rules, which share one set of predictions."""
    if not rules:
        raise InputError("a sum of rules needs at least one rule")
    return Sum(tuple(rules))


def interval(rule: Rule, *, sigma_min: float = 0.0, sigma_max: float = np.inf) -> Interval:
    """Limits a rule to noise levels sigma_min < sigma/alpha < sigma_max (EDM's sigma)."""
    if not 0 <= sigma_min < sigma_max:
        raise InputError(f"need 0 <= sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    with np.errstate(divide="ignore"):
        low, high = -2 * np.log(sigma_max), -2 * np.log(np.float64(sigma_min))
    return Interval(rule, number(low, "low", finite=False), number(high, "high", finite=False))
