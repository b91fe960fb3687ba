r"""What one step of the chain says about the concepts: inner products, one set per step.

Kernel means mu_k = k_x x + k_eps eps_k (dng_jax.steps), relative to a reference prediction:

    D_k       = mu_k - mu_ref = k_eps (eps_k - eps_ref)
    inner_k   = <x' - mu_ref, D_k>
    gram_jk   = <D_j, D_k>
    |x' - mu_ref|^2 - |x' - mu_k|^2 = 2 inner_k - gram_kk

The last line is the distance gap without cancellation: no squared distance is ever formed. Every
tracker's update is a function of these scalars alone, so trackers can be run again, and their
temperature fitted, without touching an image.

expected_k = <mean - mu_ref, D_k> is inner_k averaged over the noise of the step (mean: the
noise-free end of the step); the portable offset of a tracker is a fraction of the drift it gives.

divergence_k = div_x D_k enters for samplers that add less (or more) noise than the kernel has
(derived in dng_jax.posterior): with r = std^2 / k_var the log-ratio of the path gains
-(1 - r)/2 div D_k. It is estimated by Hutchinson's probe, E_v <v, J v> over Rademacher v, one JVP
per probe; its variance, sum_{i<j} (J_ij + J_ji)^2, grows with dimension.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from dng_jax.rules import Move, Predictions, Step, pytree, static
from dng_jax.steps import StepRow

# A log-likelihood ratio beyond this says all there is to say; keeps sums finite in float32.
_SATURATION = 1e6
SCALARS = ("inner", "expected", "gram", "divergence")


@pytree
class Evidence:
    """float32; M concepts. inner, expected, divergence [B, M]; gram [B, M, M]. reference: the role
    whose prediction was the reference, None for the concepts' mean."""

    inner: jax.Array
    expected: jax.Array
    gram: jax.Array
    divergence: jax.Array
    reference: str | None = static(default="base")

    def scalars(self) -> dict[str, jax.Array]:
        """The arrays by their names."""
        return {name: getattr(self, name) for name in SCALARS}


def gather(
    step: Step, move: Move, concepts: tuple[str, ...], reference: str | None, probes: int = 0
) -> Evidence:
    """Evidence of one step for the named concept roles.

    reference: role of the reference prediction, or None for the plain mean of the concepts'.
    probes: number of Rademacher probes for the divergence; 0 leaves it out (zeros).
    """
    row = step.row
    difference, mu_ref = _differences(step.preds, row, step.x, concepts, reference)
    to_reference = functools.partial(_flat_difference, other=mu_ref)
    product = functools.partial(jnp.einsum, precision="highest")
    divergence = jnp.zeros_like(difference[:, :, 0])
    for i in range(probes):
        divergence += _probe(step, concepts, reference, i) / probes
    return Evidence(
        product("bd,bkd->bk", to_reference(move.x_next), difference),
        product("bd,bkd->bk", to_reference(move.mean), difference),
        product("bjd,bkd->bjk", difference, difference),
        divergence,
        reference,
    )


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
        evidence.reference,
    )


def log_ratio(numerator: jax.Array, row: StepRow) -> jax.Array:
    """numerator / (2 k_var), NaN-free and saturated; 0 where the step is not scored."""
    value = jnp.nan_to_num(numerator, nan=0.0) / (2 * row.k_var)
    return jnp.clip(jnp.nan_to_num(value, nan=0.0), -_SATURATION, _SATURATION)


def noise_share(row: StepRow) -> jax.Array:
    """min(1, std^2 / k_var): how much of the kernel's noise the step really adds.

    The portable offset gives back drift in this proportion: without noise a step's expectation is
    the step itself, and giving it back would erase the evidence.
    """
    return jnp.minimum(1.0, row.std**2 / row.k_var)


def divergence_numerator(divergence: jax.Array, row: StepRow) -> jax.Array:
    """The correction -(1 - std^2/k_var)/2 div, times 2 k_var so that it adds to a distance gap."""
    missing = jnp.where(jnp.isfinite(row.k_var), row.k_var - row.std**2, 0.0)
    return -missing * divergence


def _differences(preds: Predictions, row: StepRow, x, concepts, reference):
    batch = x.shape[0]
    eps = jnp.stack([preds[role].reshape(batch, -1) for role in concepts], axis=1)
    eps_ref = eps.mean(axis=1) if reference is None else preds[reference].reshape(batch, -1)
    mu_ref = row.k_x * x.reshape(batch, -1) + row.k_eps * eps_ref
    return row.k_eps * (eps - eps_ref[:, None, :]), mu_ref


def _flat_difference(x, *, other):
    return x.reshape(other.shape) - other


def _probe(step: Step, concepts, reference, i: int) -> jax.Array:
    keys = jax.vmap(lambda key: jax.random.fold_in(key, i + 1))(step.key)
    v = jax.vmap(lambda key: jax.random.rademacher(key, step.x.shape[1:], step.x.dtype))(keys)
    _, tangents = jax.jvp(step.eval, (step.x,), (v,))
    along, _ = _differences(tangents, step.row, jnp.zeros_like(v), concepts, reference)
    return jnp.einsum("bd,bkd->bk", v.reshape(len(v), -1), along, precision="highest")
