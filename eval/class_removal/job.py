"""Removes classes, measures, writes; see eval.class_removal."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax import plots
from dng_jax.experiments import problems, rule_specs
from dng_jax.experiments.generating import Draw, Generated, generate
from dng_jax.experiments.problems import Problem
from dng_jax.experiments.rule_specs import Spec
from dng_jax.jobs import cli, runs
from dng_jax.jobs.options import at_least, command, distinct, program
from dng_jax.jobs.tables import Table, publish
from dng_jax.metrics import Moments, class_counts, class_report
from dng_jax.steps import StepTable

from .options import Config

SHOWN = 64  # samples whose images and posteriors are drawn
PIECES = 5  # of a chain, for its progress and timing


def main(config: Config) -> list[dict[str, Any]]:
    """Runs the job and returns its records."""
    # ---- parse
    at_least(2, samples=config.samples)
    at_least(1, batch=config.batch)
    distinct(seeds=config.seeds, rules=config.rules)
    specs = [rule_specs.parse(text, config.tracker) for text in config.rules]

    # ---- build
    config.data.use()
    config.devices.select()
    problem = problems.make(config.dataset, config.forbid or ("0",), config.source)
    table = problem.table(config.sampler, config.steps)
    rules = [rule_specs.build(spec, problem, config.options) for spec in specs]
    folder = runs.new_run_folder(
        config.run.out,
        config,
        job="class_removal",
        overwrite=config.run.overwrite,
        facts={"command": command(program(__package__), config, Config())},
    )

    # ---- sample and classify
    results: list[list[Generated]] = []
    with cli.progress_bar() as bar:
        for spec, rule in zip(specs, rules, strict=True):
            task = bar.add_task(str(spec), total=config.samples * len(config.seeds))
            draw = functools.partial(
                generate,
                problem,
                table,
                rule,
                reference=spec.is_reference,
                advance=functools.partial(bar.advance, task),
            )
            how = Draw(config.samples, 0, batch=config.batch, keep=SHOWN, pieces=PIECES)
            results.append([draw(dataclasses.replace(how, seed=seed)) for seed in config.seeds])
            bar.update(task, completed=config.samples * len(config.seeds))

    # ---- measure
    records = [
        record(problem, spec, rule, config, by_seed)
        for spec, rule, by_seed in zip(specs, rules, results, strict=True)
    ]

    # ---- write
    title = f"{config.dataset} without {problem.forbidden_names}"
    facts = {"config": config, "provenance": runs.provenance()}
    facts |= {"classifier": problem.classifier_name, "records": records}
    runs.write_json(folder / "results.json", facts)
    pictures(folder, title, records, [by_seed[0] for by_seed in results], table)
    publish(folder, table_of(title, records))
    print(f"written to {folder}: results.json, tables.md and pictures")
    return records


def record(
    problem: Problem, spec: Spec, rule: Any, config: Config, by_seed: list[Generated]
) -> dict[str, Any]:
    """Everything one rule and setting showed."""
    by_seed_counts = [class_counts(g.labels, problem.info.num_classes) for g in by_seed]
    counts = np.sum(by_seed_counts, axis=0)
    seconds = [g.seconds_per_image for g in by_seed if g.seconds_per_image is not None]
    features = functools.reduce(Moments.merge, [g.moments() for g in by_seed])
    return {
        "rule": str(spec),
        "family": spec.family,
        "scale": spec.scale,
        "parameters": rule_specs.parameters(rule),
        "counts": counts,
        "counts_by_seed": dict(zip(map(str, config.seeds), by_seed_counts, strict=True)),
        "report": class_report(counts, problem.allowed),
        "frechet_distance": problem.real.distance(features),
        "frechet_features": problem.classifier.features_name,
        "seconds_per_image": float(np.median(seconds)) if seconds else None,
        "network_calls_per_image": problem.network_calls(rule, config.steps),
    }


def table_of(title: str, records: Sequence[dict[str, Any]]) -> Table:
    """The table a person reads."""
    n = records[0]["report"].samples
    return Table.of(
        f"{title}, n = {n} per rule",
        records,
        {
            "rule": "rule",
            "leak % [95%]": lambda r: "{:.2f} [{:.2f}, {:.2f}]".format(*point(r)[:3]),
            "KL [95%]": lambda r: "{:.4f} [{:.4f}, {:.4f}]".format(*point(r)[3:]),
            "KL among allowed": lambda r: f"{r['report'].renormalised.corrected:.4f}",
            "reversed KL": lambda r: f"{r['report'].reversed.corrected:.4f}",
            "Frechet": lambda r: f"{r['frechet_distance']:.2f}",
            "ms per image": lambda r: milliseconds(r["seconds_per_image"]),
            "calls per image": "network_calls_per_image",
        },
    )


def point(r: dict[str, Any]) -> tuple[float, ...]:
    """Share of the forbidden classes in per cent and KL in nats, each (value, low, high)."""
    leak, kl = r["report"].leak, r["report"].forward
    return 100 * leak.value, 100 * leak.low, 100 * leak.high, kl.corrected, kl.low, kl.high


def milliseconds(seconds: float | None) -> str | None:
    """As a cell; None where nothing was timed."""
    return None if seconds is None else f"{1000 * seconds:.2f}"


def pictures(
    folder: Path,
    title: str,
    records: list[dict[str, Any]],
    shown: list[Generated],
    table: StepTable,
) -> None:
    """Samples, trade-off and, where there is one, the posterior over time."""
    names = [r["rule"] for r in records]
    columns = min(16, *(g.images.shape[1] for g in shown))
    grid = np.stack([g.images[0, :columns] for g in shown])
    plots.image_grid(grid, folder / "samples.png", names, title=title)

    curves: dict[str, list[tuple[float, ...]]] = {}
    marks = {}
    for r in sorted(records, key=lambda r: (r["family"], r["scale"] or 0)):
        if r["family"] == rule_specs.REFERENCE:
            marks[r["rule"]] = point(r)[0], max(point(r)[3], 0.0)
        else:
            curves.setdefault(r["family"], []).append(point(r))
    if curves:
        lines = {name: tuple(np.transpose(points)) for name, points in curves.items()}
        plots.trade_off(lines, folder / "trade_off.png", points=marks, title=title)

    tracked = {
        name: g.trace["posterior"][0]
        for name, g in zip(names, shown, strict=True)
        if "posterior" in g.trace
    }
    if tracked:
        plots.posterior_over_time(
            tracked, folder / "posterior.png", logsnr=np.asarray(table.logsnr), title=title
        )
