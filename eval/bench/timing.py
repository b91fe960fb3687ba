"""Timing that can be trusted: alternating pairs in one process, medians of ratios.

A machine's speed drifts, so two programs are compared pair by pair, A B A B ..., both warm, each
run waiting for its result; the figure is the median of the ratios of pairs, with their quartiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_compilations = 0


@dataclass(frozen=True)
class Ratio:
    """Median of A/B over the pairs, with quartiles; a and b median seconds of each."""

    median: float
    low: float
    high: float
    pairs: int
    a: float
    b: float


def ratio_of_pairs(a: Callable[[], Any], b: Callable[[], Any], pairs: int) -> Ratio:
    """Runs a and b in turn after one warm-up each."""
    seconds(a), seconds(b)
    times = np.array([(seconds(a), seconds(b)) for _ in range(pairs)])
    ratios = times[:, 0] / times[:, 1]
    low, median, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    first, second = np.median(times, axis=0)
    return Ratio(float(median), float(low), float(high), pairs, float(first), float(second))


def seconds(run: Callable[[], Any]) -> float:
    """Wall seconds of one run, its result awaited."""
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


def compilations() -> int:
    """Programs compiled in this process since `count_compilations`."""
    return _compilations


def count_compilations() -> None:
    """Starts counting what XLA compiles."""
    jax.monitoring.register_event_duration_secs_listener(_count)


def _count(event: str, duration_secs: float, **_: str | int) -> None:
    global _compilations
    if event == _COMPILE_EVENT:
        _compilations += 1
