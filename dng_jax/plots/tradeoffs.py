"""Safety against diversity, as curves over the guidance scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.markers import CARETUP  # type: ignore[attr-defined]

from dng_jax.errors import InputError
from dng_jax.plots.curves import bar_lengths, legend_columns, vector
from dng_jax.plots.style import COLOURS, GREY, LINES, MARKERS, faded, new_axes, plain_ticks, save

LEGEND_ROW, USUAL_ROWS = 0.2, 2  # inches; rows below which the axes keep their height


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
    columns = legend_columns(parts)
    figure.set_figheight(3.9 + LEGEND_ROW * max(0, -(-len(parts) // columns) - USUAL_ROWS))
    # An infinite bar ends above everything that is finite.
    heights = [v[np.isfinite(v)] for p in parts.values() for v in p[3:] if v is not None]
    top = max(v.max(initial=0.0) for v in heights)
    top += 0.12 * (top - min(v.min(initial=0.0) for v in heights)) or 0.1
    hollow = dict(sparse or {})
    for i, (name, part) in enumerate(parts.items()):
        grey = name not in curves
        again = i // len(COLOURS)  # a colour comes again with another marker and line
        colour = GREY if grey else COLOURS[i % len(COLOURS)]
        marker = "*" if grey else MARKERS[(i + again) % len(MARKERS)]
        line, empty = LINES[again % len(LINES)], np.asarray(hollow.get(name, False))
        _with_bars(axes, name, part, colour, marker, line, empty, top)
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
        ncols=columns,
        frameon=False,
        fontsize=8.5,
        title=";\n".join([", ".join(said[:2]), *said[2:]]),
        title_fontsize=8,
    )
    return save(figure, path)


def _parts(name: str, curve: tuple) -> tuple:
    """(x, x_low, x_high, y, y_low, y_high) of a trade-off as vectors; None for a missing bound."""
    if len(curve) != 6:
        raise InputError(
            f"curve '{name}' needs (x, x_low, x_high, y, y_low, y_high), got {len(curve)} arrays"
        )
    x, x_low, x_high, y, y_low, y_high = (
        None if part is None else vector(part, name) for part in curve
    )
    if x is None or y is None or x.shape != y.shape or x.size == 0:
        raise InputError(f"curve '{name}' needs x and y of one length, at least one point each")
    return x, x_low, x_high, y, y_low, y_high


def _with_bars(
    axes: Axes,
    name: str,
    parts: tuple,
    colour: str,
    marker: str,
    line: str,
    hollow: np.ndarray,
    top: float,
) -> None:
    """Draws a curve of a trade-off; hollow bool [] or [N], bars without an end stop at top."""
    x, x_low, x_high, y, y_low, y_high = parts
    ends = None if y_high is None else np.where(np.isfinite(y_high), y_high, top)
    axes.errorbar(
        x,
        y,
        xerr=bar_lengths(x, x_low, x_high, name),
        yerr=bar_lengths(y, y_low, ends, name),
        label=name,
        color=colour,
        marker=marker,
        markersize=9 if marker == "*" else 4.5,
        linestyle="none" if len(x) == 1 else line,
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
