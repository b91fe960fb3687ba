r"""Recording the evidence of a chain, so that any tracker can be replayed on it afterwards.

`Recorder` is a rule that guides nothing. Its state is the evidence of the last step, which it
reports one step late: entry i of the trace belongs to the transition into x_i, so entries 1..T-1
are the T-1 transitions that are scored, and entry 0 is empty.

With all concepts measured against the base prediction one recording serves every tracker: `classes`
does not depend on the reference, and `pair` and `odds` need the rows of their negatives only.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dng_jax.posterior.evidence import Evidence, gather
from dng_jax.rules import Move, Step, pytree, static, zeros_per_sample


@pytree
class Recorder:
    """Unguided sampling that records evidence. Make it with `recorder`."""

    concepts: tuple[str, ...] = static()
    probes: int = static(default=0)

    @property
    def roles(self) -> tuple[str, ...]:
        return ("base", *self.concepts)

    def init_state(self, x):
        row = zeros_per_sample(x)[:, None] + jnp.zeros(len(self.concepts))
        return Evidence(row, row, row[:, :, None] * row[:, None, :], row)

    def apply(self, state: Evidence, step: Step):
        return jnp.zeros_like(step.x), state, state._asdict()

    def evidence(self, step: Step, move: Move) -> Evidence:
        """The scalars of one step, against the base prediction."""
        return gather(step, move, self.concepts, "base", self.probes)

    def update(self, state: Evidence, step: Step, move: Move):
        return self.evidence(step, move)


def recorder(concepts: tuple[str, ...], probes: int = 0) -> Recorder:
    """Records the evidence of the named roles against the base prediction."""
    return Recorder(tuple(concepts), probes)


def recorded(trace: dict[str, jax.Array]) -> Evidence:
    """The evidence [T-1, B, ...] in the trace of a run with a `Recorder`."""
    return Evidence(**{name: trace[name][1:] for name in Evidence._fields})


def one_concept_each(evidence: Evidence) -> Evidence:
    """Evidence of M concepts on B samples as that of one concept on M B samples (concept-major)."""

    def fold(a):  # [T, B, M] -> [T, M B, 1]
        return jnp.moveaxis(a, 2, 1).reshape(a.shape[0], -1, 1)

    square = jnp.diagonal(evidence.gram, axis1=2, axis2=3)
    return Evidence(
        fold(evidence.inner),
        fold(evidence.expected),
        fold(square)[..., None],
        fold(evidence.divergence),
    )
