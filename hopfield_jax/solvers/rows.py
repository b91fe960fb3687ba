"""Arithmetic of many points at once, a row each: leaves [R, ...], coefficients and masks [R].

A point of state space is one array, a point of weight space two (spaces.py): here they are alike.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Points = Any  # an array [R, ...] or a tuple of them


def beside(value, leaf) -> jax.Array:
    """value [R] with axes of length one, so that it broadcasts against a leaf [R, ...]."""
    return value.reshape(-1, *[1] * (leaf.ndim - 1))


def choose(mask, new: Points, old: Points) -> Points:
    """new where mask [R], else old."""
    return jax.tree.map(lambda a, b: jnp.where(beside(mask, a), a, b), new, old)


def difference(a: Points, b: Points) -> Points:
    """a - b."""
    return jax.tree.map(jnp.subtract, a, b)


def advance(point: Points, factor, direction: Points) -> Points:
    """point + factor [R] * direction."""
    return jax.tree.map(lambda p, v: p + beside(factor, p) * v, point, direction)


def scaled(factor, direction: Points) -> Points:
    """factor [R] * direction."""
    return jax.tree.map(lambda v: beside(factor, v) * v, direction)
