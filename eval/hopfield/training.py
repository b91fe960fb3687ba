"""Classifiers trained at many temperatures, over beta and over beta_eff; see eval.hopfield.

Every combination of norm and beta, and every seed, is a member of one vmapped training; each N and
d is a program of its own. Two kinds of states: of the keys' own norm, as a Hopfield network's are,
and of unit variance whatever the keys' norm. Equations: hopfield_jax.layers,
hopfield_jax.analyses.training, hopfield_jax.analyses.data_collapse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dng_jax import data
from dng_jax.data import Info
from dng_jax.errors import InputError
from dng_jax.jobs.cells import interval
from dng_jax.jobs.tables import Table, write_csv
from hopfield_jax import theory
from hopfield_jax.analyses import data_collapse, training
from hopfield_jax.analyses.training import Examples
from hopfield_jax.layers import HopfieldLayer
from hopfield_jax.plots import curves, grids
from hopfield_jax.plots.curves import COLOURS, LINES, MARKERS, Curve, Panel

from .common import Outcome, bounded
from .options import Training as Config

STATES = ("keys", "unit")
RESAMPLES = 1000
ABSCISSAE = {
    "beta": r"inverse temperature $\beta$",
    "beta_eff": curves.BETA_EFF,
    "logit_spread": "logit spread, start",
    "beta_d": r"$\beta d$, norm left out",
}
HEADINGS = {
    "beta": "beta",
    "beta_eff": "beta_eff",
    "logit_spread": "the logit spread",
    "beta_d": "beta d",
}
OBSERVED = {
    "accuracy": "test accuracy",
    "entropy_start": "entropy, start",
    "entropy_end": "entropy, end",
    "gradient_mean": "log gradient, mean",
    "key_gradient_start": "log key gradient, start",
    "key_gradient_mean": "log key gradient, mean",
}
FACTORS = {"norm": ("N", "d"), "N": ("norm", "d"), "d": ("norm", "N"), "all three": ()}
MEMBER_FIELDS = ("N", "d", "states", "norm", "beta", "seed", *training.Trained._fields)


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
    for name, number in (("rate", config.rate), *(("norms", n) for n in config.norms)):
        if not (math.isfinite(number) and number > 0):
            raise InputError(f"--{name} must be a finite number > 0, got {number:g}")
    if not (math.isfinite(config.span) and config.span > 1):
        raise InputError(f"--span must be a finite number > 1, got {config.span:g}")
    for name in ("counts", "dimensions", "norms"):
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
    serving = [serves(lines, states, weights) for states in STATES]
    write_csv(folder / "training.csv", [shown(line, weights) for line in lines])
    falls = [f for states in STATES for f in collapses(lines, states, weights)]
    tops = [best(line, weights) for line in lines]
    said = f"{config.dataset}, {config.steps} steps, {config.seeds} seeds"
    tables = [
        *(collapse_table(said, states, falls) for states in STATES),
        serving_table(said, serving),
        *(peak_table(said, states, tops) for states in STATES),
    ]
    pictures = [partial(draw, folder, config, lines, weights, states) for states in STATES]
    results: dict[str, Any] = {"collapse": falls, "best": tops, "one_for_all": serving}
    results |= {"test_images": len(problem.test.y)}
    return Outcome(results, [t for t in tables if t.rows], [], pictures)


def trained(
    config: Config, problem: Problem, n: int, d: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """All members of one shape: the record of them [K], and one record per curve [betas, seeds]."""
    at = config.span ** np.linspace(-1, 1, config.betas) / math.sqrt(d)
    kinds = {(s, m): (m, m if s == "keys" else 1.0) for s in STATES for m in config.norms}
    scales = sorted(set(kinds.values()))  # unit states and keys of unit norm are both kinds
    members = training.grid(at, scales, config.seeds)
    print(f"training {len(members.beta)} classifiers of N = {n}, d = {d}", flush=True)
    found = training.train(
        HopfieldLayer(n, d, problem.info.num_classes, config.updates),
        members,
        problem.examples,
        problem.test,
        steps=config.steps,
        batch=config.batch,
        rate=config.rate,
        key=jax.random.key(config.seed),
    )
    record = {
        "N": n,
        "d": d,
        "norm": members.keys,
        "states": members.states,
        "beta": members.beta,
        "seed": members.seed,
        **found._asdict(),
    }
    shape = (len(scales), config.betas, config.seeds)
    values = {name: value.reshape(shape) for name, value in found._asdict().items()}
    values["accuracy"] = values["right"] / len(problem.test.y)
    for name in OBSERVED:
        if "gradient" in name:
            values[name] = np.log10(np.maximum(values[name], np.finfo(np.float32).tiny))
    lines = []
    for (states, norm), scale in kinds.items():
        own = {name: value[scales.index(scale)] for name, value in values.items()}
        x = {"beta": at, "beta_d": at * d}
        x |= {name: own[name].mean(axis=1) for name in ("beta_eff", "logit_spread")}
        lines.append(
            {"N": n, "d": d, "states": states, "norm": norm, "x": x}
            | {name: own[name] for name in OBSERVED}
        )
    return record, lines


def shown(line: dict[str, Any], weights: np.ndarray) -> dict[str, Any]:
    """A curve as lines of a CSV: means over the seeds and their intervals."""
    record = {name: line[name] for name in ("N", "d", "states", "norm")} | line["x"]
    for name in OBSERVED:
        ends = data_collapse.mean(line[name], weights)
        record |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
    return record


def collapses(
    lines: Sequence[dict[str, Any]], states: str, weights: np.ndarray
) -> list[dict[str, Any]]:
    """How far curves that differ in norm, N, d or all three fall together, over each abscissa."""
    own = [line for line in lines if line["states"] == states]
    records = []
    for factor, fixed in FACTORS.items():
        together: dict[tuple, list[int]] = {}
        for i, line in enumerate(own):
            together.setdefault(tuple(line[f] for f in fixed), []).append(i)
        groups = [g for g in together.values() if len(g) > 1]
        if not groups:
            continue
        for name in OBSERVED:
            y = np.stack([line[name] for line in own])
            record: dict[str, Any] = {"states": states, "observed": name, "over": factor}
            for abscissa in ABSCISSAE:
                x = np.stack([line["x"][abscissa] for line in own])
                record[abscissa] = data_collapse.collapse(x, y, groups, weights)
            records.append(record)
    return records


def best(line: dict[str, Any], weights: np.ndarray) -> dict[str, Any]:
    """Where a curve's accuracy is highest in beta_eff, and what 1/sqrt(d) loses."""
    middle = len(line["x"]["beta"]) // 2
    found = data_collapse.peak(line["x"]["beta_eff"], line["accuracy"], middle, weights)
    here = float(line["x"]["beta_eff"][middle])
    return {
        **{name: line[name] for name in ("N", "d", "states", "norm")},
        "best": found.at,
        "accuracy": found.value,
        "plateau": found.plateau,
        "usual": here,
        "shortfall": found.shortfall,
        "K_s": theory.spinodal(line["N"]).K if line["N"] > 2 else 2.0,
    }


