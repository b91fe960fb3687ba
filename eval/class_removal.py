"""Removes classes from what a diffusion model generates, and measures what that costs.

    python -m eval.class_removal
    python -m eval.class_removal --forbid 3 --forbid 8 --rules unguided np=0.3 dng:pair dng:classes
    python -m eval.class_removal --denoiser exact --steps 100 --samples 4096 --tracker pair
    python -m eval.class_removal --dataset mnist --cpu-devices 2

Every class, scale and seed: python -m eval.study.

Writes to --out: results.json (one record a rule), samples.png, trade_off.png and, where a rule
tracks a posterior, posterior.png. Rules: unguided, np, sld, dng, floor
(dng_jax.experiments.rule_specs).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import tyro

from dng_jax import plots
from dng_jax.errors import InputError
from dng_jax.experiments import problems, rule_specs
from dng_jax.experiments.generating import (
    Generated,
    generate,
    generate_floor,
    median,
    network_calls,
)
from dng_jax.experiments.problems import Problem, Source
from dng_jax.experiments.rule_specs import Spec, TrackerOptions
from dng_jax.jobs import cli, runs
from dng_jax.jobs.devices import Devices
from dng_jax.jobs.tables import Table, publish
from dng_jax.metrics import ClassReport, Moments, class_report

DEFAULT_RULES = ("unguided", "floor", "np=0.3", "sld=0.5", "dng:pair", "dng:odds", "dng:classes")


@dataclass(frozen=True)
class Config:
    """Class removal: guided sampling, a judge, a table, pictures."""

    dataset: str = "digits"
    """Data set to generate."""
    forbid: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Class to forbid, by name or number; repeat for several. Default: class 0."""
    rules: tuple[str, ...] = DEFAULT_RULES
    """Rules, as NAME[:TRACKER][=SCALE]: unguided, np=.3, sld=3, dng=1, dng:pair=5, floor."""
    tracker: str = "classes"
    """Tracker of a dng that names none: pair, odds, classes or (exact denoiser) exact."""
    source: Annotated[Source, tyro.conf.arg(name="")] = field(default_factory=Source)
    sampler: str = "ddpm"
    """Step table: ddpm, ddpm-paper, ddim, euler, euler-ancestral."""
    steps: int = 50
    """Sampling steps, 1 to 1000."""
    samples: int = 1024
    """Images for each rule and seed."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; counts are pooled over them and kept seed by seed in results.json."""
    batch: int = 512
    """Images sampled at once; does not change them."""
    options: Annotated[TrackerOptions, tyro.conf.arg(name="")] = field(
        default_factory=TrackerOptions
    )
    devices: Annotated[Devices, tyro.conf.arg(name="")] = field(default_factory=Devices)
    out: str | None = None
    """Folder of the results; default: a new one, runs/class_removal, runs/class_removal-2, ..."""
    overwrite: bool = False
    """Write the same run into its folder --out anew."""


def main(config: Config) -> list[dict[str, Any]]:
    """Runs the job and returns its records."""
    check(config)
    specs = [rule_specs.parse(text, config.tracker) for text in config.rules]
    config.devices.select()
    problem = problems.make(config.dataset, config.forbid or ("0",), config.source)
    table = problem.table(config.sampler, config.steps)
    rules = [rule_specs.build(spec, problem, config.options) for spec in specs]
    folder = runs.new_run_folder(
        config.out, config, job="class_removal", overwrite=config.overwrite
    )

    # ---- sample -------------------------------------------------------------------------------
    results: list[list[Generated]] = []
    with cli.progress_bar() as bar:
        for spec, rule in zip(specs, rules, strict=True):
            task = bar.add_task(str(spec), total=config.samples * len(config.seeds))
            advance = functools.partial(bar.advance, task)
            run = generate_floor if spec.name == "floor" else generate
            options: dict[str, Any] = {"batch": config.batch, "advance": advance}
            results.append(
                [
                    run(problem, table, rule, config.samples, seed, **options)
                    for seed in config.seeds
                ]
            )
            bar.update(task, completed=config.samples * len(config.seeds))

    # ---- judge --------------------------------------------------------------------------------
    records = [
        record(problem, spec, rule, config, by_seed)
        for spec, rule, by_seed in zip(specs, rules, results, strict=True)
    ]

    # ---- write --------------------------------------------------------------------------------
    names = ", ".join(problem.info.class_names[k] for k in problem.forbidden)
    title = f"{config.dataset} without {names}"
    runs.write_json(
        folder / "results.json",
        {
            "config": config,
            "provenance": runs.provenance(),
            "judge": problem.judge_name,
            "records": records,
        },
    )
    draw(folder, title, problem, specs, records, results, table)
    publish(folder, table_of(title, records))
    print(f"written to {folder}: results.json, tables.md and pictures")
    return records


