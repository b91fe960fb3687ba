r"""What a guidance rule is, and what it may look at.

A rule is to a sampler what an optimiser is to training: a pytree of numbers with three pure
functions. At each step the sampler asks the denoiser for the predictions of the rule's roles, then

    delta, state, info = rule.apply(state, step)         before the noise is drawn
    eps   = preds.get("base", 0) + delta                 guided prediction
    mean  = c_x x + c_eps eps;   x_next = mean + std z
    state = rule.update(state, step, Move(mean, x_next)) after

delta is relative to the base prediction where the rule asks for one, and the whole prediction where
it does not; deltas of several rules add (`Sum`). info is a dict of scalars per image, [B] each.
Numbers of a rule are traced leaves, so changing one never recompiles; names of roles, counts and
switches are static. A number may also be an array [B], one for each image of the batch; those of a
tracker are the same for all images.

Outside the noise levels that a rule is limited to (`interval`) its delta is `rule.outside(step)`,
where it has such a method: what the rule falls back to. Without one it is 0, the base.

A rule that does without some prediction for some images names those roles in `on_demand`, and says
before each step which images need them: `wants(state, row) -> {role: bool [B]}`, one mask for every
such role, or bool [] where all images are alike. It must not look at what it did not want: what
stands there is unspecified. An image's mask follows from its own chain alone, so that it does not
depend on its batch. All other roles are asked for every image.

Chains run in float32, or in float64 where x is (JAX's x64 mode): the sampler brings numbers, step
table and predictions to the dtype of x. Half precision is a matter of the network alone; a step's
evidence is a small difference, which float16 and bfloat16 do not hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
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

    Predictions are floats of any precision, exactly of the shape of x.
    A plain function will do. A denoiser that costs network evaluations may also say how many:
    `calls(roles) -> int`, per image and step, which jobs report where it is there. One whose
    negatives are to be scored against another role than "base" names it, `reference`: sampling then
    warns of trackers that do not know. One that can leave out images has `some(x, row, roles,
    wanted) -> (answers, ran)`, wanted {role: bool [B]} as a rule's `wants` has it, ran {role: int32
    []} of how many images it was evaluated (dng_jax.denoisers.compaction); any other is asked for
    all.
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
    """A guidance rule; see the module's equations. It may have `outside(step) -> delta` as well,
    `on_demand` with `wants(state, row)`, and `check_table(table)`, which raises InputError for a
    step table that it cannot run on."""

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


def known(value) -> bool:
    """Whether a value can be looked at now, as np.asarray(value): under an active jit, JAX would
    trace whatever it computes of it."""
    return not isinstance(value, jax.core.Tracer)


def number(
    value,
    name: str,
    *,
    low: float = -np.inf,
    high: float = np.inf,
    open_: bool = False,
    finite: bool = True,
    axes: int = 1,
) -> jax.Array:
    """A float32 leaf from a number or array; InputError where a known value is out of range.

    low, high: allowed range, ends included unless open_; finite=False lets infinities pass.
    axes: 0 for a single number, 1 for a number or an array of them (one per image, concept, knot).
    """
    if np.ndim(value) > axes or 0 in np.shape(value):
        several = " or an array with one axis" if axes else ""
        raise InputError(
            f"{name} must be a number{several}, got an array of shape {np.shape(value)}"
        )
    if known(value):
        try:
            given = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            raise InputError(f"{name} must be a number, got {value!r}") from None
        inside = (given > low) & (given < high) if open_ else (given >= low) & (given <= high)
        if not inside.all():
            ends = "strictly between" if open_ else "between"
            raise InputError(f"{name} must lie {ends} {low:g} and {high:g}, got {given.tolist()}")
        if finite and not np.isfinite(given).all():
            raise InputError(f"{name} must be finite, got {given.tolist()}")
    return jnp.asarray(value, jnp.float32)


def whole(value, name: str, *, low: int = 0) -> jax.Array:
    """`number` for whole numbers from low; float32, so that it can be swept over."""
    found = number(value, name, low=low)
    if known(found) and not np.all(np.asarray(found) == np.round(np.asarray(found))):
        raise InputError(f"{name} must be a whole number, got {value}")
    return found


def count(value: int, name: str) -> int:
    """A static whole number >= 0; InputError otherwise."""
    if value != int(value) or value < 0:
        raise InputError(f"{name} must be a whole number >= 0, got {value}")
    return int(value)


def class_roles(num_classes: int) -> tuple[str, ...]:
    """The role of every class: "class:0", ..., "class:K-1"."""
    return tuple(f"class:{k}" for k in range(num_classes))


def one_each(value: jax.Array, x: jax.Array, name: str) -> jax.Array:
    """A number [], or one for each image of x, [B], as it is; InputError for another shape."""
    if jnp.shape(value) not in ((), x.shape[:1]):
        raise InputError(
            f"{name} has shape {jnp.shape(value)}: give one number, or one for each of the"
            f" {x.shape[0]} images, shape {x.shape[:1]}"
        )
    return value


def per_sample(value: jax.Array, x: jax.Array, name: str = "a number per image") -> jax.Array:
    """[B] or [] shaped to broadcast against x [B, ...]; InputError for another shape."""
    value = jnp.asarray(one_each(value, x, name))
    return value.reshape(value.shape + (1,) * (x.ndim - 1)) if value.ndim else value


def zeros_per_sample(x: jax.Array) -> jax.Array:
    """Zeros [B] of the chain's dtype that inherit x's sharding (a fresh zeros(B) would not)."""
    return jnp.sum(jnp.zeros_like(x, chain_dtype(x)), axis=tuple(range(1, x.ndim)))


def chain_dtype(x: jax.Array) -> Any:
    """Of a chain on x: float32, or float64 where x is, as JAX would have it."""
    double = jax.dtypes.canonicalize_dtype(x.dtype) == jnp.float64
    return jnp.dtype("float64" if double else "float32")


def in_dtype(tree: T, dtype: Any) -> T:
    """The tree with every float in this dtype; whole numbers and keys as they are."""

    def cast(leaf):
        kind = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
        return jnp.asarray(leaf, dtype) if jnp.issubdtype(kind, jnp.floating) else leaf

    return jax.tree.map(cast, tree)


def fall_back(rule: Rule, step: Step) -> jax.Array:
    """delta of a rule where it does not guide: its `outside`, or 0."""
    outside = getattr(rule, "outside", None)
    return jnp.zeros_like(step.x) if outside is None else outside(step)


def on_demand(rule: Rule) -> tuple[str, ...]:
    """The roles that a rule does without for some images."""
    return getattr(rule, "on_demand", ())


def wanted(rule: Rule, state: Any, row: StepRow) -> dict[str, jax.Array]:
    """{role: bool [B]} of the roles that a rule has on demand: the images that need them now."""
    return rule.wants(state, row) if on_demand(rule) else {}  # type: ignore[attr-defined]


def predict(denoise: Denoise, x: jax.Array, row: StepRow, roles: Sequence[str]) -> Predictions:
    """Asks a denoiser; its answers {role: eps [B, ...]} in the dtype of x.

    InputError, when it is traced, where an answer is missing or is no array of floats like x: a
    smaller one would broadcast, and sample images that look like any other.
    """
    return _checked(denoise(x, row, roles), x, roles)


def predict_some(
    denoise: Denoise, x: jax.Array, row: StepRow, roles: Sequence[str], masks: Mapping[str, Any]
) -> tuple[Predictions, dict[str, jax.Array]]:
    """The same, where only the images of masks {role: bool [B]} need the answers of some roles, and
    of how many images {role: int32 []} each of these was evaluated; see `Denoise`."""
    some = getattr(denoise, "some", None)
    if some is None:
        everyone = jnp.full((), len(x), jnp.int32)
        return predict(denoise, x, row, roles), dict.fromkeys(masks, everyone)
    answers, ran = some(x, row, roles, masks)
    return _checked(answers, x, roles), ran


def _checked(answers: Any, x: jax.Array, roles: Sequence[str]) -> Predictions:
    if not isinstance(answers, Mapping):
        raise InputError(
            "denoise(x, row, roles) must return a dict {role: eps}, got a"
            f" {type(answers).__name__}"
        )
    return {role: _answer(answers, role, x) for role in roles}


def _answer(answers: Mapping[str, Any], role: str, x: jax.Array) -> jax.Array:
    if role not in answers:
        raise InputError(
            f"the denoiser gave no prediction for role '{role}' (it gave"
            f" {', '.join(map(str, answers)) or 'none'}): let it answer every role it is asked"
        )
    eps = answers[role]
    if jnp.shape(eps) != x.shape:
        raise InputError(
            f"the denoiser's prediction for role '{role}' has shape {jnp.shape(eps)}: it must have"
            f" that of x, {x.shape}"
        )
    if not jnp.issubdtype(jnp.result_type(eps), jnp.floating):
        raise InputError(
            f"the denoiser's prediction for role '{role}' is of type {jnp.result_type(eps)}:"
            " it must be an array of floats"
        )
    return jnp.asarray(eps, x.dtype)
