r"""Keys and queries of an attention layer, from stored projection weights and the layer's inputs.

The weights lie in a safetensors file, the inputs are what the layer projects, [T, D]:

    layout "out_in"    W [H d_head, D], k = W x + b (PyTorch's Linear)
    layout "in_out"    W [D, H d_head] or [D, H, d_head], k = x W + b (GPT-2, Flax)
    fused              query, key and value of one W, in this order along the outputs

float64 throughout.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Sequence
from typing import Literal

import numpy as np

from dng_jax import disk
from dng_jax.errors import InputError, choose
from dng_jax.weights import tensors
from hopfield_jax.patterns import generator

LAYOUTS = ("out_in", "in_out")
Layout = Literal["out_in", "in_out"]


def project(
    path: str | os.PathLike,
    inputs,
    *,
    heads: int,
    key: str | None = None,
    query: str | None = None,
    fused: str | None = None,
    key_bias: str | None = None,
    query_bias: str | None = None,
    fused_bias: str | None = None,
    kv_heads: int | None = None,
    layout: Layout = "out_in",
) -> tuple[np.ndarray, np.ndarray | None]:
    """Keys [kv_heads, T, d_head] and queries [heads, T, d_head] (None without a query projection).

    path: a safetensors file; key, query (or fused) and the biases: names of tensors in it. inputs
    [T, D]: what the layer projects, after its normalisation. InputError for tensors that are not
    there (it lists near names), hold NaN or do not fit.
    """
    choose(layout, LAYOUTS, "layout")
    kv_heads = heads if kv_heads is None else kv_heads
    if min(heads, kv_heads) < 1 or heads % kv_heads:
        raise InputError(
            f"the number of heads must be a multiple of that of key heads, got {heads} and"
            f" {kv_heads}"
        )
    if (key is None) == (fused is None):
        raise InputError("name either the key projection or the fused one, and not both")
    if fused is not None and (query or key_bias or query_bias):
        raise InputError("a fused projection holds the queries' too: name only its own bias")
    x = check_inputs(inputs)
    if fused is not None:
        out = _apply(path, fused, fused_bias, x, layout, heads + 2 * kv_heads)
        dim = _divide(out.shape[1], heads + 2 * kv_heads, fused)
        q, k = out[:, : heads * dim], out[:, heads * dim : (heads + kv_heads) * dim]
        return _split(k, kv_heads, fused), _split(q, heads, fused)
    assert key is not None
    keys = _split(_apply(path, key, key_bias, x, layout, kv_heads), kv_heads, key)
    if query is None:
        return keys, None
    queries = _split(_apply(path, query, query_bias, x, layout, heads), heads, query)
    if queries.shape[2] != keys.shape[2]:
        raise InputError(
            f"'{key}' gives {keys.shape[2]} numbers per head and '{query}' {queries.shape[2]}:"
            " check the numbers of heads"
        )
    return keys, queries


def random_projection(seed, width: int, heads: int, head_dim: int) -> np.ndarray:
    """W [heads * head_dim, width] of independent N(0, 1/width) entries, as at initialisation."""
    shape = (heads * head_dim, width)
    return generator(seed).normal(size=shape) / math.sqrt(width)


def standardised(x: np.ndarray) -> np.ndarray:
    """Each column of x [T, D] to mean 0 and variance 1; constant columns to 0. float64."""
    x = np.asarray(x, np.float64)
    spread = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1)


def split_heads(projected, heads: int) -> np.ndarray:
    """[T, heads * d_head] -> [heads, T, d_head]."""
    return _split(np.asarray(projected, np.float64), heads, "the projection")


def check_inputs(inputs) -> np.ndarray:
    """Inputs as float64 [T, D], T >= 2; InputError for another rank, or NaN."""
    x = np.asarray(inputs, np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise InputError(
            f"the inputs must be at least 2 tokens of one sequence, [T, D], got {list(x.shape)}"
        )
    check_finite(x, "the inputs")
    return x


def check_finite(x: np.ndarray, name: str) -> None:
    """InputError that names the first entry of x which is NaN or infinite."""
    if not np.isfinite(x).all():
        where = np.argwhere(~np.isfinite(x))[0].tolist()
        raise InputError(f"{name} must be finite: NaN or infinity at index {where}")


def read_tensor(path: str | os.PathLike, name: str, rank: Sequence[int] = ()) -> np.ndarray:
    """One tensor of a safetensors file as float64; no other is read.

    rank: the numbers of dimensions that will do, default any. InputError where the file or the
    tensor is missing, or the tensor holds NaN or is not of floating point.
    """
    with tensors.opened(path) as file:
        names = list(file.keys())
        if name not in names:
            raise InputError(_missing(path, name, names))
        value = tensors.take(file, name, path)
    if value.dtype.kind not in "fV" or value.dtype.names:
        raise InputError(
            f"tensor '{name}' of {path} is {value.dtype}, not floating point: dequantise it first"
        )
    if rank and value.ndim not in rank:
        wanted = " or ".join(map(str, rank))
        raise InputError(
            f"tensor '{name}' of {path} has shape {list(value.shape)}: {wanted} dimensions needed"
        )
    disk.check_memory(f"tensor '{name}' of {path}", 8 * value.size)
    value = value.astype(np.float64)
    check_finite(value, f"tensor '{name}' of {path}")
    return value


def _apply(
    path: str | os.PathLike, name: str, bias: str | None, x: np.ndarray, layout: str, heads: int
) -> np.ndarray:
    w = read_tensor(path, name, (2,) if layout == "out_in" else (2, 3))
    if layout == "out_in" and name.rpartition(".")[2].rpartition("/")[2] == "kernel":
        # A square one fits both ways, and the wrong one gives wrong numbers.
        raise InputError(
            f"tensor '{name}' is named as Flax names it, whose layout is in_out, not {layout}"
        )
    _must_agree(w, name, heads)
    w = w.T if layout == "out_in" else w.reshape(len(w), -1)
    if len(w) != x.shape[1]:
        raise InputError(
            f"tensor '{name}' in layout {layout} projects {len(w)} numbers and a token has"
            f" {x.shape[1]}: check the inputs, or try the other layout"
        )
    out = x @ w
    if bias is None:
        return out
    b = read_tensor(path, bias, (1, 2))
    _must_agree(b[None] if b.ndim == 2 else b, bias, heads)
    if b.size != out.shape[1]:
        raise InputError(f"bias '{bias}' has {b.size} numbers, '{name}' gives {out.shape[1]}")
    return out + b.ravel()


def _must_agree(w: np.ndarray, name: str, heads: int) -> None:
    """InputError where a tensor [D, H, d_head] has other heads than the options."""
    if w.ndim == 3 and w.shape[1] != heads:
        raise InputError(
            f"tensor '{name}' has {w.shape[1]} heads and the options say {heads}: check the numbers"
            " of heads"
        )


def _split(out: np.ndarray, heads: int, name: str) -> np.ndarray:
    dim = _divide(out.shape[1], heads, name)
    return out.reshape(len(out), heads, dim).transpose(1, 0, 2)


def _divide(size: int, heads: int, name: str) -> int:
    if size % heads:
        raise InputError(
            f"{name} gives {size} numbers per token, no multiple of {heads}: check the number of"
            " heads, or try the other layout"
        )
    return size // heads


def _missing(path: str | os.PathLike, name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=4, cutoff=0.4)
    near = near or [n for n in names if name in n][:4] or sorted(names)[:4]
    listed = ", ".join(f"'{n}'" for n in near)
    hint = f"nearest of its {len(names)} names: {listed}" if names else "it holds none at all"
    return f"{path} holds no tensor '{name}': {hint}"
