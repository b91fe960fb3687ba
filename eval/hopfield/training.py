"""Classifiers trained at many temperatures, over beta and over beta_eff; see eval.hopfield.

Every combination of norm, learning rate and beta, and every seed, is a member of one vmapped
training; each N and d is a program of its own. Two kinds of states: of the keys' own norm, as a
Hopfield network's are, and of unit variance whatever the keys' norm. What is said of each rate is
also said of the rate best for each point ("best"). Tables and pictures: training_report. Equations:
hopfield_jax.layers, hopfield_jax.analyses.training, hopfield_jax.analyses.data_collapse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dng_jax import data
from dng_jax.data import Info
from dng_jax.errors import InputError
from dng_jax.jobs.tables import write_csv
from hopfield_jax import theory
from hopfield_jax.analyses import data_collapse, training
from hopfield_jax.analyses.training import Examples
from hopfield_jax.layers import HopfieldLayer

from . import training_report as report
from .common import PHASES, Outcome, bounded
from .options import Training as Config
from .training_report import ABSCISSAE, BEST, OBSERVED, STATES, Line

RESAMPLES = 1000
LEAST_ENTROPY = 1e-6  # of log N: below, float32 keeps no digit of an entropy
FACTORS = ("norm", "N", "d")
MEMBER_FIELDS = ("N", "d", "states", "norm", "rate", "beta", "seed", *training.Trained._fields)


class Problem(NamedTuple):
    """A data set as rows."""

    info: Info
    examples: Examples
    test: Examples


def prepare(config: Config) -> Problem:
    """The data set."""
    bounded(3, 101, betas=config.betas)
    bounded(2, 1000, seeds=config.seeds)
    bounded(1, 100, updates=config.updates)
    bounded(1, 1_000_000, steps=config.steps)
    bounded(1, 65_536, batch=config.batch)
    if config.betas % 2 == 0:
        raise InputError(f"--betas must be odd, so that 1/sqrt(d) is among them: {config.betas}")
    for count in config.counts:
        bounded(2, 4096, counts=count)
    for dimension in config.dimensions:
        bounded(2, 4096, dimensions=dimension)
    for name in ("rates", "norms"):
        for number in getattr(config, name):
            if not (math.isfinite(number) and number > 0):
                raise InputError(f"--{name} must be a finite number > 0, got {number:g}")
    if not (math.isfinite(config.span) and config.span > 1):
        raise InputError(f"--span must be a finite number > 1, got {config.span:g}")
    for name in ("counts", "dimensions", "norms", "rates"):
        given = getattr(config, name)
        if not given or len(set(given)) < len(given):
            raise InputError(f"--{name} must be one or more different numbers, got {given}")
    # What could not be compared afterwards is not trained: of keys a little off their expectation.
    apart = (max(config.norms) / min(config.norms)) ** 2
    apart *= math.sqrt(max(config.dimensions) / min(config.dimensions))
    if 1.5 * apart > config.span**2:
        raise InputError(
            f"norms and dimensions so far apart share no beta_eff: set --span to at least"
            f" {math.ceil(math.sqrt(1.5 * apart))}, got {config.span:g}"
        )
    images, labels, info = data.load(config.dataset, "train")
    return Problem(info, rows(images, labels), rows(*data.load(config.dataset, "test")[:2]))


def rows(images: np.ndarray, labels: np.ndarray) -> Examples:
    """Images as one row each; the layer normalises them itself."""
    return Examples(images.reshape(len(images), -1).astype(np.float32) / 255, labels)


def run(config: Config, problem: Problem, folder: Path) -> Outcome:
    """Trains every member; curves over beta, beta_eff and the spread of logits, and their peaks."""
    measured = [trained(config, problem, n, d) for n in config.counts for d in config.dimensions]
    write_csv(folder / "members.csv", [members for members, _ in measured], MEMBER_FIELDS)
    lines = [line for _, own in measured for line in own]
    weights = data_collapse.resampled(config.seeds, RESAMPLES, config.seed)
    write_csv(folder / "training.csv", [shown(line, weights) for line in lines])
    falls = collapses(lines, weights)
    groups = [
        [line for line in lines if (line["states"], line["rate"]) == kind]
        for kind in dict.fromkeys((line["states"], line["rate"]) for line in lines)
    ]
    found = {
        "collapse": falls,
        "best": [best(line, weights) for line in lines],
        "best_of_all": [tops(own, weights) for own in groups],
        "one_for_all": [serves(own, weights) for own in groups],
    }
    write_csv(folder / "collapse.csv", [report.flat(fall) for fall in falls])
    tables = report.tables(config, len(problem.test.y), **found)
    return Outcome(
        {**found, "test_images": len(problem.test.y)},
        [table for table in tables if table.rows],
        [],
        report.pictures(folder, config, lines, found["best"], weights),
    )


def trained(config: Config, problem: Problem, n: int, d: int) -> tuple[dict[str, Any], list[Line]]:
    """All members of one shape: the record of them [K], and one record per curve [betas, seeds]."""
    at = config.span ** np.linspace(-1, 1, config.betas) / math.sqrt(d)
    kinds = {(s, m): (m, m if s == "keys" else 1.0) for s in STATES for m in config.norms}
    scales = sorted(set(kinds.values()))  # unit states and keys of unit norm are both kinds
    members = training.grid(at, scales, config.rates, config.seeds)
    print(f"training {len(members.beta)} classifiers of N = {n}, d = {d}", flush=True)
    found = training.train(
        HopfieldLayer(n, d, problem.info.num_classes, config.updates),
        members,
        problem.examples,
        problem.test,
        steps=config.steps,
        batch=config.batch,
        key=jax.random.key(config.seed),
    )
    record = {
        "N": n,
        "d": d,
        "norm": members.keys,
        "states": members.states,
        "rate": members.rate,
        "beta": members.beta,
        "seed": members.seed,
        **found._asdict(),
    }
    shape = (len(scales), len(config.rates), config.betas, config.seeds)
    values = {name: value.reshape(shape) for name, value in found._asdict().items()}
    values["accuracy"] = values["right"] / len(problem.test.y)
    for name in ("entropy_start", "entropy_end"):
        values[f"log_{name}"] = np.log10(np.maximum(values[name], LEAST_ENTROPY))
    for name in OBSERVED:
        if "gradient" in name:
            values[name] = np.log10(np.maximum(values[name], np.finfo(np.float32).tiny))
    lines = []
    for (states, norm), scale in kinds.items():
        own = {name: value[scales.index(scale)] for name, value in values.items()}
        x = {"beta": at, "beta_d": at * d}
        x |= {name: own[name][0].mean(axis=1) for name in ("beta_eff", "logit_spread")}
        taken = training.best_rate(own["right"])[None]
        for i, rate in enumerate((*config.rates, BEST)):
            of = {
                name: np.take_along_axis(own[name], taken, 0)[0] if rate == BEST else own[name][i]
                for name in OBSERVED
            }
            lines.append(
                {"N": n, "d": d, "states": states, "norm": norm, "rate": rate, "x": x, **of}
            )
    return record, lines


def shown(line: Line, weights: np.ndarray) -> dict[str, Any]:
    """A curve as lines of a CSV: means over the seeds and their intervals."""
    record = {name: line[name] for name in ("N", "d", "states", "norm", "rate")} | line["x"]
    for name in OBSERVED:
        ends = data_collapse.mean(line[name], weights)
        record |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
    return record


def collapses(lines: Sequence[Line], weights: np.ndarray) -> list[dict[str, Any]]:
    """How far curves of one rate that differ in norm, N, d or all of them fall together.

    What is measured before the first step is the same at any rate, and told once.
    """
    varied = [f for f in FACTORS if len({line[f] for line in lines}) > 1]
    overs = [(f,) for f in varied] + ([tuple(varied)] if len(varied) > 1 else [])
    rates = list(dict.fromkeys(line["rate"] for line in lines))
    records = []
    for states in STATES:
        for over in overs:
            for rate in rates:
                own = [e for e in lines if (e["states"], e["rate"]) == (states, rate)]
                together: dict[tuple, list[int]] = {}
                for i, line in enumerate(own):
                    kept = tuple(line[f] for f in FACTORS if f not in over)
                    together.setdefault(kept, []).append(i)
                xs = {name: np.stack([line["x"][name] for line in own]) for name in ABSCISSAE}
                for name in OBSERVED:
                    start = name.endswith("_start")
                    if start and rate != rates[0]:
                        continue
                    y = np.stack([line[name] for line in own])
                    found = data_collapse.collapse(xs, y, list(together.values()), weights)
                    records.append(
                        {"states": states, "over": report.listed(over), "observed": name}
                        | {"rate": "any" if start else rate, **found._asdict()}
                    )
    return records


def best(line: Line, weights: np.ndarray) -> dict[str, Any]:
    """Where a curve's accuracy is highest in beta_eff, and what 1/sqrt(d) loses."""
    middle = len(line["x"]["beta"]) // 2
    found = data_collapse.peak(line["x"]["beta_eff"], line["accuracy"], middle, weights)
    n, here = line["N"], float(line["x"]["beta_eff"][middle])
    return {
        **{name: line[name] for name in ("N", "d", "states", "norm", "rate")},
        "best": found.at,
        "edge": found.edge,
        "accuracy": found.value,
        "plateau": found.plateau,
        "usual": here,
        "shortfall": found.shortfall,
        "K_s": theory.spinodal(n).K if n > 2 else 2.0,
        "phase": PHASES[theory.phase(n, found.at.value)] if n > 2 else None,
    }


