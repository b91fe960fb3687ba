"""How a rule answers to each of its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from dng_jax.errors import InputError
from dng_jax.plots.curves import bar_lengths, vector
from dng_jax.plots.style import COLOURS, MARKERS, save, tidy


def responses(
    panels: Mapping[str, Mapping[str, tuple]],
    path: str | Path,
    *,
    log_x: Sequence[str] = (),
    y_labels: tuple[str, str] = ("forbidden (%)", "KL (nats)"),
    title: str | None = None,
) -> Path:
    """How leak and KL answer to one number at a time: a column per number, a curve per tracker.

    panels: name of the number -> {tracker: (value, leak, leak_low, leak_high, kl, kl_low,
    kl_high)}, each [N], leak in per cent, KL in nats; names in log_x get a logarithmic axis.
    y_labels: what the two rows show, where it is something else.
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
            value, *rest = (vector(part, name) for part in curve)
            i = names.index(name)
            for axes, (y, low, high) in zip(column, (rest[:3], rest[3:]), strict=True):
                axes.errorbar(
                    value,
                    y,
                    yerr=bar_lengths(y, low, high, name),
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
    for axes, label in zip(grid[:, 0], y_labels, strict=True):
        axes.set_ylabel(label, fontsize=9)
    grid[0, 0].legend(frameon=False, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10, x=0.01, ha="left", parse_math=False)
    return save(figure, path)
