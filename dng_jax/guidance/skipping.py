r"""Dynamic Negative Guidance that asks for the negative only where it may matter.

With two networks half of the cost of a step is the negative's, and its push, lambda_0 p/(1-p), is
next to nothing for most images from the middle of the chain on. An image looks, that is asks for
the negative, at a step where

    p >= skip_below    or    `every` steps have passed since it last looked    or    it never has

In between it is not guided, delta = 0 and lambda_t = 0, and p is followed all the same: from the
predictions of the last look and where the chain has gone since, as one jump
(dng_jax.posterior.jump). So p may rise above skip_below between two looks, and the image looks at
the next step. skip_below = 1 looks at every `every`-th step alone, every = 1 at all of them.

Every image decides by its own chain, so that it does not depend on its batch; which parts of a
batch the network is run on is the denoiser's affair (dng_jax.denoisers.compaction). Rules within a
sum decide each for itself, whatever the others ask.

Unguided steps leave more of the forbidden class at one lambda_0, so that it wants a larger one.
Pushing on with the last gap of predictions instead leaves less at one lambda_0 and does more harm
at one leak. Measured on the exact digits (0, 3 and 8 forbidden in turn, n = 2,000 each, 50 steps,
skip_below .2, every 8, asking for 57 % of the calls of negative prompting; leak, KL):

                              lambda_0 = 3      10               30
    no push                   2.38 %  .0237     1.20 %  .0128    0.57 %  .0167
    the last eps_n - eps_b    1.73 %  .0187     0.55 %  .0234    0.10 %  .0741
    the last gap of x_0       1.45 %  .0188     0.40 %  .0357
    every step asked for      0.43 %  .0077     0.03 %  .0305

These are without a cap on lambda_t, and then an image that jumped to a p of .99 is pushed once with
99 lambda_0: of 6,000, 44 at lambda_0 = 10 ended beyond an RMS of 1.1, the worst at 133 (unguided at
most .96). SKIPPING_SCALE_MAX, the default cap, costs next to nothing (no push, pair, the same runs;
leak, KL, worst RMS and how many are beyond 1.1):

                 lambda_0 = 10                     30
    no cap       1.20 %  .0128   133    44         0.57 %  .0167   335    35
    10           1.25 %  .0130   1.83    4         0.57 %  .0149   1.49    4
    5            1.25 %  .0131   1.26    1         0.73 %  .0141   1.06    0
    2            1.83 %  .0184   0.98    0         1.52 %  .0179   0.96    0
    5, odds                                        0.68 %  .0140   3.50   18
"""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError
from dng_jax.posterior.jump import Jump, begun, continued, landed, nowhere
from dng_jax.posterior.kernel_tracker import KernelTracker
from dng_jax.rules import (
    Move,
    Rule,
    Step,
    known,
    number,
    one_each,
    per_sample,
    pytree,
    whole,
    zeros_per_sample,
)
from dng_jax.steps import StepRow, StepTable, nearly_deterministic

EVERY = 8
SKIPPING_SCALE_MAX = 5.0
ANCESTRAL = (
    "skip_below needs a tracker without probes and an ancestral table, since a table with less"
    " noise needs probes, which ask for the negative at every step: take the table ddpm and no"
    " probes, or leave skip_below out"
)


class Tracking(Rule, Protocol):
    """A rule whose state is that of one tracker."""

    @property
    def tracker(self): ...


@pytree
class Skipping:
    """State: (the tracker's, the `Jump` from the last look, steps since then [B]).

    Make it with `dynamic_negative(..., skip_below=)`.
    """

    rule: Tracking
    skip_below: jax.Array
    every: jax.Array

    @property
    def tracker(self) -> KernelTracker:
        """The rule's."""
        return self.rule.tracker

    @property
    def roles(self) -> tuple[str, ...]:
        return self.rule.roles

    @property
    def on_demand(self) -> tuple[str, ...]:
        """The negatives."""
        return self.tracker.concepts

    def check_table(self, table: StepTable) -> None:
        """InputError for a (nearly) deterministic table."""
        if nearly_deterministic(table):
            raise InputError(ANCESTRAL)

    def init_state(self, x):
        never = zeros_per_sample(x) + jnp.inf
        return self.rule.init_state(x), nowhere(self.tracker, x), never

    def wants(self, state, row: StepRow) -> dict[str, jax.Array]:
        """Which images look at this step, the same for every negative."""
        followed, jump, since = state
        skip_below, every = (one_each(getattr(self, n), jump.x, n) for n in ("skip_below", "every"))
        log_p = jax.nn.logsumexp(self.tracker.log_probabilities(followed), axis=1)
        look = (log_p >= jnp.log(skip_below)) | (since >= every)
        return dict.fromkeys(self.on_demand, look)

    def apply(self, state, step: Step):
        followed, jump, since = state
        look = self.wants(state, step.row)[self.on_demand[0]]
        jump = begun(self.tracker, jump, followed, step, look)
        delta, followed, info = self.rule.apply(followed, step._replace(preds=_seen(step, jump)))
        info |= {"lambda": jnp.where(look, info["lambda"], 0.0)}
        delta = jnp.where(per_sample(look, step.x), delta, 0.0)
        return delta, (followed, jump, jnp.where(look, 0.0, since)), info

    def update(self, state, step: Step, move: Move):
        followed, jump, since = state
        jump = continued(jump, step.row)
        return landed(self.tracker, jump, followed, step.row, move), jump, since + 1


def _seen(step: Step, jump: Jump):
    # What was not asked for may be anything: what was there at the last look stands in its place.
    return dict(step.preds) | jump.preds


def skipping(rule: Tracking, skip_below: float, every: int = EVERY) -> Skipping:
    """A rule that asks for its negatives where they may matter; see `dynamic_negative`."""
    tracker = rule.tracker
    if not isinstance(tracker, KernelTracker) or tracker.reference is None:
        raise InputError(
            "skip_below needs the tracker pair or odds: the others ask for more than the negatives"
            " at every step"
        )
    if tracker.probes:
        raise InputError(ANCESTRAL)
    drift = tracker.drift
    if known(drift) and np.any(np.asarray(drift) != 0):
        raise InputError(
            "a drift is given back step by step, also where the negative was not asked for: set it"
            " to 0, or leave skip_below out"
        )
    steps = whole(every, "every", low=1)
    threshold = number(skip_below, "skip_below", low=0, high=1)
    if known(threshold) and not np.all(np.asarray(threshold) > 0):
        raise InputError(
            f"skip_below must lie above 0, got {skip_below}: leave it out to skip none"
        )
    return Skipping(rule, threshold, steps)
