r"""Temperature and offset of the likelihood ratio: numbers, or functions of the noise level.

    profile(row) = interpolation of (knots, values) at logsnr(row), constant beyond both ends

Temperature tau(row) multiplies a tracker's log-likelihood ratios; 1 is Bayes' rule with the kernels
as they are, 0 ignores a step. A learned network wants tau < 1 at low noise, where the ratio divides
the network's error by a tiny variance.

Offset omega(row) adds to what a tracker keeps of a concept (log p for pair and classes, the
log-odds for odds), before its clamp, in nats per unit of log-SNR that a step gains:

    log p or log-odds  +=  omega(row) gain(row),      gain = logsnr(x_s) - logsnr(x_t)

Over a chain it sums to the integral of omega over log-SNR, whatever the number of steps and the
dimension. `pair` and `odds` on a learned network rank well and are shifted: log p of a concept
falls even on chains that end in it. A constant at the end, which is a larger prior, mends the last
level and spoils all others, where nothing had been lost yet. Measured with `pair` on the bundled
network of digits (2,048 held-out unguided runs, ten classes, 50 steps, tau fitted with each; NLL in
nats of "this class comes out", last level, then mean over the chain):

    no offset                              .160     .262
    a constant added to the log-prior      .094     .980
    the same for every step                .089     .268       .067, 1.45 fitted on the last level
    the same per unit of log-SNR           .084     .270
    a function of the log-SNR              .068     .246       nothing below -1, .5 to .8 beyond 1

The last is what `dng_jax.posterior.fitting.fit_temperature` fits: the only form that helps at every
level, those at which a chain is guided too.
"""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError
from dng_jax.rules import known, number, pytree
from dng_jax.steps import StepRow


@pytree
class Profile:
    """knots [n] log-SNR, increasing (natural log); values [n] at them."""

    knots: jax.Array
    values: jax.Array

    def weights(self, row: StepRow) -> jax.Array:
        """Linear weights of the values at this row, [n], summing to 1."""
        n = self.knots.shape[-1]
        if n == 1:
            return jnp.ones_like(self.values)
        order = jnp.arange(n, dtype=self.values.dtype)
        position = jnp.interp(row.logsnr, self.knots, order)
        return jnp.maximum(0.0, 1 - jnp.abs(position - order))


@pytree
class Temperature(Profile):
    """values >= 0. Make it with `temperature`."""

    def __call__(self, row: StepRow) -> jax.Array:
        return jnp.sum(self.weights(row) * self.values)


@pytree
class Offset(Profile):
    """values in nats per unit of log-SNR. Make it with `offset`."""

    def __call__(self, row: StepRow) -> jax.Array:
        return jnp.sum(self.weights(row) * self.values) * gain(row)


def gain(row: StepRow) -> jax.Array:
    """log-SNR that the scored kernel of a step gains, in nats; 0 where the step is not scored."""
    scored = jnp.isfinite(row.k_var) & (row.k_var > 0) & (row.sigma_next > 0)
    ratio = row.alpha_next * row.sigma / (row.alpha * jnp.where(scored, row.sigma_next, 1.0))
    return jnp.where(scored, 2 * jnp.log(jnp.where(scored, ratio, 1.0)), 0.0)


def temperature(value) -> Temperature:
    """A constant temperature, or a pair (knots, values), or a Temperature as it is.

    Values >= 0; knots [n] are log-SNRs in nats, increasing. InputError for anything else.
    """
    return _profile(Temperature, value, "temperature", 0)


def offset(value) -> Offset:
    """A constant offset, or a pair (knots, values), or an Offset as it is; see `temperature`."""
    return _profile(Offset, value, "offset", -np.inf)


P = TypeVar("P", bound=Profile)


def _profile(kind: type[P], value, name: str, low: float) -> P:
    if isinstance(value, kind):
        return value
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise InputError(
                f"a table of {name}s is a pair (knots, values), got {len(value)} parts"
            )
        knots, values = value
        if np.ndim(knots) != 1 or np.shape(knots) != np.shape(values):
            raise InputError(f"a table of {name}s needs as many log-SNR knots as values")
        at = jnp.asarray(knots, jnp.float32)
        if known(at) and not np.all(np.diff(np.asarray(at)) > 0):
            raise InputError(f"the log-SNR knots of a table of {name}s must increase (in float32)")
        return kind(at, number(values, name, low=low))
    return kind(jnp.zeros(1, jnp.float32), number(value, name, low=low, axes=0).reshape(1))
