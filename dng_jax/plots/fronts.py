"""A search: leak and another measure of every setting, and its front before and after a fresh
look."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax.errors import InputError
from dng_jax.plots.curves import bar_lengths, vector
from dng_jax.plots.style import COLOURS, GREY, MARKERS, faded, new_axes, plain_ticks, save


def front(
    clouds: Mapping[str, tuple],
    search: tuple,
    fresh: tuple,
    path: str | Path,
    *,
    labels: tuple[str, str],
    limits: Mapping[str, float] | None = None,
    others: Mapping[str, tuple] | None = None,
    title: str | None = None,
) -> Path:
    """Leak in per cent against another measure: every setting as a dot, the front as the search saw
    it (hollow) joined to what fresh seeds say (filled, with 95% intervals).

    clouds: rule -> (x, y), each [N]. search: (x, y), each [F]. fresh: (x, x_low, x_high, y, y_low,
    y_high), each [F], None for a missing bound. others: name -> (x, y) of rules made by hand, on
    the fresh seeds. labels: of the axes. limits: "x" or "y" -> a constraint, drawn as a line.
    """
    if not clouds:
        raise InputError("a front needs the settings it is the front of, got none")
    figure, axes = new_axes(title)
    figure.set_size_inches(7.0, 5.0)
    seen, hand = [], []
    names = list(dict.fromkeys([*clouds, *(others or {})]))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    for name, (x, y) in clouds.items():
        x, y = vector(x, name), vector(y, name)
        colour = colours[name]
        axes.plot(x, y, ".", color=faded(colour), markersize=4, label=f"{name}: settings searched")
        seen.append((x, y))
    before = [vector(part, "search") for part in search]
    after: list[Any] = [None if part is None else vector(part, "fresh") for part in fresh]
    x, x_low, x_high, y, y_low, y_high = after
    for x0, y0, x1, y1 in zip(*before, x, y, strict=True):
        axes.plot([x0, x1], [y0, y1], color=GREY, linewidth=0.7, zorder=3)
    axes.plot(
        *before, "o", color="black", mfc="white", markersize=5, zorder=4, label="front, as searched"
    )
    axes.errorbar(
        x,
        y,
        xerr=bar_lengths(x, x_low, x_high, "fresh"),
        yerr=bar_lengths(y, y_low, None if y_high is None else _finite(y_high, y), "fresh"),
        color="black",
        marker="o",
        linestyle="none",
        markersize=5,
        elinewidth=0.8,
        ecolor=faded("black"),
        zorder=5,
        label="the same on fresh seeds, 95%",
    )
    for i, (name, (ox, oy)) in enumerate((others or {}).items()):
        marker, colour = MARKERS[(i + 1) % len(MARKERS)], colours[name]
        axes.plot(
            vector(ox, name), vector(oy, name), marker, color=colour, markersize=6, zorder=6,
            label=f"{name}, by hand",
        )  # fmt: skip
        hand.append((vector(ox, name), vector(oy, name)))
    for axis, value in (limits or {}).items():
        line = axes.axvline if axis == "x" else axes.axhline
        line(value, color=GREY, linewidth=0.8, linestyle="--", label=f"constraint: {value:g}")
    near = [(x, y), tuple(before), *hand]
    near += [(np.full(1, limits["x"]), y[:1])] if limits and "x" in limits else []
    _window(axes, near, [*near, *seen], (x_high, y_low, y_high))
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return save(figure, path)


def _finite(high: np.ndarray, value: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(high), high, value)


def _window(axes, near: list, every: list, ends: tuple) -> None:
    """x logarithmic above the smallest x that is not 0, a tenth of the largest at most, as of
    trade-offs; both ends where the front and its rivals are, with the ends of their intervals
    (x_high, y_low, y_high) unless those lie far off: settings far worse than all of these would
    leave them a corner."""
    x, y = (np.concatenate([part[k] for part in near]) for k in (0, 1))
    all_x, all_y = (np.concatenate([part[k] for part in every]) for k in (0, 1))
    knee = min(all_x[all_x > 0], default=0.1)
    knee = min(knee, x.max() / 10) if x.max() > 0 else knee
    length = np.median(ends[2] - ends[1]) if ends[1] is not None and ends[2] is not None else 0.0
    x_high, y_low, y_high = (_within(end) for end in ends)
    right = min(max(x_high, default=0), 5 * max(x.max(), knee))
    reach = max(1.3 * x.max(), 2 * knee, np.quantile(all_x, 0.9), right)
    axes.set_xscale("symlog", linthresh=knee, linscale=0.5, subs=range(2, 10))
    axes.set_xlim(-0.15 * knee, 1.2 * reach)
    plain_ticks(axes, knee, reach)
    span = max(y.max() - min(0.0, y.min()), 2 * length if np.isfinite(length) else 0.0) or 1.0
    far = max(np.quantile(all_y, 0.9), max(y_high, default=-np.inf))
    top = max(y.max() + 0.1 * span, min(far + 0.05 * span, y.max() + span))
    foot = min(0.0, y.min())
    low = max(min(y_low, default=foot), foot - span / 2)
    axes.set_ylim(min(foot, low) - 0.08 * span, top)


def _within(end: np.ndarray | None) -> np.ndarray:
    return np.zeros(0) if end is None else end[np.isfinite(end)]
