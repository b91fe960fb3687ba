r"""Step tables: one row type for every sampler.

A row takes x at level t = (alpha_t, sigma_t) to the next, less noisy level s:

    x_s = c_x x_t + c_eps eps + std z,                       z ~ N(0, I)

and carries the Gaussian reverse kernel that a posterior tracker scores,

    p(x_s | x_t, k) = N(x_s; k_x x_t + k_eps eps_k, k_var I).

With a = alpha_t / alpha_s and the variance gained by noising, g = sigma_t^2 - a^2 sigma_s^2,

    forward posterior variance   v = sigma_s^2 g / sigma_t^2     ("posterior", beta-tilde)
    noising variance             g                               ("beta", beta_t for VP schedules)
    kernel mean                  k_x = 1 / a,   k_eps = -g / (a sigma_t)

holds for variance-preserving, variance-exploding and rectified-flow schedules alike; for DDPM's
it is Ho et al. 2020, eq. 7 and 11 with alpha_bar ratios in strided steps.

    ancestral    c = k, std^2 = v or g
    DDIM(eta)    std = eta sqrt(v),  c_x = 1/a,  c_eps = sqrt(sigma_s^2 - std^2) - sigma_t / a
                 (Song et al. 2021, arXiv 2010.02502, eq. 12); eta = 1 is the ancestral sampler.
                 On an EDM schedule eta = 0 is the Euler step of Karras et al. 2022 and eta = 1
                 the Euler-ancestral step of k-diffusion.

The last row ends at the clean image (alpha 1, sigma 0): there v = 0, no noise is added, and the
transition has no density to score. It is marked by k_var = inf, which makes every term of a
tracker's update vanish.

Second-order steps (Heun) are left out on purpose: they evaluate a rule at a point that is not on
the chain, and which of the two evaluations a tracker should learn from has no derivation.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError, choose
from dng_jax.schedules import Schedule, Spacing, check, respace

Variance = Literal["posterior", "beta"]


class StepRow(NamedTuple):
    """One step, or stacked over T a step table (noisiest step first).

    index: int32, position in the table, 0 at the noisiest level; seeds the step's noise
    alpha, sigma: the level of x_t;  alpha_next, sigma_next: the level of x_s
    c_x, c_eps, std: the step;  k_x, k_eps, k_var: the kernel that is scored (k_var inf: it is not)
    All float32 but index; shape [] for one step, [T] for a table, whose columns are NumPy arrays
    until a program takes them.
    """

    index: jax.Array  # type: ignore[assignment]  # tuple has a method of this name
    alpha: jax.Array
    sigma: jax.Array
    alpha_next: jax.Array
    sigma_next: jax.Array
    c_x: jax.Array
    c_eps: jax.Array
    std: jax.Array
    k_x: jax.Array
    k_eps: jax.Array
    k_var: jax.Array

    @property
    def logsnr(self) -> jax.Array:
        """log(alpha^2 / sigma^2) of x_t."""
        xp = np if isinstance(self.alpha, np.ndarray) else jnp
        return 2 * (xp.log(self.alpha) - xp.log(self.sigma))


StepTable = StepRow


def ancestral(
    schedule: Schedule,
    steps: int | None = None,
    *,
    spacing: Spacing = "trailing",
    sampling_variance: Variance = "posterior",
    scoring_variance: Variance = "posterior",
) -> StepTable:
    """DDPM's ancestral sampler, on any schedule.

    steps: number of network evaluations, 1..T; None takes every level. sampling_variance is that
    of the noise added, scoring_variance that of the kernel a tracker scores; v and g differ by the
    factor sigma_t^2 / sigma_s^2, 2.2 at the last step of 1000.
    """
    choose(sampling_variance, ("posterior", "beta"), "sampling variance")
    choose(scoring_variance, ("posterior", "beta"), "scoring variance")
    level = _levels(schedule, steps, spacing)
    variance = {"posterior": level.v, "beta": level.g}
    return _table(
        level,
        c_eps=level.k_eps,
        std=np.sqrt(variance[sampling_variance]),
        k_var=variance[scoring_variance],
    )


def ddpm(
    schedule: Schedule, steps: int | None = None, *, spacing: Spacing = "trailing"
) -> StepTable:
    """Ancestral sampling with the forward posterior variance in both roles (the default)."""
    return ancestral(schedule, steps, spacing=spacing)


def ddpm_paper(
    schedule: Schedule, steps: int | None = None, *, spacing: Spacing = "trailing"
) -> StepTable:
    """The combination of the DNG authors' program: sample with beta_t, score with beta-tilde_t."""
    return ancestral(schedule, steps, spacing=spacing, sampling_variance="beta")


