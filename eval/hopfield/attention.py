"""beta_eff of every head of an attention layer, and what it retrieves; see eval.hopfield.

With --model all layers of a transformer on a text (whole_model.py). Without it and without --file a
demonstration: no trained network, but random projections of digits as tokens. The file holds a
layer's projection weights, read by name; the inputs are what the layer projects, [T, D], one
sequence after its normalisation. Neither a causal mask nor rotary positions are applied. Equations:
hopfield_jax.attention, hopfield_jax.projections.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax import data
from dng_jax.errors import InputError
from dng_jax.jobs.options import option
from dng_jax.jobs.tables import Table, write_csv
from hopfield_jax import attention, patterns, projections, theory
from hopfield_jax.attention import HeadReport
from hopfield_jax.plots import figures

from . import whole_model
from .common import PHASES, Outcome, bounded, count_of
from .options import Attention as Config
from .whole_model import Layers

Heads = tuple[str, list[HeadReport]]
WEIGHTS = ("key", "query", "fused", "key_bias", "query_bias", "fused_bias", "inputs", "inputs_file")
MOST_TOKENS = 16_384  # keys are compared each with each


def prepare(config: Config) -> Heads | Layers:
    """Where the keys are from, and the report of every head: what is bad shows on the way."""
    bounded(2, MOST_TOKENS, tokens=config.tokens)
    bounded(1, 1024, heads=config.heads, kv_heads=config.kv_heads)
    bounded(1, 4096, head_dim=config.head_dim)
    bounded(1, 1000, sequences=config.sequences)
    if config.model is not None:
        unused = ("file", *WEIGHTS, "heads", "kv_heads", "head_dim", "scale")
        if given := [option(name) for name in unused if getattr(config, name) is not None]:
            raise InputError(f"{given[0]} belongs to one layer, --model has its own: leave it out")
        return whole_model.read(config)
    for name in ("text", "sequences"):
        if getattr(config, name) is not None:
            raise InputError(f"--{name} is what a --model reads: name one, or leave it out")
    source, keys, queries = demonstration(config) if config.file is None else stored(config)
    return source, attention.report(keys, queries, config.scale)


def run(config: Config, prepared: Heads | Layers, folder: Path) -> Outcome:
    """beta_eff of every head, and what its queries retrieve."""
    if isinstance(prepared, Layers):
        return whole_model.outcome(config, prepared, folder)
    source, heads = prepared
    rows = [dataclasses.asdict(r) for r in heads]
    write_csv(folder / "heads.csv", rows)
    first = heads[0]
    limits = theory.attention_limits(first.head_dim)
    notes = [
        f"head {r.head}: {r.unsettled} of {r.starts} starts reached no proved minimum;"
        " the columns on minima leave them out"
        for r in heads
        if r.unsettled
    ]
    notes.append(
        f"independent keys of unit variance, d_head {first.head_dim}, scale 1/sqrt(d_head):"
        f" beta_eff {first.head_dim**0.5:.4g}, minima of single keys for"
        f" N <= {count_of(limits.exist)} and lowest ones for N <= {count_of(limits.lowest)}"
    )
    results = {"source": source, "unit_variance_limits": limits, "heads": rows}
    pictures = [partial(draw, folder, source, heads)]
    return Outcome(results, [table_of(source, rows)], notes, pictures)


def demonstration(config: Config) -> tuple[str, np.ndarray, np.ndarray]:
    """Digits as tokens under random projections: no trained network is embedded here."""
    given = [option(name) for name in WEIGHTS if getattr(config, name) is not None]
    if given:
        raise InputError(f"{given[0]} names a tensor, but no --file to read it from")
    if config.kv_heads is not None or config.layout != "out_in":
        name = "--layout" if config.kv_heads is None else "--kv-heads"
        raise InputError(f"{name} belongs to weights from a --file: leave it out")
    tokens, head_dim = config.tokens or 64, config.head_dim or 64
    images, _, _ = data.load("digits")
    if tokens > len(images):
        raise InputError(f"the demonstration has {len(images)} digits, got --tokens {tokens}")
    heads = 4 if config.heads is None else config.heads
    x = projections.standardised(patterns.from_images(images)[:tokens])

    def projected(part: int) -> np.ndarray:
        seeds = (config.seed, part)
        w = projections.random_projection(seeds, x.shape[1], heads, head_dim)
        return projections.split_heads(x @ w.T, heads)

    keys, queries = projected(0), projected(1)
    return "random projections of digits (a demonstration, nothing trained)", keys, queries


def stored(config: Config) -> tuple[str, np.ndarray, np.ndarray | None]:
    """Keys and queries of a layer on disk."""
    assert config.file is not None
    if config.inputs is None:
        raise InputError("--file needs --inputs, the name of the tensor [T, D] that it projects")
    if config.heads is None:
        raise InputError("--file needs --heads, the number of heads of its layer")
    if config.head_dim is not None:
        raise InputError(
            "--head-dim belongs to the demonstration, a file has its own: leave it out"
        )
    inputs = projections.read_tensor(config.inputs_file or config.file, config.inputs, (2,))
    available, tokens = len(inputs), config.tokens or len(inputs)
    if tokens > available:
        raise InputError(f"{config.inputs} holds {available} tokens, got --tokens {tokens}")
    if tokens > MOST_TOKENS:
        raise InputError(
            f"{config.inputs} holds {available} tokens, too many to compare each with each: name at"
            f" most {MOST_TOKENS} with --tokens"
        )
    keys, queries = projections.project(
        config.file,
        inputs[:tokens],
        heads=config.heads,
        key=config.key,
        query=config.query,
        fused=config.fused,
        key_bias=config.key_bias,
        query_bias=config.query_bias,
        fused_bias=config.fused_bias,
        kv_heads=config.kv_heads,
        layout=config.layout,
    )
    part = "" if tokens == available else f", the first {tokens} of {available} tokens"
    return f"{config.key or config.fused} of {Path(config.file).name}{part}", keys, queries


def table_of(source: str, rows: Sequence[dict[str, Any]]) -> Table:
    """One row per head."""
    title = (
        "{tokens} keys of {head_dim} dimensions, scale {scale:.4g}, K_s {K_s:.4g}, K_c {K_c:.4g}"
    )
    return Table.of(
        f"{source}: {title.format(**rows[0])}",
        rows,
        {
            "head": "head",
            "beta_eff": "beta_eff",
            "equidistant keys would have": lambda r: PHASES[r["phase"]],
            "single minima for N <=": lambda r: count_of(r["exist"]),
            "norm-biased keys %": lambda r: f"{100 * r['norm_bias']:.0f}",
            "keys per state, one step": "participation_step",
            "at minima": "participation",
            "minima reached": "minima",
            "starts": "starts",
            "not settled": "unsettled",
        },
    )


def draw(folder: Path, source: str, heads: Sequence[HeadReport]) -> None:
    """beta_eff of the heads beside K_s and K_c, and keys per state."""
    first = heads[0]
    figures.heads(
        [r.beta_eff for r in heads],
        {"$K_s$ of as many equidistant keys": first.K_s, "$K_c$": first.K_c},
        {
            "one step": [r.participation_step for r in heads],
            "minimum": [r.participation for r in heads],
        },
        folder / "heads.png",
        tokens=first.tokens,
        title=source,
    )
