"""Figures of guided sampling: arrays in, one file out.

    style        what all figures share: colours for colour-blind readers too, axes, saving
    curves       vectors, bars and legends of curves
    grids        image_grid: rows of images
    tradeoffs    trade_off: safety against diversity
    over_time    posterior_over_time, error_over_time: along a sampling chain
    calibration  reliability: predicted against observed
    fronts       front: a search, and its front on fresh seeds
    sensitivity  responses: leak and KL against one number at a time
    members      learning: loss curves of trainings searched together

Nothing here touches matplotlib's global state (no pyplot), so a job may draw from any thread and
without a display. Every function checks its arrays, writes `path` (the suffix picks the format;
folders are made) and returns it. Each curve has its own marker or line style besides its colour.

Symbols: R rows, C columns, T steps, B images, N points; p a probability; KL in nats;
logsnr = log(alpha^2/sigma^2).
"""

from dng_jax.plots.calibration import reliability
from dng_jax.plots.fronts import front
from dng_jax.plots.grids import image_grid
from dng_jax.plots.members import learning
from dng_jax.plots.over_time import error_over_time, posterior_over_time
from dng_jax.plots.sensitivity import responses
from dng_jax.plots.tradeoffs import trade_off

__all__ = [
    "error_over_time",
    "front",
    "image_grid",
    "learning",
    "posterior_over_time",
    "reliability",
    "responses",
    "trade_off",
]
