"""Our model files, as safetensors: arrays and text, never code.

A model file holds the parameters under their paths ("Conv3_0/kernel") and, in the file's metadata,
    format   "dng_jax model 1"
    config   JSON of nets.describe(module): enough to build the module again
and whatever text the writer adds (data set, command, losses). Parameters may be stored as float16
or bfloat16; they come back as float32.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dng_jax.errors import InputError, choose
from dng_jax.weights import tensors

MODEL_FORMAT = "dng_jax model 1"
DTYPES = ("float32", "float16", "bfloat16")


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
    choose(dtype, DTYPES, "dtype")
    flat = {name: np.asarray(leaf).astype(dtype) for name, leaf in _flat(params).items()}
    text = {**(metadata or {}), "format": MODEL_FORMAT, "config": json.dumps(config)}
    tensors.write(path, flat, text)


def load(path: str | os.PathLike) -> tuple[Any, dict, dict]:
    """Returns (module, params float32, config dict); raises InputError where it is no such file."""
    arrays, metadata = tensors.read(path)
    if metadata.get("format") != MODEL_FORMAT:
        raise InputError(f"{path} is no model file of this library: write one with weights.save")
    from dng_jax import nets  # imported late, as flax below: it takes a second

    config = json.loads(metadata["config"])
    params = {name: value.astype(np.float32) for name, value in arrays.items()}
    return nets.build(config), _nested(params), config


def overlay(params: Mapping, stored: Mapping) -> tuple[dict, int, int]:
    """params with the leaves of `stored` wherever path and shape agree; how many numbers those are;
    how many params has."""
    own, found = _flat(params), _flat(stored)
    agree = {n for n, leaf in own.items() if n in found and found[n].shape == leaf.shape}
    merged = {
        name: jax.numpy.asarray(found[name], leaf.dtype) if name in agree else leaf
        for name, leaf in own.items()
    }
    sizes = {name: leaf.size for name, leaf in own.items()}
    return _nested(merged), sum(sizes[n] for n in agree), sum(sizes.values())


def _flat(params: Mapping) -> dict[str, Any]:
    from flax.traverse_util import flatten_dict

    return flatten_dict(params, sep="/")


def _nested(flat: Mapping[str, Any]) -> dict:
    from flax.traverse_util import unflatten_dict

    return unflatten_dict(flat, sep="/")
