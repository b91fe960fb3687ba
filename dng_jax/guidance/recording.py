r"""Recording the evidence of a chain, so that any tracker can be replayed on it afterwards.

`Recorder` is a rule that follows another one (by default it guides nothing) and adds to its info
the evidence of the last step, one step late: entry i of the trace belongs to the transition into
x_i, so entries 1..T-1 are the T-1 transitions that are scored, and entry 0 is empty.

One recording of all concepts serves every tracker: `classes` does not depend on the reference that
they are measured against, and `pair` and `odds`, of the recorder's reference, need the rows of
their negatives only. The trace names a reference other than "base": "gram against empty".
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dng_jax.errors import InputError, distinct_roles
from dng_jax.guidance.unguided import unguided
from dng_jax.posterior.evidence import SCALARS, Evidence, gather
from dng_jax.posterior.pair import reference_of
from dng_jax.rules import (
    Move,
    Rule,
    Step,
    count,
    fall_back,
    on_demand,
    pytree,
    static,
    wanted,
    zeros_per_sample,
)

_AGAINST = " against "


@pytree
class Recorder:
    """Records the evidence of a chain. State: (the rule's, Evidence). Make it with `recorder`."""

    rule: Rule
    concepts: tuple[str, ...] = static()
    probes: int = static(default=0)
    reference: str = static(default="base")

    @property
    def on_demand(self) -> tuple[str, ...]:
        """Those of the other rule's that are not recorded."""
        recorded_too = (self.reference, *self.concepts)
        return tuple(role for role in on_demand(self.rule) if role not in recorded_too)

    def wants(self, state, row) -> dict[str, jax.Array]:
        """What the other rule wants of these."""
        return {role: wanted(self.rule, state[0], row)[role] for role in self.on_demand}

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.reference, *self.concepts, *self.rule.roles)))

    def init_state(self, x):
        row = jnp.tile(zeros_per_sample(x)[:, None], len(self.concepts))
        gram = row[:, :, None] * row[:, None, :]
        return self.rule.init_state(x), Evidence(row, row, gram, row, self.reference)

    def apply(self, state, step: Step):
        inner, evidence = state
        delta, inner, info = self.rule.apply(inner, step)
        against = "" if self.reference == "base" else _AGAINST + self.reference
        scalars = {name + against: value for name, value in evidence.scalars().items()}
        return delta, (inner, evidence), info | scalars

    def outside(self, step: Step):
        """What the other rule falls back to."""
        return fall_back(self.rule, step)

    def evidence(self, step: Step, move: Move) -> Evidence:
        """The scalars of one step, against the reference's prediction."""
        return gather(step, move, self.concepts, self.reference, self.probes)

    def update(self, state, step: Step, move: Move):
        return self.rule.update(state[0], step, move), self.evidence(step, move)


def recorder(
    concepts: tuple[str, ...], rule: Rule | None = None, probes: int = 0, reference: str = "base"
) -> Recorder:
    """Records the evidence of the named roles while rule guides.

    reference: the role they are measured against, that of the trackers to be replayed (`pair`).
    InputError where it is no such role, or a concept is named twice.
    """
    rule = unguided() if rule is None else rule
    concepts = distinct_roles(concepts, "concept")
    return Recorder(rule, concepts, count(probes, "probes"), reference_of(reference, concepts))


def recorded(trace: dict[str, jax.Array]) -> Evidence:
    """The evidence [T-1, B, ...] in the trace of a run with a `Recorder`; InputError where it holds
    none."""
    first = SCALARS[0]
    ends = [n.removeprefix(first) for n in trace if n == first or n.startswith(first + _AGAINST)]
    if len(ends) != 1:
        raise InputError(
            f"the trace holds {', '.join(trace) or 'nothing'}: sample with one recorder, alone or"
            " around the rule that guides"
        )
    scalars = {name: trace[name + ends[0]][1:] for name in SCALARS}
    return Evidence(**scalars, reference=ends[0].removeprefix(_AGAINST) or "base")
