"""What a tracker is, and what it shows a guidance rule."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.posterior.evidence import Evidence
from dng_jax.posterior.temperature import Offset, Temperature
from dng_jax.rules import Move, Step
from dng_jax.steps import StepRow


class View(NamedTuple):
    """Posterior of the forbidden set at x_t.

    log_odds [B]: log p/(1-p). eps_forbidden [B, ...]: prediction of the forbidden set, its members
    weighted by their posterior. eps_allowed [B, ...]: the same for everything else, where the
    tracker knows it.
    """

    log_odds: jax.Array
    eps_forbidden: jax.Array
    eps_allowed: jax.Array | None = None


class Tracker(Protocol):
    """Posterior over concepts, carried along a chain: what guidance asks of it.

    Pure; `state` is any pytree. roles: the predictions it needs; probes: Rademacher probes per
    step, None where it needs none on any table; knows_allowed: whether `view` gives eps_allowed.
    """

    @property
    def roles(self) -> tuple[str, ...]: ...
    @property
    def probes(self) -> int | None: ...
    @property
    def knows_allowed(self) -> bool: ...
    def init(self, x: jax.Array) -> Any: ...
    def observe(self, state: Any, step: Step, move: Move) -> Any: ...
    def view(self, state: Any, step: Step) -> View: ...


class EvidenceSource(Protocol):
    """What can say what a step shows: a tracker of kernels, or a rule that records."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def roles(self) -> tuple[str, ...]: ...
    def evidence(self, step: Step, move: Move) -> Evidence: ...


class Replayable(Tracker, EvidenceSource, Protocol):
    """A tracker whose update is a function of a step's `Evidence`.

    So it can be run again on a record, and its temperature fitted. A dataclass with the leaves
    temperature, delta, drift and offset. num_outcomes: the K classes, or the M concepts and none of
    them; shapes as in `dng_jax.posterior.kernel_tracker`.
    """

    @property
    def temperature(self) -> Temperature: ...
    @property
    def delta(self) -> jax.Array: ...
    @property
    def drift(self) -> jax.Array: ...
    @property
    def offset(self) -> Offset: ...
    @property
    def num_outcomes(self) -> int: ...
    def update(self, state: Any, evidence: Evidence, row: StepRow) -> Any: ...
    def log_probabilities(self, state: Any) -> jax.Array: ...
    def log_outcomes(self, state: Any) -> jax.Array: ...
    def arrange(self, evidence: Evidence, labels) -> tuple[Evidence, np.ndarray]: ...
    def class_probabilities(self, log_p, num_classes: int) -> np.ndarray: ...


def weighted(weights: jax.Array, step: Step, roles: tuple[str, ...]) -> jax.Array:
    """sum_k weights[:, k] eps_k, [B, ...]."""
    eps = jnp.stack([step.preds[role].reshape(len(step.x), -1) for role in roles], axis=1)
    return jnp.einsum("bk,bkd->bd", weights, eps, precision="highest").reshape(step.x.shape)
