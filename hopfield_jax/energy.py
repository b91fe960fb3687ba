r"""The energy of a modern Hopfield network, its gradient and its update.

    s_i(xi) = x_i . xi + b_i                                    field of pattern i
    F(xi)   = (1/beta) log sum_i w_i exp(beta s_i)              free energy, sum_i w_i = 1
    E(xi)   = |xi|^2 / 2 - F(xi) + c
    p       = softmax(beta s + log w)                           retrieval weights
    T(xi)   = X^T p,      grad E = xi - T(xi)

    dot-product energy   b_i = 0,           c = M^2 / 2,  M = max_i |x_i|      (E >= 0)
    Euclidean energy     b_i = -|x_i|^2/2,  c = 0
                         (E = -(1/beta) log mean_i exp(-beta |x_i - xi|^2 / 2))

E(T(xi)) <= E(xi) - |xi - T(xi)|^2 / 2, since T minimises a quadratic that lies above E and touches
it at xi: no iteration of the update ever raises the energy. Source: Ramsauer et al. 2020, arXiv
2008.02217 (with w_i = 1/N). With equal norms both energies have the same minima.

Numerics. With the largest field r as reference every exponent t_i = beta (s_i - r) is <= 0, so

    log sum_i w_i e^{t_i} = log1p( sum_i w_i expm1(t_i) )   where that sum is > -1/2   (small beta)
                          = log sum_i w_i e^{t_i}            otherwise                  (large beta)

and neither form subtracts nearly equal numbers: E is good to rounding from beta = 1e-4, where the
textbook form has lost 2e-4, to beta = 1e6. Over many patterns the same sums are accumulated block
by block with a running reference.

The origin. With m the mean of the patterns, c_i = x_i - m, eta = xi - m and any number h,

    s_i = c_i.eta + b'_i + terms without i,    b'_i = b_i + c_i.m - h
    E   = |eta|^2/2 - F'(eta) + c',            c'   = c - |m|^2/2 - h

with F' of c and b': the same landscape, whose numbers are as large as the patterns lie apart and
not as the origin lies far. `centred` gives it, h the mean of the b_i + c_i.m. Lengths are compared
with the spread, the rms of |c_i|: D sqrt((N-1)/(2N)) for patterns at equal distances D.

Shapes: patterns X [N, d] as rows; states xi [..., d]; beta broadcasts against [...]. States and
betas of any type are taken in the memory's, float32 or float64. All products are taken at
precision "highest": bfloat16 or TF32 inputs move the spinodal by 0.2% or 0.03%.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError, choose
from hopfield_jax.patterns import check, real_numbers

Energy = Literal["dot", "euclidean"]
BLOCK = 8192  # patterns taken at a time where there are many


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Memory:
    """Stored patterns and the energy they define. Make it with `memory`.

    patterns [N, d]; bias [N], b_i; log_weights [N], log w_i, -inf where a row is padding;
    constant [], c. Under vmap all leaves may carry leading axes.
    """

    patterns: jax.Array
    bias: jax.Array
    log_weights: jax.Array
    constant: jax.Array

    @property
    def num_patterns(self) -> int:
        return self.patterns.shape[-2]

    @property
    def dimension(self) -> int:
        return self.patterns.shape[-1]

    @property
    def dtype(self) -> jnp.dtype:
        return self.patterns.dtype

    @property
    def scale(self) -> jax.Array:
        """M, the largest norm of a pattern (padding is none), []."""
        square = jnp.sum(self.patterns**2, axis=-1)
        return jnp.sqrt(jnp.max(jnp.where(self.log_weights > -jnp.inf, square, 0), axis=-1))

    @property
    def mean(self) -> jax.Array:
        """m [d], the mean of the patterns, each counted once; padding is not."""
        real = (self.log_weights > -jnp.inf)[..., None]
        count = jnp.sum(real, axis=-2, dtype=self.patterns.dtype)
        return jnp.sum(jnp.where(real, self.patterns, 0), axis=-2) / count

    @property
    def spread(self) -> jax.Array:
        """The rms distance of the patterns to their mean, [] > 0: the unit of lengths.

        Residuals, tolerances and kicks are given in it. The least normal number where all patterns
        are one.
        """
        square = self._from_mean()
        count = jnp.sum(self.log_weights > -jnp.inf, axis=-1, dtype=self.dtype)
        least = jnp.finfo(self.dtype).tiny
        return jnp.maximum(jnp.sqrt(jnp.sum(square, axis=-1) / count), least)

    @property
    def diameter(self) -> jax.Array:
        """An upper bound, at most twice too large, of the largest distance of two patterns, []."""
        return 2 * jnp.sqrt(jnp.max(self._from_mean(), axis=-1))

    def _from_mean(self):
        # |x_i - m|^2 [N], 0 for padding
        square = jnp.sum((self.patterns - self.mean[..., None, :]) ** 2, axis=-1)
        return jnp.where(self.log_weights > -jnp.inf, square, 0)


def memory(
    patterns, energy: Energy = "dot", weights=None, dtype=None, *, checked: bool = True
) -> Memory:
    """A memory of N patterns [N, d].

    energy: "dot" or "euclidean"; weights [N] >= 0, default equal, normalised here, zero for
    padding. dtype: float32, or float64 in JAX's x64 mode; default that of the patterns, float32 for
    half precision. Raises InputError on another dtype, a wrong rank, numbers that are not real
    and finite, N = 1, and rows that are zero or equal (in that dtype); checked = False admits the
    last three, for padding. Tracers are checked for their shape alone. Differentiable in patterns
    and weights, also under jit.
    """
    choose(energy, ("dot", "euclidean"), "energy")
    given = getattr(patterns, "dtype", np.dtype(bool))
    if not (jnp.issubdtype(given, jnp.floating) and given.itemsize <= 8):
        traced = isinstance(patterns, jax.core.Tracer)
        patterns = patterns.astype(float) if traced else real_numbers(patterns)
    if patterns.ndim != 2 or 0 in patterns.shape:
        raise InputError(
            f"patterns must be rows [N, d], got shape {tuple(patterns.shape)}:"
            " flatten each pattern to one row"
        )
    x = jnp.asarray(patterns, _precision(dtype, patterns.dtype))
    if not isinstance(x, jax.core.Tracer):
        if checked:
            check(x)
        elif not bool(jnp.isfinite(x).all()):
            raise InputError("patterns must be finite numbers: they hold NaN or infinity")
    n = len(x)
    if weights is None:
        log_weights = jnp.full(n, -np.log(n), x.dtype)
    else:
        w = jnp.asarray(weights, x.dtype)
        if w.shape != (n,):
            raise InputError(f"a memory of {n} patterns got weights of shape {w.shape}")
        if not isinstance(w, jax.core.Tracer) and not (
            bool((w >= 0).all()) and 0 < float(w.sum()) < np.inf
        ):
            raise InputError("weights of patterns must be finite, >= 0 and not all zero")
        log_weights = jnp.log(w) - jnp.log(w.sum())
    square = jnp.sum(x**2, axis=1)
    if energy == "euclidean":
        return Memory(x, -square / 2, log_weights, jnp.zeros((), x.dtype))
    largest = jnp.max(jnp.where(log_weights > -jnp.inf, square, 0))
    return Memory(x, jnp.zeros_like(square), log_weights, largest / 2)


def _precision(asked, given):
    # Of a memory: in half precision no tolerance is met, and there are no eigenvalues.
    if asked is None:
        return jnp.float64 if jax.dtypes.canonicalize_dtype(given) == jnp.float64 else jnp.float32
    try:
        name = jnp.dtype(asked).name
    except TypeError:
        name = str(asked)
    if name not in ("float32", "float64"):
        raise InputError(
            f"a memory is of float32 or float64, got {name}: leave dtype out, and patterns of half"
            " precision are taken in float32"
        )
    if jax.dtypes.canonicalize_dtype(name) != jnp.dtype(name):
        raise InputError(
            "a memory of float64 needs JAX's x64 mode: switch it on (jax_enable_x64), or leave"
            " dtype out"
        )
    return name


def pad(memory: Memory, multiple: int) -> Memory:
    """The same memory with N padded to a multiple, by rows of weight zero."""
    extra = -memory.num_patterns % multiple
    if not extra:
        return memory
    return Memory(
        jnp.pad(memory.patterns, ((0, extra), (0, 0))),
        jnp.pad(memory.bias, (0, extra)),
        jnp.pad(memory.log_weights, (0, extra), constant_values=-jnp.inf),
        memory.constant,
    )


@jax.jit
def centred(memory: Memory) -> tuple[Memory, jax.Array]:
    """The same landscape with the origin at the mean m of the patterns, and m [d].

    States eta = xi - m there stand for xi here, with equal energies. Padding becomes rows of zeros.
    """
    mean = memory.mean
    real = memory.log_weights > -jnp.inf
    x = jnp.where(real[:, None], memory.patterns - mean[None], 0)
    bias = memory.bias + jnp.einsum("nd,d->n", x, mean, precision="highest")
    level = jnp.sum(jnp.where(real, bias, 0)) / jnp.sum(real, dtype=memory.dtype)
    constant = memory.constant - jnp.sum(mean**2) / 2 - level
    return Memory(x, jnp.where(real, bias - level, 0), memory.log_weights, constant), mean


def block_size(memory: Memory) -> int | None:
    """How many patterns to take at a time: all (None) up to 16384, else 8192."""
    return BLOCK if memory.num_patterns > 2 * BLOCK else None


def check_beta(beta) -> None:
    """Raises InputError unless every inverse temperature is finite and > 0; tracers pass."""
    if isinstance(beta, jax.core.Tracer):
        return
    values = np.asarray(beta)
    values = values.astype(np.result_type(values, np.float32))
    # numbers below the normal ones count as zero on most devices
    bad = values[~(np.isfinite(values) & (values >= np.finfo(values.dtype).tiny))]
    if bad.size:
        raise InputError(
            f"the inverse temperature beta must be finite and > 0, got {bad.flat[0]}:"
            " choose a positive number"
        )


def check_states(memory: Memory, states, name: str = "states") -> np.ndarray:
    """States as rows [R, d], R >= 1, of the memory's dtype: a copy. InputError for other shapes."""
    states = np.array(states, memory.dtype)
    if states.ndim != 2 or states.shape[1] != memory.dimension or not len(states):
        raise InputError(
            f"{name} must be rows [R, {memory.dimension}] as the patterns are,"
            f" got shape {states.shape}"
        )
    return states


