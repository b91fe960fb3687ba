r"""Figures: arrays in, one file out.

Nothing here touches matplotlib's global state (no pyplot), so a job may draw from any thread and
without a display. Every function writes `path` (the suffix picks the format; folders are made)
and returns it. Colours are Okabe & Ito's (2008), distinct for colour-blind readers too; each curve
also has its own marker or line style.

Symbols: R rows, C columns, T steps, B images, N points; p a probability; KL in nats;
logsnr = log(alpha^2/sigma^2).
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETUP  # type: ignore[attr-defined]
from matplotlib.ticker import NullFormatter

from dng_jax.errors import InputError
from dng_jax.metrics import Reliability
from dng_jax.plots.style import (
    COLOURS,
    GREY,
    LINES,
    MARKERS,
    faded,
    new_axes,
    plain_ticks,
    save,
    tidy,
)


def image_grid(
    images,
    path: str | Path,
    row_labels: Sequence[str] | None = None,
    *,
    title: str | None = None,
) -> Path:
    """Rows of images, one row per rule.

    images: [R, C, H, W, 1 or 3], -1 black to 1 white, clipped. row_labels: R names, on the left.
    Each pixel is shown as a whole number of screen pixels, unsmoothed.
    """
    images = np.asarray(images, np.float32)
    if images.ndim != 5 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise InputError(
            f"image_grid needs images [rows, columns, H, W, 1 or 3], got {list(images.shape)}"
        )
    rows, columns, height, width = images.shape[:4]
    if row_labels is not None and len(row_labels) != rows:
        raise InputError(f"image_grid needs {rows} row labels, got {len(row_labels)}")
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
    top = 12 + 24 * len(lines) if lines else 0
    full_w, full_h = left + w + 8, top + h + 16
    figure = Figure(figsize=(full_w / dpi, full_h / dpi), dpi=dpi)
    axes = figure.add_axes((left / full_w, 8 / full_h, w / full_w, h / full_h))
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for r, label in enumerate(row_labels or ()):
        middle = r * cell_h + (cell_h - gap) / 2
        axes.text(-10, middle, label, ha="right", va="center", fontsize=font)
    figure.text(
        left / full_w, 1 - 8 / full_h, "\n".join(lines), ha="left", va="top", fontsize=font + 1
    )
    return save(figure, path)


def trade_off(
    curves: Mapping[str, tuple],
    path: str | Path,
    *,
    references: Mapping[str, tuple] | None = None,
    scales: Mapping[str, Sequence[str]] | None = None,
    sparse: Mapping[str, Any] | None = None,
    x_label: str = "samples of the forbidden class (%)",
    y_label: str = "KL(target || generated) (nats)",
    title: str | None = None,
) -> Path:
    """Safety against diversity: one curve per rule, one point per guidance scale, joined as given.

    curves: name -> (x, x_low, x_high, y, y_low, y_high), each [N], x in per cent, low <= value <=
    high; None for a missing bound, an infinite y_high becomes an arrow. The x axis is logarithmic
    above the smallest x that is not 0 and linear below, so that a run with no leak at all can be
    shown. references: what a rule is measured against, as curves, drawn as grey stars. scales:
    name -> what is written beside each of its N points. sparse: name -> [N], whether a point rests
    on too few samples, which leaves it hollow.
    """
    if not curves:
        raise InputError("trade_off needs at least one curve, got none")
    figure, axes = new_axes(title)
    drawn = dict(curves) | dict(references or {})
    parts = {name: _parts(name, curve) for name, curve in drawn.items()}
    # An infinite bar ends above everything that is finite.
    heights = [v[np.isfinite(v)] for p in parts.values() for v in p[3:] if v is not None]
    top = max(v.max(initial=0.0) for v in heights)
    top += 0.12 * (top - min(v.min(initial=0.0) for v in heights)) or 0.1
    hollow = dict(sparse or {})
    for i, (name, part) in enumerate(parts.items()):
        grey = name not in curves
        colour = GREY if grey else COLOURS[i % len(COLOURS)]
        marker = "*" if grey else MARKERS[i % len(MARKERS)]
        _with_bars(axes, name, part, colour, marker, np.asarray(hollow.get(name, False)), top)
        for x, y, text in zip(part[0], part[3], (scales or {}).get(name, ()), strict=False):
            axes.annotate(
                text,
                (x, y),
                (5, 4 if i % 2 == 0 else -9),
                textcoords="offset points",
                fontsize=7,
                color=colour,
                zorder=5,
            )
    x = np.concatenate([part[0] for part in parts.values()])
    reach = max(v.max() for part in parts.values() for v in (part[0], part[2]) if v is not None)
    knee = min(x[x > 0], default=0.1)
    axes.set_xscale("symlog", linthresh=knee, linscale=0.5, subs=range(2, 10))
    axes.set_xlim(-0.15 * knee, 1.5 * max(reach, knee))
    plain_ticks(axes, knee, reach)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    said = ["bars: 95% intervals"]
    if scales:
        said.append("beside a point: its guidance scale")
    if any(np.any(v) for v in hollow.values()):
        said.append("hollow: an allowed class has fewer than 5 samples, arrow: no upper end")
    # Outside: curves fill the axes, and a legend on top of them hides points.
    figure.legend(
        loc="outside lower center",
        ncols=_columns(parts),
        frameon=False,
        fontsize=8.5,
        title=";\n".join([", ".join(said[:2]), *said[2:]]),
        title_fontsize=8,
    )
    return save(figure, path)


def _columns(names: Collection[str]) -> int:
    # Of a legend below a figure, which holds about 84 letters and the room of 7 for each marker.
    return min(4, len(names), max(1, 84 // (max(map(len, names)) + 7)))


def posterior_over_time(
    curves: Mapping[str, object],
    path: str | Path,
    *,
    logsnr=None,
    trajectories: int = 3,
    y_label: str = "posterior of the forbidden class",
    title: str | None = None,
) -> Path:
    """Median and 10-90% band over images of a probability along sampling, noise on the left.

    A panel for each curve: where trackers agree, bands in one panel hide one another. curves:
    name -> [T, B] values in step order, or [T, 3] wrapped as ("quantiles", array) holding the 10,
    50 and 90% quantiles. logsnr: [T] shared abscissa, else the step number. trajectories: how many
    single images to draw thinly beside the band.
    """
    if not curves:
        raise InputError("posterior_over_time needs at least one curve, got none")
    count = len(curves)
    figure = Figure(
        figsize=(6.0, 1.0 + (2.9 if count == 1 else 1.45 * count)), layout="constrained"
    )
    panels = figure.subplots(count, 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    medians: dict[str, np.ndarray] = {}
    for i, (axes, (name, values)) in enumerate(zip(panels, curves.items(), strict=True)):
        tidy(axes)
        colour = COLOURS[i % len(COLOURS)]
        if isinstance(values, tuple) and len(values) == 2 and values[0] == "quantiles":
            quantiles, single = np.asarray(values[1], np.float64), None
            if quantiles.ndim != 2 or quantiles.shape[1] != 3:
                raise InputError(
                    f"curve '{name}' needs quantiles [T, 3], got {list(quantiles.shape)}"
                )
        else:
            single = np.asarray(values, np.float64)
            if single.ndim != 2 or single.size == 0:
                raise InputError(f"curve '{name}' needs values [T, B], got {list(single.shape)}")
            quantiles = np.quantile(single, [0.1, 0.5, 0.9], axis=1).T
        t = _abscissa(logsnr, len(quantiles), name)
        axes.fill_between(
            t,
            quantiles[:, 0],
            quantiles[:, 2],
            color=colour,
            alpha=0.22,
            linewidth=0,
            label="10-90% of images" if i == 0 else None,
        )
        if single is not None and trajectories > 0:
            # Evenly spaced images: the choice must not depend on how they turned out.
            few = np.unique(np.linspace(0, single.shape[1] - 1, trajectories).astype(int))
            lines = axes.plot(t, single[:, few], color=colour, linewidth=0.6, alpha=0.7)
            lines[0].set_label("single images" if i == 0 else None)
        medians[name] = quantiles[:, 1]
        axes.plot(t, medians[name], color=colour, linewidth=1.8, label="median" if i == 0 else None)
        axes.set_title(name, fontsize=9, loc="left", color=colour, pad=3)
    # A tracked posterior is often far below 1: use the room, but never show more than [0, 1].
    top = min(1.0, max(axes.dataLim.ymax for axes in panels))
    panels[0].set_ylim(-0.02 * top, 1.04 * top)
    _time_axis(panels[-1], logsnr)
    figure.supylabel(y_label, fontsize=10)
    # Outside: bands often fill the axes, and a legend on top of them is read as data.
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    if title:
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return save(figure, path)


def reliability(
    curves: Mapping[str, Reliability],
    path: str | Path,
    *,
    title: str | None = None,
) -> Path:
    """Observed share against predicted probability, with Wilson intervals and the counts below.

    curves: name -> what `dng_jax.metrics.reliability` returns.
    """
    if not curves:
        raise InputError("reliability needs at least one curve, got none")
    figure = Figure(figsize=(4.6, 5.4), layout="constrained")
    axes, below = figure.subplots(2, 1, height_ratios=[4, 1], sharex=True)
    tidy(axes)
    tidy(below)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    for i, (name, curve) in enumerate(curves.items()):
        full = curve.count > 0
        axes.errorbar(
            curve.mean_p[full],
            curve.observed[full],
            yerr=np.maximum(
                0, [(curve.observed - curve.low)[full], (curve.high - curve.observed)[full]]
            ),
            color=COLOURS[i % len(COLOURS)],
            ecolor=faded(COLOURS[i % len(COLOURS)]),
            marker=MARKERS[i % len(MARKERS)],
            markersize=4.5,
            linewidth=1.2,
            elinewidth=0.9,
            label=name,
        )
        below.stairs(
            curve.count,
            curve.edges,
            color=COLOURS[i % len(COLOURS)],
            linestyle=LINES[i % len(LINES)],
            linewidth=1.2,
        )
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("observed share")
    # Outside: an uncalibrated forecast may lie anywhere in the square.
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=_columns(curves))
    below.set_yscale("symlog", linthresh=1)
    below.set_ylim(bottom=0)
    below.set_ylabel("count")
    below.set_xlabel("predicted probability")
    if title:
        axes.set_title(title, fontsize=10, loc="left")
    return save(figure, path)


def error_over_time(
    curves: Mapping[str, object],
    path: str | Path,
    *,
    logsnr=None,
    log: bool = True,
    y_label: str = "mean |p - exact|",
    title: str | None = None,
) -> Path:
    """One error per step and tracker, noise on the left.

    curves: name -> [T] in step order; logsnr: [T] shared abscissa, else the step number. On the
    logarithmic axis exact zeros are left out.
    """
    if not curves:
        raise InputError("error_over_time needs at least one curve, got none")
    figure, axes = new_axes(title)
    for i, (name, values) in enumerate(curves.items()):
        error = _vector(values, name)
        axes.plot(
            _abscissa(logsnr, len(error), name),
            np.where(error > 0, error, np.nan) if log else error,
            color=COLOURS[i % len(COLOURS)],
            linestyle=LINES[i % len(LINES)],
            linewidth=1.5,
            label=name,
        )
    if log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    _time_axis(axes, logsnr)
    axes.set_ylabel(y_label)
    axes.legend(frameon=False, fontsize=9)
    return save(figure, path)


def responses(
    panels: Mapping[str, Mapping[str, tuple]],
    path: str | Path,
    *,
    log_x: Sequence[str] = (),
    title: str | None = None,
) -> Path:
    """How leak and KL answer to one number at a time: a column per number, a curve per tracker.

    panels: name of the number -> {tracker: (value, leak, leak_low, leak_high, kl, kl_low,
    kl_high)}, each [N], leak in per cent, KL in nats; names in log_x get a logarithmic axis.
    """
    if not panels or not all(panels.values()):
        raise InputError("responses needs at least one panel, and a curve in each")
    figure = Figure(figsize=(1.2 + 2.2 * len(panels), 4.6), layout="constrained")
    grid = figure.subplots(2, len(panels), sharex="col", sharey="row", squeeze=False)
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    for column, (knob, curves) in zip(grid.T, panels.items(), strict=True):
        for name, curve in curves.items():
            if len(curve) != 7:
                raise InputError(f"curve '{name}' of '{knob}' needs 7 vectors, got {len(curve)}")
            value, *rest = (_vector(part, name) for part in curve)
            i = names.index(name)
            for axes, (y, low, high) in zip(column, (rest[:3], rest[3:]), strict=True):
                axes.errorbar(
                    value,
                    y,
                    yerr=_error(y, low, high, name),
                    label=name,
                    color=COLOURS[i % len(COLOURS)],
                    marker=MARKERS[i % len(MARKERS)],
                    markersize=4,
                    linewidth=1.2,
                    elinewidth=0.7,
                )
        for axes in column:
            tidy(axes)
            if knob in log_x:
                axes.set_xscale("log")
                axes.set_xticks(sorted({x for curve in curves.values() for x in curve[0]}))
                axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
                axes.xaxis.set_minor_formatter(NullFormatter())
        column[1].set_xlabel(knob, fontsize=9)
    for axes in grid[:, 0]:
        # Once all columns are drawn: setting one bound of a shared axis fixes the other.
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    grid[0, 0].set_ylabel("forbidden (%)", fontsize=9)
    grid[1, 0].set_ylabel("KL (nats)", fontsize=9)
    grid[0, 0].legend(frameon=False, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return save(figure, path)


def _parts(name: str, curve: tuple) -> tuple:
    """(x, x_low, x_high, y, y_low, y_high) of a trade-off as vectors; None for a missing bound."""
    if len(curve) != 6:
        raise InputError(
            f"curve '{name}' needs (x, x_low, x_high, y, y_low, y_high), got {len(curve)} arrays"
        )
    x, x_low, x_high, y, y_low, y_high = (
        None if part is None else _vector(part, name) for part in curve
    )
    if x is None or y is None or x.shape != y.shape or x.size == 0:
        raise InputError(f"curve '{name}' needs x and y of one length, at least one point each")
    return x, x_low, x_high, y, y_low, y_high


def _with_bars(
    axes: Axes, name: str, parts: tuple, colour: str, marker: str, hollow: np.ndarray, top: float
) -> None:
    """Draws a curve of a trade-off; hollow bool [] or [N], bars without an end stop at top."""
    x, x_low, x_high, y, y_low, y_high = parts
    ends = None if y_high is None else np.where(np.isfinite(y_high), y_high, top)
    axes.errorbar(
        x,
        y,
        xerr=_error(x, x_low, x_high, name),
        yerr=_error(y, y_low, ends, name),
        label=name,
        color=colour,
        marker=marker,
        markersize=9 if marker == "*" else 4.5,
        linestyle="none" if len(x) == 1 else "-",
        linewidth=1.2,
        elinewidth=0.8,
        ecolor=faded(colour),
    )
    hollow = np.broadcast_to(hollow, x.shape)
    size = 9 if marker == "*" else 4.5
    style: dict[str, Any] = {"color": colour, "linestyle": "none"}
    style["zorder"] = 4  # above errorbar's own markers
    axes.plot(x[hollow], y[hollow], marker=marker, markersize=size, mfc="white", **style)
    if ends is not None:
        endless = np.isinf(y_high)
        axes.plot(x[endless], ends[endless], marker=CARETUP, markersize=6, **style)


def _time_axis(axes: Axes, logsnr) -> None:
    axes.set_xlabel("step" if logsnr is None else "log signal-to-noise ratio")


def _abscissa(logsnr, length: int, name: str) -> np.ndarray:
    if logsnr is None:
        return np.arange(length)
    t = _vector(logsnr, "logsnr")
    if len(t) != length:
        raise InputError(f"curve '{name}' has {length} steps but logsnr has {len(t)}")
    return t


def _vector(values, name: str) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise InputError(f"'{name}' needs vectors, got shape {list(values.shape)}")
    return values


def _error(value, low, high, name: str) -> np.ndarray | None:
    """Distances [2, N] to the two bounds, as errorbar wants them."""
    if low is None or high is None:
        return None
    if low.shape != value.shape or high.shape != value.shape:
        raise InputError(f"curve '{name}' needs bounds as long as its {len(value)} points")
    # A bound can pass its value by rounding, or where a corrected estimate fell below 0.
    return np.maximum(0, np.stack([value - low, high - value]))
