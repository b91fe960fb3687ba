"""The batched sampler of jobs: rules -> labels, features, images and traces of n samples.

    keys -> noise -> spread over devices -> sample -> check for NaN -> classify     per batch

Sample i depends on (seed, first + i) alone; on the batch and the devices it depends to rounding,
since a network may convolve few images in another way than many. Where a job is several processes
(dng_jax.jobs.team) whoever is free takes the next batch, on its own devices, and the first has all
that came out. A list of rules is one compiled sweep on shared noise (dng_jax.sweeps). A rule
that asks for a class of choice (the role "positive": the class-conditional reference, cfg,
feedback) draws the allowed classes in equal parts, each from noise of its own, and returns them in
turn (sample 0 of each, sample 1 of each, ...), so that any beginning of it is balanced. Rejections
(dng_jax.experiments.rejection) choose among the samples of one unguided run, whatever their
trackers and factors.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from dng_jax import guidance, initial_noise, run_chunks, sample_chunks, sample_keys, sweep
from dng_jax.errors import InputError
from dng_jax.experiments import rejection
from dng_jax.experiments.problems import Problem
from dng_jax.experiments.rejection import Rejection
from dng_jax.experiments.rule_specs import RETRAINED
from dng_jax.jobs import devices
from dng_jax.jobs.team import ALONE, Team
from dng_jax.metrics import Moments
from dng_jax.sampling import Progress, check_finite
from dng_jax.steps import StepTable

LEAST = 64  # samples of a batch below which several processes get one each


@dataclass(frozen=True)
class Draw:
    """Which samples, and how they are drawn; only samples, seed and first decide what they are.

    first: number of the first sample. batch: samples at once in a process, at most. keep: of how
    many samples images and traces are returned (None: all). pieces: of a single rule's chain, for
    progress and timing.
    """

    samples: int
    seed: int
    first: int = 0
    batch: int = 512
    keep: int | None = None
    pieces: int = 1

    @property
    def kept(self) -> int:
        """`keep` as a number."""
        return self.samples if self.keep is None else self.keep


@dataclass(frozen=True, eq=False)
class Generated:
    """n samples of each of S rules (S = 1 for a single one).

    labels int [S, n] of the classifier; batches: its features, float [S, B, F] each, in the order
    of sampling, from so many streams (one per class of the reference, else 1); of the first
    samples, as many as were to be kept, images float32 [S, <=n, H, W, C] in [-1, 1] and trace
    {name: [S, T, <=n, ...]}; seconds_per_image: of one process, however many there are, the median
    over the pieces of a chain, without those that compile, None where none is left; asked float
    [S]: how often a sample asked for a role that its rule has on demand (dng_jax.rules), all roles
    and steps together, mean over all n; ran float [S]: how often these were evaluated per sample,
    which is more (dng_jax.denoisers.compaction) and depends on the batch; None of other rules.
    """

    labels: np.ndarray
    batches: tuple[np.ndarray, ...]
    streams: int
    images: np.ndarray
    trace: dict[str, np.ndarray]
    seconds_per_image: float | None
    asked: np.ndarray | None = None
    ran: np.ndarray | None = None

    @property
    def features(self) -> np.ndarray:
        """[S, n, F], in the order of the labels."""
        return _in_turn(np.concatenate(self.batches, axis=1), self.streams, axis=1)

    def moments(self, setting: int = 0) -> Moments:
        """Moments of one rule's features, summed batch by batch."""
        parts = [batch[setting] for batch in self.batches]
        return functools.reduce(Moments.update, parts, Moments.zero(parts[0].shape[1]))

    def without_features(self, count: int | None) -> Generated:
        """The labels, and the images and traces of the first samples (None: all) alone."""
        return dataclasses.replace(
            self,
            batches=(),
            images=self.images[:, :count].copy(),  # or all of them would stay in memory
            trace={name: values[:, :, :count].copy() for name, values in self.trace.items()},
        )


