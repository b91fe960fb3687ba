"""What every figure shares: colours for colour-blind readers too, axes, and how it is saved.

No pyplot, so nothing here touches matplotlib's global state. Colours are Okabe & Ito's (2008).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from dng_jax import disk
from dng_jax.errors import InputError

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
GREY = "#777777"


def new_axes(title: str | None) -> tuple[Figure, Axes]:
    """A figure of one pair of axes, tidied, with its title on the left.

    Titles, here as elsewhere in the package, are not read as formulas: classes may have any name.
    """
    figure = Figure(figsize=(6.0, 3.9), layout="constrained")
    axes = figure.add_subplot()
    tidy(axes)
    if title:
        axes.set_title(title, fontsize=10, loc="left", parse_math=False)
    return figure, axes


def tidy(axes: Axes) -> None:
    """No frame, a pale grid behind the data, small labels."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)


def faded(colour: str) -> tuple[str, float]:
    """A colour for what stands behind the curves: the same, half transparent."""
    return (colour, 0.5)


def plain_ticks(axes: Axes, low: float, high: float) -> None:
    """1, 2, 5 per decade and 0, written out: nobody reads 10^-1 per cent."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(max(high, low)))) + 1)
    # Below the knee the axis is linear, and ticks of a logarithm would mislead.
    ticks = [s * 10.0**d for d in decades for s in (1, 2, 5) if low <= s * 10.0**d <= 1.3 * high]
    axes.set_xticks([0.0, *ticks])
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def save(figure: Figure, path: str | Path) -> Path:
    """Writes the figure at 150 dpi, making folders; InputError for a suffix that is no picture."""
    path = Path(path)
    try:
        with disk.whole(path) as part:
            figure.savefig(part, dpi=150)
    except disk.RefusedError:
        raise
    except ValueError as error:
        raise InputError(f"cannot draw {path.name}: {error}; try the suffix .png") from error
    return path
