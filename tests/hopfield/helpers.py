"""What several tests of hopfield_jax write out for themselves, in NumPy and float64."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import brentq

from hopfield_jax.solvers import iterations


def softmax(s):
    """Over the last axis."""
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def spinodal(n):
    """K_s and the weight of the pattern there, from its equation in u = log(p1/p2)."""
    u = brentq(lambda u: np.exp(u) + n - 2 - (n - 1) * np.exp(-u) - n * u, 0.5, 3 * np.log(n) + 3)
    strength = u * (np.exp(u) + n - 1) / np.expm1(u)
    return strength, np.exp(u) / (np.exp(u) + n - 1)


def logits(x, state, energy="dot"):
    """Fields of a state."""
    s = state @ x.T
    return s if energy == "dot" else s - (x**2).sum(axis=1) / 2


def update(x, beta, state, energy="dot"):
    """One update of a state [d]."""
    return softmax(beta * logits(x, state, energy)) @ x


def settle(x, beta, state, energy="dot", steps=100_000, tolerance=1e-13):
    """Updates of a state [d] until no entry moves by more than the tolerance, which must happen."""
    for _ in range(steps):
        new = update(x, beta, state, energy)
        if np.abs(new - state).max() < tolerance:
            return new
        state = new
    raise AssertionError("no fixed point")


@functools.partial(jax.jit, static_argnames=("steps", "method"))
def trajectory(space, starts, beta, *, steps, method="picard"):
    """Every state on the way from starts [R, d], [steps + 1, R, d], and its energy [steps + 1, R].

    In weight space the first is already the image of the start. With "aitken" a step is two
    updates, and the states are those that are kept.
    """
    rule, memory = iterations.METHODS[method], space.memory
    starts, beta = jnp.asarray(starts, memory.dtype), jnp.asarray(beta, memory.dtype)
    nobody = jnp.zeros(starts.shape[:1], bool)
    rows = rule.begin(space, space.lift(space.begin(space.seen(starts), beta)), beta)

    def step(rows, _):
        point = rule.end(rows, nobody)
        seen = space.state(space.held(point)), space.evaluate(point, beta)[1]
        return rule.iterate(space, rows, beta, memory.spread), seen

    return jax.lax.scan(step, rows, length=steps + 1)[1]
