r"""Recording the evidence of a chain, so that any tracker can be replayed on it afterwards.

`Recorder` is a rule that follows another one (by default it guides nothing) and adds to its info
the evidence of the last step, one step late: entry i of the trace belongs to the transition into
x_i, so entries 1..T-1 are the T-1 transitions that are scored, and entry 0 is empty.

With all concepts measured against the base prediction one recording serves every tracker: `classes`
does not depend on the reference, and `pair` and `odds` need the rows of their negatives only.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dng_jax.errors import distinct_roles
from dng_jax.guidance.unguided import unguided
from dng_jax.posterior.evidence import Evidence, gather
from dng_jax.rules import (
    Move,
    Rule,
    Step,
    count,
    fall_back,
    pytree,
    static,
    zeros_per_sample,
)


@pytree
class Recorder:
    """Records the evidence of a chain. State: (the rule's, Evidence). Make it with `recorder`."""

    rule: Rule
    concepts: tuple[str, ...] = static()
    probes: int = static(default=0)

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(("base", *self.concepts, *self.rule.roles)))

    def init_state(self, x):
        row = jnp.tile(zeros_per_sample(x)[:, None], len(self.concepts))
        return self.rule.init_state(x), Evidence(row, row, row[:, :, None] * row[:, None, :], row)

    def apply(self, state, step: Step):
        inner, evidence = state
        delta, inner, info = self.rule.apply(inner, step)
        return delta, (inner, evidence), info | evidence._asdict()

    def outside(self, step: Step):
        """What the other rule falls back to."""
        return fall_back(self.rule, step)

    def evidence(self, step: Step, move: Move) -> Evidence:
        """The scalars of one step, against the base prediction."""
        return gather(step, move, self.concepts, "base", self.probes)

    def update(self, state, step: Step, move: Move):
        return self.rule.update(state[0], step, move), self.evidence(step, move)


def recorder(concepts: tuple[str, ...], rule: Rule | None = None, probes: int = 0) -> Recorder:
    """Records the evidence of the named roles against the base prediction, while rule guides."""
    rule = unguided() if rule is None else rule
    return Recorder(rule, distinct_roles(concepts, "concept"), count(probes, "probes"))


def recorded(trace: dict[str, jax.Array]) -> Evidence:
    """The evidence [T-1, B, ...] in the trace of a run with a `Recorder`."""
    return Evidence(**{name: trace[name][1:] for name in Evidence._fields})
