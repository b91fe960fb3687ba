"""Settings -> leak, KL, Frechet distance and network calls: a block as few compiled programs.

Settings of one program (spaces.Setting.program) and step table are stacked and run together
(dng_jax.experiments.blocks), rung by rung (dng_jax.tuning.halving). A setting whose predictions are
not finite is measured no further.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dng_jax.experiments import blocks, rule_builders
from dng_jax.experiments.blocks import Item, Labelled, Shape
from dng_jax.experiments.problems import Problem
from dng_jax.experiments.rule_specs import TrackerOptions
from dng_jax.metrics import Moments, class_counts, wilson
from dng_jax.metrics.shares import raw_and_bias
from dng_jax.tuning import fronts, halving, memory
from dng_jax.tuning.goals import Goals
from dng_jax.tuning.spaces import Setting


@dataclass(eq=False)
class Tally:
    """What was counted of one setting: labels of its samples in their order, moments of their
    features, the first step with a prediction that was not finite, and of every part how often
    roles on demand were evaluated per image (blocks.Labelled)."""

    setting: Setting
    parts: list[np.ndarray] = field(default_factory=list)
    moments: Moments | None = None
    bad_step: int | None = None
    ran: list[float] = field(default_factory=list)

    @property
    def labels(self) -> np.ndarray:
        """int [n]."""
        return np.concatenate(self.parts) if self.parts else np.zeros(0, np.int32)

    @property
    def samples(self) -> int:
        """n."""
        return sum(map(len, self.parts))

    def add(self, found: Labelled) -> None:
        """One item more."""
        if found.bad_step is not None:
            self.bad_step = found.bad_step
            return
        self.parts.append(found.labels)
        if found.ran is not None:
            self.ran.append(found.ran)
        before = self.moments or Moments.zero(found.features.shape[1])
        self.moments = before.update(found.features)


@dataclass(eq=False)
class Measurer:
    """Evaluates settings of one problem.

    seed: of the samples; rungs: images of a setting after each, the last one all of them; eta: 1 of
    so many settings reaches the next rung. width, batch: items a call and images an item
    (blocks.Shape); chunk: items at once, None to find out what fits.
    """

    problem: Problem
    options: TrackerOptions
    goals: Goals
    seed: int
    rungs: tuple[int, ...]
    eta: int = 3
    width: int = 32
    batch: int = 64
    chunk: int | None = None
    advance: Callable[[int], object] = lambda images: None
    _shapes: dict[tuple[str, int], Shape] = field(default_factory=dict)
    _calls: dict[tuple[str, int], float | None] = field(default_factory=dict)

    def __call__(self, settings: Sequence[Setting]) -> list[dict[str, Any] | None]:
        """The measures of each setting, None where its predictions were not finite."""
        return [self.measures(tally) for tally in self.tallies(settings)]

    def tallies(self, settings: Sequence[Setting]) -> list[Tally]:
        """What was counted of each setting, as far as halving took it."""
        found = [Tally(setting) for setting in settings]
        rules = [self.rule(setting) for setting in settings]
        alive = list(range(len(found)))
        for rung, samples in enumerate(self.rungs):
            if rung:
                alive = self._survivors(found, alive)
            for same in _grouped(alive, lambda i: (found[i].setting, found[i].setting.sampler)):
                self._sample(found, rules, same, samples)
            alive = [i for i in alive if found[i].bad_step is None]
        return found

    def rule(self, setting: Setting) -> Any:
        """The rule of a setting."""
        with warnings.catch_warnings():
            # A search goes where a person is warned of, and measures what comes of it.
            warnings.simplefilter("ignore", UserWarning)
            where = (self.options, setting.sampler, setting.steps)
            return rule_builders.build(setting.spec, self.problem, *where)

    def measures(self, tally: Tally, *, features: bool = True) -> dict[str, Any] | None:
        """goals.MEASURES of a tally, samples and counts; the leak with its 95% interval, calls with
        both ends where they are exact: not those of a rule that skips."""
        if tally.bad_step is not None:
            return None
        counts = class_counts(tally.labels, self.problem.info.num_classes)
        allowed = self.problem.allowed
        target = np.full(int(allowed.sum()), 1 / allowed.sum())
        raw, bias = raw_and_bias(counts.astype(np.float64), allowed, target, "forward")
        leaked, n = int(counts[~allowed].sum()), int(counts.sum())
        low, high = wilson(leaked, n)
        calls = self._calls_of(tally)
        distance = np.nan
        if features and tally.moments is not None and tally.moments.count > 1:
            distance = self.problem.real.distance(tally.moments)
        called = float(tally.setting.steps if calls is None else calls)
        return {
            "leak": leaked / n,
            "leak_low": low,
            "leak_high": high,
            "kl": float(raw - bias),
            "frechet": float(distance),
            "calls": called,
            **({} if tally.ran else {"calls_low": called, "calls_high": called}),
            "samples": n,
            "counts": counts,
        }

    def shape(self, setting: Setting) -> Shape:
        """What the program of a setting is compiled for."""
        if setting.program not in self._shapes:
            chunk = self.chunk
            if chunk is None:
                chunk = memory.fitting_chunk(self.width, lambda c: self.lowered(setting, c))
            self._shapes[setting.program] = Shape(self.width, self.batch, min(chunk, self.width))
        return self._shapes[setting.program]

    def lowered(self, setting: Setting, chunk: int) -> Any:
        """The program of a setting, before it is compiled."""
        table = self.problem.table(setting.sampler, setting.steps)
        shape = Shape(self.width, self.batch, chunk)
        return blocks.lowered(self.problem, table, self.rule(setting), shape)

    def _calls_of(self, tally: Tally) -> float | None:
        ran = float(np.mean(tally.ran)) if tally.ran else None
        key = tally.setting.program
        if ran is not None or key not in self._calls:
            rule, steps = self.rule(tally.setting), tally.setting.steps
            self._calls[key] = self.problem.network_calls(rule, steps, ran)
        return self._calls[key]

    def _sample(self, found: list[Tally], rules: list[Any], same: list[int], samples: int) -> None:
        setting = found[same[0]].setting
        table = self.problem.table(setting.sampler, setting.steps)
        wanted = [
            (i, first) for i in same for first in range(found[i].samples, samples, self.batch)
        ]
        # Batch by batch, so that settings that are stacked have seen as many samples.
        wanted.sort(key=lambda pair: pair[1])
        items = [Item(rules[i], first) for i, first in wanted]

        def run(chunk: int) -> list[Labelled]:
            shape = Shape(self.width, self.batch, chunk)
            return list(blocks.labelled(self.problem, table, items, self.seed, shape))

        drawn, chunk = memory.retried(run, self.shape(setting).chunk)
        self._shapes[setting.program] = Shape(self.width, self.batch, chunk)
        for (i, _), one in zip(wanted, drawn, strict=True):
            found[i].add(one)
        self.advance(len(wanted) * self.batch)

    def _survivors(self, found: list[Tally], alive: list[int]) -> list[int]:
        needed = "frechet" in self.goals.measures
        measured = [self.measures(found[i], features=needed) for i in alive]
        values = [self.goals.values(m) for m in measured if m is not None]
        # As much of the leak as is sure: see dng_jax.tuning.halving.
        sure = [m | {"leak": m["leak_low"]} for m in measured if m is not None]
        violation = [self.goals.violation(m) for m in sure]
        best = fronts.order(values, violation)[: halving.survivors(len(alive), self.eta)]
        return sorted(alive[k] for k in best)


def _grouped(numbers: Iterable[int], key: Callable[[int], tuple[Setting, str]]) -> list[list[int]]:
    """Numbers whose settings run as one program on one step table, together."""
    groups: dict[Any, list[int]] = {}
    for i in numbers:
        setting, sampler = key(i)
        groups.setdefault((setting.program, sampler), []).append(i)
    return list(groups.values())
