r"""Dynamic Negative Guidance (Koulischer et al., ICLR 2025, arXiv 2410.14398).

With p = p(forbidden | x_t), tracked along the chain, the complement's prediction is

    eps   = eps_b - lambda_t (eps_n - eps_b),     lambda_t = lambda_0 p / (1 - p)

exact at lambda_0 = 1 (derived in dng_jax.guidance). Several concepts: n is their posterior-weighted
prediction, p their total.

A tracker over all classes also knows the complement's own prediction a (`View.eps_allowed`). Asked
to do without a base prediction, the rule takes the posterior-weighted mixture
eps_b = p eps_n + (1 - p) eps_a, which gives, without any division,

    eps   = eps_a + [p - lambda_t (1 - p)] (eps_n - eps_a),   lambda_t (1 - p) = lambda_0 p

so that at lambda_0 = 1 it is eps_a itself, whatever p is. A cap scale_max on lambda_t belongs to
the first form, where p -> 1 divides; in the second it would turn certain chains towards what is
forbidden (at p = .999 and a cap of 99, nine tenths of the way), and there is none by default.
lambda_0 = 0 leaves the base model unguided and the tracker running: a detector. Outside an interval
of noise levels the rule falls back to the base prediction.

An offset `drift` of the tracker gives back what guidance takes from p, so p stays up, lambda_t
reaches its cap and the image is pushed as long as there are steps. Measured on the exact digits
("even" without fours, 30 cosine steps, guided by w = 1 and 3; RMS of the worst of 128 images,
.9 to .95 unguided): drift .5 up to 5.5 without a cap and .95 with scale_max = 10; .8 up to 61 and
1.7; 1 from 46 to 870, with scale_max = 10 from 5.5 to 18, with 3 from 2.2 to 6.2. So up to .8 a
scale_max is a remedy, beyond it there is none, and `dynamic_negative` warns. That is of pair; with
odds, which has a cap of its own (odds_max), a lower scale_max can make the worst image worse, drift
or not: at drift 0 it is .9 to 1.1 without one, up to 7 with scale_max = 10 and 2.6 with 3.
"""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError, choose
from dng_jax.guidance.skipping import EVERY, SKIPPING_SCALE_MAX, Skipping, skipping
from dng_jax.posterior.view import Tracker
from dng_jax.rules import Move, Step, known, number, one_each, per_sample, pytree, static

# Beyond this the odds leave float32, and guidance_scale = 0 times infinity would be NaN.
_LOG_ODDS_MAX = 80.0
# The largest drift of a tracker that a cap on lambda_t can hold.
DRIFT_MAX = 0.8


@pytree
class DynamicNegative:
    """State: the tracker's. Make it with `dynamic_negative`."""

    tracker: Tracker
    guidance_scale: jax.Array
    scale_max: jax.Array
    base: str = static(default="model")

    @property
    def roles(self) -> tuple[str, ...]:
        needed = ("base", *self.tracker.roles) if self.base == "model" else self.tracker.roles
        return tuple(dict.fromkeys(needed))

    def init_state(self, x):
        return self.tracker.init(x)

    def apply(self, state, step: Step):
        view = self.tracker.view(state, step)
        odds = jnp.exp(jnp.minimum(view.log_odds, _LOG_ODDS_MAX))
        guidance_scale = one_each(self.guidance_scale, step.x, "guidance_scale")
        scale_max = one_each(self.scale_max, step.x, "scale_max")
        lambda_t = jnp.minimum(guidance_scale * odds, scale_max)
        p, not_p = jax.nn.sigmoid(view.log_odds), jax.nn.sigmoid(-view.log_odds)
        info = {"lambda": lambda_t, "posterior": p}
        if self.base == "model" or view.eps_allowed is None:
            return -per_sample(lambda_t, step.x) * (view.eps_forbidden - step.base), state, info
        # Infinity stays out of the product: 0 * inf would be NaN, here and in derivatives.
        uncapped = jnp.isinf(scale_max)
        cap = jnp.where(uncapped, jnp.inf, jnp.where(uncapped, 0.0, scale_max) * not_p)
        pushed = jnp.minimum(guidance_scale * p, cap)
        guided = view.eps_allowed + per_sample(p - pushed, step.x) * (
            view.eps_forbidden - view.eps_allowed
        )
        return guided - step.base, state, info

    def update(self, state, step: Step, move: Move):
        return self.tracker.observe(state, step, move)


def dynamic_negative(
    tracker: Tracker,
    guidance_scale: float = 1.0,
    *,
    scale_max: float | None = None,
    base: str | None = None,
    skip_below: float | None = None,
    every: int = EVERY,
) -> DynamicNegative | Skipping:
    """DNG with any tracker.

    guidance_scale: lambda_0 >= 0, a number or one per image [B], as scale_max is. base: "model"
    uses the base network's prediction; "mixture" the posterior-weighted mixture of the tracker's
    classes, which needs no base prediction (only for trackers that know the allowed classes'
    prediction, and their default). scale_max: cap on lambda_t; default none, but 99 for a tracker
    over classes with base "model", which has no cap of its own, and 5 with skip_below. A
    tracker's drift above DRIFT_MAX is warned of.

    skip_below: p in (0, 1] below which an image does without the negative, but for every `every`-th
    step, a whole number from 1; a number or one per image [B] each; None asks at every step. Of the
    trackers pair and odds without probes and drift, on an ancestral table
    (dng_jax.guidance.skipping).
    """
    base = base or ("mixture" if tracker.knows_allowed else "model")
    choose(base, ("model", "mixture"), "base")
    if base == "mixture" and not tracker.knows_allowed:
        raise InputError(
            "base 'mixture' needs the tracker 'classes': pair and odds know no other class"
        )
    if scale_max is None and skip_below is not None:
        scale_max = SKIPPING_SCALE_MAX
    if scale_max is None:
        scale_max = 99.0 if tracker.knows_allowed and base == "model" else jnp.inf
    scale = number(guidance_scale, "guidance_scale", low=0)
    guides = not known(scale) or bool((np.asarray(scale) > 0).any())
    drift = _largest_drift(tracker)
    if base == "model" and guides and drift > DRIFT_MAX:
        warnings.warn(
            f"a drift of {drift:g} gives back to the posterior what guidance takes from it,"
            f" and images can leave all bounds: take at most {DRIFT_MAX}, with a scale_max of 10",
            UserWarning,
            stacklevel=2,
        )
    cap = number(scale_max, "scale_max", low=0, finite=False)
    rule = DynamicNegative(tracker, scale, cap, base)
    return rule if skip_below is None else skipping(rule, skip_below, every)


def _largest_drift(tracker: Tracker) -> np.floating:
    """In float32, as trackers hold it; 0 where it is not known yet, or the tracker has none."""
    drift = getattr(tracker, "drift", 0.0)
    numbers = isinstance(drift, int | float | np.ndarray | np.generic | jax.Array)
    # On the host: under an active jit JAX would trace the comparison of numbers that are known.
    held = np.asarray(drift, np.float32) if numbers and known(drift) else np.zeros(0, np.float32)
    return held.max(initial=0.0)
