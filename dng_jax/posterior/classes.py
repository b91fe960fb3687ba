r"""Tracker over all classes of a model: a probability vector by construction.

    log p_k <- log_softmax_k( log p_k + tau log N(x'; mu_k, k_var) + [k forbidden] delta/(2 k_var) )

over all K classes, so the kernel of the base model is the mixture sum_k p_k N(mu_k, k_var) instead
of one Gaussian. Any set F of classes can be forbidden, p = sum_{k in F} p_k; the set is a traced
mask, so one compiled program serves all sets. Distances are taken to the classes' common mean
prediction, which cancels in the softmax. Where p_min > 0, each class is then raised to it and all
are normalised again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError, distinct_roles, some_classes
from dng_jax.posterior.evidence import Evidence, divergence_numerator, log_ratio, noise_share
from dng_jax.posterior.kernel_tracker import KernelTracker
from dng_jax.posterior.temperature import Offset, Temperature
from dng_jax.posterior.temperature import offset as as_offset
from dng_jax.posterior.temperature import temperature as as_temperature
from dng_jax.posterior.view import View, weighted
from dng_jax.rules import Step, class_roles, count, known, number, pytree, static
from dng_jax.steps import StepRow


@pytree
class Classes(KernelTracker):
    """State: log p [B, K], normalised. Make it with `classes`.

    forbidden float32 [K]: 1 for the forbidden classes, 0 for the others.
    """

    forbidden: jax.Array
    log_p_min: jax.Array
    reference: str | None = static(default=None, kw_only=True)

    @property
    def knows_allowed(self) -> bool:
        """Whether `view` gives the allowed classes' prediction."""
        return True

    @property
    def num_outcomes(self) -> int:
        """The K classes."""
        return len(self.concepts)

    def update(self, state: jax.Array, evidence: Evidence, row: StepRow) -> jax.Array:
        """State after one step, from its scalars."""
        square = jnp.diagonal(evidence.gram, axis1=1, axis2=2)
        gap = 2 * evidence.inner - square + divergence_numerator(evidence.divergence, row)
        forbidden = self.forbidden[None]
        restored = forbidden * self.drift * self._expected_drift(state, evidence, square)
        numerator = (
            self.temperature(row) * (gap + noise_share(row) * restored) + forbidden * self.delta
        )
        # Relative to the likeliest class, so that saturation never makes two classes equal.
        numerator -= jax.lax.stop_gradient(jnp.max(numerator, axis=1, keepdims=True))
        moved = state + log_ratio(numerator, row) + forbidden * self.offset(row)
        log_p = jax.nn.log_softmax(moved, axis=1)
        return jax.nn.log_softmax(jnp.maximum(log_p, self.log_p_min), axis=1)

    def log_probabilities(self, state: jax.Array) -> jax.Array:
        """log p_k, [B, K]."""
        return state

    def log_outcomes(self, state: jax.Array) -> jax.Array:
        """The same: one of the K classes it is."""
        return state

    def arrange(self, evidence: Evidence, labels: Any) -> tuple[Evidence, np.ndarray]:
        """Evidence [T, B, K] and labels [B] of a record, as they are."""
        return evidence, np.asarray(labels)

    def class_probabilities(self, log_p: Any, num_classes: int) -> np.ndarray:
        """p of each class, float64 [T, B, K], from the `replay` [T, B, K]."""
        return np.exp(np.asarray(log_p, np.float64))

    def view(self, state: jax.Array, step: Step) -> View:
        """Odds of the forbidden set, and the posterior-weighted predictions of both sides."""
        forbidden = self.forbidden[None] > 0
        inside = jnp.where(forbidden, state, -jnp.inf)
        outside = jnp.where(forbidden, -jnp.inf, state)
        log_odds = jax.nn.logsumexp(inside, axis=1) - jax.nn.logsumexp(outside, axis=1)
        return View(
            log_odds,
            weighted(jax.nn.softmax(inside, axis=1), step, self.concepts),
            weighted(jax.nn.softmax(outside, axis=1), step, self.concepts),
        )

    def _expected_drift(self, state, evidence: Evidence, square):
        # The drift that a forbidden class shows on average against the allowed ones.
        expected = 2 * evidence.expected - square
        allowed = jax.nn.softmax(jnp.where(self.forbidden[None] > 0, -jnp.inf, state), axis=1)
        return jnp.sum(allowed * expected, axis=1, keepdims=True) - expected


def classes(
    num_classes: int,
    forbidden: Sequence[int],
    *,
    prior=None,
    concepts: tuple[str, ...] | None = None,
    temperature: float | tuple | Temperature = 1.0,
    delta: float = 0.0,
    drift: float = 0.0,
    offset: float | tuple | Offset = 0.0,
    p_min: float = 0.0,
    probes: int = 0,
) -> Classes:
    """Tracker over the roles "class:0".."class:K-1" (or the named concepts).

    forbidden: class indices, at least one and not all. prior [K] in (0, 1) summing to 1, default
    uniform. p_min in [0, 1/K): least probability of each class, so that a class can return.
    """
    concepts = distinct_roles(concepts or class_roles(num_classes), "concept")
    if len(concepts) != num_classes:
        raise InputError(f"{num_classes} classes need as many concept roles, got {len(concepts)}")
    if prior is None:
        prior = np.full(num_classes, 1 / num_classes)
    prior = number(prior, "prior", low=0, high=1, open_=True)
    if prior.shape != (num_classes,):
        raise InputError(f"prior needs one number for each of {num_classes} classes")
    total = float(np.asarray(prior).sum()) if known(prior) else 1.0
    if abs(total - 1) > 1e-4:
        raise InputError(f"the class priors must sum to 1, got {total:g}")
    return Classes(
        jnp.log(prior),
        as_temperature(temperature),
        number(delta, "delta", axes=0),
        number(drift, "drift", low=0, high=1, axes=0),
        as_offset(offset),
        forbidden_mask(num_classes, forbidden),
        jnp.log(number(p_min, "p_min", low=0, high=1 / num_classes, axes=0)),
        concepts=concepts,
        probes=count(probes, "probes"),
    )


def forbidden_mask(num_classes: int, forbidden: Sequence[int]) -> jax.Array:
    """[K] float32 mask, 1 for the forbidden classes; InputError for none, all or unknown ones."""
    mask = np.zeros(num_classes, np.float32)
    mask[list(some_classes(forbidden, num_classes))] = 1
    return jnp.asarray(mask)