def fields(memory: Memory, state) -> jax.Array:
    """s_i = x_i . xi + b_i of states [..., d], shape [..., N]."""
    state = jnp.asarray(state, memory.dtype)
    if state.shape[-1] != memory.dimension:
        raise InputError(
            f"the patterns have {memory.dimension} dimensions, the states {state.shape[-1]}"
        )
    inner = jnp.einsum("...d,nd->...n", state, memory.patterns, precision="highest")
    return jnp.add(*aligned(inner, memory.bias))


def aligned(*arrays) -> list[jax.Array]:
    """The arrays in one rank, by axes of length one in front: as JAX broadcasts them where it may
    (jax_numpy_rank_promotion)."""
    rank = max(a.ndim for a in arrays)
    return [jnp.expand_dims(a, range(rank - a.ndim)) for a in arrays]


@jax.jit
def logits(memory: Memory, state, beta) -> jax.Array:
    """beta (x_i . xi + b_i) + log w_i of states [..., d], shape [..., N]."""
    beta = jnp.asarray(beta, memory.dtype)[..., None]
    beta, s, log_weights = aligned(beta, fields(memory, state), memory.log_weights)
    return beta * s + log_weights


def partition(s, beta, log_weights, exact: bool = True) -> tuple[jax.Array, jax.Array]:
    """Retrieval weights p [..., N] and free energy F [...] of fields s [..., N].

    exact = False leaves the form for small beta out: cheaper, and F good to eps (log N) / beta.
    """
    s = jnp.asarray(s, log_weights.dtype)
    beta = jnp.asarray(beta, s.dtype)[..., None]
    beta, s, log_weights = aligned(beta, s, log_weights)
    real = log_weights > -jnp.inf
    lowest = jnp.finfo(s.dtype).min
    top = jax.lax.stop_gradient(jnp.max(jnp.where(real, s, lowest), axis=-1))
    t = beta * jnp.where(real, s - top[..., None], 0)
    z = t + log_weights
    beta = beta[..., 0]
    peak = jax.lax.stop_gradient(jnp.max(z, axis=-1))
    e = jnp.exp(z - peak[..., None])
    mass = _total(e)
    p = e / mass[..., None]
    if not exact:
        return p, top + (peak + jnp.log(mass)) / beta
    # a second pass over all exponents, for the sake of a few: only where there are some
    excess = jax.lax.cond(
        jnp.any(jnp.exp(peak) * mass > 0.5),
        lambda t: _total(jnp.exp(log_weights) * jnp.expm1(t)),
        lambda t: jnp.full_like(mass, -1),
        t,
    )
    return p, top + _log_mean(peak, mass, excess) / beta


