"""How cold are the heads of an attention layer? beta_eff of its keys, and what they retrieve.

    python -m eval.hopfield.attention                        a demonstration, seconds: no
                                    trained network, but random projections of digits as tokens
    python -m eval.hopfield.attention --file model.safetensors --heads 12 \\
        --key layer.0.attention.self.key.weight --query layer.0.attention.self.query.weight \\
        --inputs-file hidden.safetensors --inputs hidden

The file holds a layer's projection weights, read by name; the inputs are what the layer projects,
[T, D], one sequence after its normalisation. Neither a causal mask nor rotary positions are
applied. Equations: hopfield_jax/attention.py. Writes results.json, heads.csv, heads.png.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from dng_jax.data import load
from dng_jax.errors import InputError
from dng_jax.jobs import cli, runs
from dng_jax.jobs.tables import Table, publish
from eval.hopfield.sets import write_csv
from hopfield_jax import attention, patterns, theory
from hopfield_jax.attention import HeadReport
from hopfield_jax.plots import figures


@dataclass(frozen=True)
class Config:
    """Measures the heads of one attention layer."""

    file: str | None = None
    """safetensors file of the projection weights; default: random ones of the demonstration."""
    key: str | None = None
    """Name of the key projection in the file."""
    query: str | None = None
    """Name of the query projection; without it states start at the keys."""
    fused: str | None = None
    """Name of one projection of queries, keys and values, in place of --key and --query."""
    key_bias: str | None = None
    query_bias: str | None = None
    fused_bias: str | None = None
    inputs: str | None = None
    """Name of the layer's inputs [T, D], a tensor in --inputs-file."""
    inputs_file: str | None = None
    """safetensors file of the inputs; default: the same file."""
    layout: attention.Layout = "out_in"
    """out_in: weights [H d_head, D] as in PyTorch's Linear; in_out: [D, H d_head], GPT-2, Flax."""
    heads: int | None = None
    """Of queries; a file needs it, the demonstration takes 4."""
    kv_heads: int | None = None
    """Heads of keys, where they are fewer than those of queries."""
    head_dim: int = 64
    """Of the demonstration; a file's own follows from its shapes."""
    tokens: int = 64
    """Of the demonstration, and the most that are taken of the inputs, from the first on."""
    scale: float | None = None
    """Default: 1/sqrt(d_head)."""
    seed: int = 0
    out: str | None = None
    """Folder of the results; default: a new one, runs/attention, runs/attention-2, ..."""
    overwrite: bool = False


def main(config: Config) -> list[HeadReport]:
    """Reads or draws the layer, prints one table, writes the run folder."""
    if config.tokens < 2:
        raise InputError(f"--tokens must be at least 2, got {config.tokens}")
    if (config.heads is not None and config.heads < 1) or config.head_dim < 1:
        raise InputError("--heads and --head-dim must be at least 1")
    source, keys, queries = demonstration(config) if config.file is None else stored(config)
    heads = attention.report(keys, queries, config.scale)
    folder = runs.new_run_folder(config.out, config, job="attention", overwrite=config.overwrite)
    publish(folder, table_of(source, heads))
    dim = heads[0].head_dim
    limits = theory.attention_limits(dim)
    print(
        f"independent keys of unit variance, d_head {dim}, scale 1/sqrt(d_head): beta_eff"
        f" {dim**0.5:.4g}, minima of single keys for N <= {int(limits.exist)}"
        f" and lowest ones for N <= {int(limits.lowest)}"
    )
    for r in heads:
        if r.unsettled:
            print(
                f"head {r.head}: {r.unsettled} of {r.starts} starts reached no proved minimum;"
                " the columns on minima leave them out"
            )
    results = {
        "config": config,
        "provenance": runs.provenance(),
        "source": source,
        "unit_variance_limits": limits,
        "heads": heads,
    }
    runs.write_json(folder / "results.json", results)
    fields = [f.name for f in dataclasses.fields(HeadReport)]
    write_csv(folder / "heads.csv", {name: [getattr(r, name) for r in heads] for name in fields})
    figures.heads(
        [r.beta_eff for r in heads],
        {"$K_s$ of as many equidistant keys": heads[0].K_s, "$K_c$": heads[0].K_c},
        {
            "one step": [r.participation_step for r in heads],
            "minimum": [r.participation for r in heads],
        },
        folder / "heads.png",
        tokens=heads[0].tokens,
        title=source,
    )
    return heads


def demonstration(config: Config) -> tuple[str, np.ndarray, np.ndarray]:
    """Digits as tokens under random projections: no trained network is embedded here."""
    given = [f"--{name.replace('_', '-')}" for name in NAMES if getattr(config, name) is not None]
    if given:
        raise InputError(f"{given[0]} names a tensor, but no --file to read it from")
    images, _, _ = load("digits")
    if config.tokens > len(images):
        raise InputError(
            f"the demonstration has {len(images)} digits, got --tokens {config.tokens}"
        )
    heads = 4 if config.heads is None else config.heads
    x = standardised(patterns.from_images(images)[: config.tokens])

    def projected(part: int) -> np.ndarray:
        w = attention.random_projection((config.seed, part), x.shape[1], heads, config.head_dim)
        return attention.split_heads(x @ w.T, heads)

    keys, queries = projected(0), projected(1)
    return "random projections of digits (a demonstration, nothing trained)", keys, queries


def standardised(x: np.ndarray) -> np.ndarray:
    """Each column to mean 0 and variance 1; constant columns to 0."""
    spread = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1)


def stored(config: Config) -> tuple[str, np.ndarray, np.ndarray | None]:
    """Keys and queries of a layer on disk."""
    assert config.file is not None
    if config.inputs is None:
        raise InputError("--file needs --inputs, the name of the tensor [T, D] that it projects")
    if config.heads is None:
        raise InputError("--file needs --heads, the number of heads of its layer")
    inputs = attention.read_tensor(config.inputs_file or config.file, config.inputs, (2,))
    keys, queries = attention.project(
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


def table_of(source: str, heads: list[HeadReport]) -> Table:
    """One row a head."""
    table = Table(
        f"{source}: {heads[0].tokens} keys of {heads[0].head_dim} dimensions, scale"
        f" {heads[0].scale:.4g}, K_s {heads[0].K_s:.4g}, K_c {heads[0].K_c:.4g}",
        (
            "head",
            "beta_eff",
            "equidistant keys would have",
            "single minima for N <=",
            "norm-biased keys %",
            "keys per state, one step",
            "at minima",
            "minima reached",
            "starts",
            "not settled",
        ),
    )
    says = {
        "centroid": "one attractor",
        "patterns metastable": "single keys, metastable",
        "patterns lowest": "single keys, lowest",
    }
    for r in heads:
        table.add(
            r.head,
            r.beta_eff,
            says[r.phase],
            f"{np.floor(r.exist):.0f}",
            f"{100 * r.norm_bias:.0f}",
            r.participation_step,
            r.participation,
            r.minima,
            r.starts,
            r.unsettled,
        )
    return table


NAMES = ("key", "query", "fused", "key_bias", "query_bias", "fused_bias", "inputs", "inputs_file")


if __name__ == "__main__":
    cli.main(lambda: main(tyro.cli(Config, description=__doc__)))
