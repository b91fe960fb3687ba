"""Where curves are highest, by category: a symbol with its interval, hollow at an end of the curve.

Arrays in, one file out, in the manner of hopfield_jax.plots.curves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dng_jax.plots.style import GREY, save, tidy
from hopfield_jax.plots.curves import DASH, plain_log

WIDTH = 0.7  # of the room between categories, over which symbols are spread


class Optimum(NamedTuple):
    """value (value, low, high) > 0 of a curve by this name in a category; edge: the curve is
    highest at one of its ends, so that the optimum may lie beyond."""

    category: str
    value: tuple[float, float, float]
    edge: bool
    name: str
    colour: str
    marker: str


class Panel(NamedTuple):
    """One set of axes: optima, and horizontals by name."""

    optima: Sequence[Optimum]
    y_label: str
    title: str
    marks: Mapping[str, float] = {}


def draw(
    rows: Sequence[Sequence[Panel]], path: str | Path, *, x_label: str, title: str | None = None
) -> Path:
    """Rows of as many panels each; y is logarithmic, x the categories in order of appearance."""
    down, across = len(rows), len(rows[0])
    figure = Figure(figsize=(3.6 * across + 0.4, 2.6 * down + 1.1), layout="constrained")
    every = figure.subplots(down, across, squeeze=False, sharex=True)
    entries: dict[str, Artist] = {}
    for all_axes, row in zip(every, rows, strict=True):
        for axes, panel in zip(all_axes, row, strict=True):
            _panel(axes, panel, entries)
    for axes in every[-1]:
        axes.set_xlabel(x_label, fontsize=9)
    handles, names = list(entries.values()), list(entries)
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return save(figure, path)


def _panel(axes: Axes, panel: Panel, entries: dict[str, Artist]) -> None:
    tidy(axes)
    categories = list(dict.fromkeys(o.category for o in panel.optima))
    names = list(dict.fromkeys(o.name for o in panel.optima))
    for o in panel.optima:
        aside = WIDTH * ((names.index(o.name) + 0.5) / len(names) - 0.5)
        x = categories.index(o.category) + aside
        value, low, high = o.value
        axes.plot([x, x], [min(low, value), max(high, value)], color=o.colour, linewidth=1.2)
        face = "white" if o.edge else o.colour
        axes.plot(x, value, o.marker, color=o.colour, markerfacecolor=face, markersize=5, zorder=3)
        entry = Line2D([], [], color=o.colour, marker=o.marker, markersize=5, linewidth=1.2)
        entries.setdefault(o.name, entry)
    axes.set_xticks(range(len(categories)), categories)
    axes.set_xlim(-0.6, len(categories) - 0.4)
    axes.set_yscale("log")
    ends = np.array([o.value for o in panel.optima] + [(y,) * 3 for y in panel.marks.values()])
    axes.set_ylim(ends.min() / 1.5, ends.max() * 1.5)
    plain_log(axes.yaxis, *axes.get_ylim())
    for name, y in panel.marks.items():
        axes.axhline(y, color=GREY, linewidth=0.9, linestyle=DASH, zorder=0)
        axes.annotate(
            name,
            (1, y),
            (2, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color="#444444",
        )
    axes.set_ylabel(panel.y_label, fontsize=9)
    axes.set_title(panel.title, fontsize=9, loc="left")
