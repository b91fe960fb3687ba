"""Numbers along a sampling chain, noise on the left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dng_jax.errors import InputError
from dng_jax.plots.curves import vector
from dng_jax.plots.style import COLOURS, LINES, new_axes, save, tidy


def posterior_over_time(
    curves: Mapping[str, object],
    path: str | Path,
    *,
    logsnr=None,
    trajectories: int = 3,
    y_label: str = "posterior of the forbidden class",
    title: str | None = None,
    most: float = 1.0,
) -> Path:
    """Median and 10-90% band over images of a probability along sampling, noise on the left.

    A panel for each curve: where trackers agree, bands in one panel hide one another. curves:
    name -> [T, B] values in step order, or [T, 3] wrapped as ("quantiles", array) holding the 10,
    50 and 90% quantiles. logsnr: [T] shared abscissa, else the step number. trajectories: how many
    single images to draw thinly beside the band. most: the largest value that there can be, above
    1 where it is no probability.
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
    # A tracked posterior is often far below 1: use the room, but never show more than [0, most].
    top = min(most, max(axes.dataLim.ymax for axes in panels))
    panels[0].set_ylim(-0.02 * top, 1.04 * top)
    _time_axis(panels[-1], logsnr)
    figure.supylabel(y_label, fontsize=10)
    # Outside: bands often fill the axes, and a legend on top of them is read as data.
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    if title:
        figure.suptitle(title, fontsize=10, x=0.01, ha="left", parse_math=False)
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
        error = vector(values, name)
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
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    _time_axis(axes, logsnr)
    axes.set_ylabel(y_label)
    axes.legend(frameon=False, fontsize=9)
    return save(figure, path)


def _time_axis(axes: Axes, logsnr) -> None:
    axes.set_xlabel("step" if logsnr is None else "log signal-to-noise ratio")


def _abscissa(logsnr, length: int, name: str) -> np.ndarray:
    if logsnr is None:
        return np.arange(length)
    t = vector(logsnr, "logsnr")
    if len(t) != length:
        raise InputError(f"curve '{name}' has {length} steps but logsnr has {len(t)}")
    return t
