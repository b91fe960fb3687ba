"""eval.hopfield attention --model: a map of layers and heads; see hopfield_jax.analyses.heads."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dng_jax.errors import InputError
from dng_jax.jobs.tables import Table, write_csv
from hopfield_jax import attention, encoders
from hopfield_jax.analyses import heads
from hopfield_jax.analyses.heads import REGIMES, HeadMap
from hopfield_jax.attention import HeadReport
from hopfield_jax.plots import head_maps

from .common import Outcome, count_of
from .options import Attention as Config

SEQUENCES = 8


class Layers(NamedTuple):
    """Reports [sequence][layer][head] of a model, tokens of each sequence, and what to note."""

    name: str
    reports: list[list[list[HeadReport]]]
    tokens: list[int]
    notes: list[str]


def read(config: Config) -> Layers:
    """Runs the model on every sequence and follows the queries of every head."""
    assert config.model is not None
    if config.text is None:
        raise InputError("--model needs --text, a file of text for it to read")
    texts = paragraphs(config.text, SEQUENCES if config.sequences is None else config.sequences)
    encoder = encoders.load(config.model)
    reports, tokens, cut = [], [], 0
    for i, text in enumerate(texts):
        seen = encoder(text, config.tokens)
        print(f"sequence {i + 1} of {len(texts)}: {len(seen.tokens)} tokens", flush=True)
        reports.append(
            [
                attention.report(keys, queries, encoders.scale(encoder))
                for keys, queries in zip(seen.keys, seen.queries, strict=True)
            ]
        )
        tokens.append(len(seen.tokens))
        cut += seen.cut
    notes = [f"{cut} of {len(texts)} sequences were cut to {max(tokens)} tokens"] if cut else []
    name = "/".join(Path(config.model).resolve().parts[-2:])
    return Layers(name, reports, tokens, notes)


def paragraphs(path: str, most: int) -> list[str]:
    """The longest so many paragraphs of a text, in its order."""
    try:
        whole = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"--text {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"--text {path} is not UTF-8: name a plain text file") from None
    found = [" ".join(part.split()) for part in re.split(r"\n\s*\n", whole) if part.strip()]
    if not found:
        raise InputError(f"--text {path} holds no text")
    kept = sorted(range(len(found)), key=lambda i: -len(found[i]))[:most]
    return [found[i] for i in sorted(kept)]


def outcome(config: Config, layers: Layers, folder: Path) -> Outcome:
    """Maps over layers and heads, and how beta_eff goes with entropy."""
    found = heads.head_map(layers.reports)
    rho = heads.rank_correlation(found.beta_eff, found.entropy, config.seed)
    records = [
        {"sequence": s, "layer": i} | dataclasses.asdict(r) | {"regime": heads.regime(r)}
        for s, sequence in enumerate(layers.reports)
        for i, layer in enumerate(sequence)
        for r in layer
    ]
    write_csv(folder / "heads.csv", records)
    spread = f"{min(layers.tokens)} to {max(layers.tokens)}"
    source = f"{layers.name}, {len(layers.tokens)} sequences of {spread} tokens"
    correlation = (
        f"beta_eff and entropy over the {found.beta_eff.size} heads: Spearman's rank correlation"
        f" {rho.value:.2f} [{rho.low:.2f}, {rho.high:.2f}]"
    )
    tables = [layer_table(source, found), head_table(source, found)]
    told, k_s = heads.foretold(found), float(np.median(found.K_s))
    prediction = (
        f"{told.above_single} of the {told.above} heads of beta_eff above K_s = {k_s:.1f} settle at"
        f" single keys, {told.below_single} of the {told.below} others"
    )
    results = {
        "source": source,
        "foretold": told._asdict(),
        "tokens": layers.tokens,
        "heads": {k: v.tolist() for k, v in found._asdict().items()},
        "rank_correlation": rho._asdict(),
    }
    left = sum(r.unsettled for layer in layers.reports for h in layer for r in h)
    starts = sum(r.starts for layer in layers.reports for h in layer for r in h)
    notes = [*layers.notes, correlation, prediction]
    if left:
        notes.append(
            f"{left} of {starts} starts reached no proved minimum; what is said of minima leaves"
            " them out"
        )
    title = f"{layers.name}: {len(layers.tokens)} sequences of {spread} tokens, medians"
    draw = partial(
        head_maps.head_maps,
        found.beta_eff,
        found.entropy,
        found.regime,
        folder / "heads.png",
        rho,
        marks={"$K_s$": k_s},
        title=title,
    )
    return Outcome(results, tables, notes, [draw])


def layer_table(source: str, found: HeadMap) -> Table:
    """One row per layer."""
    rows: list[dict[str, Any]] = []
    for i, (beta_eff, entropy, regime) in enumerate(
        zip(found.beta_eff, found.entropy, found.regime, strict=True)
    ):
        count = Counter(regime)
        rows.append(
            {"layer": i, "entropy": f"{100 * np.median(entropy):.0f}"}
            | {"beta_eff": f"{beta_eff.min():.1f} to {beta_eff.max():.1f}"}
            | {name: count[name] for name in REGIMES}
        )
    columns = {
        "layer": "layer",
        "beta_eff": "beta_eff",
        "median entropy, % of log T": "entropy",
        **{f"heads: {name}": name for name in REGIMES[1:]},
    }
    if any(row[REGIMES[0]] for row in rows):
        columns[f"heads: {REGIMES[0]}"] = REGIMES[0]
    return Table.of(source, rows, columns)


def head_table(source: str, found: HeadMap) -> Table:
    """One row per head, medians over the sequences."""
    names: Sequence[str] = found._fields
    layers, each = found.beta_eff.shape
    rows = [
        {"layer": i, "head": h} | {n: getattr(found, n)[i, h] for n in names}
        for i in range(layers)
        for h in range(each)
    ]
    return Table.of(
        f"{source}: every head",
        rows,
        {
            "layer": "layer",
            "head": "head",
            "beta_eff": lambda r: f"{r['beta_eff']:.1f}",
            "entropy, % of log T": lambda r: f"{100 * r['entropy']:.0f}",
            "regime": "regime",
            "in % of sequences": lambda r: f"{100 * r['agreement']:.0f}",
            "keys per state at minima": lambda r: f"{r['participation']:.1f}",
            "single minima for N <=": lambda r: count_of(r["exist"]),
        },
    )
