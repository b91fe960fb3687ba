"""Every class forbidden in turn, by every rule over a grid of scales: trade-offs with intervals.

    python -m eval.study                                   about 35 minutes on 2 CPU cores
    python -m eval.study --samples 256 --forbid 0 --forbid 8      a quick look

Each cell (forbidden class, family) is one compiled sweep over the family's scales and one file in
--out/cells, so an interrupted study goes on where it stopped. Results: results.json, trade_off.png,
and two tables, averaged over the forbidden classes: every setting; and, for each tracker at
lambda_0 = 1, the KL of the baselines where their own curves have its leak. Every forbidden class
has noise of its own; the rules of one class share it.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import tyro

from dng_jax import initial_noise, plots, sample_keys, sweep
from dng_jax.errors import InputError
from dng_jax.metrics import Moments, class_counts, tradeoff
from dng_jax.sampling import check_finite
from eval import problems, rule_specs, runs
from eval.generating import generate, generate_floor
from eval.rule_specs import TrackerOptions

GRIDS: dict[str, tuple[float, ...]] = {
    "np": (0.15, 0.3, 0.5, 0.7, 1.0),
    "sld": (0.25, 0.5, 0.75, 1.0),
    "dng:pair": (1.0, 3.0, 10.0),
    "dng:odds": (1.0, 3.0, 10.0),
    "dng:classes-model": (1.0,),
    "dng:classes": (1.0,),
}
BASELINES = ("unguided", "floor")


@dataclass(frozen=True)
class Config:
    """The study of one data set."""

    dataset: str = "digits"
    forbid: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Classes to forbid, each on its own; default: every class in turn."""
    families: tuple[str, ...] = tuple(GRIDS)
    """Rules, as NAME[:TRACKER], of those with a grid of scales."""
    denoiser: str = "network"
    network: str = "heads"
    sampler: str = "ddpm"
    steps: int = 50
    samples: int = 2048
    seed: int = 0
    options: Annotated[TrackerOptions, tyro.conf.arg(name="")] = field(
        default_factory=TrackerOptions
    )
    out: str = "runs/study"
    resume: bool = False
    """Go on with the same study in --out: finished cells are kept."""


def main(config: Config) -> dict[str, Any]:
    """Runs what is missing, then sums up."""
    if config.samples < 1:
        raise InputError(f"--samples must be at least 1, got {config.samples}")
    if not config.families:
        raise InputError("name at least one of --families")
    for family in config.families:
        if family not in GRIDS:
            known = ", ".join(GRIDS)
            raise InputError(f"no grid of scales for '{family}': choose from {known}")
    info = problems.make(config.dataset, ("0",), config.denoiser, config.network).info
    chosen = (
        problems.class_indices(config.forbid, info) if config.forbid else range(info.num_classes)
    )
    # The grid belongs to what a run is: cells of another grid must not be mixed in.
    identity = runs.to_json(config) | {"grid": {name: GRIDS[name] for name in config.families}}
    folder = runs.new_run_folder(config.out, identity, overwrite=config.resume, option="--resume")
    (folder / "cells").mkdir(exist_ok=True)

    cells: dict[tuple[int, str], dict[str, Any]] = {}
    with runs.progress_bar() as bar:
        names = (*BASELINES, *config.families)
        task = bar.add_task("cells", total=len(chosen) * len(names))
        for k in chosen:
            problem = problems.make(config.dataset, (str(k),), config.denoiser, config.network)
            for family in names:
                path = folder / "cells" / f"{k}_{family.replace(':', '-')}.json"
                if not path.exists():
                    runs.write_json(path, cell(problem, family, config))
                cells[k, family] = json.loads(path.read_text())
                bar.advance(task)

    every = (*BASELINES, *config.families)
    # The cells keep counts only: labels in any order, resampled for each family on its own.
    curves = tradeoff.curves(
        {name: [labels_of(cells[k, name]["counts"]) for k in chosen] for name in every},
        [(k,) for k in chosen],
        info.num_classes,
        {name: cells[chosen[0], name]["scales"] for name in every},
        frechet={name: [cells[k, name]["frechet"] for k in chosen] for name in every},
        independent=every,
    )
    matched = {
        (reference, family): tradeoff.matched(curves[reference], curves[family])
        for reference in config.families
        if reference.startswith("dng")
        for family in config.families
        if family != reference
    }
    results = {
        "config": config,
        "provenance": runs.provenance(),
        "curves": curves,
        "matched": [{"reference": a, "rule": b} | vars(m) for (a, b), m in matched.items()],
    }
    runs.write_json(folder / "results.json", results)
    draw(folder, curves, config)
    runs.publish(folder, *tables_of(config, curves, matched, len(chosen)))
    print(f"written to {folder}")
    return results


