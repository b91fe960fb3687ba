"""What the trackers of Gaussian kernels share: pair, odds, classes.

Each of them adds its equations: `update`, `log_probabilities` and `view`. This base holds the
state before the first step, the numbers that weigh a step's evidence, and what a replay gives:

    outcomes    one of the M concepts, or none of them: log p_0 = log(1 - sum_k p_k)
    arrange     K classes of a record as K yes-or-no questions, laid out along the batch
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.posterior.evidence import Evidence, gather, one_concept_each
from dng_jax.posterior.temperature import Offset, Temperature
from dng_jax.rules import Move, Step, pytree, static, zeros_per_sample
from dng_jax.steps import StepRow


@pytree
class KernelTracker:
    """initial [M]: state before the first step; concepts: the M roles that are tracked.

    temperature, delta, drift, offset, probes: see dng_jax.posterior. reference: the role that the
    concepts are measured against, None for their own mean.
    """

    initial: jax.Array
    temperature: Temperature
    delta: jax.Array
    drift: jax.Array
    offset: Offset
    concepts: tuple[str, ...] = static(kw_only=True)
    probes: int = static(default=0, kw_only=True)
    reference: str | None = static(default="base", kw_only=True)

    @property
    def knows_allowed(self) -> bool:
        """Whether `view` gives the allowed classes' prediction."""
        return False

    @property
    def roles(self) -> tuple[str, ...]:
        """The predictions that `evidence` and `view` need."""
        return self.concepts if self.reference is None else (self.reference, *self.concepts)

    @property
    def num_outcomes(self) -> int:
        """The M concepts, and none of them."""
        return len(self.concepts) + 1

    def init(self, x: jax.Array) -> jax.Array:
        """State before the first step, [B, M]."""
        return zeros_per_sample(x)[:, None] + self.initial[None]

    def evidence(self, step: Step, move: Move) -> Evidence:
        """The scalars of one step that `update` needs."""
        return gather(step, move, self.concepts, self.reference, self.probes)

    def observe(self, state: jax.Array, step: Step, move: Move) -> jax.Array:
        """State after one step of the chain."""
        return self.update(state, self.evidence(step, move), step.row)

    def update(self, state: jax.Array, evidence: Evidence, row: StepRow) -> jax.Array:
        """State after one step, from its scalars."""
        raise NotImplementedError

    def log_probabilities(self, state: jax.Array) -> jax.Array:
        """log p_k, [B, M]."""
        raise NotImplementedError

    def log_outcomes(self, state: jax.Array) -> jax.Array:
        """log-probability of each outcome, [B, num_outcomes]; the last one is none of them."""
        log_p = self.log_probabilities(state)
        total = jnp.minimum(jax.nn.logsumexp(log_p, axis=1, keepdims=True), -1e-6)
        return jnp.concatenate([log_p, jnp.log(-jnp.expm1(total))], axis=1)

    def arrange(self, evidence: Evidence, labels: Any) -> tuple[Evidence, np.ndarray]:
        """A record of K classes [T, B, K] and labels [B] as this tracker of one concept takes them.

        Returns evidence [T, K B, 1], class after class, and outcomes int [K B]: 0 where the image
        is of that class, 1 where it is not.
        """
        k = evidence.inner.shape[2]
        absent = (np.asarray(labels)[None, :] != np.arange(k)[:, None]).astype(int)
        return one_concept_each(evidence), absent.ravel()

    def class_probabilities(self, log_p: Any, num_classes: int) -> np.ndarray:
        """p of each class, float64 [T, B, K], from the `replay` [T, K B, 2] of arranged evidence.

        K separate answers: they need not sum to 1.
        """
        p = np.exp(np.asarray(log_p, np.float64)[..., 0])
        return p.reshape(len(p), num_classes, -1).swapaxes(1, 2)