def ddim(
    schedule: Schedule, steps: int | None = None, *, eta: float = 0.0, spacing: Spacing = "trailing"
) -> StepTable:
    """DDIM(eta), eta in [0, 1]; deterministic at eta = 0.

    A tracker on a table with eta < 1 needs the divergence probe (`dng_jax.posterior`).
    """
    if not 0 <= eta <= 1:
        raise InputError(f"eta must lie in [0, 1], got {eta}")
    level = _levels(schedule, steps, spacing)
    std = float(eta) * np.sqrt(level.v)
    c_eps = np.sqrt(level.sigma_next**2 - std**2) - level.sigma * level.k_x
    return _table(level, c_eps=c_eps, std=std, k_var=level.v)


def euler(
    schedule: Schedule, steps: int | None = None, *, spacing: Spacing = "uniform"
) -> StepTable:
    """DDIM(0) under the name it has on EDM schedules (Karras et al. 2022, alg. 1)."""
    return ddim(schedule, steps, eta=0.0, spacing=spacing)


def euler_ancestral(
    schedule: Schedule, steps: int | None = None, *, spacing: Spacing = "uniform"
) -> StepTable:
    """DDIM(1) under the name it has on EDM schedules: to sigma_down, then noise of sigma_up."""
    return ddim(schedule, steps, eta=1.0, spacing=spacing)


TABLES = {
    "ddpm": ddpm,
    "ddpm-paper": ddpm_paper,
    "ddim": ddim,
    "euler": euler,
    "euler-ancestral": euler_ancestral,
}


def noise_ratio(table: StepTable) -> np.ndarray:
    """std^2 / k_var over the scored steps: 1 for ancestral sampling, 0 for deterministic."""
    std, k_var = np.asarray(table.std, np.float64), np.asarray(table.k_var, np.float64)
    scored = np.isfinite(k_var)
    return std[scored] ** 2 / k_var[scored]


def nearly_deterministic(table: StepTable) -> bool:
    """Whether most scored steps add less than half of the variance that their kernel has."""
    ratio = noise_ratio(table)
    return bool(ratio.size and np.median(ratio) < 0.5)


class _Levels(NamedTuple):
    alpha: np.ndarray
    sigma: np.ndarray
    alpha_next: np.ndarray
    sigma_next: np.ndarray
    k_x: np.ndarray
    k_eps: np.ndarray
    g: np.ndarray
    v: np.ndarray


def _levels(schedule: Schedule, steps: int | None, spacing: Spacing) -> _Levels:
    schedule = check(schedule) if steps is None else respace(schedule, steps, spacing)
    alpha, sigma = schedule.alpha[::-1], schedule.sigma[::-1]
    alpha_next, sigma_next = np.append(alpha[1:], 1.0), np.append(sigma[1:], 0.0)
    a = alpha / alpha_next
    g = sigma**2 - a**2 * sigma_next**2
    return _Levels(
        alpha,
        sigma,
        alpha_next,
        sigma_next,
        1 / a,
        -g / (a * sigma),
        g,
        sigma_next**2 * g / sigma**2,
    )


def _table(level: _Levels, *, c_eps, std, k_var) -> StepTable:
    last = level.sigma_next == 0
    columns = {
        "alpha": level.alpha,
        "sigma": level.sigma,
        "alpha_next": level.alpha_next,
        "sigma_next": level.sigma_next,
        "c_x": level.k_x,
        "c_eps": c_eps,
        "std": np.where(last, 0.0, std),
        "k_x": level.k_x,
        "k_eps": level.k_eps,
        "k_var": np.where(last, np.inf, k_var),
    }
    index: Any = np.arange(len(level.alpha), dtype=np.int32)
    return StepRow(index, **{name: column.astype(np.float32) for name, column in columns.items()})
