"""Every class forbidden in turn, by every rule over a grid of scales: trade-offs with intervals.

    python -m eval.study                                   about 35 minutes on 2 CPU cores
    python -m eval.study --samples 256 --forbid 0 --forbid 8      a quick look

Each cell (forbidden class, family) is one compiled sweep over the family's scales and one file in
--out/cells, so an interrupted study goes on where it stopped. Results: results.json, trade_off.png,
and two tables, averaged over the forbidden classes: every setting; and each family's KL where its
own curve has the leak of the reference (the last of --families at its first scale).
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
from dng_jax.metrics import class_counts, tradeoff
from dng_jax.sampling import check_finite
from eval import problems, rule_specs, runs
from eval.class_removal import progress_bar, step_table
from eval.generating import generate, generate_floor
from eval.rule_specs import TrackerOptions

GRIDS: dict[str, tuple[float, ...]] = {
    "np": (0.2, 0.5, 1.0, 1.5, 2.0),
    "sld": (0.2, 0.5, 1.0, 1.5),
    "dng:pair": (1.0, 3.0, 10.0),
    "dng:odds": (1.0, 3.0, 10.0),
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
    """Rules, as NAME[:TRACKER]; the last one is the reference of the matched table."""
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
    overwrite: bool = False
    """Go on with the same study: finished cells are kept."""


def main(config: Config) -> dict[str, Any]:
    """Runs what is missing, then sums up."""
    if config.samples < 1:
        raise InputError(f"--samples must be at least 1, got {config.samples}")
    for family in config.families:
        if family not in GRIDS:
            known = ", ".join(GRIDS)
            raise InputError(f"no grid of scales for '{family}': choose from {known}")
    info = problems.make(config.dataset, ("0",), config.denoiser, config.network).info
    chosen = (
        problems.class_indices(config.forbid, info) if config.forbid else range(info.num_classes)
    )
    folder = runs.new_run_folder(config.out, config, overwrite=config.overwrite)
    (folder / "cells").mkdir(exist_ok=True)

    cells: dict[tuple[int, str], dict[str, Any]] = {}
    with progress_bar() as bar:
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

    curves = {
        family: tradeoff.curve(
            [np.array(cells[k, family]["counts"]) for k in chosen],
            list(chosen),
            [np.array(cells[k, family]["frechet"]) for k in chosen],
            cells[chosen[0], family]["scales"],
        )
        for family in (*BASELINES, *config.families)
    }
    reference = config.families[-1]
    matched = {
        family: tradeoff.matched(curves[reference], curves[family])
        for family in config.families
        if family != reference
    }
    results = {
        "config": config,
        "provenance": runs.provenance(),
        "curves": curves,
        "matched": matched,
    }
    runs.write_json(folder / "results.json", results)
    draw(folder, curves, config)
    show(config, curves, matched, reference, len(chosen))
    print(f"written to {folder}")
    return results


def cell(problem: problems.Problem, family: str, config: Config) -> dict[str, Any]:
    """Counts [S, K] and Frechet distance [S] of one family's S scales on one forbidden class."""
    table = step_table(config.sampler, config.steps, problem)
    if family in BASELINES:
        rule = rule_specs.build(rule_specs.parse(family), problem, config.options)
        run = generate_floor if family == "floor" else generate
        one = run(problem, table, rule, config.samples, config.seed)
        distance = problem.real.distance(one.features)
        return {"scales": [None], "counts": [one.counts], "frechet": [distance]}
    scales = GRIDS[family]
    specs = [dataclasses.replace(rule_specs.parse(family), scale=scale) for scale in scales]
    rules = [rule_specs.build(spec, problem, config.options) for spec in specs]
    keys = sample_keys(config.seed, config.samples)
    x = initial_noise(keys, problem.info.shape, table)
    result = sweep(problem.denoiser, table, rules, keys, x)
    counts, distances = [], []
    for i, images in enumerate(result.x):
        check_finite(result._replace(bad_step=result.bad_step[i]), config.steps)
        labels, features = problem.judge(images)
        counts.append(class_counts(labels, problem.info.num_classes))
        moments = type(problem.real).zero(features.shape[1]).update(features)
        distances.append(problem.real.distance(moments))
    return {"scales": scales, "counts": counts, "frechet": distances}


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


def show(config: Config, curves, matched, reference: str, classes: int) -> None:
    """Two tables: all settings, and the families at the reference's leak."""
    n = f"mean over {classes} forbidden classes, n = {config.samples} each, {config.steps} steps"
    table = runs.Table(n, ("rule", "leak % [95%]", "KL [95%]", "Frechet"))
    for name, c in curves.items():
        for i, scale in enumerate(c.scales):
            table.add(
                name if scale is None else f"{name}={scale:g}",
                f"{100 * c.leak[i]:.2f} [{100 * c.leak_low[i]:.2f}, {100 * c.leak_high[i]:.2f}]",
                f"{c.kl[i]:.4f} [{c.kl_low[i]:.4f}, {c.kl_high[i]:.4f}]",
                f"{c.frechet[i]:.2f}",
            )
    table.print()
    table = runs.Table(
        f"KL at the leak of {reference}",
        ("rule", "leak %", "KL [95%]", "excess over reference [95%]"),
    )
    for name, m in matched.items():
        table.add(
            name,
            f"{100 * m.leak:.2f}{'' if m.reached else ' (not reached; nearest)'}",
            f"{m.kl:.4f} [{m.kl_low:.4f}, {m.kl_high:.4f}]",
            f"{m.excess:.4f} [{m.excess_low:.4f}, {m.excess_high:.4f}]",
        )
    table.print()


if __name__ == "__main__":
    runs.main(lambda: main(tyro.cli(Config, description=__doc__)))