def cell(problem: problems.Problem, family: str, config: Config) -> dict[str, Any]:
    """Counts [S, K] and Frechet distance [S] of one family's S scales on one forbidden class."""
    table = problem.table(config.sampler, config.steps)
    start = problem.forbidden[0] * config.samples
    if family in BASELINES:
        rule = rule_specs.build(rule_specs.parse(family), problem, config.options)
        run = generate_floor if family == "floor" else generate
        one = run(problem, table, rule, config.samples, config.seed, start=start)
        distance = problem.real.distance(one.features)
        return {"scales": [None], "counts": [one.counts], "frechet": [distance]}
    scales = GRIDS[family]
    specs = [dataclasses.replace(rule_specs.parse(family), scale=scale) for scale in scales]
    rules = [rule_specs.build(spec, problem, config.options) for spec in specs]
    keys = sample_keys(config.seed, config.samples, start)
    x = initial_noise(keys, problem.info.shape, table)
    result = sweep(problem.denoiser, table, rules, keys, x)
    counts, distances = [], []
    for i, images in enumerate(result.x):
        check_finite(result._replace(bad_step=result.bad_step[i]), config.steps, start)
        labels, features = problem.judge(images)
        counts.append(class_counts(labels, problem.info.num_classes))
        moments = Moments.zero(features.shape[1]).update(features)
        distances.append(problem.real.distance(moments))
    return {"scales": scales, "counts": counts, "frechet": distances}


def labels_of(counts) -> np.ndarray:
    """Labels [S, n] with these counts [S, K], class after class."""
    return np.stack([np.repeat(np.arange(len(row)), row) for row in counts])


def draw(folder, curves: dict[str, tradeoff.Curve], config: Config) -> None:
    """Trade-off curves averaged over the forbidden classes."""
    shown = {name: c for name, c in curves.items() if name != "floor"}
    floor = curves["floor"]
    plots.trade_off(
        {
            name: (
                100 * c.leak,
                100 * c.leak_low,
                100 * c.leak_high,
                c.kl,
                c.kl_low,
                c.kl_high,
            )
            for name, c in shown.items()
        },
        folder / "trade_off.png",
        points={"floor": (100 * float(floor.leak[0]), max(float(floor.kl[0]), 0.0))},
        title=f"{config.dataset}, mean over the forbidden classes, {config.steps} steps",
    )


def tables_of(config: Config, curves, matched, classes: int) -> tuple[runs.Table, runs.Table]:
    """Two tables: all settings, and the families at the reference's leak."""
    n = f"mean over {classes} forbidden classes, n = {config.samples} each, {config.steps} steps"
    settings = runs.Table(n, ("rule", "leak % [95%]", "KL [95%]", "Frechet"))
    for name, c in curves.items():
        for i, scale in enumerate(c.scales):
            settings.add(
                name if scale is None else f"{name}={scale:g}",
                f"{100 * c.leak[i]:.2f} [{100 * c.leak_low[i]:.2f}, {100 * c.leak_high[i]:.2f}]",
                f"{c.kl[i]:.4f} [{c.kl_low[i]:.4f}, {c.kl_high[i]:.4f}]",
                f"{c.frechet[i]:.2f}",
            )
    at_leak = runs.Table(
        "KL of the baselines at the leak of each tracker with lambda_0 = 1",
        ("tracker", "its leak %", "rule", "KL [95%]", "excess over the tracker [95%]"),
    )
    for (reference, family), m in matched.items():
        if family.startswith("dng"):
            continue  # tracker against tracker: in results.json
        leak = f"{100 * float(curves[reference].leak[0]):.2f}"
        at_leak.add(
            reference,
            leak,
            family + ("" if m.reached else f" (nearest leak: {100 * m.leak:.2f})"),
            f"{m.kl:.4f} [{m.kl_low:.4f}, {m.kl_high:.4f}]",
            f"{m.excess:.4f} [{m.excess_low:.4f}, {m.excess_high:.4f}]",
        )
    return settings, at_leak


if __name__ == "__main__":
    runs.main(lambda: main(tyro.cli(Config, description=__doc__)))
