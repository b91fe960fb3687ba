r"""When a sampler decides: windows of noise levels, measured on its chains.

On T steps and B chains of a sampler, w = P(c), p = p(c | x_t):

    resolved share     R_t = mean p over chains that end in c - mean p over the others
    guidance           G_t = mean_b  sum_{s <= t} lambda_s |eps_c - eps_base| / (that at the end)

R_t is 0 while nothing is known and 1 when every chain has decided (Yates's discrimination slope).
Along exact unguided chains p is calibrated, and R_t = Var p / (w (1 - w)), the share of the label's
variance that x_t explains; in this form it does not depend on how many chains happened to end in c.
A window is where such a curve passes 10, 50 and 90%. Predictions of it: hopfield_jax.diffusion.
NumPy, float64; steps run from noise to data.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dng_jax.errors import InputError

LEVELS = (0.1, 0.5, 0.9)


class Window(NamedTuple):
    """log SNR where a curve that rises from 0 to 1 passes 10, 50 and 90%; NaN where it does not."""

    opens: float
    middle: float
    closes: float


def window_of(logsnr, curve) -> Window:
    """Where a curve [T] from about 0 to 1 passes 10, 50 and 90%, in log SNR [T], noise first."""
    return Window(*(crossing(logsnr, curve, level) for level in LEVELS))


def crossing(logsnr, curve, level: float) -> float:
    """log SNR where a curve [T] first reaches the level, linear in between; NaN where never."""
    logsnr, curve = np.asarray(logsnr, np.float64), np.asarray(curve, np.float64)
    if logsnr.shape != curve.shape or curve.ndim != 1:
        raise InputError(
            f"crossing needs logsnr and a curve of one length, got {list(logsnr.shape)} and"
            f" {list(curve.shape)}"
        )
    above = np.flatnonzero(curve >= level)
    if above.size == 0:
        return math.nan
    t = above[0]
    if t == 0:
        return float(logsnr[0])
    part = (level - curve[t - 1]) / (curve[t] - curve[t - 1])
    return float(logsnr[t - 1] + part * (logsnr[t] - logsnr[t - 1]))


def resolved(posterior, member) -> np.ndarray:
    """R_t [T] from p [T, B] and whether each chain ends in c, bool [B]; some must, and some not."""
    posterior, member = np.asarray(posterior, np.float64), np.asarray(member, bool)
    if posterior.ndim != 2 or member.shape != posterior.shape[1:]:
        raise InputError(
            f"resolved needs a posterior [T, B] and a mark for each chain [B], got"
            f" {list(posterior.shape)} and {list(member.shape)}"
        )
    if member.all() or not member.any():
        raise InputError(
            f"{member.sum()} of {member.size} chains end in the class: take more samples, so that"
            " there are some of both kinds"
        )
    return posterior[:, member].mean(axis=1) - posterior[:, ~member].mean(axis=1)


def accumulated(push) -> np.ndarray:
    """Share [T] of the whole guidance applied up to each step, from push >= 0 [T, B]."""
    push = np.asarray(push, np.float64)
    if push.ndim != 2 or push.size == 0 or not np.isfinite(push).all() or (push < 0).any():
        raise InputError(f"accumulated needs finite push >= 0 [T, B], got {list(push.shape)}")
    total = np.cumsum(push.mean(axis=1))
    if total[-1] == 0:
        raise InputError("no guidance was applied at any step: there is no window to measure")
    return total / total[-1]


def push(lambda_t, gap) -> np.ndarray:
    """lambda_t |eps_c - eps_base| [T, B], the guidance that `accumulated` sums."""
    return np.asarray(lambda_t, np.float64) * np.asarray(gap, np.float64)


def lambda_doubles(logsnr, lambda_t, prior: float, quantile: float = 0.9) -> float:
    """log SNR where this quantile of lambda_t [T, B] first reaches twice w/(1-w); NaN where never.

    w/(1-w), w the prior, is lambda_t (lambda_0 = 1) while nothing is known.
    """
    high = np.quantile(np.asarray(lambda_t, np.float64), quantile, axis=1)
    return crossing(logsnr, high * (1 - prior) / prior, 2.0)
