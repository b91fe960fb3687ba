"""Our model files, as safetensors: arrays and text, never code.

A model file holds the parameters under their paths ("Conv3_0/kernel") and, in the file's metadata,
    format   "dng_jax model 1"
    config   JSON of nets.describe(module): enough to build the module again
and whatever text the writer adds (data set, command, losses). Parameters may be stored as float16
or bfloat16; they come back as float32.

A file that carries a checksum (tensors.py) is what `save` wrote, and `save` refuses parameters that
are not the network's. Of any other the names and shapes are compared with those of the network that
its configuration describes, before a number is read.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dng_jax.errors import InputError, choose
from dng_jax.weights import tensors

MODEL_FORMAT = "dng_jax model 1"
DTYPES = ("float32", "float16", "bfloat16")
FLOATS = ("F64", "F32", "F16", "BF16")  # as safetensors spells them


def save(
    path: str | os.PathLike,
    params: Mapping,
    config: dict,
    metadata: Mapping[str, str] | None = None,
    dtype: str = "float32",
) -> None:
    """Writes params (nested dicts of arrays) and config (nets.describe) to one safetensors file.

    dtype "float16" or "bfloat16" halves the file. The file appears whole or not at all.
    """
    from dng_jax import nets  # imported late, as flax below: it takes a second

    choose(dtype, DTYPES, "dtype")
    own = flat(params)
    must_belong({n: np.shape(x) for n, x in own.items()}, nets.build(config), "these parameters")
    text = {**(metadata or {}), "format": MODEL_FORMAT, "config": json.dumps(config)}
    tensors.write(path, as_stored(own, dtype), text)


def as_stored(params: Mapping[str, Any], dtype: str) -> dict[str, np.ndarray]:
    """Parameters by name as arrays of that dtype; InputError for what it cannot hold, and NaN."""
    with np.errstate(over="ignore"):
        found = {name: np.asarray(leaf).astype(dtype, copy=False) for name, leaf in params.items()}
    for name, leaf in found.items():
        if not _finite(leaf):
            largest = np.abs(np.asarray(params[name], np.float64)).max()
            raise InputError(
                f"{name} has numbers up to {largest:.3g}, which {dtype} cannot hold: take another"
                f" dtype of {', '.join(DTYPES)}"
                if np.isfinite(largest)
                else f"{name} holds NaN or infinity: these parameters are of no use"
            )
    return found


def load(path: str | os.PathLike) -> tuple[Any, dict, dict]:
    """Returns (module, params float32, config dict).

    InputError for what is no such file, was altered, does not hold the tensors of its network, or
    holds integers, NaN, infinity or nothing but zeros.
    """
    from dng_jax import nets  # imported late, as flax below: it takes a second

    text, kinds, shapes = tensors.outline(path)
    if text.get("format") != MODEL_FORMAT:
        raise InputError(f"{path} is no model file of this library: write one with weights.save")
    config = _config(path, text)
    try:
        module = nets.build(config)
    except InputError as error:
        raise InputError(f"{path} describes no network ({error}): write it again") from error
    must_be_floats(kinds, path)
    must_belong(shapes, module, f"{path}")
    return module, nested(numbers(path)), config


def must_be_floats(kinds: Mapping[str, str], path: str | os.PathLike) -> None:
    """InputError unless every tensor of the file is of FLOATS, as `tensors.outline` names them."""
    for name, kind in kinds.items():
        if kind not in FLOATS:
            raise InputError(f"tensor '{name}' of {path} is {kind}: store float32 or a half of it")


def numbers(path: str | os.PathLike, dtype: str = "float32") -> dict[str, np.ndarray]:
    """The tensors of a safetensors file by name, in float32 or bfloat16.

    Errors of `tensors.read`; InputError for NaN, infinity, or nothing but zeros.
    """
    arrays, _ = tensors.read(path)
    with np.errstate(over="ignore"):  # one leaves as the other comes: never all of them twice
        found = {name: arrays.pop(name).astype(dtype, copy=False) for name in [*arrays]}
    for name, value in found.items():
        if not _finite(value):
            raise InputError(
                f"tensor '{name}' of {path} holds NaN or infinity: copy or make it again"
            )
    if not any(value.any() for value in found.values()):
        raise InputError(f"{path} holds nothing but zeros: copy or make it again")
    return found


def must_belong(shapes: Mapping[str, tuple[int, ...]], module: Any, what: str) -> None:
    """InputError unless these are the names and shapes of the module's parameters."""
    must_agree(shapes, parameter_shapes(module, shapes, what), what)


