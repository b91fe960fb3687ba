r"""The exact posterior of a mixture in a tracker's place: the reference for all of them.

    log_odds = lse_{k in F} log p(k | x_t) - lse_{k not in F} log p(k | x_t)

in closed form (dng_jax.mixtures) at every x_t. Guidance with it equals sampling the complement.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dng_jax.mixtures import Mixture
from dng_jax.posterior.classes import forbidden_mask
from dng_jax.posterior.view import View
from dng_jax.rules import Move, Step, pytree, static


@pytree
class Oracle:
    """Stateless. Make it with `oracle`."""

    mixture: Mixture
    forbidden: jax.Array
    negative: str = static(default="negative")

    @property
    def probes(self) -> None:
        """It tracks nothing, so it needs no probe on any table."""
        return None

    @property
    def knows_allowed(self) -> bool:
        """Whether `view` gives the allowed classes' prediction."""
        return False

    @property
    def roles(self) -> tuple[str, ...]:
        return ("base", self.negative)

    def init(self, x: jax.Array):
        """Nothing to carry."""
        return ()

    def observe(self, state, step: Step, move: Move):
        """Nothing to learn."""
        return state

    def view(self, state, step: Step) -> View:
        """Exact log-odds at x_t and the negative's prediction."""
        return View(self.log_odds(step), step.preds[self.negative])

    def log_odds(self, step: Step) -> jax.Array:
        """log p(F | x_t) / (1 - p(F | x_t)), [B]."""
        log_p = self.mixture.log_posterior(step.x, step.row.alpha, step.row.sigma)
        forbidden = self.forbidden[None] > 0
        inside = jnp.where(forbidden, log_p, -jnp.inf)
        outside = jnp.where(forbidden, -jnp.inf, log_p)
        return jax.nn.logsumexp(inside, axis=1) - jax.nn.logsumexp(outside, axis=1)


def oracle(mixture: Mixture, forbidden: Sequence[int], *, negative: str = "negative") -> Oracle:
    """Exact posterior of the forbidden classes of a mixture; `negative` is their joint role."""
    return Oracle(mixture, forbidden_mask(mixture.num_classes, forbidden), negative)
