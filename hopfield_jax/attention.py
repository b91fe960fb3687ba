r"""A transformer's attention heads as Hopfield networks: how cold is each of them?

Keys k_j [T, d_head] are the patterns, a query q the state, and

    softmax(scale K q)                    attention weights = weights of one update at beta = scale
    q' = K^T softmax(scale K q)           that update (values other than keys only read it out)
    beta_eff = scale T/(T-1) tr Cov(K)    per head; K of hopfield_jax.theory at N = T

(Ramsauer et al. 2021, arXiv 2008.02217.) The usual scale is 1/sqrt(d_head). Keys of independent
entries of unit variance have beta_eff = sqrt(d_head), hence pattern minima for up to 158 keys at
d_head = 64 and lowest ones for up to 51; at 128 up to 2937 and 281 (theory.attention_limits). Keys
that resemble each other are hotter, whatever their norms: only their spread counts. But keys of
unequal norms are drawn to the longest ones (norm bias), which equidistant keys cannot show.

`phase` is what equidistant keys of that beta_eff would do; what these keys do is measured. From the
queries (or the keys themselves) the update is followed to minima
(hopfield_jax.solvers.fixed_points), and of the weights there

    participation    1 / sum_j p_j^2      how many keys a state averages over, from 1 to T

is reported after one step, which is what the layer computes, and at the minima. A minimum is only
what hopfield_jax.solvers.certificates proves to be one; the starts that reached none are counted as
not settled. Steps are those of the update until the residual is 1e-2, and Anderson's, which only
descend, from there; residuals are in units of the keys' spread (Memory.spread), so that a common
part of the keys, however large, changes nothing.

Every key is visible to every query: no causal mask, no rotary or other position added after the
projection. Keys [H, T, d_head] may be given as arrays, or computed from projection weights stored
in a safetensors file and the layer's inputs [T, D]:

    layout "out_in"    W [H d_head, D], k = W x + b (PyTorch's Linear)
    layout "in_out"    W [D, H d_head] or [D, H, d_head], k = x W + b (GPT-2, Flax)
    fused              query, key and value of one W, in this order along the outputs

With fewer key heads than query heads, key head h serves the queries h H/H_k .. (h+1) H/H_k - 1.
float64 throughout, in JAX's x64 mode where states are followed.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import numpy as np
from safetensors import SafetensorError, safe_open

from dng_jax.errors import InputError, choose
from hopfield_jax import theory
from hopfield_jax.analyses.sweeps import order_parameters
from hopfield_jax.distances import mean_half_squared, pairs
from hopfield_jax.energy import memory, weights
from hopfield_jax.solvers.certificates import certify
from hopfield_jax.solvers.fixed_points import find_fixed_points, find_minima, merge

LAYOUTS = ("out_in", "in_out")
Layout = Literal["out_in", "in_out"]
FINEST = 1e-12  # residual down to which a state without proof is followed


@dataclass(frozen=True)
class HeadReport:
    """One head of T keys; symbols as in this file's head.

    distinct_keys: T less the rows that repeat another; norm2: mean |k|^2; norm_bias: share of the
    keys that are no fixed point as the scale -> infinity, since another has the larger k_i.k_j.
    K_s, K_c, phase: of T equidistant keys; exist, lowest: numbers of such keys up to which this
    beta_eff has pattern minima, and lowest ones. starts: how many states were followed, unsettled:
    how many of them reached no proved minimum (they ran out of steps, or ended at a saddle or so
    near a fold that nothing is proved); minima: distinct proved ones that the others reached.
    participation_step, participation: medians over all starts, and over the settled ones (NaN where
    none settled).
    """

    head: int
    tokens: int
    distinct_keys: int
    head_dim: int
    scale: float
    norm2: float
    norm_bias: float
    a: float
    beta_eff: float
    K_s: float
    K_c: float
    phase: str
    exist: float
    lowest: float
    starts: int
    participation_step: float
    participation: float
    unsettled: int
    minima: int


def beta_eff(keys, scale: float | None = None) -> np.ndarray:
    """Effective inverse temperature of each head, [H], from keys [H, T, d_head]."""
    keys = _heads(keys, "keys")
    scale = _scale(scale, keys.shape[2])
    return scale * np.array([mean_half_squared(k) for k in keys])


def report(
    keys,
    queries=None,
    scale: float | None = None,
    *,
    starts: int = 256,
    tolerance: float = 1e-8,
    max_steps: int = 20_000,
) -> list[HeadReport]:
    """One report a key head, from keys [H, T, d_head] and queries [H or a multiple, T', d_head].

    scale: default 1/sqrt(d_head). Without queries the states start at the keys; of more than
    `starts` a head, that many are taken at even distances. tolerance: residual at which a proof is
    first tried, in units of the keys' spread; what it does not prove is followed to 1e-12,
    max_steps more at most. InputError for NaN, wrong ranks, one token, equal keys.
    """
    keys = _heads(keys, "keys")
    scale = _scale(scale, keys.shape[2])
    states = keys if queries is None else _heads(queries, "queries", least=1)
    if states.shape[2] != keys.shape[2]:
        raise InputError(
            f"keys have {keys.shape[2]} dimensions a head and queries {states.shape[2]}: "
            "they must agree"
        )
    if len(states) % len(keys):
        raise InputError(
            f"{len(states)} heads of queries cannot share {len(keys)} heads of keys evenly: "
            "check the numbers of heads"
        )
    grouped = states.reshape(len(keys), -1, keys.shape[2])
    return [
        _report(h, k, _spaced(s, starts), scale, tolerance, max_steps)
        for h, (k, s) in enumerate(zip(keys, grouped, strict=True))
    ]


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
        out = _apply(path, fused, fused_bias, x, layout)
        dim = _divide(out.shape[1], heads + 2 * kv_heads, fused)
        q, k = out[:, : heads * dim], out[:, heads * dim : (heads + kv_heads) * dim]
        return _split(k, kv_heads, fused), _split(q, heads, fused)
    assert key is not None
    keys = _split(_apply(path, key, key_bias, x, layout), kv_heads, key)
    if query is None:
        return keys, None
    return keys, _split(_apply(path, query, query_bias, x, layout), heads, query)


def random_projection(seed, width: int, heads: int, head_dim: int) -> np.ndarray:
    """W [heads * head_dim, width] of independent N(0, 1/width) entries, as at initialisation."""
    shape = (heads * head_dim, width)
    return np.random.default_rng(seed).normal(size=shape) / math.sqrt(width)


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
    _finite(x, "the inputs")
    return x


def read_tensor(path: str | os.PathLike, name: str, rank: Sequence[int] = ()) -> np.ndarray:
    """One tensor of a safetensors file as float64; no other is read.

    rank: the numbers of dimensions that will do, default any. InputError where the file or the
    tensor is missing, or the tensor holds NaN or is not of floating point.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            if name not in names:
                raise InputError(_missing(path, name, names))
            value = file.get_tensor(name)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: check the path") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a whole safetensors file ({error})") from error
    if value.dtype.kind not in "fV" or value.dtype.names:
        raise InputError(
            f"tensor '{name}' of {path} is {value.dtype}, not floating point: dequantise it first"
        )
    if rank and value.ndim not in rank:
        wanted = " or ".join(map(str, rank))
        raise InputError(
            f"tensor '{name}' of {path} has shape {list(value.shape)}: {wanted} dimensions needed"
        )
    value = value.astype(np.float64)
    _finite(value, f"tensor '{name}' of {path}")
    return value