def serves(lines: Sequence[dict[str, Any]], states: str, weights: np.ndarray) -> dict[str, Any]:
    """The one value of each abscissa that serves all curves best, and what it costs."""
    own = [line for line in lines if line["states"] == states]
    y = np.stack([line["accuracy"] for line in own])
    usual = np.stack([line["x"]["beta"] * math.sqrt(line["d"]) for line in own])
    x = {name: np.stack([line["x"][name] for line in own]) for name in ABSCISSAE}
    return {
        "states": states,
        **{name: data_collapse.common(at, y, weights) for name, at in x.items()},
        "beta_root_d": data_collapse.common(usual, y, weights),
    }


TITLES = {"keys": "states of the keys' norm", "unit": "states of unit variance"}


def bracketed(name: str, digits: int) -> Callable[[dict[str, Any]], str]:
    """A cell of an interval in a record."""
    return lambda r: interval(r[name].value, r[name].low, r[name].high, digits)


def unexplained(abscissa: str, fall: dict[str, Any]) -> str:
    """U over this abscissa with its interval."""
    value, low, high = fall[abscissa].unexplained
    return interval(value, low, high, 3)


def serving_table(said: str, serving: Sequence[dict[str, Any]]) -> Table:
    """What it costs to choose one value for all N, d and norms."""
    table = Table(
        f"one value for every N, d and norm: accuracy lost against each curve's own best ({said})",
        ("states", "one value of", "best", "lost on average", "lost at worst"),
    )
    for row in serving:
        for name, heading in {**HEADINGS, "beta_root_d": "beta sqrt(d)"}.items():
            found = row[name]
            lost = interval(found.loss.value, found.loss.low, found.loss.high, 3)
            best = significant(*found.at)
            table.add(TITLES[row["states"]], heading, best, lost, f"{found.worst:.3f}")
    return table


