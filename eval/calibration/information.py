"""The information budget of a denoiser; see eval.calibration and dng_jax.posterior.information."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from dng_jax import plots, sample_keys
from dng_jax.errors import InputError, MissingDataError
from dng_jax.experiments.problems import Problem
from dng_jax.jobs import runs
from dng_jax.jobs.cells import interval
from dng_jax.jobs.options import command, program
from dng_jax.jobs.tables import Table, publish
from dng_jax.posterior import Budget, information_budget
from dng_jax.posterior.information import Estimate

from .labelled import labelled_images
from .options import Config


def run(config: Config, problem: Problem) -> list[dict[str, Any]]:
    """Measures and writes; returns one record over all images, then one per class."""
    # ---- build
    if not problem.knows_classes:
        raise InputError("--information asks for every class: choose another --network")
    x, labels = images(config, problem)
    folder = runs.new_run_folder(
        config.run.out,
        config,
        job="information",
        overwrite=config.run.overwrite,
        facts={"command": command(program(__package__), config, Config())},
    )

    # ---- measure
    budget = measured(config, problem, x, labels)
    names = ["all", *problem.info.class_names]
    shares = budget.shares(labels, problem.info.num_classes)
    records = [
        {"class": name} | share._asdict()
        for name, share in zip(names, shares, strict=True)
        if share.images
    ]

    # ---- write
    density = {
        "loss of the base less that of the class": budget.loss.mean(axis=0) / 2,
        "distance of their predictions": budget.gap.mean(axis=0) / 2,
    }
    facts = {"config": config, "provenance": runs.provenance(), "records": records}
    runs.write_json(folder / "results.json", facts | {"logsnr": budget.logsnr, "density": density})
    title = f"{config.dataset}, {config.source.denoiser}, {config.steps} levels, {len(x)} images"
    publish(folder, table_of(title, records))
    with runs.writing(folder):
        plots.error_over_time(
            density,
            folder / "information.png",
            logsnr=budget.logsnr,
            log=False,
            y_label="nats per unit of log-SNR",
            title=f"{title}: {shares[0].due:.3f} nats are due",
        )
    print(f"written to {folder}")
    return records


def images(config: Config, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Labelled images: of the data set, or drawn from the exact model."""
    if problem.mixture is not None:
        x, labels = problem.mixture.draw(
            sample_keys(config.seed, config.samples), problem.info.shape
        )
        return np.asarray(x), np.asarray(labels)
    found = labelled_images(config.dataset, config.samples)
    if isinstance(found, MissingDataError):
        raise found
    return found


def measured(config: Config, problem: Problem, x: np.ndarray, labels: np.ndarray) -> Budget:
    """The budget, batch by batch."""
    keys = sample_keys(config.seed + 1, len(x))
    parts = [
        information_budget(
            problem.denoiser,
            problem.table("ddpm", config.steps),
            jnp.asarray(x[i : i + config.batch]),
            labels[i : i + config.batch],
            keys[i : i + config.batch],
            num_classes=problem.info.num_classes,
        )
        for i in range(0, len(x), config.batch)
    ]
    return Budget(
        parts[0].logsnr,
        np.concatenate([part.loss for part in parts]),
        np.concatenate([part.gap for part in parts]),
    )


def cell(found: Estimate) -> str:
    """An estimate with its interval."""
    return interval(found.value, found.low, found.high, digits=3)


def table_of(title: str, records: list[dict[str, Any]]) -> Table:
    """The table a person reads."""
    return Table.of(
        title,
        records,
        {
            "class": "class",
            "images": "images",
            "due": lambda r: f"{r['due']:.3f}",
            "by loss [95%]": lambda r: cell(r["loss"]),
            "by distance [95%]": lambda r: cell(r["gap"]),
            "by loss / due": lambda r: f"{r['loss'].value / r['due']:.3f}",
        },
    )