@jax.jit
def weights(memory: Memory, state, beta) -> jax.Array:
    """p = softmax(beta s + log w) of states [..., d], shape [..., N].

    Taken from the mean of the patterns: far from the origin fields are large and alike.
    """
    middle, mean = centred(memory)
    state = jnp.subtract(*aligned(jnp.asarray(state, memory.dtype), mean))
    return partition(fields(middle, state), beta, memory.log_weights, exact=False)[0]


@functools.partial(jax.jit, static_argnames=("block", "exact"))
def update_and_energy(
    memory: Memory, state, beta, *, block: int | None = None, exact: bool = True
) -> tuple[jax.Array, jax.Array]:
    """T(xi) [..., d] and E(xi) [...] of states [..., d], from one pass over the patterns.

    block: patterns taken at a time (then logits need [..., block] instead of [..., N]); default
    all at once, and then exact = False makes the energy cheaper (see `partition`).
    """
    state, beta = jnp.asarray(state, memory.dtype), jnp.asarray(beta, memory.dtype)
    if block is None or block >= memory.num_patterns:
        p, free = partition(fields(memory, state), beta, memory.log_weights, exact)
        image = jnp.einsum("...n,nd->...d", p, memory.patterns, precision="highest")
    else:
        image, free = _blocked(memory, state, beta, block)
    square, free = aligned(jnp.sum(state**2, axis=-1), free)
    return image, square / 2 - free + memory.constant


