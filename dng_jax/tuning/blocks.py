"""A block of members trained through rungs of steps, saved at each.

    evaluate = Trainings(...)
    found = evaluate([Numbers, ...])

All members of a block begin from one state and take rungs[0] steps; the best 1 of eta, by the
averaged weights' objective on held-out images, go on to rungs[1] with the states that they have,
and so on (dng_jax.tuning.halving). Survivors are moved together, so that a rung is a program of as
many members as are left. The rate's schedule is that of the whole training in every rung.

After a rung the block is a file blocks/NAME.npz of the folder, NAME by its settings: a search that
was killed is asked the same settings again, and goes on from the last rung. Engine single, which
trains one member after the other, also writes each to blocks/NAME-RUNG-MEMBER.npz at once, until
the rung is done. A search killed while it told a block trains none of it again; the blocks after
that are cut at other places.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dng_jax import disk
from dng_jax.training import TrainState, members
from dng_jax.tuning import halving
from dng_jax.tuning.numbers import Numbers

FOLDER = "blocks"
OBJECTIVES = ("loss", "error")


@dataclass(eq=False)
class Trainings:
    """See the top of this file; what it is called with is searching.Evaluate.

    build: numbers -> the step of one training; fresh: the state all begin from; arrays, held:
    images uint8 and labels, trained on and held out; key: of the yardstick; rungs: steps, rising;
    every: steps between values of a curve; objective: loss, or error, 1 - accuracy.
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
    advance: Callable[[float], object] = lambda steps: None

    def __post_init__(self) -> None:
        self.step = members.make_step(self.build, self.engine)

    def __call__(self, settings: Sequence[Numbers]) -> list[dict[str, Any] | None]:
        """What each training came to: {loss, [accuracy, error,] steps, rungs: [[steps, objective]],
        curve: training losses after every `every` steps}; None where the loss is not finite.
        Equal settings are one training."""
        known = self._ended()
        left = [one for one in dict.fromkeys(settings) if str(one) not in known]
        if left:
            known |= dict(zip(map(str, left), self._train(left), strict=True))
        found = [known[str(one)] for one in settings]
        return [one if np.isfinite(self._value(one)) else None for one in found]

    def _train(self, settings: Sequence[Numbers]) -> list[dict[str, Any]]:
        path = self.folder / FOLDER / f"{_name(settings, self.rungs)}.npz"
        rung, alive, found, state = self._read(path, len(settings))
        while rung < len(self.rungs):
            state, measured = self._rung(path, rung, [settings[i] for i in alive], state)
            for i, one in zip(alive, measured, strict=True):
                rungs = [*found[i]["rungs"], [self.rungs[rung], one[self.objective]]]
                found[i] |= one | {"rungs": rungs, "curve": found[i]["curve"] + one["curve"]}
            rung += 1
            places = self._best([self._value(found[i]) for i in alive])
            if rung == len(self.rungs) or not places:
                break
            state, alive = members.kept(state, places), [alive[p] for p in places]
            self._write(path, [rung, alive, found], state)
            self._remove_members(path)
        self._write(path, [len(self.rungs), list(map(str, settings)), found])
        self._remove_members(path)
        return found

    def _rung(
        self, path: Path, rung: int, settings: Sequence[Numbers], state: TrainState
    ) -> tuple[TrainState, list[dict[str, Any]]]:
        """The members at the end of a rung, and what is measured of each there."""
        if self.engine == "vmap":
            return self._taken(rung, settings, state, self.advance)
        states, measured = [], []
        for k, one in enumerate(settings):
            file = path.with_name(f"{path.stem}-{rung}-{k}{path.suffix}")
            facts, leaves = _file(file)
            if facts is None:
                after, found = self._taken(
                    rung, [one], members.kept(state, [k]), lambda n: self.advance(n / len(settings))
                )
                self._write(file, [rung, found], after)
            else:
                after, found = self._state(leaves), facts[1]
            states.append(after)
            measured += found
        return members.joined(states), measured

    def _taken(
        self, rung: int, settings: Sequence[Numbers], state: TrainState, advance: Callable
    ) -> tuple[TrainState, list[dict[str, Any]]]:
        """A population taken to the end of a rung, and measured there."""
        numbers = members.stacked([dict(one.values) for one in settings])
        until = self.rungs[rung]
        state, metrics = members.train(
            self.step, self.engine, numbers, state, self.arrays, until, self.every, advance
        )
        judged = members.judged(self.yardstick, self.engine, state, *self.held, self.key)
        if "accuracy" in judged:
            judged["error"] = 1 - judged["accuracy"]
        measured: list[dict[str, Any]] = []
        for k in range(len(settings)):
            one: dict[str, Any] = {name: float(values[k]) for name, values in judged.items()}
            curve = metrics["loss"][k].tolist() if metrics else []
            measured.append(one | {"steps": until, "curve": curve})
        return state, measured

    def _value(self, one: dict[str, Any]) -> float:
        """What a member is compared by. Of logits that are NaN the first class is the largest, so
        that only the loss says that they are."""
        return one[self.objective] if np.isfinite(one["loss"]) else np.nan

    def _best(self, values: Sequence[float]) -> list[int]:
        """Places of the survivors, rising; the earlier of two that are equal."""
        order = sorted((v, i) for i, v in enumerate(values) if np.isfinite(v))
        return sorted(i for _, i in order[: halving.survivors(len(values), self.eta)])

    def _ended(self) -> dict[str, dict[str, Any]]:
        """What is known of settings whose block came to its end before all of it was told."""
        known: dict[str, dict[str, Any]] = {}
        for path in sorted((self.folder / FOLDER).glob("*.npz")):
            facts, _ = _file(path)
            if facts is not None and facts[0] == len(self.rungs):
                known |= dict(zip(*facts[1:], strict=True))
        return known

    def _read(self, path: Path, count: int) -> tuple[int, list, list, TrainState]:
        """Where the block is: rungs done, members left, what is known of each, their states."""
        facts, leaves = _file(path)
        found: list[dict[str, Any]]
        if facts is None:
            found = [{"rungs": [], "curve": []} for _ in range(count)]
            return 0, list(range(count)), found, members.population(self.fresh, count)
        rung, alive, found = facts
        return rung, alive, found, self._state(leaves)

    def _state(self, leaves: Sequence[np.ndarray]) -> TrainState:
        tree = jax.tree.structure(_arrays(self.fresh))
        step, params, ema, opt_state = jax.tree.unflatten(tree, map(jax.numpy.asarray, leaves))
        return TrainState(step, params, ema, opt_state, self.fresh.key)

    def _write(self, path: Path, facts: list, state: TrainState | None = None) -> None:
        leaves = [] if state is None else jax.device_get(jax.tree.leaves(_arrays(state)))
        named: dict[str, Any] = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        # Python's JSON reads its own NaN, and writes floats so that they come back as they were.
        said = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        with disk.whole(path) as part:
            np.savez(part, facts=said, **named)

    def _remove_members(self, path: Path) -> None:
        for file in path.parent.glob(f"{path.stem}-*{path.suffix}"):
            file.unlink(missing_ok=True)


def _file(path: Path) -> tuple[Any, list[np.ndarray]]:
    """Facts and leaves of a block's file; no facts where there is none that can be read."""
    try:
        with np.load(path) as file:
            leaves = [file[f"leaf{i}"] for i in range(len(file.files) - 1)]
            return json.loads(bytes(file["facts"])), leaves
    except (FileNotFoundError, zipfile.BadZipFile, ValueError, KeyError, EOFError):
        return None, []


def _arrays(state: TrainState) -> tuple:
    return state.step, state.params, state.ema, state.opt_state


def _name(settings: Sequence[Numbers], rungs: Sequence[int]) -> str:
    words = "\n".join([*map(str, settings), str(tuple(rungs))])
    return hashlib.sha256(words.encode()).hexdigest()[:16]
