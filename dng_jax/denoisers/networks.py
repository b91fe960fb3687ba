r"""Denoisers of one network, by its conditioning.

    label    apply_fn(params, x [N, ...], level [N], label [N]) -> [N, ...]      N = roles B images
    heads    apply_fn(params, x [B, ...], level [B]) -> [B, K+1, ...]            one call for all
    plain    apply_fn(params, x [B, ...], level [B]) -> [B, ...]

x in variance-preserving coordinates (dng_jax.denoisers). The network is called in float32, or in
float64 where its parameters are; predictions have the dtype of the chain.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dng_jax.denoisers.compaction import answer_some
from dng_jax.denoisers.modules import name_of, prepare
from dng_jax.errors import InputError, as_whole, choose, find
from dng_jax.rules import Predictions, class_roles, pytree, static
from dng_jax.sampling import as_pytree
from dng_jax.schedules import PARAMETERISATIONS, Parameterisation, to_eps
from dng_jax.steps import StepRow

Level = Callable[[StepRow], jax.Array]


class _Network:
    # What the three forms share.
    params: Any
    apply_fn: Callable
    parameterisation: Parameterisation
    level: Level | None

    def calls(self, roles: Sequence[str]) -> int:
        """Network evaluations per image and step."""
        return 1

    def _evaluate(self, x, row: StepRow, roles: Sequence[str], *labels, heads: int = 0):
        """The output for one batch, which holds x once or once per label, and how to read eps off
        a part of it that has the shape of the batch."""
        dtype = _float_type(x)
        alpha, sigma = jnp.asarray(row.alpha, dtype), jnp.asarray(row.sigma, dtype)
        r = jax.lax.rsqrt(alpha**2 + sigma**2)
        repeats = len(roles) if labels else 1
        batch = r * x.astype(dtype)
        batch = jnp.concatenate([batch] * repeats) if repeats > 1 else batch
        inner = _float_type(self.params)
        level = jnp.broadcast_to(self._level(row, inner), (len(batch),))
        out = self.apply_fn(self.params, batch.astype(inner), level, *labels)
        shape = (len(batch), heads, *x.shape[1:]) if heads else batch.shape
        out = _checked(out, shape, roles, heads).astype(dtype)
        return out, lambda part: to_eps(part, batch, r * alpha, r * sigma, self.parameterisation)

    def _level(self, row: StepRow, dtype):
        level = jnp.asarray(row.logsnr if self.level is None else self.level(row))
        if level.shape:
            raise InputError(f"level(row) has shape {level.shape}: it must be one number")
        return level.astype(dtype) if jnp.issubdtype(level.dtype, jnp.floating) else level


@pytree
class LabelNetwork(_Network):
    """One class-conditional network. All roles go through it in one batch of R B images.

    params: its weights; labels {role: int32 []}, data, so that another class never recompiles;
    level(row) -> the noise level as the network takes it, None for log-SNR. Make it with
    `label_network`.
    """

    params: Any
    labels: dict[str, jax.Array]
    apply_fn: Callable = static()
    parameterisation: Parameterisation = static(default="eps")
    level: Level | None = None

    def calls(self, roles: Sequence[str]) -> int:
        """Network evaluations per image and step."""
        return len(roles)

    def some(self, x: jax.Array, row: StepRow, roles: Sequence[str], wanted):
        """Predictions of some roles for some images: see `answer_some`."""
        return answer_some(self, x, row, roles, wanted)

    def __call__(self, x: jax.Array, row: StepRow, roles: Sequence[str]) -> Predictions:
        labels = jnp.repeat(jnp.stack([find(self.labels, role) for role in roles]), len(x))
        out, eps = self._evaluate(x, row, roles, labels)
        return dict(zip(roles, jnp.split(eps(out), len(roles)), strict=True))

    def with_conditions(self, conditions: Mapping[str, int]) -> LabelNetwork:
        """See the function of this name."""
        return dataclasses.replace(self, labels=_changed(self.labels, conditions))


@pytree
class HeadsNetwork(_Network):
    """One network with an output head per class: all roles from a single call.

    heads {role: int32 []}, data. Make it with `heads_network`.
    """

    params: Any
    heads: dict[str, jax.Array]
    apply_fn: Callable = static()
    parameterisation: Parameterisation = static(default="eps")
    level: Level | None = None

    def __call__(self, x: jax.Array, row: StepRow, roles: Sequence[str]) -> Predictions:
        out, eps = self._evaluate(x, row, roles, heads=_num_classes(self.heads) + 1)
        heads = {role: jnp.take(out, find(self.heads, role), axis=1) for role in roles}
        return {role: eps(head) for role, head in heads.items()}

    def with_conditions(self, conditions: Mapping[str, int]) -> HeadsNetwork:
        """See the function of this name."""
        return dataclasses.replace(self, heads=_changed(self.heads, conditions))


@pytree
class PlainNetwork(_Network):
    """One unconditional network: answers every role with the same prediction.

    Make it with `plain_network`.
    """

    params: Any
    apply_fn: Callable = static()
    parameterisation: Parameterisation = static(default="eps")
    level: Level | None = None

    def __call__(self, x: jax.Array, row: StepRow, roles: Sequence[str]) -> Predictions:
        out, eps = self._evaluate(x, row, roles)
        return dict.fromkeys(roles, eps(out))


def from_module(
    module, params, conditions: Mapping[str, int] | None = None
) -> LabelNetwork | HeadsNetwork | PlainNetwork:
    """The denoiser of a network of this library, by its own conditioning (dng_jax.nets.UNet).

    Roles "base" and "class:0".. always, others as {role: class}; a network without classes answers
    every role alike, and conditions do not matter. InputError for a class that it does not know.
    """
    config: Any = getattr(module, "config", None)
    conditioning = getattr(config, "conditioning", None)
    if conditioning not in ("none", "label", "heads"):
        raise InputError(
            f"{name_of(module)} does not say how it is conditioned: make its denoiser with"
            " label_network, heads_network or plain_network"
        )
    if conditioning == "label":
        return label_network(module, params, config.num_classes, conditions)
    if conditioning == "heads":
        return heads_network(module, params, config.num_classes, conditions)
    return plain_network(module, params)


def label_network(
    module,
    params=None,
    num_classes: int | None = None,
    conditions: Mapping[str, int] | None = None,
    parameterisation: Parameterisation | None = None,
    *,
    level: Level | None = None,
) -> LabelNetwork:
    """Class-conditional module(x, logsnr, label), label num_classes being the null label.

    module: a Flax Linen module with its params, a function of (params, x, logsnr, label) with
    params, or anything that holds its own and is called as (x, logsnr, label): a Flax NNX or
    Equinox module, a function. Always on whole batches: x [N, ...], logsnr [N], label int32 [N].
    Roles "base" (null label) and "class:0".. always; others as {role: class}. num_classes: default
    module.config.num_classes. parameterisation: what the module predicts; default
    module.config.parameterisation, or eps where it has none. level: row -> what the module takes
    in the place of logsnr (`timesteps`).
    """
    labels = _indices(_agreed(module, num_classes), conditions)
    params, apply_fn = prepare(module, params, ("x", "logsnr", "label"))
    kind = _predicts(module, parameterisation)
    return LabelNetwork(params, labels, apply_fn, kind, _row_to_level(level))


def heads_network(
    module,
    params=None,
    num_classes: int | None = None,
    conditions: Mapping[str, int] | None = None,
    parameterisation: Parameterisation | None = None,
    *,
    level: Level | None = None,
) -> HeadsNetwork:
    """module(x, logsnr) with num_classes + 1 heads [B, heads, ...], the last one unconditional.

    Roles "base" (last head) and "class:0".. always; others as {role: class}. Everything else as in
    `label_network`.
    """
    heads = _indices(_agreed(module, num_classes), conditions)
    params, apply_fn = prepare(module, params, ("x", "logsnr"))
    kind = _predicts(module, parameterisation)
    return HeadsNetwork(params, heads, apply_fn, kind, _row_to_level(level))


def plain_network(
    module,
    params=None,
    parameterisation: Parameterisation | None = None,
    *,
    level: Level | None = None,
) -> PlainNetwork:
    """Unconditional module(x, logsnr); everything else as in `label_network`."""
    params, apply_fn = prepare(module, params, ("x", "logsnr"))
    return PlainNetwork(params, apply_fn, _predicts(module, parameterisation), _row_to_level(level))


def with_conditions(denoiser, conditions: Mapping[str, int]):
    """The same network with other classes behind some roles; never recompiles for known roles.

    InputError for a denoiser that cannot be told a class, or does not know it.
    """
    if not hasattr(denoiser, "with_conditions"):
        raise InputError(
            f"a {name_of(denoiser)} cannot be told another class: make it again with other"
            " conditions"
        )
    return denoiser.with_conditions(conditions)


def _float_type(arrays: Any):
    # Float64 where one of them is; result_type and promote_types may refuse to promote.
    kinds = {leaf.dtype for leaf in jax.tree.leaves(arrays) if hasattr(leaf, "dtype")}
    return jnp.float64 if jnp.dtype("float64") in kinds else jnp.float32


def _checked(out: Any, shape: tuple[int, ...], roles: Sequence[str], heads: int) -> jax.Array:
    asked = f"for {'role' if len(roles) == 1 else 'roles'} {', '.join(roles)}"
    if not hasattr(out, "shape") or not hasattr(out, "dtype"):
        raise InputError(
            f"the network returned a {type(out).__name__} {asked}: it must return one array of"
            f" shape {shape}"
        )
    if out.shape != shape:
        meant = f" ({heads} heads: {heads - 1} classes and the base)" if heads else ""
        raise InputError(
            f"the network returned shape {out.shape} {asked}: it must be {shape}{meant}; where it"
            " returns more than its prediction, wrap it in a function that returns that alone"
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise InputError(f"the network returned {out.dtype} {asked}: it must return floats")
    return out


def _agreed(module, num_classes: int | None) -> int:
    # A wrong number would silently put a class in the place of the unconditional head.
    own = getattr(getattr(module, "config", None), "num_classes", num_classes)
    if own is None:
        raise InputError(f"say how many classes {name_of(module)} knows: num_classes=")
    if num_classes not in (None, own):
        raise InputError(f"the network knows {own} classes, num_classes says {num_classes}")
    if not hasattr(own, "__index__") or own < 1:
        raise InputError(f"num_classes must be a whole number from 1, got {own}")
    return operator.index(own)


def _predicts(module, parameterisation: Parameterisation | None) -> Parameterisation:
    # A network of this library says itself what it predicts: reading v as eps samples plausible
    # nonsense without any error.
    own = getattr(getattr(module, "config", None), "parameterisation", "eps")
    kind: Any = own if parameterisation is None else parameterisation
    choose(kind, PARAMETERISATIONS, "parameterisation")
    return kind


def _row_to_level(level: Level | None) -> Level | None:
    if level is not None and not callable(level):
        raise InputError(
            f"level must be callable, level(row) -> number; got {type(level).__name__}"
        )
    return as_pytree(level)


def _indices(num_classes: int, conditions: Mapping[str, int] | None) -> dict[str, jax.Array]:
    table: dict[str, Any] = {"base": num_classes}
    table |= {role: k for k, role in enumerate(class_roles(num_classes))}
    for role, k in (conditions or {}).items():
        table[role] = _class(role, k, num_classes)
    return {role: jnp.asarray(k, jnp.int32) for role, k in table.items()}


def _class(role: str, k: Any, num_classes: int) -> Any:
    if isinstance(k, jax.core.Tracer):
        return k
    # 0.7 would become class 0, and a name no class at all.
    found = as_whole(k)
    if found is None or not 0 <= found <= num_classes:
        raise InputError(f"role '{role}' names class {k!r}: choose from 0..{num_classes - 1}")
    return found


def _num_classes(table: Mapping[str, jax.Array]) -> int:
    # Those of `_indices`, in a row from 0; a condition may be named "class:cat".
    return next(k for k in itertools.count() if f"class:{k}" not in table)


def _changed(table: dict[str, jax.Array], conditions: Mapping[str, int]) -> dict[str, jax.Array]:
    count = _num_classes(table)
    return table | {role: _indices(count, {role: k})[role] for role, k in conditions.items()}
