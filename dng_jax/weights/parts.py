r"""Networks whose layers are named as in torch, from and to the folders of diffusers.

    params = parts.load(folder, module, Layout("AutoencoderKL"))
    parts.save(folder, module, params, config, Layout("AutoencoderKL"))

The path of a parameter is the name of a tensor: joined by dots, its last word changed,

    "mid_block", "resnets.0", "norm1", "scale"     mid_block.resnets.0.norm1.weight
    kernel, scale, embedding -> weight;            bias stays

    dense kernels [I, O] from weights [O, I], convolutions [h, w, I, O] from [O, I, h, w]

A folder must hold these tensors and no others, in these shapes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from dng_jax.errors import choose
from dng_jax.weights import diffusers_files, files
from dng_jax.weights.diffusers_files import Layout

DTYPES = ("float32", "bfloat16")
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}


def load(
    folder: str | os.PathLike,
    module: Any,
    layout: Layout,
    variant: str = "",
    dtype: str = "float32",
    names: Callable[[Iterable[str]], Mapping[str, str]] | None = None,
) -> dict:
    """The module's parameters, nested, as float32 or bfloat16 whatever the files hold.

    module: with a `config` that has an `example` of its arguments, as nets.config.Config says.
    variant: such as fp16, of files that have one in their names. names: takes the names in the
    files to those of the module, by default those of attention before diffusers 0.15 to today's;
    one that it leaves out is not looked at. InputError for a folder without these files, weights in
    a pickle, and tensors that are missing, superfluous, misshapen, no floats or of no use.
    """
    choose(dtype, DTYPES, "dtype")
    found = diffusers_files.find(folder, layout, variant)
    kinds, shapes = found.outline()
    what = f"{found.where}"
    known = names(shapes) if names else diffusers_files.modern_names(shapes, what)
    files.must_be_floats({n: kind for n, kind in kinds.items() if n in known}, what)
    own = files.parameter_shapes(module, shapes, what)
    wanted = {torch_name(path): torch_shape(shape, path) for path, shape in own.items()}
    files.must_agree({known[n]: shape for n, shape in shapes.items() if n in known}, wanted, what)
    held = found.numbers(dtype)
    values = {known[name]: held.pop(name) for name in shapes if name in known}
    return files.nested({path: from_torch(values.pop(torch_name(path)), path) for path in own})


def save(
    folder: str | os.PathLike,
    module: Any,
    params: Mapping,
    config: dict[str, Any],
    layout: Layout,
    variant: str = "",
    dtype: str = "float32",
) -> None:
    """Writes the folder that `load` reads, and diffusers too.

    config: what config.json is to hold. dtype "float16" or "bfloat16" halves the file; it does not
    choose the variant. InputError for parameters that are not the module's or not finite.
    """
    choose(dtype, files.DTYPES, "dtype")
    own = files.flat(params)
    files.must_belong({n: np.shape(x) for n, x in own.items()}, module, "these parameters")
    stored = files.as_stored(own, dtype)
    arrays = {torch_name(path): to_torch(value, path) for path, value in stored.items()}
    diffusers_files.write(folder, layout, config, arrays, variant)


def torch_name(path: str) -> str:
    """The name in torch of the parameter at "conv_in/kernel"."""
    *layers, leaf = path.split("/")
    return ".".join([*layers, _LEAVES[leaf]])


def torch_shape(shape: tuple[int, ...], path: str) -> tuple[int, ...]:
    """The shape in torch of the parameter at that path."""
    return tuple(shape[axis] for axis in _order(len(shape), path))


def to_torch(value: np.ndarray, path: str) -> np.ndarray:
    """The parameter at that path as torch has it."""
    return value.transpose(_order(value.ndim, path))


def from_torch(value: np.ndarray, path: str) -> np.ndarray:
    """A tensor of torch as the parameter at that path."""
    return np.ascontiguousarray(value.transpose(np.argsort(_order(value.ndim, path))))


def _order(axes: int, path: str) -> tuple[int, ...]:
    """Which axis of the parameter each axis in torch is."""
    if not path.endswith("kernel"):
        return tuple(range(axes))
    return (axes - 1, axes - 2, *range(axes - 2))
