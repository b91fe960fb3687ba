r"""What a guidance rule is, and what it may look at.

A rule is to a sampler what an optimiser is to training: a pytree of numbers with three pure
functions. At each step the sampler asks the denoiser for the predictions of the rule's roles, then

    delta, state, info = rule.apply(state, step)         before the noise is drawn
    eps   = preds.get("base", 0) + delta                 guided prediction
    mean  = c_x x + c_eps eps;   x_next = mean + std z
    state = rule.update(state, step, Move(mean, x_next)) after

delta is relative to the base prediction where the rule asks for one, and the whole prediction where
it does not; deltas of several rules add (`Sum`). info is a dict of scalars per image, [B] each.
Numbers of a rule are traced leaves (float32), so changing one never recompiles; names of roles,
counts and switches are static.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, dataclass_transform, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError
from dng_jax.steps import StepRow

Predictions = dict[str, jax.Array]
T = TypeVar("T")


class Denoise(Protocol):
    """Predicts eps for every role asked for, in one call: x [B, ...] -> {role: eps [B, ...]}.

    A plain function will do. A denoiser that costs network evaluations may also say how many:
    `calls(roles) -> int`, per image and step, which jobs report where it is there.
    """

    def __call__(self, x: jax.Array, row: StepRow, roles: Sequence[str]) -> Predictions: ...


class Step(NamedTuple):
    """What a rule may look at.

    row: the step's coefficients; x [B, ...]; preds {role: eps [B, ...]}; eval: x -> preds at the
    same level (for derivatives); key [B]: typed PRNG keys of this step, one per sample.
    """

    row: StepRow
    x: jax.Array
    preds: Predictions
    eval: Callable[[jax.Array], Predictions]
    key: jax.Array

    @property
    def base(self) -> jax.Array | float:
        """The base prediction, or 0 where the rule does without one."""
        return self.preds.get("base", 0.0)


class Move(NamedTuple):
    """The step that was taken: its noise-free mean and where it ended, [B, ...] each."""

    mean: jax.Array
    x_next: jax.Array


@runtime_checkable
class Rule(Protocol):
    """A guidance rule; see the module's equations."""

    @property
    def roles(self) -> tuple[str, ...]: ...
    def init_state(self, x: jax.Array) -> Any: ...
    def apply(self, state: Any, step: Step) -> tuple[jax.Array, Any, dict[str, jax.Array]]: ...
    def update(self, state: Any, step: Step, move: Move) -> Any: ...


class Stateless:
    """Mixin of the rules that carry nothing along the chain."""

    def init_state(self, x: jax.Array) -> tuple[()]:
        """Nothing to carry."""
        return ()

    def update(self, state: tuple[()], step: Step, move: Move) -> tuple[()]:
        """Nothing to learn."""
        return state


def static(**kwargs) -> Any:
    """A dataclass field that is part of the program rather than of its data."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static,))
def pytree(cls: type[T]) -> type[T]:
    """Class decorator: a frozen dataclass whose fields are leaves, but those made by `static`."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


def number(
    value,
    name: str,
    *,
    low: float = -np.inf,
    high: float = np.inf,
    open_: bool = False,
    finite: bool = True,
) -> jax.Array:
    """A float32 leaf from a number or array; InputError where a known value is out of range.

    low, high: allowed range, ends included unless open_; finite=False lets infinities pass.
    """
    if not isinstance(value, jax.core.Tracer):
        known = np.asarray(value, np.float64)
        inside = (known > low) & (known < high) if open_ else (known >= low) & (known <= high)
        if not inside.all():
            ends = "strictly between" if open_ else "between"
            raise InputError(f"{name} must lie {ends} {low:g} and {high:g}, got {known.tolist()}")
        if finite and not np.isfinite(known).all():
            raise InputError(f"{name} must be finite, got {known.tolist()}")
    return jnp.asarray(value, jnp.float32)


def count(value: int, name: str) -> int:
    """A static whole number >= 0; InputError otherwise."""
    if value != int(value) or value < 0:
        raise InputError(f"{name} must be a whole number >= 0, got {value}")
    return int(value)


def class_roles(num_classes: int) -> tuple[str, ...]:
    """The role of every class: "class:0", ..., "class:K-1"."""
    return tuple(f"class:{k}" for k in range(num_classes))


def per_sample(scalar: jax.Array, x: jax.Array) -> jax.Array:
    """[B] (or []) shaped to broadcast against x [B, ...]."""
    scalar = jnp.asarray(scalar)
    return scalar.reshape(scalar.shape + (1,) * (x.ndim - scalar.ndim)) if scalar.ndim else scalar


def zeros_per_sample(x: jax.Array) -> jax.Array:
    """Float32 zeros [B] that inherit x's sharding (a fresh zeros(B) would not)."""
    return jnp.sum(jnp.zeros_like(x, jnp.float32), axis=tuple(range(1, x.ndim)))
