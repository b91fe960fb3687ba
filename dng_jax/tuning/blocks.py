"""A block of members trained through rungs of steps, each of them saved on the way.

    evaluate = Trainings(...)
    found = evaluate([Numbers, ...])

All members of a block begin from one state and take rungs[0] steps; the best 1 of eta, by the
averaged weights' objective on held-out images, go on to rungs[1] with the states that they have,
and so on (dng_jax.tuning.halving). The rate's schedule is that of the whole training in every rung.

A member is a file NAME.npz of the folder, NAME by its numbers and the rungs: its state after so
many steps, and what is known of it; written every `save_every` steps and at its rungs, whole or not
at all. A search that was killed goes on from there, whatever blocks it is cut into the next time:

    ended     the member was stopped at a rung, or took all steps: its file says so, and holds no
              state any more. It is not trained again
    reached   of those asked together that have a value at a rung, ended or not, n in number, the
              best ceil(n / eta) that have not ended go on. All that a rung stops are marked before
              the next one begins, so that a block that is asked again as it was is decided as it
              was, however often it is killed
    anew      a file that cannot be read, or is of other shapes, counts as none

Engine vmap moves the members that are at one step together, as one program of as many as there are;
engine single one after the other, with the memory of one.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dng_jax import disk
from dng_jax.training import TrainState, members
from dng_jax.tuning import halving
from dng_jax.tuning.numbers import Numbers

FOLDER = "blocks"  # of a study's
OTHERWISE = "then go on with --resume; what was saved before is intact"


@dataclass(eq=False)
class Member:
    """One training: at: steps taken; ended: see the top of this file; found: what is told of it."""

    setting: Numbers
    path: Path
    at: int = 0
    ended: bool = False
    found: dict[str, Any] = field(default_factory=dict)

    def know(self, facts: dict[str, Any] | None) -> None:
        """Takes what a file says; None: that it has not begun."""
        facts = facts or {"at": 0, "ended": False, "found": {"rungs": [], "curve": []}}
        self.at, self.ended, self.found = facts["at"], facts["ended"], facts["found"]

    @property
    def values(self) -> dict[int, float]:
        """Steps of a rung -> objective there, NaN where the loss is not finite."""
        return dict(self.found["rungs"])


@dataclass(eq=False)
class Trainings:
    """See the top of this file; what it is called with is searching.Evaluate.

    build: numbers -> the step of one training; fresh: the state all begin from; arrays, held:
    images uint8 and labels, trained on and held out; key: of the yardstick; rungs: steps, rising;
    every: steps between values of a curve; objective: loss, or error, 1 - accuracy; folder: of the
    members' files; save_every: steps; step: that of `build`, where it is compiled already.
    """

    build: Callable[[members.Numbers], Any]
    engine: str
    fresh: TrainState
    arrays: tuple[jax.Array, jax.Array]
    held: tuple[jax.Array, jax.Array]
    yardstick: members.Yardstick
    key: jax.Array
    rungs: tuple[int, ...]
    eta: int
    every: int
    objective: str
    folder: Path
    save_every: int = 1000
    advance: Callable[[float], object] = lambda steps: None
    step: Any = None

    def __post_init__(self) -> None:
        self.step = self.step or members.make_step(self.build, self.engine)

    def __call__(self, settings: Sequence[Numbers]) -> list[dict[str, Any] | None]:
        """What each training came to: {loss, [accuracy, error,] steps, rungs: [[steps, objective]],
        curve: training losses after every `every` steps}; None where the loss is not finite.
        Equal settings are one training."""
        block = {one: self._member(one) for one in dict.fromkeys(settings)}
        for until in self.rungs:
            self._reach(list(block.values()), until)
            self._stop(list(block.values()), until)
        found = [block[one].found for one in settings]
        return [one if np.isfinite(self._value(one)) else None for one in found]

    def _reach(self, block: Sequence[Member], until: int) -> None:
        """Takes those that have not ended to a rung, and measures them there."""
        some = [m for m in block if not m.ended and m.at < until]
        for together in [some] if self.engine == "vmap" else [[m] for m in some]:
            states = {m: self._load(m) for m in together}
            for at in sorted({m.at for m in together if not m.ended and m.at < until}):
                group = [m for m in together if m.at == at and not m.ended]
                state = members.joined([states[m] for m in group])
                self._train(group, state, until, len(group) / len(block))

    def _train(self, group: Sequence[Member], state: TrainState, until: int, share: float) -> None:
        """As `_reach`, of members at one step; share: theirs of the block."""
        numbers = members.stacked([dict(m.setting.values) for m in group])
        given = (self.step, self.engine, numbers)
        at = group[0].at
        while at < until:
            at = min(until, (at // self.save_every + 1) * self.save_every)
            state, metrics = members.train(
                *given, state, self.arrays, at, self.every, lambda n: self.advance(share * n)
            )
            judged = self._judged(state) if at == until else None
            step, params, ema, opt_state = jax.device_get(_arrays(state))  # all at once
            host = TrainState(step, params, ema, opt_state, state.key)
            for k, m in enumerate(group):
                m.at = at
                m.found["curve"] += metrics["loss"][k].tolist() if metrics else []
                if judged is not None:
                    m.found |= {name: float(values[k]) for name, values in judged.items()}
                    m.found["steps"] = until
                    m.found["rungs"].append([until, self._value(m.found)])
                m.ended = at == self.rungs[-1]
                self._write(m, None if m.ended else members.member(host, k))

    def _judged(self, state: TrainState) -> dict[str, np.ndarray]:
        judged = members.judged(self.yardstick, self.engine, state, *self.held, self.key)
        return judged | ({"error": 1 - judged["accuracy"]} if "accuracy" in judged else {})

    def _value(self, found: dict[str, Any]) -> float:
        """What a member is compared by. Of logits that are NaN the first class is the largest, so
        that only the loss says that they are."""
        return found[self.objective] if np.isfinite(found["loss"]) else np.nan

    def _stop(self, block: Sequence[Member], until: int) -> None:
        """Ends those that a rung stops; of two that are equal the later one."""
        reached = [m for m in block if until in m.values]
        finite = [m for m in reached if np.isfinite(m.values[until])]
        left = [m for m in sorted(finite, key=lambda m: m.values[until]) if not m.ended]
        best = left[: halving.survivors(len(reached), self.eta)]
        for m in reached:
            if not m.ended and m not in best:
                m.ended = True
                self._write(m)

    def _member(self, setting: Numbers) -> Member:
        """As its file has it, but for the state."""
        words = f"{setting} {tuple(self.rungs)}"
        name = hashlib.sha256(words.encode()).hexdigest()[:16]
        member = Member(setting, self.folder / f"{name}.npz")
        member.know(_read(member.path)[0])
        return member

    def _load(self, member: Member) -> TrainState:
        """The state of a member, on the host; the member is then known as its file has it, since
        another process may have gone on with it."""
        like = _arrays(self.fresh)
        facts, leaves = _read(member.path, len(jax.tree.leaves(like)))
        same = [np.shape(leaf) for leaf in leaves] == [np.shape(v) for v in jax.tree.leaves(like)]
        if facts is not None and not facts["ended"] and not same:
            facts = None
        member.know(facts)
        if facts is None or member.ended:
            return self.fresh
        step, params, ema, opt_state = jax.tree.unflatten(jax.tree.structure(like), leaves)
        return TrainState(jax.numpy.asarray(step), params, ema, opt_state, self.fresh.key)

    def _write(self, member: Member, state: TrainState | None = None) -> None:
        leaves = [] if state is None else jax.tree.leaves(_arrays(state))
        named: dict[str, Any] = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        facts = {"at": member.at, "ended": member.ended, "found": member.found}
        # Python's JSON reads its own NaN, and writes floats so that they come back as they were.
        said = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        with disk.refused(f"write {member.path}", OTHERWISE), disk.whole(member.path) as part:
            np.savez(part, facts=said, **named)


def _read(path: Path, leaves: int = 0) -> tuple[Any, list[np.ndarray]]:
    """Facts of a member's file, and as many leaves as it has of those wanted; no facts where there
    is no file that can be read."""
    try:
        with np.load(path) as file:
            names = [name for name in (f"leaf{i}" for i in range(leaves)) if name in file]
            return json.loads(bytes(file["facts"])), [file[name] for name in names]
    except (FileNotFoundError, zipfile.BadZipFile, ValueError, TypeError, KeyError, EOFError):
        return None, []  # TypeError: an array alone


def _arrays(state: TrainState) -> tuple:
    return state.step, state.params, state.ema, state.opt_state
