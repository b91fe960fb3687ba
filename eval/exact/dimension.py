"""How trackers' errors grow with dimension and steps; see eval.exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import expit

from dng_jax import (
    Step,
    check_finite,
    guidance,
    initial_noise,
    mixtures,
    plots,
    posterior,
    sample,
    sample_keys,
    steps,
)
from dng_jax.experiments import problems
from dng_jax.experiments.problems import Model
from dng_jax.experiments.source import Source
from dng_jax.jobs import runs
from dng_jax.jobs.cells import interval, titled
from dng_jax.jobs.options import shown
from dng_jax.jobs.tables import Table, publish
from dng_jax.metrics import class_counts, class_report
from dng_jax.metrics.forecasts import Score, log_odds_error, posterior_error
from dng_jax.mixtures import Mixture
from dng_jax.schedules import linear
from dng_jax.steps import StepTable

from .options import Config

P_MIN = 1e-6
# Of log-odds: where odds is clamped, at either end, and pair at the lower one. Above, pair ends at
# p = .99 (log-odds 4.6): of a sample that is surely forbidden, 9.2 nats of its error come of that.
REACH = math.log((1 - P_MIN) / P_MIN)
BATCH = 128


class Asked(NamedTuple):
    """What is measured: the exact model of each data set, a step table for each number of steps."""

    models: dict[str, Model]
    tables: dict[int, StepTable]


def build(config: Config) -> Asked:
    """The models and step tables; InputError where there are none."""
    tables = {count: steps.ddpm(linear(), count) for count in config.steps}
    source = Source("exact", patterns=config.patterns)
    return Asked({name: problems.load(name, source) for name in config.datasets}, tables)


def run(config: Config, asked: Asked, folder: Path) -> dict[str, Any]:
    """Measures every data set, tracker and number of steps, and writes."""
    records: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    for dataset, model in asked.models.items():
        for count, table in asked.tables.items():
            for name, tracker in trackers(model.mixture).items():
                found = measure(model, tracker, table, config.samples, config.seed)
                what = {"dataset": shown(dataset), "tracker": name, "steps": count}
                records.append(what | found)
                # one after the other: hours of a large set outlive an interruption
                facts = {"config": config, "provenance": runs.provenance(), "records": records}
                runs.write_json(folder / "results.json", facts)
                print(f"{shown(dataset)}, {count} steps, {name}: done", flush=True)
    publish(folder, table_of(config, records))
    with runs.writing(folder):
        picture(folder, config, records)
    return facts


def trackers(mixture: Mixture | None) -> dict[str, Any]:
    """Each tracker, with the exact prior of class 0."""
    assert mixture is not None
    prior = np.asarray(mixture.prior, np.float64)
    return {
        "pair": posterior.pair(prior[0], p_min=P_MIN),
        "odds": posterior.odds(prior[0], p_min=P_MIN),
        "classes": posterior.classes(mixture.num_classes, (0,), prior=prior),
    }


def log_odds(tracker: Any, oracle: Any, state: Any, step: Step) -> dict[str, jax.Array]:
    """For `sample(observe=...)`: what the tracker says and what is true, [B] each."""
    return {"tracked": tracker.view(state, step).log_odds, "exact": oracle.log_odds(step)}


def measure(model: Model, tracker: Any, table: StepTable, n: int, seed: int) -> dict[str, Any]:
    """Guides n images by one tracker: what leaks, and its log-odds beside the exact ones."""
    mixture = model.mixture
    assert mixture is not None
    denoise = mixtures.mixture_denoiser(mixture, {"negative": (0,)})
    rule = guidance.dynamic_negative(tracker)
    observe = jax.tree_util.Partial(log_odds, tracker, posterior.oracle(mixture, (0,)))
    labels, tracked, exact = [], [], []
    for first in range(0, n, BATCH):
        keys = sample_keys(seed, min(BATCH, n - first), first)
        x = initial_noise(keys, model.info.shape, table)
        result = sample(denoise, table, rule, keys, x, observe=observe)
        check_finite(result, len(table.index), first)
        labels.append(model.classifier.classify(result.x)[0])
        tracked.append(np.asarray(result.trace["tracked"], np.float64))
        exact.append(np.asarray(result.trace["exact"], np.float64))
    told, true = np.concatenate(tracked, axis=1), np.concatenate(exact, axis=1)
    allowed = np.arange(mixture.num_classes) > 0
    target = np.where(allowed, np.asarray(mixture.prior, np.float64), 0)
    counts = class_counts(np.concatenate(labels), mixture.num_classes)
    return {
        "dimension": math.prod(model.info.shape),
        "patterns": int(np.isfinite(np.asarray(mixture.log_weights)).sum()),
        "samples": n,
        "report": class_report(counts, allowed, target / target.sum()),
        "probability": posterior_error(expit(told), expit(true)),
        "log_odds": log_odds_error(told, true, REACH),
        "logsnr": np.asarray(table.logsnr),
    }


def picture(folder: Path, config: Config, records: Sequence[dict[str, Any]]) -> None:
    """Leak and error of the log-odds over the number of steps, a column per data set."""
    panels: dict[str, dict[str, tuple]] = {}
    for r in records:
        panel = panels.setdefault(f"steps, {r['dataset']} (d = {r['dimension']:,})", {})
        panel[r["tracker"]] = (*panel.get(r["tracker"], ()), point(r))
    curves = {
        knob: {name: tuple(np.transpose(points)) for name, points in panel.items()}
        for knob, panel in panels.items()
    }
    plots.responses(
        curves,
        folder / "dimension.png",
        log_x=tuple(curves),
        y_labels=("forbidden (%)", "mean error of log-odds (nats)"),
        title=f"class 0 forbidden, n = {config.samples}, 95% intervals",
    )


def point(r: dict[str, Any]) -> tuple[float, ...]:
    """Steps, leak in per cent with its interval, error of the log-odds with its interval."""
    leak, error = r["report"].leak, r["log_odds"].error
    percent = (100 * leak.value, 100 * leak.low, 100 * leak.high)
    return (r["steps"], *percent, error.value, error.low, error.high)


def table_of(config: Config, records: Sequence[dict[str, Any]]) -> Table:
    """The table a person reads."""

    def leak(r: dict[str, Any]) -> str:
        found = r["report"].leak
        return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"

    def kl(r: dict[str, Any]) -> str:
        found = r["report"].forward
        return interval(found.corrected, found.low, found.high, 3, sparse=found.sparse)

    def bounds(score: Score) -> str:
        return interval(score.value, score.low, score.high, 3)

    def largest(r: dict[str, Any]) -> str:
        at = int(np.argmax(r["log_odds"].over_time))
        return f"{r['log_odds'].over_time[at]:.2f} at {r['logsnr'][at]:.1f}"

    return Table.of(
        titled(
            f"class 0 forbidden, n = {config.samples}",
            (r["report"].forward.sparse for r in records),
        ),
        records,
        {
            "mixture": "dataset",
            "d": "dimension",
            "patterns": "patterns",
            "steps": "steps",
            "tracker": "tracker",
            "leak % [95%]": leak,
            "KL [95%]": kl,
            "final |dp|": lambda r: f"{r['probability'].final:.1e}",
            "mean |dp|": lambda r: f"{r['probability'].chain:.1e}",
            "log-odds: mean error [95%]": lambda r: bounds(r["log_odds"].error),
            "bias [95%]": lambda r: bounds(r["log_odds"].bias),
            "largest at log-SNR": largest,
        },
    )
