"""A transformer's heads, layers by heads: beta_eff, entropy, and the one against the other.

Arrays in, one file out, in the manner of hopfield_jax.plots.curves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from dng_jax.plots.style import COLOURS, MARKERS, save, tidy
from hopfield_jax.plots.curves import BETA_EFF, apart, log_x, mark, plain_log

LETTERS = {
    "one attractor": "1",
    "metastable": "m",
    "single keys": "s",
    "not settled": "?",
}


def head_maps(
    beta_eff: np.ndarray,
    entropy: np.ndarray,
    regime: np.ndarray,
    path: str | Path,
    correlation: tuple[float, float, float],
    *,
    marks: Mapping[str, float] | None = None,
    title: str | None = None,
) -> Path:
    """beta_eff [L, H] > 0, entropy [L, H] in 0..1, regime str [L, H], of analyses.heads.

    correlation: the rank correlation of the first two and its interval, (value, low, high). marks:
    values of beta_eff by name.
    """
    layers = len(beta_eff)
    figure = Figure(figsize=(10.4, 1.3 + max(2.4, 0.34 * layers)), layout="constrained")
    apart(figure)
    cold, spread, against = figure.subplots(1, 3, width_ratios=[1.2, 1.2, 1])
    low, high = beta_eff.min(), beta_eff.max()
    _map(figure, cold, beta_eff, LogNorm(low, max(high, 1.001 * low)), BETA_EFF, _short(beta_eff))
    letters = np.vectorize(lambda name: LETTERS[name])(regime)
    _map(figure, spread, entropy, Normalize(0, 1), r"entropy of attention / $\log T$", letters)
    cold.set_ylabel("layer")
    tidy(against)
    for name, letter in LETTERS.items():
        inside = regime == name
        if inside.any():
            i = list(LETTERS).index(name)
            against.plot(
                beta_eff[inside],
                entropy[inside],
                MARKERS[i],
                color=COLOURS[i],
                markersize=4.5,
                markerfacecolor="none",
                label=f"{letter}: {name}",
            )
    log_x(against)
    against.set(ylim=(0, 1.02), xlabel=r"$\beta_{\mathrm{eff}}$")
    rows = mark(against, marks or {}, named=True)
    against.set_ylabel(r"entropy / $\log T$", fontsize=9)
    value, least, most = correlation
    against.set_title(
        f"rank correlation\n{value:.2f} [{least:.2f}, {most:.2f}]",
        fontsize=9,
        loc="left",
        pad=6 + 10 * rows,
    )
    against.legend(frameon=False, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10, x=0.01, ha="left", parse_math=False)
    return save(figure, path)


def _map(
    figure: Figure, axes: Axes, values: np.ndarray, norm: Normalize, label: str, words: np.ndarray
) -> None:
    image = axes.imshow(values, norm=norm, cmap="cividis", aspect="auto")
    layers, heads = values.shape
    axes.set(xlabel="head", xticks=np.arange(0, heads, 1 + heads // 16))
    axes.set_yticks(np.arange(0, layers, 1 + layers // 16))
    axes.tick_params(labelsize=9, length=0)
    axes.set_title(label, fontsize=9, loc="left")
    bar = figure.colorbar(image, ax=axes, shrink=0.9)
    if isinstance(norm, LogNorm):
        plain_log(bar.ax.yaxis, *_ends(norm))
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    bar.ax.tick_params(labelsize=8)
    if heads > 16:
        return  # too narrow to be written in
    for (i, j), value in np.ndenumerate(values):
        dark = norm(value) < 0.5
        axes.text(
            j,
            i,
            str(words[i, j]),
            ha="center",
            va="center",
            fontsize=6.5,
            color="w" if dark else "k",
        )


def _ends(norm: Normalize) -> tuple[float, float]:
    assert norm.vmin is not None
    assert norm.vmax is not None
    return norm.vmin, norm.vmax


def _short(values: np.ndarray) -> np.ndarray:
    return np.vectorize(lambda v: f"{v:.1f}" if v < 9.95 else f"{v:.0f}")(values)
