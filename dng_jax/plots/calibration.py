"""Reliability diagrams."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dng_jax.errors import InputError
from dng_jax.metrics import Reliability
from dng_jax.plots.curves import legend_columns
from dng_jax.plots.style import COLOURS, GREY, LINES, MARKERS, faded, save, tidy


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
    figure.legend(
        frameon=False, fontsize=9, loc="outside lower center", ncols=legend_columns(curves)
    )
    below.set_yscale("symlog", linthresh=1)
    below.set_ylim(bottom=0)
    below.set_ylabel("count")
    below.set_xlabel("predicted probability")
    if title:
        axes.set_title(title, fontsize=10, loc="left", parse_math=False)
    return save(figure, path)