def update(memory: Memory, state, beta, *, block: int | None = None) -> jax.Array:
    """T(xi) = X^T softmax(beta s + log w), [..., d]."""
    return update_and_energy(memory, state, beta, block=block)[0]


def energy(memory: Memory, state, beta, *, block: int | None = None) -> jax.Array:
    """E(xi), [...], good to rounding from beta = 1e-4 to 1e6."""
    return update_and_energy(memory, state, beta, block=block)[1]


def gradient(memory: Memory, state, beta, *, block: int | None = None) -> jax.Array:
    """grad E(xi) = xi - T(xi), [..., d]."""
    state = jnp.asarray(state, memory.dtype)
    return jnp.subtract(*aligned(state, update(memory, state, beta, block=block)))


def _blocked(memory, state, beta, block):
    # F and T as running sums. A new reference r' >= r costs the factor exp(shift),
    # shift = beta (r - r') <= 0, and sum w expm1(t) moves by w expm1(shift) of the patterns so far:
    # terms of one sign, so nothing cancels.
    padded = pad(memory, block)
    parts = (
        padded.patterns.reshape(-1, block, memory.dimension),
        padded.bias.reshape(-1, block),
        padded.log_weights.reshape(-1, block),
    )
    column, state = aligned(beta[..., None], state)
    beta = column[..., 0]
    batch = jnp.broadcast_shapes(state.shape[:-1], beta.shape)
    lowest = jnp.finfo(memory.dtype).min

    def add(carry, part):
        top, peak, mass, excess, weight, pull = carry
        x, bias, log_w = part
        s = fields(Memory(x, bias, log_w, memory.constant), state)
        s, log_w = aligned(s, log_w)
        real = log_w > -jnp.inf
        highest = jnp.max(jnp.where(real, s, lowest), axis=-1)
        new_top = jnp.maximum(top, jax.lax.stop_gradient(highest))
        shift = beta * (top - new_top)
        t = column * jnp.where(real, s - new_top[..., None], 0)
        z = t + log_w
        highest = jnp.maximum(jax.lax.stop_gradient(jnp.max(z, axis=-1)), lowest)
        new_peak = jnp.maximum(peak + shift, highest)
        shrink = jnp.exp(peak + shift - new_peak)
        e = jnp.exp(z - new_peak[..., None])
        w = jnp.exp(log_w)
        gain = jnp.einsum("...n,nd->...d", e, x, precision="highest")
        return (
            new_top,
            new_peak,
            mass * shrink + _total(e),
            excess * jnp.exp(shift) + weight * jnp.expm1(shift) + _total(w * jnp.expm1(t)),
            weight + jnp.sum(w),
            pull * shrink[..., None] + gain,
        ), None

    # every carry is made from the state, so that vmap and explicit sharding see its axes
    zero = jnp.broadcast_to(jnp.sum(state * 0, axis=-1), batch)
    start = (zero + lowest, zero + lowest, zero, zero, jnp.zeros((), memory.dtype))
    pull = jnp.broadcast_to(state * 0, (*batch, memory.dimension))
    (top, peak, mass, excess, _, pull), _ = jax.lax.scan(add, (*start, pull), parts)
    return pull / mass[..., None], top + _log_mean(peak, mass, excess) / beta


def _total(x):
    # Sum over the last axis by eighths. One after the other, N equal small terms beside a large one
    # are all rounded the same way: float32 weights of 32 equidistant patterns missed 1 by 1.3e-6.
    # In slices: of sums of one axis after the other the compiler makes one sum again.
    while x.shape[-1] > 8:
        extra = -x.shape[-1] % 8
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, extra)]) if extra else x
        parts = jnp.split(x, 8, axis=-1)
        while len(parts) > 1:
            parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)]
        x = parts[0]
    return jnp.sum(x, axis=-1)


def _log_mean(peak, mass, excess):
    # log sum_i w_i exp(t_i) from either form; where() twice keeps gradients finite.
    near = excess > -0.5
    return jnp.where(near, jnp.log1p(jnp.where(near, excess, 0)), peak + jnp.log(mass))