class _Batch(NamedTuple):
    labels: np.ndarray
    features: np.ndarray
    images: np.ndarray
    trace: dict[str, np.ndarray]
    asked: np.ndarray | None
    ran: np.ndarray | None
    rates: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it by name, as `Team.share` hands it on."""
        named = self._asdict()
        named |= {f"trace/{name}": values for name, values in named.pop("trace").items()}
        return {name: array for name, array in named.items() if array is not None}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> _Batch:
        """The batch of such arrays."""
        trace = {n.removeprefix("trace/"): a for n, a in arrays.items() if n.startswith("trace/")}
        rest: dict[str, Any] = {n: arrays.get(n) for n in cls._fields if n != "trace"}
        return cls(trace=trace, **rest)


def generate(
    problem: Problem,
    table: StepTable,
    rules: Any,
    draw: Draw,
    *,
    observe: Callable | None = None,
    advance: Callable[[float], object] = lambda images: None,
) -> Generated:
    """Samples a rule, or a list of rules of one kind, and classifies what came out.

    Rejections: a list may hold several trackers and factors; they take no `observe`, and all images
    that were drawn are held until some are rejected.

    A rule that asks for the role "positive" draws the allowed classes in turn; samples is then
    rounded up to a multiple of them. advance(images) is called with work done, in images. observe:
    see `dng_jax.sample`. Raises NonFiniteError at the first NaN.
    """
    found = generate_together(ALONE, problem, table, rules, draw, observe=observe, advance=advance)
    assert found is not None  # alone one is the first
    return found


def generate_together(
    team: Team,
    problem: Problem,
    table: StepTable,
    rules: Any,
    draw: Draw,
    *,
    observe: Callable | None = None,
    advance: Callable[[float], object] = lambda images: None,
) -> Generated | None:
    """The same by processes that share the batches; None in all but the first, in which `advance`
    is called from any thread."""
    first = rules[0] if isinstance(rules, Sequence) else rules
    if isinstance(first, Rejection):
        if observe is not None:
            raise InputError("a rejection observes nothing: observe its unguided rule")
        every = rules if isinstance(rules, Sequence) else [rules]
        return _rejected(team, problem, table, every, draw, advance)
    denoiser = problem.denoiser
    if first.roles == (RETRAINED,):
        assert problem.retrained is not None  # rule_builders.build refuses the others
        denoiser = problem.retrained()
    streams = [(denoiser, draw.first, draw.samples)]
    if "positive" in first.roles:
        assert problem.conditioned is not None  # rule_builders.build refuses the others
        allowed = np.flatnonzero(problem.allowed)
        size = -(-draw.samples // len(allowed))  # one size, so that one program serves all classes
        streams = [
            (problem.conditioned(int(k)), draw.first + i * size, size)
            for i, k in enumerate(allowed)
        ]
    run = functools.partial(_sampled, table=table, rules=rules, pieces=draw.pieces, observe=observe)
    pieces = batches_per_stream(draw.batch, streams[0][2], len(streams), team.count)
    plan = [
        (denoiser, start, int(part[0]), len(part), math.ceil(count / pieces))
        for denoiser, start, count in streams
        for part in np.array_split(np.arange(count), pieces)
    ]
    done = functools.partial(_batch, problem, table, draw, run, advance)
    found = team.share(len(plan), lambda i: done(*plan[i]).arrays(), lambda i: advance(plan[i][3]))
    if found is None:
        return None
    batches = list(map(_Batch.of, found))
    rates = np.concatenate([b.rates for b in batches])

    def joined(arrays: Sequence[np.ndarray], axis: int = 1) -> np.ndarray:
        return _in_turn(np.concatenate(arrays, axis), len(streams), axis)

    trace = {
        name: joined([b.trace[name] for b in batches], axis=2)[:, :, : draw.kept]
        for name in batches[0].trace
    }
    asked = [b.asked for b in batches if b.asked is not None]
    ran = [b.ran for b in batches if b.ran is not None]
    return Generated(
        joined([b.labels for b in batches]),
        tuple(b.features for b in batches),
        len(streams),
        joined([b.images for b in batches])[:, : draw.kept],
        trace,
        float(np.median(rates)) * len(table.index) if len(rates) else None,
        joined(asked).mean(axis=1) if asked else None,
        joined(ran).mean(axis=1) if ran else None,
    )


def asked_classes(problem: Problem, rule: Any, samples: int) -> np.ndarray | None:
    """int [samples]: the class that each sample of a rule was asked to show; None where a rule asks
    for none."""
    if "positive" not in getattr(rule, "roles", ()):
        return None
    return np.resize(np.flatnonzero(problem.allowed), samples)


def _rejected(
    team: Team,
    problem: Problem,
    table: StepTable,
    rules: Sequence[Rejection],
    draw: Draw,
    advance: Callable[[float], object],
) -> Generated | None:
    """One unguided run with every tracker at once, and of it what each rejection keeps."""
    size = max(rejection.needed(rule.factor, draw.samples) for rule in rules)
    found = generate_together(
        team,
        problem,
        table,
        guidance.sum_of(*(rule.detector for rule in rules)),
        dataclasses.replace(draw, samples=size, keep=None),
        advance=lambda images: advance(images * draw.samples / size),
    )
    if found is None:
        return None
    p = [found.trace[f"posterior:{i}"][0] for i in range(len(rules))]  # [T, N] each
    chosen = [
        rejection.kept(at[-1], rule.factor, draw.samples) for at, rule in zip(p, rules, strict=True)
    ]
    shown = [one[: draw.kept] for one in chosen]
    seconds = found.seconds_per_image
    return Generated(
        found.labels[0][np.stack(chosen)],
        (found.features[0][np.stack(chosen)],),
        1,
        found.images[0][np.stack(shown)],
        {"posterior": np.stack([at[:, one] for at, one in zip(p, shown, strict=True)])},
        None if seconds is None else seconds * size / draw.samples,
    )


def batches_per_stream(batch: int, count: int, streams: int, processes: int) -> int:
    """Into how many near-equal batches each of so many streams of `count` samples is cut, none
    larger than `batch`.

    Streams enough for all processes are cut no further: a batch has its price, whatever its size.
    Otherwise the batches are a multiple of the processes, so that equal ones end together, and two
    for each where that leaves LEAST samples in a batch: a faster process then does more, and one
    that dies costs half of its share.
    """
    fewest = math.ceil(count / batch)
    if streams >= processes:
        return fewest
    each = 2 if streams * count >= 2 * LEAST * processes else 1
    wanted = processes * max(each, math.ceil(streams * fewest / processes))
    return min(count, math.ceil(wanted / streams))


def _batch(
    problem: Problem,
    table: StepTable,
    draw: Draw,
    run: Callable,
    advance: Callable[[float], object],
    denoiser: Any,
    start: int,
    first: int,
    size: int,
    largest: int,
) -> _Batch:
    rates: list[float] = []  # seconds per image and step, added to as the chain runs
    # A few samples more, left out below, so that all batches are of one size, which is compiled
    # once, and the devices share them evenly.
    keys = sample_keys(draw.seed, devices.divisible(largest), start + first)
    keys, x = devices.spread((keys, initial_noise(keys, problem.info.shape, table)))
    clock = functools.partial(_clock, rates=rates, advance=advance)
    x, trace = run(denoiser, keys, x, start + first, size, clock=clock)
    asked, ran = (
        np.asarray(trace[name])[:, :, :size].sum(axis=1) if name in trace else None
        for name in ("asked", "run")
    )
    images = np.asarray(x)[:, :size]
    labels, features = zip(*map(problem.classify, images), strict=True)
    kept = min(size, max(0, draw.kept - first))
    return _Batch(
        np.stack(labels),
        np.stack(features),
        images[:, :kept].copy(),  # or the whole batch would stay in memory
        {name: np.asarray(a[:, :, :kept]) for name, a in trace.items()},
        asked,
        ran,
        np.array(rates),
    )


def _sampled(
    denoiser: Any,
    keys: jax.Array,
    x: jax.Array,
    first: int,
    size: int,
    *,
    table: StepTable,
    rules: Any,
    pieces: int,
    observe: Callable | None,
    clock: Callable,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Images [S, B, ...] and trace {name: [S, T, B, ...]} of one batch."""
    steps = len(table.index)
    if isinstance(rules, Sequence) and jax.tree.leaves(rules[0]):
        result = sweep(denoiser, table, rules, keys, x, observe=observe)
        for bad_step in result.bad_step:
            check_finite(result._replace(bad_step=bad_step), steps, first)
        return result.x, result.trace
    rule = rules[0] if isinstance(rules, Sequence) else rules
    chunk = -(-steps // pieces)
    parts = sample_chunks(
        denoiser, table, rule, keys, x, chunk=chunk, first_sample=first, observe=observe
    )
    result = run_chunks(parts, clock(chunk, size))
    return result.x[None], {name: a[None] for name, a in result.trace.items()}


def _clock(
    chunk: int, size: int, *, rates: list[float], advance: Callable[[float], object]
) -> Callable[[Progress], None]:
    done, seconds = 0, 0.0

    def report(piece: Progress) -> None:
        nonlocal done, seconds
        taken = piece.done - done
        # Programs compile in the first piece of a size, and in a shorter last one.
        if done and taken == chunk:
            rates.append((piece.seconds - seconds) / taken / size)
        done, seconds = piece.done, piece.seconds
        advance(size * taken / piece.total)

    return report


def _in_turn(array: np.ndarray, parts: int, axis: int) -> np.ndarray:
    """`parts` equal parts that follow one another along an axis, interleaved."""
    shape = array.shape
    split = array.reshape(*shape[:axis], parts, shape[axis] // parts, *shape[axis + 1 :])
    return split.swapaxes(axis, axis + 1).reshape(shape)
