"""What a run leaves: records, images, contact sheet, curves and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax import disk, plots
from dng_jax.data.picture import as_picture
from dng_jax.experiments.prompted import Drawn
from dng_jax.experiments.saving import file_name
from dng_jax.jobs.tables import Table, publish, write_csv
from dng_jax.metrics import rms_distance
from dng_jax.stable_diffusion.pictures import pixels
from dng_jax.steps import StepTable

LABELS = {"posterior": "posterior of the negative", "lambda": "guidance scale lambda"}


def record_of(rule: str, found: Drawn, unguided: Drawn | None) -> dict[str, Any]:
    """What one rule showed, image by image; distances to the unguided images where there are some.

    invasiveness: latents in their units, pixels in 0 to 1. Of what is traced the mean over images
    at every step, and the last values; peak: the step of the largest mean lambda.
    """
    record: dict[str, Any] = {"rule": rule, "images": len(found.latents)}
    if unguided is not None:
        seen, plain = (pixels(d.images) / 255 for d in (found, unguided))
        record["invasiveness"] = {
            "latents": rms_distance(found.latents, unguided.latents),
            "pixels": rms_distance(seen, plain),
        }
    for name, values in found.trace.items():
        record[name] = {"mean_over_time": values.mean(1), "last": values[-1]}
    if "lambda" in found.trace:
        record["peak"] = int(found.trace["lambda"].mean(1).argmax())
    return record


def write_pictures(folder: Path, drawn: Mapping[str, Drawn], table: StepTable, title: str) -> None:
    """Images, contact sheet, and what was traced as CSV and pictures."""
    for rule, found in drawn.items():
        for i, image in enumerate(pixels(found.images)):
            with disk.whole(folder / "images" / file_name(rule) / f"{i:05d}.png") as path:
                as_picture(image).save(path)
    grid = np.stack([found.images for found in drawn.values()])
    columns = [*map(str, range(grid.shape[1]))]
    rows = [rule.replace(",", ",\n", 1) for rule in drawn]
    plots.image_grid(grid, folder / "contact_sheet.png", rows, title=title, column_labels=columns)
    logsnr, lines = np.asarray(table.logsnr), []
    for name, label in LABELS.items():
        curves = {rule: d.trace[name] for rule, d in drawn.items() if name in d.trace}
        if curves:
            plots.posterior_over_time(
                curves,
                folder / f"{name}_over_time.png",
                logsnr=logsnr,
                y_label=label,
                title=title,
                most=1.0 if name == "posterior" else np.inf,
            )
    for rule, found in drawn.items():
        if set(LABELS) <= set(found.trace):
            steps, count = found.trace["lambda"].shape
            lines.append(
                {
                    "rule": rule,
                    "image": np.tile(np.arange(count), steps),
                    "step": np.repeat(np.arange(steps), count),
                    "logsnr": np.repeat(logsnr, count),
                    **{name: found.trace[name].ravel() for name in LABELS},
                }
            )
    if lines:
        write_csv(folder / "over_time.csv", lines)


def published(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """Writes and prints the table a person reads."""
    publish(folder, table_of("means over images", records))


def table_of(title: str, records: Sequence[dict[str, Any]], **first: str) -> Table:
    """A row per record; first: headings and fields of columns before the rule."""

    def moved(kind: str) -> Any:
        return lambda r: float(np.mean(r["invasiveness"][kind])) if "invasiveness" in r else None

    def last(name: str) -> Any:
        return lambda r: float(np.mean(r[name]["last"])) if name in r else None

    return Table.of(
        title,
        records,
        {
            **first,
            "rule": "rule",
            "invasiveness, latents": moved("latents"),
            "pixels": moved("pixels"),
            "largest mean lambda": lambda r: (
                float(np.max(r["lambda"]["mean_over_time"])) if "lambda" in r else None
            ),
            "at step": lambda r: r.get("peak"),
            "posterior in the end": last("posterior"),
        },
    )
