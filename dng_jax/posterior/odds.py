r"""Log-odds tracker: each negative against the complement, so that p stays in (0, 1).

    L_k <- clamp( L_k + [ tau (|x'-mu_c|^2 - |x'-mu_k|^2) + delta ] / (2 k_var) )
    mu_c = mu_b - sum_j o_j (mu_j - mu_b),      o_k = e^{L_k} = p_k / (1 - sum_j p_j)

With D_j = mu_j - mu_b and u = sum_j o_j D_j the distance gap is
2 <x'-mu_b, u> + |u|^2 + 2 inner_k - gram_kk. The total of the odds in mu_c, and in the guidance, is
capped at odds_max. p stays in (0, 1) without a clamp; that of L_k, to +-logit(p_min), keeps a
decided concept within reach of later evidence. Offsets as in `pair`, with the gap's own
expectation.

The divergence is that of mu_k - mu_c = D_k + u, and u turns with the odds:

    div u = sum_j (o_j div D_j + <grad o_j, D_j>)
    grad o_j = o_j (s_j - s_c) = o_j (D_j + u) / kappa

with kappa = -k_eps sigma the factor between scores and means; so the second part needs no probe,
it is (sum_j o_j gram_jj + |u|^2) / kappa. (Scores, kernel and divergence term: dng_jax.posterior.)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dng_jax.posterior.evidence import Evidence, divergence_numerator, log_ratio, noise_share
from dng_jax.posterior.kernel_tracker import KernelTracker
from dng_jax.posterior.pair import log_prior_of, reference_of
from dng_jax.posterior.temperature import Offset, Temperature
from dng_jax.posterior.temperature import offset as as_offset
from dng_jax.posterior.temperature import temperature as as_temperature
from dng_jax.posterior.view import View, weighted
from dng_jax.rules import Step, count, number, pytree
from dng_jax.steps import StepRow


@pytree
class Odds(KernelTracker):
    """State: log-odds against the complement, [B, M]. Make it with `odds`."""

    log_odds_min: jax.Array
    log_odds_max: jax.Array

    def update(self, state: jax.Array, evidence: Evidence, row: StepRow) -> jax.Array:
        """State after one step, from its scalars."""
        o = self._odds(state)

        def against_complement(inner):
            u_inner = jnp.sum(o * inner, axis=1, keepdims=True)
            return 2 * u_inner + u_square + 2 * inner - square

        square = jnp.diagonal(evidence.gram, axis1=1, axis2=2)
        u_square = jnp.einsum("bj,bjk,bk->b", o, evidence.gram, o, precision="highest")[:, None]
        divergence = evidence.divergence + jnp.sum(o * evidence.divergence, axis=1, keepdims=True)
        if self.probes:
            turning = jnp.sum(o * square, axis=1, keepdims=True) + u_square
            divergence -= turning / (row.k_eps * row.sigma)
        gap = against_complement(evidence.inner) + divergence_numerator(divergence, row)
        restored = -self.drift * against_complement(evidence.expected)
        increment = log_ratio(
            self.temperature(row) * (gap + noise_share(row) * restored) + self.delta, row
        )
        moved = state + increment + self.offset(row)
        return jnp.clip(moved, self.log_odds_min, -self.log_odds_min)

    def log_probabilities(self, state: jax.Array) -> jax.Array:
        """log p_k, [B, M]."""
        return state - jnp.logaddexp(0.0, jax.nn.logsumexp(state, axis=1, keepdims=True))

    def view(self, state: jax.Array, step: Step) -> View:
        """Total odds and the negatives' odds-weighted prediction."""
        log_odds = jnp.minimum(jax.nn.logsumexp(state, axis=1), self.log_odds_max)
        return View(log_odds, weighted(jax.nn.softmax(state, axis=1), step, self.concepts))

    def _odds(self, state):
        excess = jax.nn.logsumexp(state, axis=1, keepdims=True) - self.log_odds_max
        return jnp.exp(state - jnp.maximum(excess, 0.0))


def odds(
    prior=0.2,
    *,
    negatives: tuple[str, ...] = ("negative",),
    temperature: float | tuple | Temperature = 1.0,
    delta: float = 0.0,
    drift: float = 0.0,
    offset: float | tuple | Offset = 0.0,
    p_min: float = 1e-6,
    odds_max: float = 99.0,
    probes: int = 0,
    reference: str = "base",
) -> Odds:
    """The log-odds tracker; arguments as in `pair`.

    p_min > 0 bounds the log-odds on both sides at +-logit(p_min); odds_max > 0 caps the odds in
    the complement's mean and in the guidance. reference: a role that is none of the negatives.
    InputError as there.
    """
    log_prior = log_prior_of(prior, negatives)
    floor = number(p_min, "p_min", low=0, high=0.5, open_=True, axes=0)
    return Odds(
        log_prior - jnp.log1p(-jnp.sum(jnp.exp(log_prior))),
        as_temperature(temperature),
        number(delta, "delta", axes=0),
        number(drift, "drift", low=0, high=1, axes=0),
        as_offset(offset),
        jnp.log(floor) - jnp.log1p(-floor),
        jnp.log(number(odds_max, "odds_max", low=0, open_=True, axes=0)),
        concepts=tuple(negatives),
        probes=count(probes, "probes"),
        reference=reference_of(reference, negatives),
    )
