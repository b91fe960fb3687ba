r"""From networks to the one `Denoise` signature: (x, row, roles) -> {role: eps}.

Networks of this library live in variance-preserving coordinates and take a continuous noise level.
At level (alpha, sigma) of any schedule, with r = 1 / sqrt(alpha^2 + sigma^2),

    x_vp = r x = (r alpha) x_0 + (r sigma) eps,        logsnr = log(alpha^2 / sigma^2)

so the eps that the network predicts is the eps of x itself, and one trained network serves DDPM,
EDM and rectified-flow tables. Predictions of other kinds are converted (dng_jax.schedules).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from dng_jax.errors import InputError, find
from dng_jax.rules import Denoise, Predictions, class_roles, pytree, static
from dng_jax.schedules import Parameterisation, to_eps
from dng_jax.steps import StepRow


class _Network:
    # What the three forms share.
    params: dict
    apply_fn: Callable
    parameterisation: Parameterisation

    def calls(self, roles: Sequence[str]) -> int:
        """Network evaluations per image and step."""
        return 1

    def _evaluate(self, x: jax.Array, row: StepRow, repeats: int = 1, *inputs: jax.Array):
        """The output for `repeats` copies of x in one batch, and how to read eps off a part of it
        that has the shape of the batch."""
        r = jax.lax.rsqrt(row.alpha**2 + row.sigma**2)
        batch = jnp.concatenate([r * x] * repeats) if repeats > 1 else r * x
        logsnr = jnp.broadcast_to(jnp.asarray(row.logsnr, jnp.float32), (len(batch),))
        out = self.apply_fn(self.params, batch, logsnr, *inputs).astype(jnp.float32)
        level = r * row.alpha, r * row.sigma
        return out, lambda part: to_eps(part, batch, *level, self.parameterisation)


@pytree
class LabelNetwork(_Network):
    """One class-conditional network. All roles go through it in one batch of R B images.

    params: its weights; labels {role: int32 []}, data, so that another class never recompiles;
    apply_fn(params, x [N, ...], logsnr [N], label [N]) -> [N, ...]. Make it with `label_network`.
    """

    params: dict
    labels: dict[str, jax.Array]
    apply_fn: Callable = static()
    parameterisation: Parameterisation = static(default="eps")

    def calls(self, roles: Sequence[str]) -> int:
        """Network evaluations per image and step."""
        return len(roles)

    def __call__(self, x: jax.Array, row: StepRow, roles: Sequence[str]) -> Predictions:
        labels = jnp.repeat(jnp.stack([find(self.labels, role) for role in roles]), len(x))
        out, eps = self._evaluate(x, row, len(roles), labels)
        return dict(zip(roles, jnp.split(eps(out), len(roles)), strict=True))

    def with_conditions(self, conditions: Mapping[str, int]) -> LabelNetwork:
        """See the function of this name."""
        return dataclasses.replace(self, labels=_changed(self.labels, conditions))


@pytree
class HeadsNetwork(_Network):
    """One network with an output head per class: all roles from a single call.

    heads {role: int32 []}, data; apply_fn(params, x [B, ...], logsnr [B]) -> [B, heads, ...].
    Make it with `heads_network`.
    """

    params: dict
    heads: dict[str, jax.Array]
    apply_fn: Callable = static()
    parameterisation: Parameterisation = static(default="eps")

    def __call__(self, x: jax.Array, row: StepRow, roles: Sequence[str]) -> Predictions:
        out, eps = self._evaluate(x, row)
        heads = {role: jnp.take(out, find(self.heads, role), axis=1) for role in roles}
        return {role: eps(head) for role, head in heads.items()}

    def with_conditions(self, conditions: Mapping[str, int]) -> HeadsNetwork:
        """See the function of this name."""
        return dataclasses.replace(self, heads=_changed(self.heads, conditions))


@pytree
class PlainNetwork(_Network):
    """One unconditional network: answers every role with the same prediction.

    apply_fn(params, x [B, ...], logsnr [B]) -> [B, ...]. Make it with `plain_network`.
    """

    params: dict
    apply_fn: Callable = static()
    parameterisation: Parameterisation = static(default="eps")

    def __call__(self, x: jax.Array, row: StepRow, roles: Sequence[str]) -> Predictions:
        out, eps = self._evaluate(x, row)
        return dict.fromkeys(roles, eps(out))


@pytree
class SeparateNetworks:
    """One denoiser per role, as the paper has it: a base network and one per forbidden class."""

    parts: dict[str, Denoise]

    def calls(self, roles: Sequence[str]) -> int:
        """Network evaluations per image and step: any part answers one role by one."""
        return len(roles)

    def __call__(self, x: jax.Array, row: StepRow, roles: Sequence[str]) -> Predictions:
        return {role: find(self.parts, role)(x, row, (role,))[role] for role in roles}


def from_module(
    module, params, conditions: Mapping[str, int] | None = None
) -> LabelNetwork | HeadsNetwork | PlainNetwork:
    """The denoiser of a network of this library, by its own conditioning (dng_jax.nets.UNet).

    Roles "base" and "class:0".. always, others as {role: class}; a network without classes answers
    every role alike, and conditions do not matter. InputError for a class that it does not know.
    """
    config = module.config
    if config.conditioning == "label":
        return label_network(module, params, config.num_classes, conditions)
    if config.conditioning == "heads":
        return heads_network(module, params, config.num_classes, conditions)
    return plain_network(module, params)


def label_network(
    module,
    params,
    num_classes: int,
    conditions: Mapping[str, int] | None = None,
    parameterisation: Parameterisation | None = None,
) -> LabelNetwork:
    """Class-conditional Flax module(x, logsnr, label), label num_classes being the null label.

    Roles "base" (null label) and "class:0".. always; others as {role: class}. parameterisation:
    what the module predicts; default module.config.parameterisation, or eps where it has none.
    """
    labels = _indices(_agreed(module, num_classes), conditions)
    return LabelNetwork(params, labels, _Apply(module), _predicts(module, parameterisation))


def heads_network(
    module,
    params,
    num_classes: int,
    conditions: Mapping[str, int] | None = None,
    parameterisation: Parameterisation | None = None,
) -> HeadsNetwork:
    """Flax module(x, logsnr) with num_classes + 1 heads, the last one unconditional.

    Roles "base" (last head) and "class:0".. always; others as {role: class}. parameterisation:
    as in `label_network`.
    """
    heads = _indices(_agreed(module, num_classes), conditions)
    return HeadsNetwork(params, heads, _Apply(module), _predicts(module, parameterisation))


def plain_network(module, params, parameterisation: Parameterisation | None = None) -> PlainNetwork:
    """Unconditional Flax module(x, logsnr)."""
    return PlainNetwork(params, _Apply(module), _predicts(module, parameterisation))


def separate_networks(parts: Mapping[str, Denoise]) -> SeparateNetworks:
    """{role: denoiser}: each role is asked of its own network."""
    if "base" not in parts:
        raise InputError("separate networks need one for the role 'base'")
    return SeparateNetworks(dict(parts))


def with_conditions(denoiser, conditions: Mapping[str, int]):
    """The same network with other classes behind some roles; never recompiles for known roles.

    InputError for a denoiser that cannot be told a class, or does not know it.
    """
    if not hasattr(denoiser, "with_conditions"):
        raise InputError(
            f"a {type(denoiser).__name__} cannot be told another class: make it again with other"
            " conditions"
        )
    return denoiser.with_conditions(conditions)


class _Apply:
    # module.apply is a new object at each access; this one is equal whenever its module is, so
    # that denoisers made twice from one architecture share one compiled program.
    def __init__(self, module):
        self.module = module

    def __call__(self, params, *args):
        return self.module.apply({"params": params}, *args)

    def __eq__(self, other):
        return isinstance(other, _Apply) and self.module == other.module

    def __hash__(self):
        return hash(self.module)


def _agreed(module, num_classes: int) -> int:
    # A wrong number would silently put a class in the place of the unconditional head.
    own = getattr(getattr(module, "config", None), "num_classes", num_classes)
    if own != num_classes:
        raise InputError(f"the network knows {own} classes, num_classes says {num_classes}")
    return num_classes


def _predicts(module, parameterisation: Parameterisation | None) -> Parameterisation:
    # A network of this library says itself what it predicts: reading v as eps samples plausible
    # nonsense without any error.
    if parameterisation is not None:
        return parameterisation
    return getattr(getattr(module, "config", None), "parameterisation", "eps")


def _indices(num_classes: int, conditions: Mapping[str, int] | None) -> dict[str, jax.Array]:
    table = {"base": num_classes} | {role: k for k, role in enumerate(class_roles(num_classes))}
    for role, k in (conditions or {}).items():
        if not 0 <= k <= num_classes:
            raise InputError(f"role '{role}' names class {k}: choose from 0..{num_classes - 1}")
        table[role] = k
    return {role: jnp.asarray(k, jnp.int32) for role, k in table.items()}


def _changed(table: dict[str, jax.Array], conditions: Mapping[str, int]) -> dict[str, jax.Array]:
    count = sum(role.startswith("class:") for role in table)
    return table | {role: _indices(count, {role: k})[role] for role, k in conditions.items()}