def parameter_shapes(
    module: Any, stored: Mapping[str, tuple[int, ...]], what: str
) -> dict[str, tuple[int, ...]]:
    """Shapes of the module's parameters by their paths, of which nothing is allocated.

    InputError where its configuration asks for more than the stored tensors are, or for what no
    network can be.
    """
    _must_be_small(stored, module.config, what)
    try:
        own = jax.eval_shape(module.init, jax.random.key(0), *module.config.example())["params"]
    except Exception as error:  # of whatever the sizes break first
        reason = " ".join(str(error).split())[:150]
        raise InputError(f"{what}: no network has such a configuration ({reason})") from error
    return {name: leaf.shape for name, leaf in flat(own).items()}


def must_agree(
    shapes: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], what: str
) -> None:
    """InputError, naming a tensor, where names or shapes are not those of the network."""
    lacking, extra = wanted.keys() - shapes.keys(), shapes.keys() - wanted.keys()
    if lacking or extra:
        found = [f"'{min(lacking)}' is missing"] if lacking else []
        found += [f"'{min(extra)}' belongs to no part of it"] if extra else []
        raise InputError(f"{what}: not the network that is described, {', '.join(found)}")
    for name, shape in shapes.items():
        if tuple(shape) != wanted[name]:
            raise InputError(
                f"{what}: '{name}' has shape {list(shape)}, the network has {list(wanted[name])}"
            )


def _config(path: str | os.PathLike, text: Mapping[str, str]) -> dict:
    try:
        config = json.loads(text["config"])
    except (KeyError, ValueError, RecursionError) as error:
        reason = "absent" if isinstance(error, KeyError) else "not JSON"
        raise InputError(
            f"{path}: the network's configuration is {reason}: write it again"
        ) from None
    if not isinstance(config, dict):
        raise InputError(f"{path}: the network's configuration is no mapping: write it again")
    return config


def _must_be_small(shapes: Mapping[str, tuple[int, ...]], config: Any, what: str) -> None:
    """InputError for sizes that no network with so many numbers has, before it is traced."""
    count, numbers = len(shapes), sum(math.prod(shape) for shape in shapes.values())
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        values = [v for v in (value if isinstance(value, tuple) else (value,)) if type(v) is int]
        most = count if field.name.endswith(("blocks", "per_block")) else max(numbers, 4096)
        if any(v > most for v in values) or len(values) > max(count, 3):
            raise InputError(
                f"{what}: {field.name} {max(values)} is more than {count} tensors of {numbers:,}"
                " numbers can be"
            )


def _finite(value: np.ndarray) -> bool:
    return bool(np.isfinite(value).all())


def overlay(params: Mapping, stored: Mapping) -> tuple[dict, int, int]:
    """params with the leaves of `stored` wherever path and shape agree; how many numbers those are;
    how many params has."""
    own, found = flat(params), flat(stored)
    agree = {n for n, leaf in own.items() if n in found and found[n].shape == leaf.shape}
    merged = {
        name: jax.numpy.asarray(found[name], leaf.dtype) if name in agree else leaf
        for name, leaf in own.items()
    }
    sizes = {name: leaf.size for name, leaf in own.items()}
    return nested(merged), sum(sizes[n] for n in agree), sum(sizes.values())


def flat(params: Mapping) -> dict[str, Any]:
    """A tree of parameters as {"Conv3_0/kernel": x, ...}."""
    from flax.traverse_util import flatten_dict

    return flatten_dict(params, sep="/")


def nested(flat: Mapping[str, Any]) -> dict:
    """{"Conv3_0/kernel": x, ...} as the tree of parameters that a module takes."""
    from flax.traverse_util import unflatten_dict

    return unflatten_dict(flat, sep="/")
