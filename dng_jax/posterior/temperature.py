r"""Temperature of the likelihood ratio, a number or a function of the noise level.

    tau(row) = interpolation of (knots, values) at logsnr(row), constant beyond both ends

tau multiplies a tracker's log-likelihood ratios; 1 is Bayes' rule with the kernels as they are,
0 ignores a step. A learned network wants tau < 1 at low noise, where the ratio divides the
network's error by a tiny variance; `dng_jax.posterior.fitting.fit_temperature` finds the values.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError
from dng_jax.rules import number, pytree
from dng_jax.steps import StepRow


@pytree
class Temperature:
    """knots [n] log-SNR, increasing (natural log); values [n] >= 0. Make it with `temperature`."""

    knots: jax.Array
    values: jax.Array

    def __call__(self, row: StepRow) -> jax.Array:
        return jnp.sum(self.weights(row) * self.values)

    def weights(self, row: StepRow) -> jax.Array:
        """Linear weights of the values at this row, [n], summing to 1."""
        n = self.knots.shape[-1]
        if n == 1:
            return jnp.ones_like(self.values)
        order = jnp.arange(n, dtype=self.values.dtype)
        position = jnp.interp(row.logsnr, self.knots, order)
        return jnp.maximum(0.0, 1 - jnp.abs(position - order))


def temperature(value) -> Temperature:
    """A constant temperature, or a pair (knots, values), or a Temperature as it is.

    Values >= 0; knots [n] are log-SNRs in nats, increasing. InputError for anything else.
    """
    if isinstance(value, Temperature):
        return value
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise InputError(
                f"a temperature table is a pair (knots, values), got {len(value)} parts"
            )
        knots, values = value
        if np.ndim(knots) != 1 or np.shape(knots) != np.shape(values):
            raise InputError("a temperature table needs as many log-SNR knots as values")
        if not np.all(np.diff(np.asarray(knots)) > 0):
            raise InputError("the log-SNR knots of a temperature must increase")
        return Temperature(jnp.asarray(knots, jnp.float32), number(values, "temperature", low=0))
    return Temperature(
        jnp.zeros(1, jnp.float32), number(value, "temperature", low=0, axes=0).reshape(1)
    )
