"""Panels in rows and columns: several quantities (rows) over several abscissae (columns).

Arrays in, one file out, of the pieces of hopfield_jax.plots.curves. Rows share y, columns share x.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.figure import Figure

from dng_jax.errors import InputError
from dng_jax.plots.style import save, tidy
from hopfield_jax.plots.curves import Panel, apart, draw, finish


def grid(
    rows: Sequence[Sequence[Panel]],
    path: str | Path,
    *,
    columns: int = 3,
    title: str | None = None,
) -> Path:
    """Rows of as many panels each; the first row names marks, the last x, the first column y.

    columns: of the legend below, which is filled column by column.
    """
    if not rows or not rows[0] or len({len(row) for row in rows}) != 1:
        raise InputError("a grid needs rows of panels, all of one length and none of them empty")
    across, down = len(rows[0]), len(rows)
    figure = Figure(figsize=(2.7 * across + 0.4, 2.0 * down + 1.1), layout="constrained")
    apart(figure)
    every = figure.subplots(down, across, squeeze=False, sharex="col", sharey="row")
    entries: dict[str, Artist] = {}
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            axes = every[i, j]
            tidy(axes)
            draw(axes, panel.curves, entries)
            finish(axes, panel, named=i == 0)
            if j:
                axes.set_ylabel("")
            if i == down - 1:
                axes.set_xlabel(panel.x_label, fontsize=9)
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=min(len(entries), columns),
        frameon=False,
        fontsize=8,
    )
    if title:
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return save(figure, path)
