r"""Figures of one kind each: phase diagram, energy maps, merge trees, guidance window, heads.

Arrays in, one file out, with the conventions and the pieces of hopfield_jax.plots.curves. Symbols:
S betas, N patterns, T steps, H heads; beta_eff = mean over pairs of beta D_ij^2/2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from dng_jax.errors import InputError
from dng_jax.metrics.window import LEVELS
from dng_jax.plots.style import COLOURS, GREY, LINES, MARKERS, save, tidy
from hopfield_jax.plots.curves import (
    BETA_EFF,
    DASH,
    DOTS,
    Panel,
    apart,
    draw,
    finish,
    log_x,
    mark,
    plain_log,
)

LOGSNR = "log signal-to-noise ratio"


def phase_diagram(
    n,
    exact: Mapping[str, object],
    measured: Mapping[str, tuple],
    path: str | Path,
    *,
    title: str | None = None,
) -> Path:
    """(N, beta_eff): exact lines over n [A], and measured points name -> (N [P], beta_eff [P]).

    exact: K_s, K_c and N, in this order, by name; the regions between them are named in the figure.
    """
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    tidy(axes)
    n = np.asarray(n, np.float64)
    lines = [np.asarray(y, np.float64) for y in exact.values()]
    if len(lines) != 3 or any(y.shape != n.shape for y in lines):
        raise InputError("a phase diagram needs three exact lines, each as long as n")
    axes.set_xscale("log")
    axes.set_yscale("log")
    bottom, top = 0.6 * lines[0].min(), 1.6 * n.max()
    edges = [np.full_like(n, bottom), *lines, np.full_like(n, top)]
    shades = ("#f4f4f4", "#dbe9f4", "#bcd7ea", "#9cc4df")
    for low, high, shade in zip(edges, edges[1:], shades, strict=False):
        axes.fill_between(n, low, high, color=shade, linewidth=0, zorder=0)
    for i, (name, y) in enumerate(zip(exact, lines, strict=True)):
        axes.plot(n, y, color=COLOURS[i], linestyle=LINES[i], linewidth=1.5, label=name)
    for i, (name, (x, y)) in enumerate(measured.items()):
        axes.plot(
            x,
            y,
            linestyle="none",
            marker=MARKERS[i],
            markersize=5,
            markerfacecolor="white",
            color=COLOURS[i],
            label=name,
        )
    _name_regions(axes, n, edges)
    axes.set_xlim(n.min() / 1.06, n.max() * 1.06)
    axes.set_ylim(bottom, top)
    plain_log(axes.xaxis, n.min(), n.max())
    plain_log(axes.yaxis, bottom, top)
    axes.set_xlabel("number of patterns N")
    axes.set_ylabel(BETA_EFF)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    if title:
        axes.set_title(title, fontsize=10, loc="left")
    return save(figure, path)


def _name_regions(axes, n, edges) -> None:
    # between the edges [5, A]: bottom, K_s, K_c, N and top of the figure
    bottom, top = edges[0][0], edges[4][0]
    middle = np.exp(0.62 * np.log(n.max()) + 0.38 * np.log(n.min()))
    at = [np.interp(middle, n, edge) for edge in edges]
    right, left, last = n.max() / 1.25, n.min() * 1.25, n.max() / 1.15
    for word, x, y, side in (
        ("one attractor", middle, np.sqrt(at[0] * at[1]), "center"),
        (
            "patterns lowest,\ncentroid metastable",
            right,
            np.interp(right, n, np.sqrt(edges[2] * edges[3])),
            "right",
        ),
        ("N pattern minima, centroid unstable", left, np.sqrt(at[3] * top), "left"),
    ):
        axes.text(x, y, word, ha=side, va="center", fontsize=8.5)
    axes.annotate(
        "centroid lowest,\npatterns metastable",
        (last, np.interp(last, n, np.sqrt(edges[1] * edges[2]))),
        (last, bottom * 1.12),
        ha="right",
        va="bottom",
        fontsize=8.5,
        arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.8},
    )


def landscape(
    line: Panel,
    grids: Sequence[tuple[str, np.ndarray]],
    u,
    v,
    points: Sequence[Mapping[str, np.ndarray]],
    path: str | Path,
    *,
    title: str | None = None,
) -> Path:
    """A row of energy maps, and a slice in one dimension under them.

    grids: (name, E [V, U]) over u [U] and v [V]; points: for each map, name -> coordinates [P, 2].
    Twelve bands of each map are drawn, from its minimum to its 80% quantile.
    """
    if not grids or len(grids) != len(points):
        raise InputError("a landscape needs at least one map, and points for each")
    figure = Figure(figsize=(max(2.45 * len(grids), 6.0), 6.2), layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[1, 1.25])[:, 0]
    entries: dict[str, Artist] = {}
    maps = upper.subplots(1, len(grids), squeeze=False, sharex=True, sharey=True)[0]
    for axes, (name, values), marks in zip(maps, grids, points, strict=True):
        values = np.asarray(values, np.float64)
        bottom = values.min()
        # Square roots: levels crowd where minima differ by little.
        levels = bottom + np.linspace(0, 1, 13) ** 2 * (np.quantile(values, 0.8) - bottom)
        levels = np.unique(levels)
        axes.contourf(u, v, values, levels=levels, cmap="Blues_r", extend="max")
        axes.contour(u, v, values, levels=levels, colors="white", linewidths=0.4)
        for j, (kind, where) in enumerate(marks.items()):
            where = np.asarray(where, np.float64).reshape(-1, 2)
            (drawn,) = axes.plot(
                where[:, 0],
                where[:, 1],
                linestyle="none",
                marker=MARKERS[j],
                markersize=5,
                markerfacecolor=("none", COLOURS[1], COLOURS[4])[j % 3],
                markeredgecolor=("black", "white", "white")[j % 3],
            )
            entries.setdefault(kind, drawn)
        axes.set_title(name, fontsize=9)
        axes.set_aspect("equal")
        axes.tick_params(labelsize=7)
    axes = lower.subplots()
    tidy(axes)
    draw(axes, line.curves, {})
    finish(axes, line, named=True)
    axes.set_xlabel(line.x_label)
    handles, names = axes.get_legend_handles_labels()
    axes.legend(
        [*handles, *entries.values()],
        [*names, *entries.keys()],
        frameon=False,
        fontsize=8,
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
    )
    if title:
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return save(figure, path)


def merge_tree(
    beta_eff,
    label,
    order,
    path: str | Path,
    *,
    names: Sequence[str] | None = None,
    colours: Sequence[int] | None = None,
    number=None,
    marks: Mapping[str, float] | None = None,
    title: str | None = None,
) -> Path:
    """Minima from N patterns joining as beta falls: a line per minimum, at the mean of its leaves.

    beta_eff [S], largest first; label int [S, N], the minimum of each pattern; order int [N],
    leaves from bottom to top. names: N labels of the leaves. colours: N numbers of groups, which
    colour a branch while all its leaves are of one group. number [S]: drawn in a panel above.
    """
    x, label = np.asarray(beta_eff, np.float64), np.asarray(label, int)
    order = np.asarray(order, int)
    if label.shape != (len(x), len(order)):
        raise InputError(
            f"a merge tree needs labels [{len(x)}, {len(order)}], got {list(label.shape)}"
        )
    count = len(order)
    figure = Figure(figsize=(6.4, 2.6 + min(0.16 * count, 6.5)), layout="constrained")
    above, axes = figure.subplots(
        2, 1, sharex=True, height_ratios=[1.1, 0.8 + min(0.16 * count, 6.5)]
    )
    tidy(axes)
    tidy(above)
    _draw_branches(axes, x, label, order, np.zeros(count, int) if colours is None else colours)
    axes.set_ylim(-1, count)
    axes.grid(axis="y", visible=False)
    if names is None:
        axes.set_yticks([])
    else:
        axes.set_yticks(np.arange(count), [names[i] for i in order], fontsize=6.5)
    axes.yaxis.tick_right()
    axes.set_ylabel("patterns")
    axes.set_xlabel(BETA_EFF)
    axes.set_xlim(x.min(), x.max())
    if number is not None:
        above.step(x, np.asarray(number), where="mid", color=COLOURS[0], linewidth=1.4)
        above.set_yscale("log")
        plain_log(above.yaxis, *above.get_ylim())
        above.set_ylabel("minima", fontsize=9)
    log_x(axes)
    mark(above, marks or {}, named=True)
    mark(axes, marks or {}, named=False)
    if title:
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return save(figure, path)


def _draw_branches(axes, x, label, order, group) -> None:
    leaf = np.empty(len(order))
    leaf[order] = np.arange(len(order))
    group, height = np.asarray(group, int), np.empty(label.shape)
    for s, minimum in [(s, k) for s, row in enumerate(label) for k in np.unique(row)]:
        inside = np.flatnonzero(label[s] == minimum)
        level = height[s, inside] = leaf[inside].mean()
        pure = len(np.unique(group[inside])) == 1
        colour = COLOURS[group[inside[0]] % len(COLOURS)] if pure else GREY
        # Half a step either way; where branches join, an upright of the joint's colour.
        left = x[s] if s == len(x) - 1 else np.sqrt(x[s] * x[s + 1])
        right = x[s] if s == 0 else np.sqrt(x[s] * x[s - 1])
        axes.plot([left, right], [level, level], color=colour, linewidth=1.1)
        if s == 0:
            continue
        before = height[s - 1, inside]
        if np.ptp(np.append(before, level)) > 0:
            ends = [min(before.min(), level), max(before.max(), level)]
            axes.plot([right, right], ends, color=colour, linewidth=1.1)


def window(
    logsnr,
    bands: Sequence[tuple[str, int, np.ndarray]],
    resolved: Mapping[str, np.ndarray],
    scale: np.ndarray,
    path: str | Path,
    *,
    marks: Mapping[str, float],
    measured: Mapping[str, Sequence[float]],
    prior: float,
    title: str | None = None,
) -> Path:
    """The guidance window: posterior, what is decided, and lambda_t over log SNR [T].

    bands: (name, number of its colour, values [T, B]) of p(c | x_t); resolved: name -> curve [T]
    from 0 to 1; scale: lambda_t [T, B]; marks: predictions in log SNR; measured: name -> (10%, 50%,
    90%) of a curve, drawn as bars.
    """
    t = np.asarray(logsnr, np.float64)
    figure = Figure(figsize=(6.8, 8.2), layout="constrained")
    first, second, third, bars = figure.subplots(
        4, 1, sharex=True, height_ratios=[1.2, 1.2, 1.2, 0.25 + 0.16 * len(measured)]
    )
    for axes in (first, second, third, bars):
        tidy(axes)
    for name, number, values in bands:
        colour = COLOURS[number]
        low, middle, high = np.quantile(np.asarray(values, np.float64), LEVELS, axis=1)
        first.fill_between(t, low, high, color=colour, alpha=0.18, linewidth=0)
        first.plot(t, middle, color=colour, linewidth=1.6, linestyle=LINES[number], label=name)
    first.axhline(prior, color=GREY, linewidth=0.8, linestyle=DOTS)
    first.set_ylabel("posterior $p(c\\,|\\,x_t)$", fontsize=9)
    first.legend(frameon=False, fontsize=8, title="median, 10-90%", title_fontsize=7)
    for i, (name, curve) in enumerate(resolved.items()):
        second.plot(t, curve, color=COLOURS[i], linestyle=LINES[i], linewidth=1.5, label=name)
    second.set_ylabel("share", fontsize=9)
    second.legend(frameon=False, fontsize=8)
    values = np.maximum(np.asarray(scale, np.float64), 1e-12)
    odds = prior / (1 - prior)
    quantiles = {"median": 0.5, "90%": 0.9, "99%": 0.99}
    for i, (name, q) in enumerate(quantiles.items()):
        third.plot(
            t,
            np.quantile(values, q, axis=1),
            color=COLOURS[2],
            linestyle=LINES[i],
            linewidth=1.4,
            label=name,
        )
    third.axhline(odds, color=GREY, linewidth=0.8, linestyle=DOTS)
    third.set_yscale("log")
    third.set_ylim(odds / 300, None)
    third.set_ylabel(r"DNG scale $\lambda_t$", fontsize=9)
    third.legend(frameon=False, fontsize=8, title="of chains", title_fontsize=7)
    for i, (low, middle, high) in enumerate(measured.values()):
        bars.plot([low, high], [-i, -i], color=COLOURS[i % len(COLOURS)], linewidth=3)
        bars.plot(middle, -i, marker="o", color=COLOURS[i % len(COLOURS)], markersize=6)
    bars.set_yticks(-np.arange(len(measured)), list(measured), fontsize=8)
    bars.set_ylim(0.6 - len(measured), 0.6)
    bars.set_xlabel(LOGSNR)
    first.set_xlim(t.min(), t.max())
    for axes in (first, second, third, bars):
        mark(axes, marks, named=axes is first)
    if title:
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return save(figure, path)


def heads(
    beta_eff,
    marks: Mapping[str, float],
    participation: Mapping[str, object],
    path: str | Path,
    *,
    tokens: int,
    title: str | None = None,
) -> Path:
    """beta_eff [H] of an attention layer's heads beside marked values; keys per state by name, [H].

    tokens: number of keys, the upper end of the right panel.
    """
    figure = Figure(figsize=(7.6, 3.6), layout="constrained")
    apart(figure)
    left, right = figure.subplots(1, 2)
    at = np.arange(len(np.asarray(beta_eff)))
    left.bar(at, np.asarray(beta_eff), color=COLOURS[0], width=0.6)
    for (name, value), style in zip(marks.items(), (DASH, "-"), strict=True):
        left.axhline(value, color=COLOURS[1], linestyle=style, label=name)
    left.set(xlabel="head", xticks=at[:: 1 + len(at) // 16])
    left.set_ylabel(BETA_EFF, fontsize=9)
    left.set_ylim(0, 1.4 * max(np.max(beta_eff), *marks.values()))  # room for the legend
    for i, (name, values) in enumerate(participation.items()):
        right.plot(at, np.asarray(values), MARKERS[i], color=COLOURS[i + 2], label=name)
    right.set(xlabel="head", xticks=at[:: 1 + len(at) // 16])
    right.set_ylabel(r"keys per state, $1/\sum p^2$", fontsize=9)
    right.set_ylim(0, tokens)
    for axes in (left, right):
        tidy(axes)
        axes.legend(frameon=False, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return save(figure, path)
