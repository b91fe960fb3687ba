"""What a run leaves: records, latents, images, contact sheet, curves and tables.

Latents lie in latents/RULE.npy, float32 [B, h, w, C], written before they are decoded; images in
images/RULE/, written as each rule is done.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax import disk, plots
from dng_jax.data.picture import as_picture
from dng_jax.experiments import rule_builders
from dng_jax.experiments.clamps import clamps_of
from dng_jax.experiments.prompt_rules import PromptRule
from dng_jax.experiments.prompted import Drawn
from dng_jax.experiments.saving import file_name
from dng_jax.jobs import runs
from dng_jax.jobs.tables import Table, publish, write_csv
from dng_jax.metrics import rms_distance
from dng_jax.stable_diffusion.pictures import pixels
from dng_jax.steps import StepTable

ENDS = ("low", "high")
LABELS = {"posterior": "posterior of the negative", "lambda": "guidance scale lambda"}


MOST = 16  # columns of a contact sheet


def record_of(
    name: str, made: PromptRule, found: Drawn, unguided: Drawn | None, calls: float
) -> dict[str, Any]:
    """What one rule showed, image by image; distances to the unguided images where there are some.

    invasiveness: latents in their units, pixels in 0 to 1. Of what is traced the mean over images
    at every step, and the last values; peak: the step of the largest mean lambda; clamped: the
    shares of steps after the first at which the posterior stood at its lower and upper clamp.
    """
    record: dict[str, Any] = {"rule": name, "images": len(found.latents), "variant": made.variant}
    record |= {"parameters": rule_builders.parameters(made.rule), "network_calls_per_image": calls}
    if unguided is not None:
        seen, plain = (pixels(d.images) / 255 for d in (found, unguided))
        record["invasiveness"] = {
            "latents": rms_distance(found.latents, unguided.latents),
            "pixels": rms_distance(seen, plain),
        }
    for trace, values in found.trace.items():
        record[trace] = {"mean_over_time": values.mean(1), "last": values[-1]}
    if "lambda" in found.trace:
        record["peak"] = int(found.trace["lambda"].mean(1).argmax())
    clamps = clamps_of(made.rule)
    if clamps is not None:
        record["clamped"] = clamps.shares(found.trace["posterior"])
    return record


def warn_of_clamps(records: Sequence[Mapping[str, Any]], remedy: str) -> None:
    """A warning that names the rules whose posterior never left a clamp after the first step."""
    shares = {r["rule"]: clamped_share(r) for r in records if "clamped" in r}
    if stuck := [rule for rule, share in shares.items() if share is not None and share >= 1]:
        warnings.warn(
            f"the posterior of {' and of '.join(stuck)} stood at a clamp at every step but the"
            f" first, whatever the image was: {remedy}",
            UserWarning,
            stacklevel=2,
        )


def clamped_share(record: Mapping[str, Any]) -> float | None:
    """The mean over images of the share of steps at either clamp; None where nothing was tracked,
    or one step alone."""
    if "clamped" not in record:
        return None
    share = sum(float(np.mean(np.asarray(record["clamped"][end], float))) for end in ENDS)
    return None if np.isnan(share) else round(share, 9)


def keep_latents(folder: Path, rule: str, latents: np.ndarray) -> None:
    """Writes the latents of a rule."""
    with (
        runs.writing(folder),
        disk.whole(folder / "latents" / f"{file_name(rule)}.npy") as path,
    ):
        np.save(path, latents)


def write_images(folder: Path, rule: str, found: Drawn) -> None:
    """Writes the images of a rule."""
    with runs.writing(folder):
        for i, image in enumerate(pixels(found.images)):
            with disk.whole(folder / "images" / file_name(rule) / f"{i:05d}.png") as path:
                as_picture(image).save(path)


def write_overview(folder: Path, drawn: Mapping[str, Drawn], table: StepTable, title: str) -> None:
    """Contact sheet, of the first MOST images, and what was traced as CSV and pictures."""
    count = max(len(found.images) for found in drawn.values())
    shown = title if count <= MOST else f"{title} (the first {MOST} of {count})"
    grid = np.stack([found.images[:MOST] for found in drawn.values()])
    columns = [*map(str, range(grid.shape[1]))]
    rows = [rule.replace(",", ",\n", 1) for rule in drawn]
    plots.image_grid(grid, folder / "contact_sheet.png", rows, title=shown, column_labels=columns)
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

    def clamped(record: Mapping[str, Any]) -> str | None:
        share = clamped_share(record)
        return None if share is None else f"{100 * share:.0f}%"

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
            "steps at a clamp": clamped,
        },
    )
