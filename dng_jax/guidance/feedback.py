r"""Feedback Guidance (Koulischer et al. 2025, arXiv 2506.06085): CFG that follows a posterior.

    r = e^L estimates p_t(x | c) / p_t(x | base),  L_T = 0
    lambda_t = r / (r - (1 - pi));    eps = eps_base + lambda_t (eps_positive - eps_base)
    L <- clamp( L - tau/(2 k_var) (|x'-mu_c|^2 - |x'-mu_b|^2) + off, L_min, L_max )
    L_min = log( (1 - pi) lambda_max / (lambda_max - 1) )          L_max = 3

The assumption behind it: the learned conditional is (1 - pi) times the base plus pi times the
wanted density. From activation times t0, t1 in [0, 1] (1 = pure noise), N steps and lambda_ref = 3:
off = log((1-pi) lambda_ref / (lambda_ref - 1)) / ((1 - t0) N) and tau = |2 k_var(t1) off / 10|,
where k_var(t1), as in the authors' program, is interpolated linearly at position t1 N among the
steps counted from the clean end: 0 is the step to the clean image, of variance 0.

Outside an interval of noise levels it falls back to lambda = 1, the condition alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError
from dng_jax.posterior.evidence import divergence_numerator, gather, log_ratio
from dng_jax.posterior.temperature import Temperature
from dng_jax.posterior.temperature import temperature as as_temperature
from dng_jax.rules import (
    Move,
    Step,
    count,
    number,
    one_each,
    per_sample,
    pytree,
    static,
    zeros_per_sample,
)
from dng_jax.steps import StepTable


@pytree
class Feedback:
    """State: L [B]. Make it with `feedback` or `feedback_from_times`."""

    pi: jax.Array
    temperature: Temperature
    offset: jax.Array
    scale_max: jax.Array
    log_ratio_max: jax.Array
    positive: str = static(default="positive")
    probes: int = static(default=0)

    @property
    def roles(self) -> tuple[str, ...]:
        return ("base", self.positive)

    def init_state(self, x):
        return zeros_per_sample(x)

    def apply(self, state, step: Step):
        ratio = jnp.exp(state)
        pi, scale_max = (one_each(getattr(self, n), step.x, n) for n in ("pi", "scale_max"))
        lambda_t = jnp.minimum(ratio / (ratio - (1 - pi)), scale_max)
        delta = per_sample(lambda_t, step.x) * (step.preds[self.positive] - step.base)
        return delta, state, {"lambda": lambda_t, "log_ratio": state}

    def outside(self, step: Step):
        """The condition alone."""
        return step.preds[self.positive] - step.base

    def update(self, state, step: Step, move: Move):
        offset, log_ratio_max = (
            one_each(getattr(self, n), step.x, n) for n in ("offset", "log_ratio_max")
        )
        evidence = gather(step, move, (self.positive,), "base", self.probes)
        gap = 2 * evidence.inner[:, 0] - evidence.gram[:, 0, 0]
        gap += divergence_numerator(evidence.divergence[:, 0], step.row)
        offset = jnp.where(jnp.isfinite(step.row.k_var), offset, 0.0)
        state = state + log_ratio(self.temperature(step.row) * gap, step.row) + offset
        log_ratio_min = jnp.log((1 - self.pi) * self.scale_max / (self.scale_max - 1))
        return jnp.clip(state, log_ratio_min, log_ratio_max)


def feedback(
    pi: float = 0.9,
    *,
    temperature: float | tuple | Temperature = 1.0,
    offset: float = 0.0,
    scale_max: float = 10.0,
    log_ratio_max: float = 3.0,
    positive: str = "positive",
    probes: int = 0,
) -> Feedback:
    """Feedback Guidance; pi in (0, 1), scale_max > 1, offset in nats per step.

    Each of these, and log_ratio_max, is a number or one per image [B].
    temperature as for a tracker; log_ratio_max L_max in nats. probes: Rademacher probes per step
    for deterministic tables, as for a tracker (0: none). InputError for numbers out of range.
    """
    return Feedback(
        number(pi, "pi", low=0, high=1, open_=True),
        as_temperature(temperature),
        number(offset, "offset"),
        number(scale_max, "scale_max", low=1, open_=True),
        number(log_ratio_max, "log_ratio_max"),
        positive,
        count(probes, "probes"),
    )


def feedback_from_times(
    table: StepTable,
    t0: float,
    t1: float,
    *,
    pi: float = 0.9,
    scale_ref: float = 3.0,
    scale_max: float = 10.0,
    positive: str = "positive",
    probes: int = 0,
) -> Feedback:
    """Feedback Guidance set by two activation times in [0, 1), 1 being pure noise.

    Every argument is a single number; probes as for feedback.
    """
    number(t0, "t0", low=0, high=0.999, axes=0)
    number(t1, "t1", low=0, high=0.999, axes=0)
    number(pi, "pi", low=0, high=1, open_=True, axes=0)
    number(scale_ref, "scale_ref", low=1, open_=True, axes=0)
    k_var = np.asarray(table.k_var, np.float64)
    steps = len(k_var)
    if steps < 2:
        raise InputError("activation times need a table of at least 2 steps")
    offset = np.log((1 - pi) * scale_ref / (scale_ref - 1)) / ((1 - t0) * steps)
    from_clean = np.append(0.0, k_var[-2::-1])
    tau = abs(2 * np.interp(t1 * steps, np.arange(steps), from_clean) * offset / 10)
    return feedback(
        pi,
        temperature=float(tau),
        offset=float(offset),
        scale_max=scale_max,
        positive=positive,
        probes=probes,
    )
