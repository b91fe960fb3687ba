"""Loss curves of trainings that were searched together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dng_jax.errors import InputError
from dng_jax.plots.style import COLOURS, GREY, save, tidy


def learning(
    curves: Mapping[str, tuple],
    path: str | Path,
    *,
    best: str | None = None,
    labels: tuple[str, str] = ("training loss", "held-out loss"),
    title: str | None = None,
) -> Path:
    """Training loss and held-out objective over steps, a line per member, the best one on top.

    curves: name -> (steps [N], loss [N], steps of rungs [R], objective [R]); what is not finite is
    left out, and both ordinates are logarithmic.
    """
    if not curves:
        raise InputError("learning needs at least one member, got none")
    figure = Figure(figsize=(9.0, 3.9), layout="constrained")
    for k, (axes, label) in enumerate(zip(figure.subplots(1, 2), labels, strict=True)):
        tidy(axes)
        for name in sorted(curves, key=lambda name: name == best):
            x, y = (np.asarray(v, np.float64) for v in curves[name][2 * k : 2 * k + 2])
            shown = np.isfinite(y) & (y > 0)
            chosen = name == best
            axes.plot(
                x[shown],
                y[shown],
                color=COLOURS[0] if chosen else GREY,
                linewidth=1.8 if chosen else 0.7,
                marker="o" if k else None,
                markersize=4,
                label=name if chosen else None,
            )
        axes.set_yscale("log")
        axes.set_xlabel("step", fontsize=9)
        axes.set_ylabel(label, fontsize=9)
        if k and best is not None:
            axes.legend(frameon=False, fontsize=7)
    if title:
        figure.suptitle(title, fontsize=10, x=0.01, ha="left", parse_math=False)
    return save(figure, path)
