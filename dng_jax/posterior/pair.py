r"""The paper's tracker: each negative against the base model (Koulischer et al., ICLR 2025, arXiv
2410.14398).

    log p_k <- clamp( log p_k + [ tau (2 inner_k - gram_kk) + delta ] / (2 k_var) )
             = clamp( log p_k + [ tau (|x'-mu_b|^2 - |x'-mu_k|^2) + delta ] / (2 k_var) )

The base model's mixture kernel is replaced by one Gaussian, so p may leave (0, 1): it is clamped
to [p_min, p_max]. Odds against everything else, for several negatives: o_k = p_k / (1 - sum_j p_j),
the sum kept below p_max.

The portable offset gives back the fraction drift of the step's expected fall,

    drift tau (gram_kk - 2 expected_k) / (2 k_var), times min(1, std^2 / k_var)

(offsets and the divergence term: dng_jax.posterior).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError, distinct_roles
from dng_jax.posterior.evidence import Evidence, divergence_numerator, log_ratio, noise_share
from dng_jax.posterior.kernel_tracker import KernelTracker
from dng_jax.posterior.temperature import Offset, Temperature
from dng_jax.posterior.temperature import offset as as_offset
from dng_jax.posterior.temperature import temperature as as_temperature
from dng_jax.posterior.view import View, weighted
from dng_jax.rules import Step, count, known, number, pytree
from dng_jax.steps import StepRow


@pytree
class Pair(KernelTracker):
    """State: log p [B, M], one per negative. Make it with `pair`."""

    log_p_min: jax.Array
    log_p_max: jax.Array

    def update(self, state: jax.Array, evidence: Evidence, row: StepRow) -> jax.Array:
        """State after one step, from its scalars."""
        square = jnp.diagonal(evidence.gram, axis1=1, axis2=2)
        tau = self.temperature(row)
        gap = 2 * evidence.inner - square + divergence_numerator(evidence.divergence, row)
        restored = self.drift * (square - 2 * evidence.expected)
        increment = log_ratio(tau * (gap + noise_share(row) * restored) + self.delta, row)
        moved = state + increment + self.offset(row)
        return jnp.clip(moved, self.log_p_min, self.log_p_max)

    def log_probabilities(self, state: jax.Array) -> jax.Array:
        """log p_k, [B, M]."""
        return state

    def view(self, state: jax.Array, step: Step) -> View:
        """Total odds and the negatives' odds-weighted prediction."""
        log_total = jax.nn.logsumexp(state, axis=1)
        log_total = jnp.minimum(log_total, self.log_p_max)
        log_odds = log_total - jnp.log(-jnp.expm1(log_total))
        return View(log_odds, weighted(jax.nn.softmax(state, axis=1), step, self.concepts))


def pair(
    prior=0.2,
    *,
    negatives: tuple[str, ...] = ("negative",),
    temperature: float | tuple | Temperature = 1.0,
    delta: float = 0.0,
    drift: float = 0.0,
    offset: float | tuple | Offset = 0.0,
    p_min: float = 1e-6,
    p_max: float = 0.99,
    probes: int = 0,
    reference: str = "base",
) -> Pair:
    """The paper's tracker.

    prior: one number or one per negative, in (0, 1), summing to less than 1. temperature tau >= 0,
    a number or a pair (knots, values) over log-SNR; delta in squared units of x; drift in [0, 1];
    offset, as temperature, in nats per unit of log-SNR; 0 < p_min < p_max < 1. Defaults are those
    of the authors' program. probes: Rademacher probes per step for deterministic tables (0: none).
    reference: the role that the negatives are scored against, none of them; of text-to-image models
    "reference", what their variant says (dng_jax.denoisers.branches).
    InputError for numbers outside these ranges, and for a reference that is no such role.
    """
    log_prior = log_prior_of(prior, negatives)
    least = number(p_min, "p_min", low=0, high=1, open_=True, axes=0)
    most = number(p_max, "p_max", low=0, high=1, open_=True, axes=0)
    if known(least) and known(most) and not np.asarray(least) < np.asarray(most):
        raise InputError(f"p_min must lie below p_max, got {p_min} and {p_max}")
    return Pair(
        log_prior,
        as_temperature(temperature),
        number(delta, "delta", axes=0),
        number(drift, "drift", low=0, high=1, axes=0),
        as_offset(offset),
        jnp.log(least),
        jnp.log(most),
        concepts=tuple(negatives),
        probes=count(probes, "probes"),
        reference=reference_of(reference, negatives),
    )


def log_prior_of(prior, negatives: tuple[str, ...]) -> jax.Array:
    """log prior [M] of the negatives, checked."""
    distinct_roles(negatives, "negative role")
    value = number(prior, "prior", low=0, high=1, open_=True)
    if value.shape not in ((), (1,), (len(negatives),)):
        raise InputError(f"{len(negatives)} negatives need one prior or as many, got {value.size}")
    shape = (len(negatives),)
    total = float(np.broadcast_to(np.asarray(value), shape).sum()) if known(value) else 0.0
    if not total < 1:
        raise InputError(f"the priors of all negatives must sum to less than 1, got {total:g}")
    return jnp.log(jnp.broadcast_to(value, shape))


def reference_of(reference: str, scored: tuple[str, ...]) -> str:
    """The role that others are scored against; InputError for no name, or one of theirs."""
    if not isinstance(reference, str) or not reference:
        raise InputError(f"reference must be the name of a role, got {reference!r}")
    if reference in scored:
        raise InputError(f"'{reference}' cannot be scored against itself: name another reference")
    return reference
