r"""Noise schedules: how much signal and how much noise there is at each level.

Forward process, for every schedule in this library (x_0 the clean image):

    x_t = alpha_t x_0 + sigma_t eps,        eps ~ N(0, I)

    variance preserving  alpha^2 + sigma^2 = 1   linear, scaled-linear (Ho et al. 2020, arXiv
                                                 2006.11239; Rombach et al. 2022) and cosine
                                                 (Nichol & Dhariwal 2021, arXiv 2102.09672)
    variance exploding   alpha = 1               EDM sigmas (Karras et al. 2022, arXiv 2206.00364)
    rectified flow       alpha = 1 - t, sigma = t   (Liu et al. 2022, arXiv 2209.03003)

Signal-to-noise ratio: SNR = alpha^2 / sigma^2, logsnr = log SNR (natural logarithm).
The parameterisations of a prediction are linear in one another, given x = x_t:

    x0    = (x - sigma eps) / alpha                 score = -eps / sigma = grad log p_t(x)
    v     = alpha eps - sigma x0                    eps = (alpha v + sigma x) / (alpha^2 + sigma^2)
                                                    (Salimans & Ho 2022, arXiv 2202.00512)
    flow  = eps - x0, the velocity dx/dt            eps = (x + alpha flow) / (alpha + sigma)

Schedules are made once, on the host, in float64; step tables turn them into float32 rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np

from dng_jax.errors import InputError, choose

Parameterisation = Literal["eps", "x0", "v", "score", "flow"]
PARAMETERISATIONS = ("eps", "x0", "v", "score", "flow")
Spacing = Literal[
    "uniform", "trailing", "leading", "logsnr", "diffusers-trailing", "diffusers-leading"
]
SPACINGS = get_args(Spacing)


class Schedule(NamedTuple):
    """Noise levels, least noisy first.

    alpha, sigma: float64 NumPy arrays of shape [T], with alpha > 0 and sigma > 0; the clean
    level (alpha 1, sigma 0) is not part of a schedule: every step table ends there. One of your
    own passes `check` wherever it is used.
    """

    alpha: np.ndarray
    sigma: np.ndarray

    @property
    def logsnr(self) -> np.ndarray:
        """log(alpha^2 / sigma^2), shape [T], strictly decreasing."""
        alpha, sigma = (np.asarray(values, np.float64) for values in self)
        return 2 * (np.log(alpha) - np.log(sigma))

    def __repr__(self) -> str:
        first, last = self.logsnr[0], self.logsnr[-1]
        return f"Schedule({len(self.alpha)} levels, logsnr {first:.2f}..{last:.2f})"


def from_betas(betas: np.ndarray) -> Schedule:
    """Variance preserving, from betas [T] in (0, 1): alpha_t^2 = prod_{s<=t} (1 - beta_s)."""
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or not betas.size or not np.all((betas > 0) & (betas < 1)):
        raise InputError("betas must be a vector of numbers strictly between 0 and 1")
    log_alpha_bar = np.cumsum(np.log1p(-betas))
    return check(Schedule(np.exp(log_alpha_bar / 2), np.sqrt(-np.expm1(log_alpha_bar))))


def linear(levels: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> Schedule:
    """DDPM's schedule: betas linear in t (Ho et al. 2020, section 4). One level: beta_max."""
    return from_betas(_ramp(beta_min, beta_max, levels))


def scaled_linear(
    levels: int = 1000, beta_min: float = 0.00085, beta_max: float = 0.012
) -> Schedule:
    """Stable Diffusion's schedule: square roots of the betas linear in t. One level: beta_max."""
    first, last = float(beta_min) ** 0.5, float(beta_max) ** 0.5
    return from_betas(_ramp(first, last, levels) ** 2)


def cosine(levels: int = 1000, shift: float = 0.008, beta_max: float = 0.999) -> Schedule:
    """Nichol & Dhariwal 2021, eq. 17: alpha_bar(t) ~ cos^2((t/T + s)/(1 + s) pi/2), clipped."""
    levels, shift, beta_max = _count(levels), float(shift), float(beta_max)
    t = np.arange(levels + 1) / levels
    alpha_bar = np.cos((t + shift) / (1 + shift) * np.pi / 2) ** 2
    return from_betas(np.clip(1 - alpha_bar[1:] / alpha_bar[:-1], 0, beta_max))


