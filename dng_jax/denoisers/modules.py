r"""What may stand for a network, and how it is called: (x, logsnr[, label]) -> array.

    given                               called as                                  data
    Flax Linen module, its params       module.apply({"params": params}, ...)      params
    function f, its params              f(params, ...)                             params
    NNX or Equinox module, function     module(...)                                arrays in it

Weights are data, so that other weights of the same shapes never recompile. All are called on a
whole batch. None may change while it predicts: an image would depend on the batch that it is in.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax

from dng_jax.errors import InputError
from dng_jax.sampling import as_pytree


class Linen:
    """params, x, ... -> module.apply({"params": params}, x, ...), checked while it is traced.

    Equal whenever its module is, unlike module.apply, which is new at each access: denoisers made
    twice from one architecture share one compiled program.
    """

    def __init__(self, module):
        self.module = module

    def __call__(self, params, *inputs):
        kinds = tuple((leaf.shape[1:], leaf.dtype) for leaf in inputs)
        _compare(self.module, params, _expected(self.module, kinds))
        from flax.errors import InvalidRngError

        try:
            return self.module.apply({"params": params}, *inputs)
        except InvalidRngError as error:
            said = str(error).split(" (http")[0]
            raise InputError(
                f"{name_of(self.module)} asks for random numbers ({said}): a prediction must be the"
                " same each time, so switch dropout off (deterministic=True)"
            ) from None

    def __eq__(self, other):
        return isinstance(other, Linen) and self.module == other.module

    def __hash__(self):
        return hash(self.module)


def call(network, *inputs):
    """Calls a network that holds its own parameters."""
    return network(*inputs)


def prepare(module: Any, params: Any, inputs: tuple[str, ...]) -> tuple[Any, Callable]:
    """(params, apply_fn) of whatever stands for a network; InputError where nothing can.

    inputs: names of what it will be called with.
    """
    if hasattr(module, "apply"):
        _must_be_params(module, params)
        if callable(module):
            _must_take(type(module).__call__, name_of(module), ("self", *inputs))
        return params, Linen(module)
    if not callable(module):
        raise InputError(
            f"{type(module).__name__} is no network: give a Flax module, an Equinox module or a"
            f" function of ({', '.join(inputs)})"
        )
    if params is None:
        _must_take(module, name_of(module), inputs)
        return as_pytree(module), call
    if any(leaf is not module for leaf in jax.tree.leaves(module)):
        raise InputError(
            f"{name_of(module)} holds its parameters itself: leave params out, or give a function"
            f" f(params, {', '.join(inputs)})"
        )
    _must_take(module, name_of(module), ("params", *inputs))
    return params, module


def name_of(module: Any) -> str:
    """What a person calls it."""
    return getattr(module, "__name__", None) or type(module).__name__


def _must_be_params(module: Any, params: Any) -> None:
    if params is None:
        raise InputError(
            f"{name_of(module)} comes without parameters: give those of"
            f" {name_of(module)}.init(...)['params']"
        )
    if isinstance(params, Mapping) and "params" in params:
        others = sorted(set(params) - {"params"})
        if others:
            raise InputError(_stateful(module, others))
        raise InputError(
            f"these are the variables of {name_of(module)}: give its parameters,"
            " variables['params']"
        )


def _must_take(function: Callable, name: str, inputs: tuple[str, ...]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C
        return
    try:
        signature.bind(*inputs)
    except TypeError as error:
        shown = ", ".join(n for n in inputs if n != "self")
        raise InputError(
            f"{name}{signature} cannot be called as ({shown}): {error}; wrap it in a function"
            " that is called like that"
        ) from None


@functools.lru_cache(maxsize=64)
def _expected(module: Any, kinds: tuple) -> Mapping | None:
    # Shapes of the variables for one image of these shapes; None where the module cannot tell.
    if not hasattr(module, "init"):
        return None
    inputs = [jax.ShapeDtypeStruct((1, *shape), dtype) for shape, dtype in kinds]
    try:
        return jax.eval_shape(module.init, jax.random.key(0), *inputs)
    except Exception:  # whatever it is, apply will say it of the real inputs
        return None


def _compare(module: Any, params: Any, expected: Mapping | None) -> None:
    if expected is None:
        return
    if set(expected) - {"params"}:
        raise InputError(_stateful(module, sorted(set(expected) - {"params"})))
    wanted, given = _shapes(expected.get("params", {})), _shapes(params)
    for verb, names in (
        ("lack", [n for n in wanted if n not in given]),
        ("have no place for", [n for n in given if n not in wanted]),
    ):
        if names:
            who = "the parameters" if verb == "lack" else "its layers"
            raise InputError(
                f"{name_of(module)} does not fit its parameters: {who} {verb} {_some(names)};"
                " give the configuration that they were trained with"
            )
    for name, shape in wanted.items():
        if given[name] != shape:
            raise InputError(
                f"{name_of(module)} does not fit its parameters: {name} has shape {given[name]},"
                f" for these images it must be {shape}"
            )


def _stateful(module: Any, collections: list[str]) -> str:
    return (
        f"{name_of(module)} has state besides its parameters ({', '.join(collections)}), and"
        " sampling carries none: normalise by GroupNorm or LayerNorm, or give a function"
        " f(variables, x, logsnr) that applies it with its running averages fixed"
    )


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    from flax.core import meta, unfreeze
    from flax.traverse_util import flatten_dict

    flat = flatten_dict(unfreeze(meta.unbox(params)), sep="/")
    return {name: jax.numpy.shape(leaf) for name, leaf in flat.items()}


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
