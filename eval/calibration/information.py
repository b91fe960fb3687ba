"""The information budget of a denoiser; see eval.calibration and dng_jax.posterior.information."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from dng_jax import data, plots, sample_keys
from dng_jax.errors import InputError, MissingDataError
from dng_jax.experiments.problems import Problem
from dng_jax.jobs import runs
from dng_jax.jobs.cells import interval, number, titled
from dng_jax.jobs.opening import open_run
from dng_jax.jobs.options import program, shown
from dng_jax.jobs.tables import Table, publish
from dng_jax.metrics.shares import is_sparse
from dng_jax.posterior import Budget, information_budget

from .labelled import labelled_images
from .options import Config

CURVES = ("loss of the base less that of the class", "distance of their predictions")


def run(config: Config, problem: Problem) -> list[dict[str, Any]]:
    """Measures and writes; returns one record over all images, then one per class."""
    # ---- build
    if not problem.knows_classes:
        raise InputError("--information asks for every class: choose another --network")
    x, labels = images(config, problem)
    folder = open_run(program(__package__), config, "information", [problem.info])

    # ---- measure
    budget = measured(config, problem, x, labels)
    names = ["all", *problem.info.class_names]
    shares = budget.shares(labels, prior(config, problem))
    records = [
        {"class": name, "closed": share.closed} | share._asdict()
        for name, share in zip(names, shares, strict=True)
        if share.images
    ]

    # ---- write
    density = dict(zip(CURVES, budget.density(), strict=True))
    facts = {"config": config, "provenance": runs.provenance(), "records": records}
    runs.write_json(folder / "results.json", facts | {"logsnr": budget.logsnr, "density": density})
    first, last = budget.logsnr[[0, -1]]
    title = (
        f"{shown(config.dataset)}, {config.source.denoiser}, {len(x)} images,"
        f" {config.steps} levels, log-SNR {first:.1f} to {last:.1f}"
    )
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


def prior(config: Config, problem: Problem) -> np.ndarray:
    """Of the classes [K]: the exact model's, or their shares of the data set."""
    if problem.mixture is not None:
        return np.asarray(problem.mixture.prior)
    _, labels, info = data.load(config.dataset, "all")
    return np.bincount(labels, minlength=info.num_classes) / len(labels)


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
    return Budget.joined(parts)


def cell(record: dict[str, Any], name: str) -> str:
    """An estimate with its interval, marked where the class has few images."""
    found, few = record[name], is_sparse([record["images"]])
    return interval(found.value, found.low, found.high, digits=3, sparse=bool(few))


def table_of(title: str, records: list[dict[str, Any]]) -> Table:
    """The table a person reads."""
    return Table.of(
        titled(title, (is_sparse([r["images"]]) for r in records)),
        records,
        {
            "class": "class",
            "images": "images",
            "due": lambda r: number(r["due"], 3),
            "by loss [95%]": lambda r: cell(r, "loss"),
            "by distance [95%]": lambda r: cell(r, "gap"),
            "by loss / due": lambda r: number(r["closed"], 3),
        },
    )