def check(config: Config) -> None:
    """Refuses numbers that make no sense before anything is computed."""
    if config.samples < 2:
        raise InputError(f"--samples must be at least 2, got {config.samples}")
    if config.batch < 1:
        raise InputError(f"--batch must be at least 1, got {config.batch}")
    if not config.seeds:
        raise InputError("name at least one seed with --seeds")
    if len(set(config.seeds)) < len(config.seeds):
        raise InputError(f"a seed is named twice in --seeds {' '.join(map(str, config.seeds))}")
    if not config.rules:
        raise InputError("name at least one rule with --rules")


def record(
    problem: Problem, spec: Spec, rule: Any, config: Config, by_seed: list[Generated]
) -> dict[str, Any]:
    """Everything one rule and setting showed."""
    counts = np.sum([g.counts for g in by_seed], axis=0)
    features: Moments = by_seed[0].features
    for g in by_seed[1:]:
        features = features.merge(g.features)
    return {
        "rule": str(spec),
        "family": spec.family,
        "scale": spec.scale,
        "parameters": rule_specs.parameters(rule),
        "counts": counts,
        "counts_by_seed": {str(s): g.counts for s, g in zip(config.seeds, by_seed, strict=True)},
        "report": class_report(counts, problem.allowed),
        "frechet_distance": problem.real.distance(features),
        "frechet_features": problem.features_name,
        "seconds_per_image": median([g.seconds_per_image for g in by_seed]),
        "network_calls_per_image": network_calls(problem, rule, config.steps),
    }


def table_of(title: str, records: list[dict[str, Any]]) -> Table:
    """The table a person reads."""
    n = records[0]["report"].samples
    table = Table(
        f"{title}, n = {n} a rule",
        (
            "rule",
            "forbidden % [95%]",
            "KL [95%]",
            "KL among allowed",
            "reversed KL",
            "Frechet",
            "ms/image",
            "calls/image",
        ),
    )
    for r in records:
        report: ClassReport = r["report"]
        share, kl = report.leak, report.forward
        table.add(
            r["rule"],
            f"{100 * share.value:.2f} [{100 * share.low:.2f}, {100 * share.high:.2f}]",
            f"{kl.corrected:.4f} [{kl.low:.4f}, {kl.high:.4f}]",
            f"{report.renormalised.corrected:.4f}",
            f"{report.reversed.corrected:.4f}",
            f"{r['frechet_distance']:.2f}",
            None if r["seconds_per_image"] is None else f"{1000 * r['seconds_per_image']:.2f}",
            r["network_calls_per_image"],
        )
    return table


def draw(folder, title, problem, specs, records, results, table) -> None:
    """The three pictures."""
    columns = min(16, *(len(by_seed[0].images) for by_seed in results))
    grid = np.stack([by_seed[0].images[:columns] for by_seed in results])
    plots.image_grid(grid, folder / "samples.png", [r["rule"] for r in records], title=title)
    curves: dict[str, list[list[float]]] = {}
    for r in sorted(records, key=lambda r: (r["family"], r["scale"] or 0)):
        share, kl = r["report"].leak, r["report"].forward
        if r["family"] == "floor":
            continue
        point = [
            100 * share.value,
            100 * share.low,
            100 * share.high,
            kl.corrected,
            kl.low,
            kl.high,
        ]
        curves.setdefault(r["family"], []).append(point)
    marks = {
        r["rule"]: (100 * r["report"].leak.value, max(r["report"].forward.corrected, 0.0))
        for r in records
        if r["family"] == "floor"
    }
    if curves:
        plots.trade_off(
            {name: tuple(np.transpose(points)) for name, points in curves.items()},
            folder / "trade_off.png",
            points=marks,
            title=title,
        )
    tracked = {
        str(spec): by_seed[0].posterior
        for spec, by_seed in zip(specs, results, strict=True)
        if by_seed[0].posterior is not None
    }
    if tracked:
        plots.posterior_over_time(
            tracked, folder / "posterior.png", logsnr=np.asarray(table.logsnr), title=title
        )


if __name__ == "__main__":
    cli.main(lambda: main(tyro.cli(Config, description=__doc__)))
