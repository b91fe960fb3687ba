r"""Energy landscapes: slices of E through one, two or three states.

    line    xi(s) = a + s (b - a)
    plane   xi(u, v) = o + u e_1 + v e_2,  e_1, e_2 orthonormal

through three states (o their mean), or along the two leading principal axes of the patterns (o the
mean). Along the line from the centroid to a pattern of an equidistant set, state s has the weights'
order parameter p_1 - p_2 = s; E on it has its minima at the fixed points of hopfield_jax.theory.
A slice shows minima of E restricted to it: what is a minimum there may be a saddle of E.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError
from hopfield_jax.energy import Memory, block_size, energy


class Plane(NamedTuple):
    """origin [d]; axes [2, d], orthonormal."""

    origin: np.ndarray
    axes: np.ndarray

    def project(self, states) -> np.ndarray:
        """Coordinates [R, 2] of states [R, d]."""
        return (np.asarray(states, np.float64) - self.origin) @ self.axes.T

    def states(self, u, v) -> np.ndarray:
        """States [V, U, d] on the grid of coordinates u [U], v [V]."""
        u, v = np.meshgrid(np.asarray(u, np.float64), np.asarray(v, np.float64))
        return self.origin + u[..., None] * self.axes[0] + v[..., None] * self.axes[1]


def through(a, b, c) -> Plane:
    """The plane of three states [d], the first axis along b - a."""
    a, b, c = (np.asarray(x, np.float64) for x in (a, b, c))
    first = b - a
    second = c - a
    length = np.linalg.norm(first)
    if length > 0:
        first = first / length
        second = second - (second @ first) * first
    height = np.linalg.norm(second)
    if length == 0 or height <= 1e-9 * max(length, np.linalg.norm(c - a)):
        raise InputError("three states on one line span no plane: choose others")
    return Plane((a + b + c) / 3, np.stack([first, second / height]))


def principal(patterns) -> Plane:
    """The plane of the two leading principal axes of patterns [N, d]; N >= 3."""
    x = np.asarray(patterns, np.float64)
    centre = x.mean(axis=0)
    _, values, axes = np.linalg.svd(x - centre, full_matrices=False)
    if len(values) < 2 or values[1] <= 1e-9 * values[0]:
        raise InputError(
            "patterns on one line span no plane: give at least three in two dimensions"
        )
    return Plane(centre, axes[:2])


def variances(patterns) -> np.ndarray:
    """Shares [min(N, d)] of the patterns' variance along their principal axes, largest first."""
    x = np.asarray(patterns, np.float64)
    square = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
    return square / square.sum()


def line(a, b, s) -> np.ndarray:
    """States [S, d] on the line from a (s = 0) to b (s = 1)."""
    a, b, s = (np.asarray(x, np.float64) for x in (a, b, s))
    return a + s[:, None] * (b - a)


def energies(memory: Memory, states, betas) -> np.ndarray:
    """E [S, ...] of states [..., d] at every beta [S]."""
    states = jnp.asarray(states, memory.patterns.dtype)
    betas = jnp.asarray(betas, memory.patterns.dtype)
    return np.asarray(_energies(memory, states, betas))


@jax.jit
def _energies(memory: Memory, states, betas):
    block = block_size(memory)
    # One beta at a time: the logits of a whole grid are large enough.
    return jax.lax.map(lambda beta: energy(memory, states, beta, block=block), betas)
