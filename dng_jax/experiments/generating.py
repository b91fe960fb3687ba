"""Batched generation for jobs: progress, timing without compilation, a stop at the first NaN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dng_jax import initial_noise, run_chunks, sample_chunks, sample_keys
from dng_jax.experiments.problems import Problem
from dng_jax.jobs import devices
from dng_jax.metrics import Moments, class_counts
from dng_jax.steps import StepTable

PIECES = 5


@dataclass(frozen=True)
class Generated:
    """images [show, H, W, C]; counts [K] of the judge's labels; features of all samples, as
    moments; posterior [T, <=show] of the forbidden set, where the rule tracks one; seconds an
    image (median over the pieces of a chain but its first, so without compilation; None where there
    is no such piece)."""

    images: np.ndarray
    counts: np.ndarray
    features: Moments
    posterior: np.ndarray | None
    seconds_per_image: float | None


def generate(
    problem: Problem,
    table: StepTable,
    rule: Any,
    samples: int,
    seed: int,
    *,
    batch: int = 512,
    show: int = 64,
    start: int = 0,
    denoiser: Any = None,
    advance: Callable[[float], None] = lambda images: None,
) -> Generated:
    """Samples, judges and summarises. Sample i depends on (seed, start + i) alone, not on batch.

    advance(images) is told of work done, in images. Raises NonFiniteError at the first NaN.
    """
    denoiser = problem.denoiser if denoiser is None else denoiser
    steps = len(table.index)
    chunk = -(-steps // PIECES)
    shown: list[np.ndarray] = []
    traces: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    rates: list[float] = []
    features: Moments | None = None
    for first in range(0, samples, batch):
        size = min(batch, samples - first)
        keys = sample_keys(seed, size, start + first)
        x = initial_noise(keys, problem.info.shape, table)
        keys, x = devices.spread((keys, x))
        before = [0.0, 0]

        def report(piece, first=first, size=size, before=before):
            taken = piece.done - before[1]
            # Programs compile in the first piece of a size, and in a shorter last one.
            if before[1] and taken == chunk:
                rates.append((piece.seconds - before[0]) / taken / size)
            before[:] = piece.seconds, piece.done
            advance(size * taken / steps)

        pieces = sample_chunks(
            denoiser, table, rule, keys, x, chunk=chunk, first_sample=start + first
        )
        result = run_chunks(pieces, report)
        found, batch_features = problem.judge(result.x)
        labels.append(found)
        zero = Moments.zero(batch_features.shape[1]) if features is None else features
        features = zero.update(batch_features)
        if first < show:
            shown.append(np.asarray(result.x)[:show])
            if "posterior" in result.trace:
                traces.append(np.asarray(result.trace["posterior"])[:, :show])
    assert features is not None
    return Generated(
        np.concatenate(shown)[:show],
        class_counts(np.concatenate(labels), problem.info.num_classes),
        features,
        np.concatenate(traces, axis=1)[:, :show] if traces else None,
        float(np.median(rates)) * steps if rates else None,
    )


def generate_floor(
    problem: Problem,
    table: StepTable,
    rule: Any,
    samples: int,
    seed: int,
    *,
    start: int = 0,
    **options,
) -> Generated:
    """The allowed classes in equal parts, each sampled class-conditionally (role "positive").

    samples is rounded up to a multiple of the number of allowed classes.
    """
    allowed = np.flatnonzero(problem.allowed)
    size = -(-samples // len(allowed))  # one size, so that one program serves all classes
    parts = [
        generate(
            problem,
            table,
            rule,
            size,
            seed,
            start=start + i * size,
            denoiser=problem.conditioned(int(k)),
            **options,
        )
        for i, k in enumerate(allowed)
    ]
    features = parts[0].features
    for part in parts[1:]:
        features = features.merge(part.features)
    # Class after class in turn, so that a row of a grid shows all of them.
    images = np.stack([part.images for part in parts], axis=1)
    images = images.reshape(-1, *images.shape[2:])[: options.get("show", 64)]
    return Generated(
        images,
        np.sum([part.counts for part in parts], axis=0),
        features,
        None,
        median([part.seconds_per_image for part in parts]),
    )


def median(seconds: list[float | None]) -> float | None:
    """Median of what was measured; None where nothing was."""
    known = [s for s in seconds if s is not None]
    return float(np.median(known)) if known else None


def network_calls(problem: Problem, rule: Any, steps: int) -> int | None:
    """Network evaluations an image; None where the denoiser is no network."""
    if problem.mixture is not None:
        return None
    return steps * problem.denoiser.calls(rule.roles)
