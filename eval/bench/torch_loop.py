r"""Sampling with DNG (pair) as the paper's program does it: a Python loop over PyTorch.

Per step, of the row of a dng_jax.steps table, p_t the tracked posterior of what is forbidden:

    eps      = eps_b - lambda_0 p / (1 - p) (eps_n - eps_b)
    x'       = c_x x + c_eps eps + std z
    log p   <- clamp(log p + (|x' - mu_b|^2 - |x' - mu_n|^2) / (2 k_var)),   mu = k_x x + k_eps eps

The equations are those of dng_jax.posterior.pair; Koulischer et al., ICLR 2025, arXiv 2410.14398.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from dng_jax.steps import StepRow, StepTable

P_MIN, P_MAX = 1e-6, 0.99  # as in the authors' program
CLASS = 0  # that is forbidden


@torch.inference_mode()
def sample(
    predict: Callable[[Any, StepRow], tuple[Any, Any]],
    table: StepTable,
    x: torch.Tensor,
    prior: float,
    noise: Callable[[torch.Tensor], torch.Tensor] = torch.randn_like,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [B, C, H, W] and log p [B] after the whole table, from x of unit variance.

    predict(x, row) -> (eps_b, eps_n), see `predictions`; noise(x): normal numbers like x.
    """
    log_p = torch.full((len(x),), math.log(prior), device=x.device)
    for row in rows(table):
        base, negative = predict(x, row)
        p = log_p.exp()
        eps = base - (p / (1 - p))[:, None, None, None] * (negative - base)
        x_next = row.c_x * x + row.c_eps * eps + row.std * noise(x)
        if math.isfinite(row.k_var):
            mean = row.k_x * x
            gap = _square(x_next - mean - row.k_eps * base) - _square(
                x_next - mean - row.k_eps * negative
            )
            log_p = (log_p + gap / (2 * row.k_var)).clamp(math.log(P_MIN), math.log(P_MAX))
        x = x_next
    return x, log_p


def rows(table: StepTable) -> list[Any]:
    """The rows of a table as Python's numbers."""
    return [StepRow(*row) for row in zip(*(column.tolist() for column in table), strict=True)]


def predictions(networks: Sequence[Any]) -> Callable[[Any, Any], tuple[Any, Any]]:
    """predict(x, row) -> (eps_b, eps_n) of `CLASS` against the base model.

    networks: one with heads (one call), one with labels (one call on both, as here), or the base
    network and that of the class (two calls).
    """
    first = networks[0]
    c = first.config

    def predict(x, row):
        logsnr = 2 * (math.log(row.alpha) - math.log(row.sigma))
        if c.conditioning == "label":
            labels = torch.tensor([c.num_classes, CLASS], device=x.device).repeat_interleave(len(x))
            both = first(torch.cat([x, x]), x.new_full((2 * len(x),), logsnr), labels)
            outs = both.chunk(2)
        else:
            level = x.new_full((len(x),), logsnr)
            if c.conditioning == "heads":
                heads = first(x, level)
                outs = heads[:, c.num_classes], heads[:, CLASS]
            else:
                outs = tuple(network(x, level) for network in networks)
        if c.parameterisation == "v":
            outs = tuple(row.alpha * out + row.sigma * x for out in outs)
        return outs

    return predict


def _square(x):
    return (x * x).sum((1, 2, 3))
