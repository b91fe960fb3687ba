"""A cheap denoiser, counters of traces, and settings of JAX."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp

SWITCHES = {
    "jax_enable_x64": True,
    "jax_numpy_rank_promotion": "raise",
    "jax_numpy_dtype_promotion": "strict",
    "jax_debug_nans": True,
}
SLOPES = {"base": 0.9, "negative": 1.0, "positive": 0.7}


@contextlib.contextmanager
def switched(**settings):
    """Runs its block under other settings of JAX."""
    before = {name: jax.config.values[name] for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


@jax.tree_util.Partial
def tiny(x, row, roles):
    """eps = x / sqrt(1 + slope x^2), one slope per role; blind to the noise level."""
    return {role: x / jnp.sqrt(1 + SLOPES[role] * x**2) for role in roles}


@functools.partial(jax.tree_util.register_dataclass, data_fields=["inner"], meta_fields=["seen"])
@dataclass(frozen=True)
class Counted:
    """A denoiser that notes the roles of each call in `seen`; under jit: one call per trace."""

    inner: object
    seen: tuple

    def __call__(self, x, row, roles):
        self.seen[0].append(tuple(roles))
        return self.inner(x, row, roles)


class Log(list):
    """A list that hashes by identity, so that it can be part of a program."""

    __hash__ = object.__hash__

    def __eq__(self, other):
        return self is other
