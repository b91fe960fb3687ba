"""Rows of images."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dng_jax.errors import InputError
from dng_jax.plots.style import save


def image_grid(
    images,
    path: str | Path,
    row_labels: Sequence[str] | None = None,
    *,
    title: str | None = None,
    column_labels: Sequence[str] | None = None,
) -> Path:
    """Rows of images, one row per rule.

    images: [R, C, H, W, 1 or 3], -1 black to 1 white, clipped. row_labels: R names, on the left.
    column_labels: C names, above the first row. Each pixel is shown as a whole number of screen
    pixels, unsmoothed.
    """
    images = np.asarray(images, np.float32)
    if images.ndim != 5 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise InputError(
            f"image_grid needs images [rows, columns, H, W, 1 or 3], got {list(images.shape)}"
        )
    rows, columns, height, width = images.shape[:4]
    if row_labels is not None and len(row_labels) != rows:
        raise InputError(f"image_grid needs {rows} row labels, got {len(row_labels)}")
    if column_labels is not None and len(column_labels) != columns:
        raise InputError(f"image_grid needs {columns} column labels, got {len(column_labels)}")
    if not np.all(np.isfinite(images)):
        raise InputError("image_grid got pixels that are not finite: check the run's trace first")
    zoom, gap = max(1, round(72 / max(height, width))), 6
    cell_h, cell_w = height * zoom + gap, width * zoom + gap
    # One canvas instead of R * C axes: fast, and the layout engine cannot resample a pixel.
    canvas = np.ones((rows * cell_h - gap, columns * cell_w - gap, 3), np.float32)
    for r in range(rows):
        for c in range(columns):
            tile = np.clip((images[r, c] + 1) / 2, 0, 1)
            tile = np.repeat(np.repeat(tile, zoom, axis=0), zoom, axis=1)
            y, x = r * cell_h, c * cell_w
            canvas[y : y + height * zoom, x : x + width * zoom] = np.broadcast_to(
                tile, (*tile.shape[:2], 3)
            )
    dpi, font = 150, 9.0
    longest = max((len(line) for s in row_labels or () for line in s.split("\n")), default=0)
    left = round(longest * font * 0.62 * dpi / 72) + 24 * (longest > 0)
    h, w = canvas.shape[:2]
    lines = textwrap.wrap(title or "", max(20, round(w / ((font + 1) * 0.6 * dpi / 72))))
    top = (12 + 24 * len(lines) if lines else 0) + (24 if column_labels else 0)
    full_w, full_h = left + w + 8, top + h + 16
    figure = Figure(figsize=(full_w / dpi, full_h / dpi), dpi=dpi)
    axes = figure.add_axes((left / full_w, 8 / full_h, w / full_w, h / full_h))
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for r, label in enumerate(row_labels or ()):
        middle = r * cell_h + (cell_h - gap) / 2
        axes.text(-10, middle, label, ha="right", va="center", fontsize=font)
    for c, label in enumerate(column_labels or ()):
        middle = c * cell_w + (cell_w - gap) / 2
        axes.text(middle, -8, label, ha="center", va="bottom", fontsize=font, parse_math=False)
    heading = figure.text(left / full_w, 1 - 8 / full_h, "\n".join(lines), ha="left", va="top")
    heading.set(fontsize=font + 1, parse_math=False)
    return save(figure, path)