def edm(
    levels: int = 100, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Schedule:
    """Variance-exploding sigmas of Karras et al. 2022, eq. 5; alpha = 1. One level: sigma_max."""
    if not 0 < sigma_min < sigma_max:
        raise InputError(f"need 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    if not (0 < rho < np.inf and sigma_max < np.inf):
        raise InputError(f"need finite sigma_max and rho > 0, got {sigma_max} and {rho}")
    sigma_min, sigma_max, rho = float(sigma_min), float(sigma_max), float(rho)
    ramp = _ramp(sigma_min ** (1 / rho), sigma_max ** (1 / rho), levels)
    return Schedule(np.ones(len(ramp)), ramp**rho)


def flow(levels: int = 1000, t_max: float = 0.999) -> Schedule:
    """Rectified flow: alpha = 1 - t, sigma = t, t uniform in (0, t_max].

    t_max < 1, because x_0 cannot be read off an eps prediction where alpha = 0.
    """
    if not 0 < t_max < 1:
        raise InputError(f"t_max must lie strictly between 0 and 1, got {t_max}")
    t = np.linspace(0, float(t_max), _count(levels) + 1)[1:]
    return Schedule(1 - t, t)


def check(schedule: Schedule) -> Schedule:
    """The schedule, where each level has signal and noise and less signal than the one before.

    InputError otherwise: infinities and NaN are what a step table would make of it.
    """
    alpha, sigma = (np.asarray(values, np.float64) for values in schedule)
    if alpha.ndim != 1 or alpha.shape != sigma.shape or not alpha.size:
        raise InputError(
            f"a schedule needs alpha and sigma of one length, got shapes {alpha.shape} and"
            f" {sigma.shape}"
        )
    bad = ~((alpha > 0) & (sigma > 0) & np.isfinite(alpha) & np.isfinite(sigma))
    if bad.any():
        i = int(np.argmax(bad))
        raise InputError(
            f"level {i} of the schedule has alpha {alpha[i]:g} and sigma {sigma[i]:g}: both must"
            " be finite and above 0 (the clean image is not a level, and pure noise has no"
            " prediction of x_0: leave it out, or end just before it)"
        )
    schedule = Schedule(alpha, sigma)
    rising = np.flatnonzero(np.diff(schedule.logsnr) >= 0)
    if rising.size:
        raise InputError(
            f"level {rising[0] + 1} of the schedule is no noisier than the one before it: list the"
            " levels from the least noisy to the noisiest, each once"
        )
    return schedule


def respace(
    schedule: Schedule, steps: int, spacing: Spacing = "trailing", *, offset: int = 0
) -> Schedule:
    """A subset of `steps` levels of the schedule (spacing "logsnr": levels between them).

    uniform   round(linspace(0, T-1, steps)): both ends
    trailing  T - 1 - floor(i T / steps): counted back from the noisiest level (the default)
    leading   floor(i T / steps): counted from the least noisy level; starts below the noisiest
    logsnr    uniform in log-SNR between both ends, interpolated: such levels need a network that
              takes a continuous noise level

    and, for networks that are run by diffusers, its grids (they differ where T % steps != 0):

    diffusers-trailing  round(arange(T, 0, -T/steps)) - 1, of which the first `steps` are taken
    diffusers-leading   i (T // steps) + offset, offset being its `steps_offset`

    Raises InputError where steps is not in 1..T, or offset leads out of the schedule.
    """
    schedule = check(schedule)
    total = len(schedule.alpha)
    if not 1 <= steps <= total:
        raise InputError(
            f"{steps} steps lie outside the schedule: choose between 1 and its {total} levels"
        )
    choose(spacing, SPACINGS, "spacing")
    if offset and spacing != "diffusers-leading":
        raise InputError(f"an offset belongs to spacing 'diffusers-leading', not to '{spacing}'")
    i = np.arange(steps)
    if spacing == "logsnr":
        return _at_logsnr(schedule, np.linspace(schedule.logsnr[0], schedule.logsnr[-1], steps))
    index = {
        "uniform": np.round(np.linspace(0, total - 1, steps))
        if steps > 1
        else np.array([total - 1]),
        "trailing": total - 1 - (i[::-1] * total) // steps,
        "leading": (i * total) // steps,
        "diffusers-trailing": np.round(np.arange(total, 0, -total / steps))[:steps][::-1] - 1,
        "diffusers-leading": i * (total // steps) + offset,
    }[spacing].astype(int)
    if index[0] < 0 or index[-1] >= total:
        raise InputError(
            f"offset {offset} leads to levels {index[0]}..{index[-1]}, outside 0..{total - 1}"
        )
    return Schedule(schedule.alpha[index], schedule.sigma[index])


def _at_logsnr(schedule: Schedule, logsnr: np.ndarray) -> Schedule:
    # What the family keeps constant (alpha for VE, alpha^2 + sigma^2 for VP, alpha + sigma for
    # flow) is interpolated, and the split between signal and noise follows from the log-SNR.
    if len(logsnr) == 1:
        logsnr = schedule.logsnr[-1:]
    families: tuple[Callable, ...] = (lambda alpha, _: alpha, np.hypot, np.add)
    size = min(families, key=lambda size: np.ptp(np.log(size(schedule.alpha, schedule.sigma))))
    log_size = np.log(size(schedule.alpha, schedule.sigma))
    ratio = np.exp(-logsnr / 2)  # sigma / alpha
    alpha = np.exp(np.interp(logsnr, schedule.logsnr[::-1], log_size[::-1])) / size(1.0, ratio)
    return Schedule(alpha, ratio * alpha)


def to_eps(prediction, x, alpha, sigma, parameterisation: Parameterisation = "eps"):
    """Turns a prediction of the named kind into eps; all arguments broadcast, any array library."""
    choose(parameterisation, PARAMETERISATIONS, "parameterisation")
    if parameterisation == "eps":
        return prediction
    if parameterisation == "x0":
        return (x - alpha * prediction) / sigma
    if parameterisation == "v":
        return (alpha * prediction + sigma * x) / (alpha**2 + sigma**2)
    if parameterisation == "flow":
        return (x + alpha * prediction) / (alpha + sigma)
    return -sigma * prediction


def from_eps(eps, x, alpha, sigma, parameterisation: Parameterisation = "eps"):
    """Turns eps into the named kind of prediction; the inverse of `to_eps`."""
    choose(parameterisation, PARAMETERISATIONS, "parameterisation")
    if parameterisation == "eps":
        return eps
    if parameterisation == "x0":
        return (x - sigma * eps) / alpha
    if parameterisation == "v":
        return alpha * eps - sigma * (x - sigma * eps) / alpha
    if parameterisation == "flow":
        return eps - (x - sigma * eps) / alpha
    return -eps / sigma


def _ramp(first: float, last: float, levels: int) -> np.ndarray:
    # Of one level the noisiest: sampling starts there.
    count = _count(levels)
    return (
        np.linspace(float(first), float(last), count) if count > 1 else np.array([last], np.float64)
    )


def _count(levels: int) -> int:
    if levels < 1 or levels != int(levels):
        raise InputError(f"a schedule needs a whole number of levels, at least 1, got {levels}")
    return int(levels)
