"""Figures of guided sampling: arrays in, one file out (style: what all figures share)."""

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
