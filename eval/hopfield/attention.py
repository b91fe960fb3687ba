"""beta_eff of every head of an attention layer, and what it retrieves; see eval.hopfield.

Without --file a demonstration: no trained network, but random projections of digits as tokens. The
file holds a layer's projection weights, read by name; the inputs are what the layer projects,
[T, D], one sequence after its normalisation. Neither a causal mask nor rotary positions are
applied. Equations: hopfield_jax.attention, hopfield_jax.projections.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax import data
from dng_jax.errors import InputError
from dng_jax.jobs.options import at_least
from dng_jax.jobs.tables import Table, write_csv
from hopfield_jax import attention, patterns, projections, theory
from hopfield_jax.attention import HeadReport
from hopfield_jax.plots import figures

from .common import Outcome
from .options import Attention as Config

Heads = tuple[str, list[HeadReport]]
NAMES = ("key", "query", "fused", "key_bias", "query_bias", "fused_bias", "inputs", "inputs_file")
PHASES = {
    "centroid": "one attractor",
    "patterns metastable": "single keys, metastable",
    "patterns lowest": "single keys, lowest",
}


def prepare(config: Config) -> Heads:
    """Where the keys are from, and the report of every head: what is bad shows on the way."""
    at_least(2, tokens=config.tokens)
    if (config.heads is not None and config.heads < 1) or config.head_dim < 1:
        raise InputError("--heads and --head-dim must be at least 1")
    source, keys, queries = demonstration(config) if config.file is None else stored(config)
    return source, attention.report(keys, queries, config.scale)


def run(config: Config, prepared: Heads, folder: Path) -> Outcome:
    """beta_eff of every head, and what its queries retrieve."""
    source, heads = prepared
    rows = [dataclasses.asdict(r) for r in heads]
    write_csv(folder / "heads.csv", rows)
    draw(folder, source, heads)
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
        f" beta_eff {first.head_dim**0.5:.4g}, minima of single keys for N <= {int(limits.exist)}"
        f" and lowest ones for N <= {int(limits.lowest)}"
    )
    results = {"source": source, "unit_variance_limits": limits, "heads": rows}
    return Outcome(results, [table_of(source, rows)], notes)


def demonstration(config: Config) -> tuple[str, np.ndarray, np.ndarray]:
    """Digits as tokens under random projections: no trained network is embedded here."""
    given = [f"--{name.replace('_', '-')}" for name in NAMES if getattr(config, name) is not None]
    if given:
        raise InputError(f"{given[0]} names a tensor, but no --file to read it from")
    images, _, _ = data.load("digits")
    if config.tokens > len(images):
        raise InputError(
            f"the demonstration has {len(images)} digits, got --tokens {config.tokens}"
        )
    heads = 4 if config.heads is None else config.heads
    x = projections.standardised(patterns.from_images(images)[: config.tokens])

    def projected(part: int) -> np.ndarray:
        seeds = (config.seed, part)
        w = projections.random_projection(seeds, x.shape[1], heads, config.head_dim)
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
    inputs = projections.read_tensor(config.inputs_file or config.file, config.inputs, (2,))
    keys, queries = projections.project(
        config.file,
        inputs[: config.tokens],
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
    return f"{config.key or config.fused} of {Path(config.file).name}", keys, queries


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
            "single minima for N <=": lambda r: f"{np.floor(r['exist']):.0f}",
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
