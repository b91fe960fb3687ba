"""Networks on disk, as safetensors: arrays and text, never code.

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
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dng_jax import nets
from dng_jax.errors import InputError, choose

MODEL_FORMAT = "dng_jax model 1"
DTYPES = ("float32", "float16", "bfloat16")


def save_model(
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
    flat = {key: value.astype(dtype) for key, value in _flatten(params).items()}
    text = {**(metadata or {}), "format": MODEL_FORMAT, "config": json.dumps(config)}
    _write(path, flat, text)


def load_model(path: str | os.PathLike) -> tuple[Any, dict, dict]:
    """Returns (module, params float32, config dict); raises InputError where it is no such file."""
    arrays, metadata = _read(path)
    if metadata.get("format") != MODEL_FORMAT:
        raise InputError(f"{path} is no model file of this library: write one with save_model")
    config = json.loads(metadata["config"])
    module = nets.build(config)
    params: dict = {}
    for key, value in arrays.items():
        *parents, leaf = key.split("/")
        node = params
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = value.astype(np.float32)
    return module, params, config


def overlay(params: Any, stored: Any) -> tuple[Any, int, int]:
    """params with the leaves of `stored` wherever path and shape agree, and how many numbers that
    is, of how many."""
    flat = _flatten(stored)
    taken = 0

    def pick(path, leaf):
        nonlocal taken
        found = flat.get(jax.tree_util.keystr(path, simple=True, separator="/"))
        if found is None or found.shape != leaf.shape:
            return leaf
        taken += found.size
        return jax.numpy.asarray(found, leaf.dtype)

    merged = jax.tree.map_with_path(pick, params)
    return merged, taken, sum(leaf.size for leaf in jax.tree.leaves(params))


def _flatten(tree: Any) -> dict[str, np.ndarray]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _write(
    path: str | os.PathLike, arrays: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    # safetensors writes the bytes as they lie: a transposed view would come back scrambled.
    save_file(
        {k: np.ascontiguousarray(v).reshape(v.shape) for k, v in arrays.items()}, part, metadata
    )
    part.replace(path)


def _read(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        with safe_open(path, framework="numpy") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: check the path") from error
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a whole safetensors file ({error}): copy or train it again"
        ) from error
