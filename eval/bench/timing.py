"""Timing that can be trusted: alternating pairs in one process, medians of ratios.

A machine's speed drifts, so two programs are compared pair by pair, A B A B ..., both warm, each
run waiting for its result; the figure is the median of the ratios of pairs, with their quartiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
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
    times = in_turn({"a": timed(a), "b": timed(b)}, pairs)
    return ratio(times["a"], times["b"])


def in_turn(runs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, np.ndarray]:
    """{name: seconds [rounds]} of runs that answer their seconds, each once more to warm up."""
    for run in runs.values():
        run()
    times = np.array([[run() for run in runs.values()] for _ in range(rounds)])
    return dict(zip(runs, times.T, strict=True))


def timed(run: Callable[[], Any]) -> Callable[[], float]:
    """The same, answering its seconds."""
    return lambda: seconds(run)


def ratio(a: np.ndarray, b: np.ndarray) -> Ratio:
    """That of seconds [rounds] that were taken in turn."""
    low, median, high = (float(q) for q in np.quantile(a / b, (0.25, 0.5, 0.75)))
    return Ratio(median, low, high, len(a), float(np.median(a)), float(np.median(b)))


def shown(ratio: Ratio, digits: int = 2) -> str:
    """A ratio as a cell: median [quartiles]."""
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(ratio.median, ratio.low, ratio.high, d=digits)


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
