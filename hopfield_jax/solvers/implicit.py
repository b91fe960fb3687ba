r"""A minimum as a differentiable function of the patterns and of beta.

    xi* = T(xi*; X, beta)    =>    d xi* = (I - J)^{-1} (dT/dX dX + dT/dbeta dbeta)

by the implicit function theorem. I - J is symmetric and, at a strict minimum, positive definite:
its systems are solved by conjugate gradients on products J v = beta X^T (p * (X v - p.X v)), in at
most min(N, d) steps and without a d x d matrix; in reverse mode the same solve acts on the incoming
gradient. The iterations themselves are never differentiated (a while_loop cannot be, in reverse).
A small residual and rho(J) < 1 do not make a minimum: a ghost has both. What is returned meets the
inequality of certificates.py, so a strict minimum lies within rounding and tolerance of it.
Derivation: the folder's sheet, section 7.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg

from hopfield_jax.energy import Memory, centred, check_beta, update, weights
from hopfield_jax.solvers.certificates import proved
from hopfield_jax.solvers.iterations import Method, Search, run_to_rest, search
from hopfield_jax.solvers.spaces import StateSpace


def minimum(
    memory: Memory,
    start,
    beta,
    *,
    tolerance: float | None = None,
    max_steps: int = 100_000,
    method: Method = "newton",
) -> jax.Array:
    """The minimum [d] that the update reaches from start [d] at beta [].

    Differentiable once, forwards or backwards, in the leaves of memory and in beta (in start the
    derivative is zero); works under jit and vmap. tolerance: of the residual, in units of
    memory.spread, default 16 times the rounding of the dtype. NaN where the search does not end
    within max_steps, or where no strict minimum is proved to be at its end (see
    certificates.certify; there too, above 4096 patterns and dimensions only the trace of J proves
    one): saddles, ghosts of a minimum just lost, and minima so near a spinodal that the tolerance
    cannot tell them from ghosts.
    """
    check_beta(beta)
    goal = 16 * float(jnp.finfo(memory.dtype).eps) if tolerance is None else tolerance
    chosen = search(max_steps=max_steps, method=method)
    # NaN is an answer here, and jax_debug_nans would take it for a fault.
    with jax.debug_nans(False):
        return _minimum(memory, start, beta, dataclasses.replace(chosen, tolerance=goal))


@jax.jit
def _minimum(memory, start, beta, search):
    eps = float(jnp.finfo(memory.dtype).eps)
    beta = jnp.asarray(beta, memory.dtype)
    tolerance = jnp.asarray(search.tolerance, memory.dtype)
    search = dataclasses.replace(search, tolerance=tolerance)
    fixed = jax.lax.stop_gradient((memory, jnp.asarray(start, memory.dtype), beta))
    xi = jax.lax.stop_gradient(_found(*fixed, search))

    frozen, _, b = fixed
    push = StateSpace(frozen).covariance(weights(frozen, xi[None], b), b[None])
    steps = 2 * min(memory.num_patterns, memory.dimension) + 10

    def hessian(v):
        return v - push(v[None])[0]

    def solve(linear, right):
        return cg(linear, right, tol=4 * eps, maxiter=steps)[0]

    # One Newton step with a constant matrix: in value it is rounding, in derivative the theorem.
    left = update(memory, xi, beta) - xi
    return xi + jax.lax.custom_linear_solve(hessian, left, solve, symmetric=True)


def _found(memory, start, beta, search: Search):
    middle, mean = centred(memory)
    held, _ = run_to_rest(StateSpace(middle), (start - mean)[None], beta[None], search)
    state = held + mean[None]
    sure = proved(memory, state, beta[None], search.tolerance).minimum
    return jnp.where(sure[:, None], state, jnp.nan)[0]
