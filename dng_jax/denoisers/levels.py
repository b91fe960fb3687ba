r"""Noise levels as networks that were trained on a numbered schedule know them.

Level t = 0 .. T-1 of a schedule (dng_jax.schedules), least noisy first, has log-SNR l_t, strictly
decreasing. A row of any step table, at log-SNR l, is

    nearest         argmin_t |l_t - l|, int32
    interpolated    t + (l_t - l) / (l_t - l_{t+1})  for  l_{t+1} <= l <= l_t, float32

clipped to the ends: beyond the levels that it was trained on, a network is asked for the last one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.rules import pytree, static
from dng_jax.schedules import Schedule
from dng_jax.steps import StepRow


@pytree
class Timesteps:
    """row -> t []. logsnr float32 [T], the levels. Make it with `timesteps`."""

    logsnr: jax.Array
    interpolated: bool = static(default=False)

    def __call__(self, row: StepRow) -> jax.Array:
        logsnr = jnp.asarray(row.logsnr, jnp.float32)
        if self.interpolated:
            numbers = jnp.arange(len(self.logsnr), dtype=jnp.float32)
            return jnp.interp(-logsnr, -self.logsnr, numbers)
        return jnp.argmin(jnp.abs(self.logsnr - logsnr)).astype(jnp.int32)


def timesteps(schedule: Schedule, *, interpolated: bool = False) -> Timesteps:
    """The `level` of a network that takes the timestep t = 0..T-1 of its training schedule.

    schedule: the levels that it was trained on, all of them. The nearest one as an int32, or, for a
    network that takes fractions, the interpolated one as a float32. Counted from 1:
    level=lambda row: 1 + nearest(row).
    """
    return Timesteps(jnp.asarray(np.asarray(schedule.logsnr), jnp.float32), bool(interpolated))
