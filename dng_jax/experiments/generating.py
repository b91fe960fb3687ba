"""The batched sampler of jobs: rules -> labels, features, images and traces of n samples.

    keys -> noise -> spread over devices -> sample -> check for NaN -> classify     per batch

Sample i depends on (seed, first + i) alone, neither on the batch nor on the devices. A list of
rules is one compiled sweep on shared noise (dng_jax.sweeps). The class-conditional reference draws
the allowed classes in equal parts, each from noise of its own, and returns them in turn (sample 0
of each, sample 1 of each, ...), so that any beginning of it is balanced.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from dng_jax import initial_noise, run_chunks, sample_chunks, sample_keys, sweep
from dng_jax.experiments import rule_specs
from dng_jax.experiments.problems import Problem
from dng_jax.jobs import devices
from dng_jax.metrics import Moments
from dng_jax.sampling import Progress, check_finite
from dng_jax.steps import StepTable


@dataclass(frozen=True, eq=False)
class Generated:
    """n samples of each of S rules (S = 1 for a single one).

    labels int [S, n] and features float [S, n, F] of the classifier; of the first samples, as many
    as were asked for, images float32 [S, <=n, H, W, C] in [-1, 1] and trace
    {name: [S, T, <=n, ...]}; batches: the features [S, B, F] in the order of sampling;
    seconds_per_image: median over the pieces of a chain, without those that compile, None where
    none is left.
    """

    labels: np.ndarray
    features: np.ndarray
    images: np.ndarray
    trace: dict[str, np.ndarray]
    batches: tuple[np.ndarray, ...]
    seconds_per_image: float | None

    def moments(self, setting: int = 0) -> Moments:
        """Moments of one rule's features, summed batch by batch."""
        parts = [batch[setting] for batch in self.batches]
        return functools.reduce(Moments.update, parts, Moments.zero(parts[0].shape[1]))


class _How(NamedTuple):
    seed: int
    batch: int
    keep: int
    pieces: int
    observe: Callable | None
    advance: Callable[[float], object]
    rates: list[float]  # seconds per image and step, added to as chains run


class _Batch(NamedTuple):
    labels: np.ndarray
    features: np.ndarray
    images: np.ndarray
    trace: dict[str, np.ndarray]


def generate(
    problem: Problem,
    table: StepTable,
    rules: Any,
    samples: int,
    seed: int,
    *,
    first: int = 0,
    batch: int = 512,
    keep: int | None = None,
    reference: bool = False,
    pieces: int = 1,
    observe: Callable | None = None,
    advance: Callable[[float], object] = lambda images: None,
) -> Generated:
    """Samples a rule, or a list of rules of one kind, and classifies what came out.

    first: number of the first sample. keep: of how many samples to return images and traces (None:
    all). reference: sample the class-conditional reference; samples is then rounded up to a
    multiple of the allowed classes. pieces: of a single rule's chain, for progress and timing;
    advance(images) is called with work done, in images. observe: see `dng_jax.sample`. Raises
    NonFiniteError at the first NaN.
    """
    keep = samples if keep is None else keep
    how = _How(seed, batch, keep, pieces, observe, advance, [])
    streams = [(problem.denoiser, first, samples)]
    if reference:
        assert problem.conditioned is not None  # rule_specs.build refuses the others
        allowed = np.flatnonzero(problem.allowed)
        size = -(-samples // len(allowed))  # one size, so that one program serves all classes
        streams = [
            (problem.conditioned(int(k)), first + i * size, size) for i, k in enumerate(allowed)
        ]
    batches = [b for stream in streams for b in _batches(problem, table, rules, how, *stream)]

    def joined(arrays: Sequence[np.ndarray], axis: int = 1) -> np.ndarray:
        return _in_turn(np.concatenate(arrays, axis), len(streams), axis)

    trace = {
        name: joined([b.trace[name] for b in batches], axis=2)[:, :, :keep]
        for name in batches[0].trace
    }
    return Generated(
        joined([b.labels for b in batches]),
        joined([b.features for b in batches]),
        joined([b.images for b in batches])[:, :keep],
        trace,
        tuple(b.features for b in batches),
        float(np.median(how.rates)) * len(table.index) if how.rates else None,
    )


def _batches(
    problem: Problem, table: StepTable, rules: Any, how: _How, denoiser: Any, start: int, count: int
) -> Iterator[_Batch]:
    for first in range(0, count, how.batch):
        size = min(how.batch, count - first)
        # A few samples more, left out below, where the devices could not share them evenly.
        keys = sample_keys(how.seed, devices.divisible(size), start + first)
        keys, x = devices.spread((keys, initial_noise(keys, problem.info.shape, table)))
        x, trace = _sampled(denoiser, table, rules, keys, x, start + first, size, how)
        images = np.asarray(x)[:, :size]
        labels, features = zip(*map(problem.classify, images), strict=True)
        kept = min(size, max(0, how.keep - first))
        yield _Batch(
            np.stack(labels),
            np.stack(features),
            images[:, :kept],
            {name: np.asarray(a[:, :, :kept]) for name, a in trace.items()},
        )


def _sampled(
    denoiser: Any, table: StepTable, rules: Any, keys, x, first: int, size: int, how: _How
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Images [S, B, ...] and trace {name: [S, T, B, ...]} of one batch."""
    steps = len(table.index)
    if isinstance(rules, Sequence) and rule_specs.has_numbers(rules[0]):
        result = sweep(denoiser, table, rules, keys, x, observe=how.observe)
        for bad_step in result.bad_step:
            check_finite(result._replace(bad_step=bad_step), steps, first)
        return result.x, result.trace
    rule = rules[0] if isinstance(rules, Sequence) else rules
    chunk = -(-steps // how.pieces)
    pieces = sample_chunks(
        denoiser, table, rule, keys, x, chunk=chunk, first_sample=first, observe=how.observe
    )
    result = run_chunks(pieces, _clock(chunk, size, how))
    return result.x[None], {name: a[None] for name, a in result.trace.items()}


def _clock(chunk: int, size: int, how: _How) -> Callable[[Progress], None]:
    done, seconds = 0, 0.0

    def report(piece: Progress) -> None:
        nonlocal done, seconds
        taken = piece.done - done
        # Programs compile in the first piece of a size, and in a shorter last one.
        if done and taken == chunk:
            how.rates.append((piece.seconds - seconds) / taken / size)
        done, seconds = piece.done, piece.seconds
        how.advance(size * taken / piece.total)

    return report


def _in_turn(array: np.ndarray, parts: int, axis: int) -> np.ndarray:
    """`parts` equal parts that follow one another along an axis, interleaved."""
    shape = array.shape
    split = array.reshape(*shape[:axis], parts, shape[axis] // parts, *shape[axis + 1 :])
    return split.swapaxes(axis, axis + 1).reshape(shape)
