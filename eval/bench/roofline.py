"""Floors: the operations of a program over the speed of a matrix product in the same run.

    floor = operations / peak,    peak = 2 SIDE^3 devices / seconds of a product on each of them

Operations are those XLA counts in the program before it optimises (2 m n k for a product, the same
for a convolution written as one). A program's seconds over its floor say how far from the machine's
arithmetic it is: 1 at best, unless it is written with fewer operations than were counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dng_jax.jobs import devices
from dng_jax.steps import StepTable

SIDE = 2048


def product(dtype: str = "float32") -> tuple[Callable[[], Any], float]:
    """Two SIDE x SIDE matrices multiplied, on every device at once, and its operations."""
    count = jax.device_count()
    a = devices.spread(jnp.ones((count, SIDE, SIDE), dtype))
    multiply = jax.jit(lambda a: jnp.einsum("nij,njk->nik", a, a, precision="highest"))
    return lambda: multiply(a), 2.0 * SIDE**3 * count


def counted(lowered: Any) -> float:
    """Operations of a program that was lowered."""
    return float(lowered.cost_analysis()["flops"])


def of_a_step(denoise: Any, table: StepTable, x: jax.Array, roles: Sequence[str]) -> float:
    """Operations of the predictions of one step for a batch x; a rule's own are not counted."""
    row = jax.tree.map(lambda column: column[0], table)
    predict = jax.jit(lambda denoise, x: denoise(x, row, tuple(roles)))
    return counted(predict.lower(denoise, x))
