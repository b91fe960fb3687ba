r"""Curves over beta: panels of them, arrays in, one file out, in the manner of dng_jax.plots.

No pyplot, Okabe & Ito's colours, each curve with its own marker or line style. Every function
writes `path` and returns it. Solid lines are stable or exact, dotted ones unstable; symbols are
measured. Characteristic values are grey verticals named on the upper edge.

Symbols: S betas, N patterns, R starts, T steps; beta_eff = mean over pairs of beta D_ij^2/2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from dng_jax.errors import InputError
from dng_jax.plots.style import COLOURS, GREY, LINES, MARKERS, save, tidy

BETA_EFF = r"effective inverse temperature $\beta_{\mathrm{eff}}$"
DASH = (0, (4, 3))
DOTS = (0, (1, 1.5))


class Curve(NamedTuple):
    """x, y [S]; style: "stable" and "exact" solid, "unstable" dotted, "measured" symbols, "line"
    symbols joined by a line, "dashed". Points where y is NaN are left out. colour, marker
    and line: default by the style and the order of the names. band: (low, high), [S] each, shaded
    behind it."""

    x: object
    y: object
    style: str = "line"
    colour: str | None = None
    marker: str | None = None
    line: str | tuple | None = None
    band: tuple | None = None


class Panel(NamedTuple):
    """One set of axes: curves by name ("" for no entry in the legend), marks by name."""

    curves: Sequence[tuple[str, Curve]]
    y_label: str
    x_label: str = BETA_EFF
    marks: Mapping[str, float] = {}
    log_x: bool = True
    log_y: bool = False
    y_limits: tuple[float | None, float | None] = (None, None)
    title: str | None = None


def panels(
    rows: Sequence[Panel],
    path: str | Path,
    *,
    across: bool = False,
    heights: Sequence[float] | None = None,
    legend: str = "below",
    title: str | None = None,
) -> Path:
    """Panels under one another, sharing x, or side by side (across).

    heights: relative heights (or widths) of the panels. legend: "below" the figure, or the place
    inside each panel, as matplotlib names it.
    """
    if not rows:
        raise InputError("panels needs at least one panel, got none")
    count = len(rows)
    # Side by side not too wide: a page shrinks a figure to its own width, the letters with it.
    size = (3.4 * count + 0.4, 3.8) if across else (6.4, 1.3 + 2.3 * sum(heights or [1.2] * count))
    figure = Figure(figsize=size, layout="constrained")
    if across:
        apart(figure)
        grid = figure.subplots(1, count, squeeze=False, width_ratios=heights)[0]
    else:
        grid = figure.subplots(count, 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    entries: dict[str, Artist] = {}
    for i, (axes, panel) in enumerate(zip(grid, rows, strict=True)):
        tidy(axes)
        draw(axes, panel.curves, entries if legend == "below" else {})
        finish(axes, panel, named=across or i == 0)
        if across or i == count - 1:
            axes.set_xlabel(panel.x_label)
        if legend != "below":
            handles, names = axes.get_legend_handles_labels()
            if handles:
                axes.legend(handles, names, frameon=False, fontsize=8, loc=legend)
    if legend == "below" and entries:
        columns = min(len(entries), 3 if not across else 4)
        figure.legend(
            list(entries.values()),
            list(entries),
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize=8,
        )
    if title:
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return save(figure, path)


def apart(figure: Figure) -> None:
    """More room between panels side by side, whose labels would touch their neighbours."""
    figure.get_layout_engine().set(wspace=0.08, w_pad=0.08)  # type: ignore[union-attr, call-arg]


def draw(axes: Axes, curves, entries: dict[str, Artist]) -> None:
    """Draws [(name, Curve)] on the axes; entries gathers one artist per name for the legend."""
    # Curves of one name share colour and entry; nameless ones follow their own `colour`.
    names = list(dict.fromkeys(name for name, _ in curves if name))
    for name, curve in curves:
        i = names.index(name) if name else 0
        colour = curve.colour or COLOURS[i % len(COLOURS)]
        x, y = np.asarray(curve.x, np.float64), np.asarray(curve.y, np.float64)
        if x.shape != y.shape or x.ndim != 1:
            raise InputError(
                f"curve '{name}' needs x and y of one length, got {list(x.shape)} and"
                f" {list(y.shape)}"
            )
        options: dict[str, object] = {"color": colour, "linewidth": 1.5}
        if curve.style in ("stable", "exact"):
            options["linestyle"] = "-"
        elif curve.style == "unstable":
            options["linestyle"] = DOTS
        elif curve.style == "dashed":
            options["linestyle"] = DASH
        elif curve.style in ("measured", "line"):
            options |= {
                "marker": curve.marker or MARKERS[i % len(MARKERS)],
                "markersize": 4.5,
                "markerfacecolor": "none" if curve.style == "measured" else colour,
                "markeredgewidth": 1,
                "linestyle": "none" if curve.style == "measured" else LINES[i % len(LINES)],
                "linewidth": 1.2,
            }
        else:
            raise InputError(f"unknown style '{curve.style}' of curve '{name}'")
        if curve.line is not None:
            options["linestyle"] = curve.line
        (drawn,) = axes.plot(x, y, label=name or None, **options)  # type: ignore[arg-type]
        if curve.band is not None:
            axes.fill_between(x, *curve.band, color=colour, alpha=0.2, linewidth=0, zorder=1)
        if name:
            entries.setdefault(name, drawn)


def finish(axes: Axes, panel: Panel, named: bool) -> None:
    """Labels, limits, scale and marks of a panel; named: whether its marks are written out."""
    if panel.log_x:
        log_x(axes)
    if panel.log_y:
        axes.set_yscale("log")
        plain_log(axes.yaxis, *axes.get_ylim())
    low, high = panel.y_limits
    if low is not None:
        axes.set_ylim(bottom=low)
    if high is not None:
        axes.set_ylim(top=high)
    axes.set_ylabel(panel.y_label, fontsize=9)
    rows = mark(axes, panel.marks, named)
    if panel.title:
        axes.set_title(panel.title, fontsize=9, loc="left", pad=6 + 10 * rows)


def log_x(axes: Axes) -> None:
    """A logarithmic beta axis with plain numbers."""
    axes.set_xscale("log")
    plain_log(axes.xaxis, *axes.get_xlim())


def plain_log(axis: Axis, low: float, high: float) -> None:
    """Ticks 1, 2, 5 per decade between low and high, written out."""
    # 1, 2, 5 written out: a transition rarely spans a decade.
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    axis.set_major_formatter(lambda x, _: f"{x:g}")
    axis.set_minor_formatter(NullFormatter())


def mark(axes: Axes, marks: Mapping[str, float], named: bool) -> int:
    """Verticals, named above the upper edge, in as many rows (returned) as keep names apart."""
    low, high = axes.get_xlim()
    place = np.log if axes.get_xscale() == "log" else np.asarray
    inside = [(x, name) for name, x in marks.items() if np.isfinite(x) and low <= x <= high]
    inches = axes.bbox.width / axes.figure.dpi
    ends: list[float] = []  # right end of the last name in each row, in inches
    for x, name in sorted(inside):
        axes.axvline(x, color=GREY, linewidth=0.9, linestyle=DASH, zorder=0)
        if not named:
            continue
        at = inches * float((place(x) - place(low)) / (place(high) - place(low)))
        half = 0.035 * max(len(name.strip("$").replace("_", "")), 2) + 0.02
        row = next((r for r, end in enumerate(ends) if at - half > end), len(ends))
        ends[row : row + 1] = [at + half]
        axes.annotate(
            name,
            (x, 1),
            (0, 2 + 10 * row),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
            color="#444444",
        )
    axes.set_xlim(low, high)
    return len(ends)


def shares(
    x,
    parts: Mapping[str, object],
    path: str | Path,
    *,
    marks: Mapping[str, float] | None = None,
    below: Panel | None = None,
    y_label: str = "share of starts",
    title: str | None = None,
) -> Path:
    """Stacked shares parts name -> [S] over x [S]; below: a second panel on the same x."""
    figure = Figure(figsize=(6.4, 5.6 if below else 3.9), layout="constrained")
    grid = figure.subplots(2 if below else 1, 1, squeeze=False, sharex=True)[:, 0]
    axes = grid[0]
    tidy(axes)
    stack = [np.asarray(y, np.float64) for y in parts.values()]
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(stack))]
    axes.stackplot(np.asarray(x), stack, colors=colours, alpha=0.75, labels=list(parts))
    axes.set_ylim(0, 1)
    axes.set_xlim(np.min(x), np.max(x))
    axes.set_ylabel(y_label, fontsize=9)
    entries: dict[str, Artist] = dict(zip(parts, axes.collections, strict=False))
    log_x(axes)
    mark(axes, marks or {}, named=True)
    if below is not None:
        tidy(grid[1])
        draw(grid[1], below.curves, entries)
        finish(grid[1], below, named=False)
        grid[1].set_xlim(np.min(x), np.max(x))
    grid[-1].set_xlabel(below.x_label if below else BETA_EFF)
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=8,
    )
    if title:
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return save(figure, path)