def tops(own: Sequence[Line], weights: np.ndarray) -> dict[str, Any]:
    """The peaks of all curves of one kind of states and one rate together."""
    y = np.stack([line["accuracy"] for line in own])
    middle = y.shape[1] // 2
    usual = np.stack([line["x"]["beta"] * math.sqrt(line["d"]) for line in own])
    beta_eff = np.stack([line["x"]["beta_eff"] for line in own])
    found = data_collapse.tops(beta_eff, y, middle, weights)
    return {
        "states": own[0]["states"],
        "rate": own[0]["rate"],
        "curves": len(own),
        "beta_root_d": data_collapse.tops(usual, y, middle, weights).at,
        **found._asdict(),
    }


def serves(own: Sequence[Line], weights: np.ndarray) -> dict[str, Any]:
    """The one value of each abscissa that serves all curves best, and what it costs."""
    y = np.stack([line["accuracy"] for line in own])
    usual = np.stack([line["x"]["beta"] * math.sqrt(line["d"]) for line in own])
    x = {name: np.stack([line["x"][name] for line in own]) for name in ABSCISSAE}
    return {
        "states": own[0]["states"],
        "rate": own[0]["rate"],
        **{name: data_collapse.common(at, y, weights) for name, at in x.items()},
        "beta_root_d": data_collapse.common(usual, y, weights),
    }