def collapse_table(said: str, states: str, falls: Sequence[dict[str, Any]]) -> Table:
    """U over each abscissa, and that of seeds alone."""
    return Table.of(
        f"{TITLES[states]}: share U left unexplained, 0 one curve, 1 nothing in common ({said})",
        [f for f in falls if f["states"] == states],
        {
            "curves that differ in": "over",
            "of": lambda r: OBSERVED[r["observed"]],
            **{f"over {HEADINGS[a]}": partial(unexplained, a) for a in ABSCISSAE},
            "seeds alone": lambda r: f"{r['beta_eff'].noise:.3f}",
        },
    )


def peak_table(said: str, states: str, tops: Sequence[dict[str, Any]]) -> Table:
    """Where accuracy is highest, and what 1/sqrt(d) loses."""
    return Table.of(
        f"{TITLES[states]}: where accuracy is highest, and beta = 1/sqrt(d) ({said})",
        [t for t in tops if t["states"] == states],
        {
            "N": "N",
            "d": "d",
            "norm / sqrt(d)": "norm",
            "best beta_eff": lambda r: significant(*r["best"]),
            "within .01 of it": lambda r: " to ".join(f"{end:.2g}" for end in r["plateau"]),
            "accuracy": bracketed("accuracy", 3),
            "beta_eff of 1/sqrt(d)": lambda r: f"{r['usual']:.3g}",
            "lost there": bracketed("shortfall", 3),
            "K_s(N)": lambda r: f"{r['K_s']:.3g}",
        },
    )


def significant(value: float, low: float, high: float) -> str:
    """An interval of a number of any size, to two digits."""
    return f"{value:.2g} [{low:.2g}, {high:.2g}]"


def draw(
    folder: Path,
    config: Config,
    lines: Sequence[dict[str, Any]],
    weights: np.ndarray,
    states: str,
) -> None:
    """Accuracy, and entropy before and after, over beta, beta_eff and the spread of logits."""
    n = config.counts[len(config.counts) // 2]
    own = [line for line in lines if line["states"] == states and line["N"] == n]
    own.sort(key=lambda line: (config.norms.index(line["norm"]), line["d"]))
    seen = ("entropy_start", "accuracy", "entropy_end")
    panels = []
    for name in seen:
        row = []
        for abscissa, label in ABSCISSAE.items():
            drawn = []
            for line in own:
                j, k = config.norms.index(line["norm"]), config.dimensions.index(line["d"])
                y, *band = data_collapse.mean(line[name], weights)
                style = (
                    COLOURS[j % len(COLOURS)],
                    MARKERS[k % len(MARKERS)],
                    LINES[k % len(LINES)],
                )
                title = rf"$d = {line['d']}$, $|k| = {line['norm']:g}\sqrt{{d}}$ at the start"
                x = line["x"][abscissa]
                drawn.append((title, Curve(x, y, "line", *style, tuple(band))))
            unit = r" / $\log N$" if name.startswith("entropy") else ""
            row.append(Panel(drawn, OBSERVED[name] + unit, label, marks_of(config, abscissa, n)))
        panels.append(row)
    title = f"{config.dataset}, N = {n}, {TITLES[states]}, {config.seeds} seeds"
    path, columns = folder / f"training_{states}.png", len(config.norms)
    grids.grid(panels, path, columns=columns, title=title)


def marks_of(config: Config, abscissa: str, n: int) -> dict[str, float]:
    """1/sqrt(d) over beta; K_s and K_c over beta_eff."""
    if abscissa == "beta":
        return {rf"$1/\sqrt{{{d}}}$": 1 / math.sqrt(d) for d in config.dimensions}
    if abscissa == "beta_eff" and n > 2:
        k_s, k_c, _ = theory.characteristic(n)
        return {"$K_s$": k_s, "$K_c$": k_c}
    return {}
