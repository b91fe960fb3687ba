"""The one training loop: steps, lines, saved states, sample grids, signals.

Values are fetched from the device one call late, which keeps it busy; before a state is saved,
those of every step up to it are fetched and must be finite, so a state saved is a good one.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from dng_jax import training
from dng_jax.errors import NonFiniteError
from dng_jax.jobs import interrupts
from dng_jax.training import TrainState
from dng_jax.training.checkpoints import Checkpoints

from .logs import Log


@dataclass(frozen=True)
class Pace:
    """How long a run is, and how often what happens.

    steps: of the whole run, of batch_size images; steps between lines, saved states and sample
    grids (0: none); steps per compiled call.
    """

    steps: int
    batch_size: int
    log_every: int = 50
    save_every: int = 1000
    sample_every: int = 0
    steps_per_call: int = 1

    def next_event(self, step: int) -> int:
        """The first step after `step` at which something is due."""
        every = (e for e in (self.log_every, self.save_every, self.sample_every) if e)
        return min(self.steps, *((step // e + 1) * e for e in every))


@dataclass(frozen=True)
class Done:
    """What sessions before did: seconds of training; losses of the steps since the last multiple
    of save_every."""

    seconds: float = 0.0
    losses: Sequence[float] = ()


class StopSignal:
    """Notes the first SIGTERM, SIGUSR1 or Ctrl-C; a second one acts as usual, and so does a Ctrl-C
    while there is nothing to save."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._listens = self._begun = False

    @contextmanager
    def listening(self) -> Iterator[StopSignal]:
        """Handles the signals inside; does nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.getsignal(number) for number in interrupts.STOPS}

        def note(number, frame):
            usual = before[number]
            raising = usual is signal.default_int_handler
            if self.name is None and (self._begun or not raising):
                self.name = signal.Signals(number).name
                if number == signal.SIGINT:
                    interrupts.took()
                return
            signal.signal(number, usual)
            if raising:
                raise KeyboardInterrupt  # a signal raised again would count as another
            signal.raise_signal(number)

        for number in before:
            signal.signal(number, note)
        self._listens = True
        try:
            yield self
        finally:
            self._listens = False
            interrupts.defer(False)
            for number, usual in before.items():
                signal.signal(number, usual)

    def begin(self) -> None:
        """From here on there is something to save."""
        self._begun = True
        interrupts.defer(self._listens)

    def agreed(self) -> bool:
        """Whether any process was signalled; all processes must ask at the same step."""
        if jax.process_count() == 1:
            return self.name is not None
        signalled = multihost_utils.process_allgather(np.int32(self.name is not None))
        if np.any(signalled) and self.name is None:
            self.name = "a signal to another process"
        return bool(np.any(signalled))


def fit(
    step: training.Step,
    state: TrainState,
    arrays: tuple,
    pace: Pace,
    states: Checkpoints,
    log: Log,
    *,
    done: Done = Done(),
    sample: Callable[[TrainState], None] | None = None,
    stop: StopSignal | None = None,
) -> tuple[TrainState, float]:
    """Takes the state to `pace.steps` steps, or to where `stop` was signalled; saves it there.

    step(state, *arrays) -> (state, metrics). done: before this call; as facts of a state, it lets
    the next session go on from there. Returns when the last state is on the disk, with the seconds
    of training over all sessions. Raises NonFiniteError, saving nothing, when a loss or a gradient
    is not finite.

    Only a mean over save_every steps, from one multiple to the next, is a loss to compare states
    by: one over fewer is low or high by chance. Other states are saved with an infinite one.
    """
    began, n, steps = time.monotonic() - done.seconds, int(state.step), pace.steps
    many = training.several(step, pace.steps_per_call) if pace.steps_per_call > 1 else step
    one_by_one = jax.default_backend() == "cpu" and jax.device_count() > 1
    stop = stop or StopSignal()
    with _bar(n, steps, disable=not log.active) as show:
        watch = _Watch(log, pace, n, done, show)
        while n < steps:
            event = pace.next_event(n)
            size = pace.steps_per_call
            if n % size or n + size > event:
                size = 1
            state, metrics = (many if size > 1 else step)(state, *arrays)
            if one_by_one:
                # Collectives of several steps in flight wait for each other's threads for ever.
                jax.block_until_ready(metrics)
            stop.begin()
            n += size
            watch.add(n, size, time.monotonic() - began, metrics)
            at_event = n == event
            stopping = (at_event or jax.process_count() == 1) and stop.agreed()
            saving = (at_event and n % pace.save_every == 0) or n == steps or stopping
            sampling = at_event and pace.sample_every and n % pace.sample_every == 0
            if saving or sampling:
                watch.settle()
            elif at_event:
                watch.settle(but=1)
            if saving:
                log.flush()
                loss = watch.loss_since_last(pace.save_every, n)
                facts = Done(round(time.monotonic() - began, 2), watch.losses[:])
                states.save(state, loss, asdict(facts))
            if sample is not None and (sampling or n == steps):
                sample(state)
            if stopping:
                break
        states.wait()
    return state, time.monotonic() - began


class _Watch:
    """Fetches the values of calls in their order, checks them, averages, writes lines."""

    def __init__(self, log: Log, pace: Pace, first: int, done: Done, show: Callable) -> None:
        self.log, self.pace, self.show = log, pace, show
        self.line = first, done.seconds
        self.calls: list[tuple[int, int, float, dict]] = []
        self.losses = list(done.losses)

    def add(self, n: int, size: int, seconds: float, metrics: dict) -> None:
        self.calls.append((n, size, seconds, metrics))

    def settle(self, but: int = 0) -> None:
        """Takes every call but the newest ones to account."""
        ready = self.calls[: len(self.calls) - but]
        self.calls = self.calls[len(self.calls) - but :]
        fetched = jax.device_get([metrics for *_, metrics in ready])
        for (n, size, seconds, _), metrics in zip(ready, fetched, strict=True):
            rows = {name: np.atleast_1d(value) for name, value in metrics.items()}
            for i in range(size):
                self._check(n - size + 1 + i, {name: float(v[i]) for name, v in rows.items()})
            if n % self.pace.log_every == 0 or n == self.pace.steps:
                self._write(n, seconds, {name: float(v[-1]) for name, v in rows.items()})

    def loss_since_last(self, every: int, n: int) -> float:
        """Mean loss of the last `every` steps where n is a multiple of it, else infinite."""
        if n % every:
            return math.inf
        whole = len(self.losses) == every  # not where a session before had another --save-every
        mean = float(np.mean(self.losses)) if whole else math.inf
        self.losses.clear()
        return mean

    def _check(self, n: int, values: dict[str, float]) -> None:
        bad = [f"{name} {value}" for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise NonFiniteError(
                f"training stopped at step {n}, where the {bad[0].replace('_', ' ')} is not finite:"
                " begin again with a lower --learning-rate or --precision float32; the states saved"
                " before it are intact"
            )
        self.losses.append(values["loss"])

    def _write(self, n: int, seconds: float, values: dict[str, float]) -> None:
        before, then = self.line
        rate = (n - before) * self.pace.batch_size / max(seconds - then, 1e-9)
        self.line = (n, seconds)
        self.log.write(n, seconds, {**values, "images_per_second": round(rate, 1)})
        self.show(n, f"loss {values['loss']:.4f}, {rate:,.0f} images/s")


@contextmanager
def _bar(first: int, steps: int, *, disable: bool) -> Iterator[Callable[[int, str], None]]:
    columns = (
        TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, disable=disable) as progress:
        bar = progress.add_task("", total=steps, completed=first, note="compiling")
        yield lambda n, note: progress.update(bar, completed=n, note=note)
