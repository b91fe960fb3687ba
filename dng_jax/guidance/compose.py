r"""Rules made of rules.

Sum        delta = sum_i delta_i; every rule sees the base prediction
Interval   delta where sigma_min < sigma_t / alpha_t <= sigma_max (limited-interval guidance,
           Kynkaanniemi et al. 2024, arXiv 2404.07724, eq. 5), elsewhere what the rule falls back
           to: CFG and negative_in_place to their prompt (w = 1), DNG to the base, a sum to the sum.
           The rule's tracker runs throughout. A rule that carries nothing along the chain and
           falls back to the base is asked for nothing outside.
Periodic   delta at steps 0, k, 2k, ... of the table, for all images alike; at the others nothing is
           asked for, and the base is taken

A level within 8 units of rounding of a bound counts as equal to it, so that a bound that was read
off a schedule in any precision is the level it was read from: sigma_max inside, sigma_min outside.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError
from dng_jax.rules import (
    Move,
    Rule,
    Stateless,
    Step,
    fall_back,
    known,
    number,
    on_demand,
    one_each,
    per_sample,
    pytree,
    wanted,
    whole,
)


@pytree
class Sum:
    """Deltas added; state and info are kept rule by rule. Make it with `sum_of`."""

    rules: tuple[Rule, ...]

    @property
    def on_demand(self) -> tuple[str, ...]:
        """Roles that none of the rules asks for every image."""
        always = {r for rule in self.rules for r in rule.roles if r not in on_demand(rule)}
        return tuple(role for role in self.roles if role not in {"base", *always})

    def wants(self, state, row) -> dict[str, jax.Array]:
        """Images that one of the rules wants a role for."""
        masks: dict[str, jax.Array] = {}
        for rule, s in zip(self.rules, state, strict=True):
            for role, mask in wanted(rule, s, row).items():
                masks[role] = masks[role] | mask if role in masks else mask
        return {role: masks[role] for role in self.on_demand}

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

    def outside(self, step: Step):
        """The sum of what the rules fall back to."""
        return sum(fall_back(rule, step) for rule in self.rules)

    def update(self, state, step: Step, move: Move):
        return tuple(rule.update(s, step, move) for rule, s in zip(self.rules, state, strict=True))


@pytree
class Interval:
    """A rule that guides only between two noise levels. Make it with `interval`."""

    rule: Rule
    sigma_min: jax.Array
    sigma_max: jax.Array

    @property
    def on_demand(self) -> tuple[str, ...]:
        """The rule's, which tracks on outside the interval; of one that need not, all."""
        own = self.rule.roles if _forgets(self.rule) else on_demand(self.rule)
        return tuple(role for role in own if role != "base")

    def wants(self, state, row) -> dict[str, jax.Array]:
        """What the rule wants."""
        masks = wanted(self.rule, state, row)
        if _forgets(self.rule):
            inside = self._inside(row)
            return {role: inside & masks.get(role, True) for role in self.on_demand}
        return {role: masks[role] for role in self.on_demand}

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(["base", *self.rule.roles]))

    def init_state(self, x):
        return self.rule.init_state(x)

    def apply(self, state, step: Step):
        delta, state, info = self.rule.apply(state, step)
        for name in ("sigma_min", "sigma_max"):
            one_each(getattr(self, name), step.x, name)
        inside = per_sample(self._inside(step.row), step.x)
        return jnp.where(inside, delta, fall_back(self.rule, step)), state, info

    def outside(self, step: Step):
        """What the rule falls back to."""
        return fall_back(self.rule, step)

    def update(self, state, step: Step, move: Move):
        return self.rule.update(state, step, move)

    def _inside(self, row) -> jax.Array:
        level = jnp.asarray(row.sigma / row.alpha)
        # Tables and bounds were rounded to float32 at least, whatever the chain is in.
        rounding = 1 + 8 * max(float(jnp.finfo(t).eps) for t in (level.dtype, jnp.float32))
        return (level > self.sigma_min * rounding) & (level <= self.sigma_max * rounding)


@pytree
class Periodic(Stateless):
    """A rule that guides at one step in so many. Make it with `periodic`."""

    rule: Rule
    every: jax.Array

    @property
    def on_demand(self) -> tuple[str, ...]:
        """All of its roles but the base."""
        return tuple(role for role in self.rule.roles if role != "base")

    def wants(self, state, row) -> dict[str, jax.Array]:
        """All images, at its steps."""
        return dict.fromkeys(self.on_demand, self._now(row))

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(["base", *self.rule.roles]))

    def apply(self, state, step: Step):
        delta, state, info = self.rule.apply(state, step)
        return jnp.where(per_sample(self._now(step.row), step.x, "every"), delta, 0.0), state, info

    def _now(self, row) -> jax.Array:
        return jnp.asarray(row.index) % jnp.asarray(self.every).astype(jnp.int32) == 0


def _forgets(rule: Rule) -> bool:
    return isinstance(rule, Stateless) and not hasattr(rule, "outside")


def sum_of(*rules: Rule) -> Sum:
    """The sum of one or more rules, which share one set of predictions."""
    if not rules:
        raise InputError("a sum of rules needs at least one rule")
    return Sum(tuple(rules))


def interval(rule: Rule, *, sigma_min: float = 0.0, sigma_max: float = np.inf) -> Interval:
    """Limits a rule to noise levels sigma_min < sigma/alpha <= sigma_max (EDM's sigma).

    Bounds are numbers or one per image [B], and may be traced: they are data, not program.
    InputError where a known pair is out of order.
    """
    low = number(sigma_min, "sigma_min", low=0)
    high = number(sigma_max, "sigma_max", low=0, finite=False)
    if known(low) and known(high) and not np.all(np.asarray(low) < np.asarray(high)):
        raise InputError(f"need 0 <= sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    return Interval(rule, low, high)


def periodic(rule: Rule, every: float) -> Periodic:
    """Limits a rule to every `every`-th step of a table, its first one included.

    rule: one that carries nothing along the chain and falls back to the base, such as
    `negative_prompt`; every: a whole number from 1, or one per image [B]. InputError otherwise.
    """
    if not _forgets(rule):
        raise InputError(
            f"a {type(rule).__name__} cannot be limited to one step in so many: take a rule that"
            " carries nothing along the chain and falls back to the base"
        )
    return Periodic(rule, whole(every, "every", low=1))
