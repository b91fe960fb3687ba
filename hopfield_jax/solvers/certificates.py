r"""Whether a state is a minimum: spectrum of the update's Jacobian, and a certificate.

    J = beta (X^T diag(p) X - mu mu^T) = beta sum_i p_i (x_i - mu)(x_i - mu)^T,   mu = X^T p
    Hessian of E = I - J;   rho = largest eigenvalue of J (it is positive semidefinite)
    Morse index = number of eigenvalues of J above 1

A fixed point is a strict minimum iff rho < 1, and rho is the rate of plain iteration. The non-zero
eigenvalues are those of A A^T [N, N] or A^T A [d, d], A = sqrt(beta p) (x - mu): the smaller is
diagonalised. rho <= trace J, which is known to all digits where p is nearly one-hot.

A small residual alone proves nothing: beyond a spinodal a ghost of the lost minimum has residual
r = |xi - T(xi)| as small as one likes, and rho < 1. But J can change only so fast. Along a path of
length s, |dJ| <= beta D J for patterns of diameter D (a covariance's derivative is a third
cumulant), so rho(s) <= rho e^{beta D s}, and T maps the ball of radius s about xi into itself,
contracting, when r + rho (e^{beta D s} - 1)/(beta D) <= s and rho(s) < 1. The best s gives

    beta D r < rho - 1 - log rho     =>  exactly one fixed point in that ball, a strict minimum.

A state is called a minimum only where that holds with every number on its unsafe side. The right
hand side is (1 - rho)^2 / 2 near a spinodal: there tolerances must shrink as the square.

Rounding. The origin is put at the mean m (energy.centred): |c_i| <= R, the state is eta. A sum of n
products errs by about sqrt(n) eps times their norms (random signs; Higham & Mary 2019), so with
g(n) = (4 + sqrt n) eps, a few times what is seen, the logits are off by at most

    delta = beta g(d) (R |eta| + R |m| + max |b_i|)           b as stored: 0, or -|x_i|^2 / 2

some beta M^2 eps, and each weight by a factor within e^{2 delta}, though never by more than 1.
With p as computed, f = sum_i p_i (c_i - eta) = T(xi) - xi and J, its error and its bound are

    sum_i min(1, (e^{2 delta} - 1) p_i) |c_i - eta|  +  g(N) sum_i p_i |c_i - eta|  +  2 eps |eta|
    rho <= e^{2 delta} (rho + (g(N) + g(d)) trace J)
    rho <= trace J <= beta sum_i min(1, e^{2 delta} p_i) |c_i - mu|^2

(a covariance is least about its own mean). Offsets of the origin and large beta cost proofs near
spinodals, and never make one.
Proof: the folder's sheet, section 5; the inequality is Banach's theorem with the bound above.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hopfield_jax.energy import (
    Memory,
    aligned,
    block_size,
    centred,
    check_beta,
    check_states,
    fields,
    pad,
    weights,
)
from hopfield_jax.solvers.rows import scaled
from hopfield_jax.solvers.spaces import Space, StateSpace, length, space

LARGEST_FORM = 4096  # rows of the largest matrix that is diagonalised


class Certificate(NamedTuple):
    """What is known of states [R].

    residual: |xi - T(xi)| / spread; spectral_radius: rho(J); morse_index int32: eigenvalues of J
    above 1; minimum bool: residual within the tolerance, and a strict minimum proved to be there;
    upper: a bound of rho(J) with rounding counted.
    """

    residual: jax.Array
    spectral_radius: jax.Array
    morse_index: jax.Array
    minimum: jax.Array
    upper: jax.Array


def jvp(memory: Memory, state, v, beta) -> jax.Array:
    """J v, [..., d], without a d x d matrix: two products with the patterns."""
    v = jnp.asarray(v, memory.dtype)
    p = weights(memory, state, beta)
    a = jnp.einsum("...d,nd->...n", v, memory.patterns, precision="highest")
    p, a = aligned(p, a)
    a = p * (a - jnp.sum(p * a, axis=-1, keepdims=True))
    image = jnp.einsum("...n,nd->...d", a, memory.patterns, precision="highest")
    return jnp.multiply(*aligned(jnp.asarray(beta, memory.dtype)[..., None], image))


@functools.partial(jax.jit, static_argnames="iterations")
def spectral_radius(memory: Memory, state, beta, iterations: int = 64) -> jax.Array:
    """rho(J) [R] of states [R, d] at beta [] or [R], by power iteration.

    A Rayleigh quotient, so never too large but for rounding; its error falls as (second eigenvalue
    / first)^(2 iterations). Each iteration costs as much as an update. For proofs use `certify`.
    """
    memory, mean = centred(memory)  # elsewhere J's products cancel
    state = jnp.asarray(state, memory.dtype) - mean[None]
    beta = jnp.broadcast_to(jnp.asarray(beta, memory.dtype), state.shape[:-1])
    form: Space
    if (block := block_size(memory)) is not None:
        form = StateSpace(pad(memory, block), block)
        push = form.jacobian(state, beta)
    else:
        form = space(memory)
        push = form.covariance(weights(memory, state, beta), beta)
    start = jax.random.normal(jax.random.key(0), (len(state), form.size), memory.dtype)

    def step(carry, _):
        v, _ = carry
        w = push(v)
        size = length(form, w)
        unit = scaled(1 / jnp.where(size > 0, size, 1), w)
        return (unit, form.inner(v, w)), None

    first = push(form.lift(start))
    (_, rho), _ = jax.lax.scan(step, (first, jnp.zeros_like(beta)), length=iterations + 1)
    return rho


def spectrum(memory: Memory, state, beta) -> jax.Array:
    """Eigenvalues of J at states [..., d], descending, [..., min(N, d)]; any others are zero."""
    state, beta = jnp.asarray(state, memory.dtype), jnp.asarray(beta, memory.dtype)
    batch = jnp.broadcast_shapes(state.shape[:-1], beta.shape)
    rows = jnp.broadcast_to(state, (*batch, memory.dimension)).reshape(-1, memory.dimension)
    each = jnp.broadcast_to(beta, batch).reshape(-1)
    return _spectra(memory, rows, each).reshape(*batch, -1)


def certify(memory: Memory, states, beta, *, tolerance: float = 1e-6) -> Certificate:
    """Certificates of states [R, d] at beta [] or [R].

    tolerance: of the residual, in units of memory.spread; the rounding of the states themselves,
    eps |xi|, is allowed on top. Costs R eigenvalue problems of size
    min(N, d): merge states first where many coincide. Above 4096 none is solved: rho comes from
    power iteration, minima are proved by the trace alone, and the index is -1 where that leaves it
    open.
    """
    check_beta(beta)
    states = check_states(memory, states)
    betas = np.broadcast_to(np.asarray(beta, memory.dtype), (len(states),))
    return certify_rows(memory, states, betas, tolerance)


def certify_rows(memory: Memory, states, betas, tolerance) -> Certificate:
    """`certify` of states [R, d] at betas [R] without its checks; on the host."""
    states, rows = np.asarray(states), len(states)
    spare = (1 << (rows - 1).bit_length()) - rows  # few sizes, few programs
    padded = (
        np.pad(states, ((0, spare), (0, 0)), mode="edge"),
        np.pad(betas, (0, spare), mode="edge"),
    )
    found = proved(memory, *map(jnp.asarray, padded), tolerance)
    return jax.tree.map(lambda leaf: leaf[:rows], found)


@jax.jit
def proved(memory: Memory, states, betas, tolerance) -> Certificate:
    """`certify` of states [R, d] at betas [R] without its checks: for use under jit and vmap."""
    eps = jnp.finfo(memory.dtype).eps
    states, betas, tolerance = (jnp.asarray(a, memory.dtype) for a in (states, betas, tolerance))
    middle, mean = centred(memory)
    eta = states - mean[None]
    distance = jnp.linalg.norm(eta, axis=-1)
    n, d = memory.patterns.shape

    def g(size):
        return (4 + size**0.5) * eps

    far = distance + jnp.linalg.norm(mean)
    delta = betas * g(d) * (middle.diameter / 2 * far + jnp.max(jnp.abs(memory.bias)))
    step, width, error, trace, most = _over_rows(middle, _measured, eta, betas, delta)
    length = jnp.linalg.norm(step, axis=-1)
    error = error + g(n) * width + 2 * eps * distance

    upper = most
    if min(n, d) > LARGEST_FORM:
        rho = spectral_radius(middle, eta, betas, 128)
        index = jnp.where(trace < 1, 0, -1)
    else:
        values = _spectra(middle, eta, betas)
        rho = jnp.maximum(values[:, 0], 0)
        index = jnp.sum(values > 1, axis=1)
        factor = jnp.where(delta < 1, jnp.exp(2 * jnp.minimum(delta, 1)), jnp.inf)
        # the trace is what counts where rho is 0 to all digits
        radius = jnp.where(rho > 0, factor * (rho + (g(n) + g(d)) * trace), jnp.inf)
        upper = jnp.minimum(radius, most)
    upper = (1 + g(n)) * upper
    # log1p: near a spinodal the right hand side is (1 - rho)^2 / 2
    upper = jnp.maximum(upper, jnp.finfo(memory.dtype).tiny)
    log_upper = jnp.where(upper < 0.5, jnp.log(upper), jnp.log1p(upper - 1))
    room = jnp.where(upper < 1, upper - 1 - log_upper, -1)
    needed = betas * middle.diameter * (length + error)

    residual = length / middle.spread
    # the state as it is stored may be no nearer to the fixed point than its rounding
    near = length <= tolerance * middle.spread + eps * jnp.linalg.norm(states, axis=-1)
    return Certificate(residual, rho, index.astype(jnp.int32), near & (needed < room), upper)


@jax.jit
def _spectra(memory, states, betas):
    def form(a):
        if memory.num_patterns <= memory.dimension:
            return jnp.einsum("nd,md->nm", a, a, precision="highest")
        return jnp.einsum("nd,ne->de", a, a, precision="highest")

    def values(log_p, x, _, beta):
        p = jnp.exp(log_p)
        a = jnp.sqrt(beta * p)[:, None] * _from_mean(p, x)
        return jnp.linalg.eigvalsh(form(a))[::-1]

    return _over_rows(memory, values, states, betas)


def _measured(log_p, x, state, beta, delta):
    # step f [d], mean |x - xi| and its part of the error of f, trace of J and its bound
    p = jnp.exp(log_p)
    apart = x - state[None]
    step = jnp.einsum("n,nd->d", p, apart, precision="highest")
    length = jnp.linalg.norm(apart, axis=1)
    square = jnp.sum(_from_mean(p, x) ** 2, axis=1)
    # log(e^{2 delta} - 1), whatever the size of delta
    change = 2 * delta + jnp.log(-jnp.expm1(-2 * delta))
    error = jnp.sum(jnp.exp(jnp.minimum(log_p + change, 0)) * length)
    most = jnp.sum(jnp.exp(jnp.minimum(log_p + 2 * delta, 0)) * square)
    return step, jnp.sum(p * length), error, beta * jnp.sum(p * square), beta * most


def _from_mean(p, x):
    return x - jnp.einsum("n,nd->d", p, x, precision="highest")[None]


def _over_rows(memory, f, states, *each):
    # f(log p [N], X [N, d], xi [d], beta, ...) of a few rows at a time
    def one(row):
        state, beta, *_ = row
        s = fields(memory, state)
        log_p = jax.nn.log_softmax(beta * (s - jnp.max(s)) + memory.log_weights)
        return f(log_p, memory.patterns, *row)

    size = memory.num_patterns * memory.dimension
    together = max(1, min(len(states), 2**22 // size))
    return jax.lax.map(one, (states, *each), batch_size=1 << (together.bit_length() - 1))