def _report(
    head: int, k: np.ndarray, states: np.ndarray, scale: float, tolerance: float, max_steps: int
) -> HeadReport:
    tokens, dim = k.shape
    a = mean_half_squared(k)
    if not a > 0:
        raise InputError(f"all keys of head {head} are equal: pass tokens that differ")
    K = scale * a
    found = _retrieve(k, states, scale, tolerance, max_steps)
    settled = found.settled
    values = theory.characteristic(tokens)
    limits = theory.pattern_limits(K)
    distinct, copies = np.unique(k, axis=0, return_counts=True)
    return HeadReport(
        head=head,
        tokens=tokens,
        distinct_keys=len(distinct),
        head_dim=dim,
        scale=scale,
        norm2=float((k**2).sum(axis=1).mean()),
        norm_bias=float(copies[pairs(distinct).lead <= 0].sum() / tokens),
        a=a,
        beta_eff=K,
        K_s=values.K_s,
        K_c=values.K_c,
        phase=theory.phase(tokens, K),
        exist=limits.exist,
        lowest=limits.lowest,
        starts=len(states),
        participation_step=float(np.median(found.step)),
        participation=float(np.median(found.end[settled])) if settled.any() else math.nan,
        unsettled=int((~settled).sum()),
        minima=len(merge(found.state[settled], math.sqrt(2 * a))[1]),
    )


