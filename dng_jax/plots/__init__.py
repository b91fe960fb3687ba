"""Figures of guided sampling: arrays in, one file out.

    style      what all figures share: colours for colour-blind readers too, axes, saving
    figures    image_grid, trade_off, posterior_over_time, reliability, error_over_time, responses

Every figure checks its arrays and writes the file it is given, whose suffix picks the format.
"""

from dng_jax.plots.figures import (
    error_over_time,
    image_grid,
    posterior_over_time,
    reliability,
    responses,
    trade_off,
)

__all__ = [
    "error_over_time",
    "image_grid",
    "posterior_over_time",
    "reliability",
    "responses",
    "trade_off",
]
