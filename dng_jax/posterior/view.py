"""What a tracker tells a guidance rule."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from dng_jax.rules import Move, Step


class View(NamedTuple):
    """Posterior of the forbidden set at x_t.

    log_odds [B]: log p/(1-p). forbidden [B, ...]: eps of the forbidden set, its members weighted by
    their posterior. allowed [B, ...]: the same for everything else, where the tracker knows it.
    """

    log_odds: jax.Array
    forbidden: jax.Array
    allowed: jax.Array | None = None


class Tracker(Protocol):
    """Posterior over concepts, carried along a chain. Pure; `state` is any pytree."""

    @property
    def roles(self) -> tuple[str, ...]: ...
    @property
    def probes(self) -> int | None: ...
    @property
    def knows_allowed(self) -> bool: ...
    def init(self, x: jax.Array): ...
    def observe(self, state, step: Step, move: Move): ...
    def view(self, state, step: Step) -> View: ...


def weighted(weights: jax.Array, step: Step, roles: tuple[str, ...]) -> jax.Array:
    """sum_k weights[:, k] eps_k, [B, ...]."""
    eps = jnp.stack([step.preds[role].reshape(len(step.x), -1) for role in roles], axis=1)
    return jnp.einsum("bk,bkd->bd", weights, eps, precision="highest").reshape(step.x.shape)


def known(value) -> bool:
    """Whether a value can be looked at now, outside any transformation."""
    return not isinstance(value, jax.core.Tracer)