class _Retrieved(NamedTuple):
    # Ends [R, d] of the starts; which are proved minima; participations.
    state: np.ndarray
    settled: np.ndarray
    step: np.ndarray
    end: np.ndarray


def _retrieve(
    k: np.ndarray, states: np.ndarray, scale: float, tolerance: float, max_steps: int
) -> _Retrieved:
    with jax.enable_x64(True):
        network = memory(k, checked=False)
        found = find_minima(network, states, scale, tolerance=tolerance, max_steps=max_steps)
        end, settled = np.array(found.state), np.array(found.minimum)
        # The ghost of a minimum is within any tolerance; only a much finer one lets it pass.
        doubtful = np.flatnonzero(np.asarray(found.converged) & ~settled)
        if doubtful.size:
            finest = min(tolerance, FINEST)
            finer = find_fixed_points(
                network, end[doubtful], scale, tolerance=finest, max_steps=max_steps
            )
            end[doubtful] = finer.state
            proof = certify(network, finer.state, scale, tolerance=tolerance)
            settled[doubtful] = proof.minimum
        step, last = (
            np.asarray(order_parameters(weights(network, x, scale)).participation)
            for x in (states, end)
        )
    return _Retrieved(end, settled, step, last)


def _spaced(states: np.ndarray, most: int) -> np.ndarray:
    if len(states) <= most:
        return states
    return states[np.round(np.linspace(0, len(states) - 1, most)).astype(int)]


def _heads(values, name: str, least: int = 2) -> np.ndarray:
    x = np.asarray(values, np.float64)
    if x.ndim != 3 or 0 in x.shape:
        raise InputError(f"{name} must have shape [heads, tokens, d_head], got {list(x.shape)}")
    if x.shape[1] < least:
        raise InputError(f"a head needs at least {least} {name}, got {x.shape[1]}")
    _finite(x, name)
    return x


def _scale(scale: float | None, head_dim: int) -> float:
    scale = 1 / math.sqrt(head_dim) if scale is None else float(scale)
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f"the scale of attention must be a finite number > 0, got {scale:g}")
    return scale


def _finite(x: np.ndarray, name: str) -> None:
    if not np.isfinite(x).all():
        where = np.argwhere(~np.isfinite(x))[0].tolist()
        raise InputError(f"{name} must be finite: NaN or infinity at index {where}")


def _apply(
    path: str | os.PathLike, name: str, bias: str | None, x: np.ndarray, layout: str
) -> np.ndarray:
    w = read_tensor(path, name, (2,) if layout == "out_in" else (2, 3))
    w = w.T if layout == "out_in" else w.reshape(len(w), -1)
    if len(w) != x.shape[1]:
        raise InputError(
            f"tensor '{name}' in layout {layout} projects {len(w)} numbers and a token has"
            f" {x.shape[1]}: check the inputs, or try the other layout"
        )
    out = x @ w
    if bias is None:
        return out
    b = read_tensor(path, bias, (1, 2)).ravel()
    if len(b) != out.shape[1]:
        raise InputError(f"bias '{bias}' has {len(b)} numbers, '{name}' gives {out.shape[1]}")
    return out + b


def _split(out: np.ndarray, heads: int, name: str) -> np.ndarray:
    dim = _divide(out.shape[1], heads, name)
    return out.reshape(len(out), heads, dim).transpose(1, 0, 2)


def _divide(size: int, heads: int, name: str) -> int:
    if size % heads:
        raise InputError(
            f"{name} gives {size} numbers a token, no multiple of {heads}: check the number of"
            " heads, or try the other layout"
        )
    return size // heads


def _missing(path: str | os.PathLike, name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=4, cutoff=0.4)
    near = near or [n for n in names if name in n][:4] or sorted(names)[:4]
    listed = ", ".join(f"'{n}'" for n in near)
    hint = f"nearest of its {len(names)} names: {listed}" if names else "it holds none at all"
    return f"{path} holds no tensor '{name}': {hint}"
