"""Trials of one search in one folder, asked and told by any number of processes.

    study = studies.open_study(folder, plan)
    asked = study.ask(64)              settings nobody else has, those of dead workers first
    study.tell(one, found)             what was measured of it

The folder holds journal.log (dng_jax.tuning.journals), a file workers/NAME that the process of that
name keeps locked while it lives, and ask.lock, under which trials are asked one process at a time.
A trial that runs and names no worker, or one whose lock is free, is an orphan.

A setting that halving stopped is PRUNED, with its objective at every rung as an intermediate value,
and one that ran to its end COMPLETE: TPE ranks all that are COMPLETE before those that are not, and
of these the ones that came further first, so that a value of few steps or images is never held
against one of many; and the best trial of Optuna is one that ran to its end. Two cases are COMPLETE
with the values of their last rung: a study of several objectives, of which Optuna has no
intermediate values, and NSGA-II, which breeds from COMPLETE trials alone and would wait for a whole
population of them.

A setting whose predictions are not finite is told as one that violates a constraint by WORST, with
objectives of WORST, so that TPE keeps away from where it lies and NSGA-II breeds it last; of a
failed trial both would know nothing.
"""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dng_jax import disk
from dng_jax.errors import InputError, difference
from dng_jax.jobs import locks, runs
from dng_jax.tuning import goals, journals, spaces, ways

NAME = "tune"
IDENTITY, WORKER, FOUND, TAKEN_OVER = "identity", "worker", "found", "taken_over"
SESSION = "session "
FINITE, WORST = "finite", 1e9  # a constraint, and by how much it is violated, far beyond all others


@dataclass(frozen=True)
class Plan:
    """What a study searches, and for how long.

    trials: of the whole study; points: of a range, where the way is a grid, which then has as many
    trials as points. identity: what else two sessions of a study must have in common. whole: the
    measure that counts what a setting took, and how much of it is all, as in ("steps", 2000); None
    where nothing is stopped before.
    """

    space: spaces.Space
    goals: goals.Goals
    way: str
    trials: int
    seed: int = 0
    points: int = 5
    identity: tuple[tuple[str, Any], ...] = ()
    whole: tuple[str, int] | None = None

    @property
    def total(self) -> int:
        """Trials of the whole study."""
        return sum(1 for _ in self.space.grid(self.points)) if self.way == "grid" else self.trials

    @property
    def facts(self) -> dict[str, Any]:
        """What makes two studies the same; the number of trials does not, but of a grid."""
        facts = (
            self.space.facts
            | {
                "objectives": list(self.goals.objectives),
                "constraints": [str(constraint) for constraint in self.goals.constraints],
                "search": self.way,
                "seed": self.seed,
            }
            | dict(self.identity)
        )
        return facts | ({"points": self.points} if self.way == "grid" else {})


@dataclass(frozen=True, eq=False)
class Asked:
    """A trial of this process: its number, its setting of the plan's space, and Optuna's trial."""

    number: int
    setting: Any
    trial: Any


@dataclass(frozen=True)
class Told:
    """A finished trial: found holds the measures, None where its predictions were not finite."""

    number: int
    params: dict[str, Any]
    setting: Any
    found: dict[str, Any] | None


def open_study(folder: str | os.PathLike, plan: Plan) -> Study:
    """The study of a folder, made where there is none.

    InputError where Optuna is missing, the journal cannot be read, or the folder's study is another
    one; OSError as the disk says it.
    """
    folder = Path(folder)
    known = journals.optuna()
    storage = journals.storage(folder)
    with locks.waited(folder / Study.LOCK):
        if NAME in known.get_all_study_names(storage):
            study = known.load_study(study_name=NAME, storage=storage)
        else:
            directions = ["minimize"] * len(plan.goals.objectives)
            study = known.create_study(storage=storage, study_name=NAME, directions=directions)
        facts = runs.to_json(plan.facts)
        before = study.user_attrs.get(IDENTITY)
        if before is None:
            study.set_user_attr(IDENTITY, facts)
        elif before != facts:
            raise InputError(
                f"{folder} holds a study of another search ({difference(before, facts)}): choose"
                " another --out"
            )
    return Study(folder, plan, storage, study)


class Study:
    """See the top of this file; make it with `open_study`, and close it."""

    LOCK = "ask.lock"

    def __init__(self, folder: Path, plan: Plan, storage: Any, study: Any) -> None:
        self.folder, self.plan = folder, plan
        self._storage, self._study = storage, study
        self._id = storage.get_study_id_from_name(NAME)
        self._point = (
            ways.planned(plan.way, plan.space, plan.seed, plan.points)
            if plan.way in ways.PLANNED
            else None
        )
        self.worker = f"{os.getpid()}-{secrets.token_hex(4)}"
        with disk.refused(f"write to {folder}", runs.OTHERWISE):
            self._lease_path.parent.mkdir(exist_ok=True)
            self._lease = locks.lease(self._lease_path)

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives up what this process was asked and has not told."""
        os.close(self._lease)
        self._lease_path.unlink(missing_ok=True)

    def ask(self, count: int) -> list[Asked]:
        """At most `count` trials, which are this process's until it tells them or ends."""
        with locks.waited(self.folder / self.LOCK), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trials = self._study.get_trials(deepcopy=False)
            self._study.sampler = ways.sampler(self.plan.way, self.plan.seed, len(trials), count)
            running = [t for t in trials if not t.state.is_finished()]
            orphans = [t for t in running if not self._lives(t.user_attrs.get(WORKER))]
            asked = [self._taken_over(t) for t in orphans[:count]]
            left = min(count - len(asked), self.plan.total - len(trials))
            return asked + [self._new(len(trials) + i) for i in range(left)]

    def tell(self, asked: Asked, found: Mapping[str, Any] | None) -> None:
        """Ends a trial with what was measured (goals.MEASURES and anything else that JSON holds;
        rungs: [[taken, objective], ...], where there is more than the last); None: its predictions
        were not finite.

        Where a worker wrote down what it measured and died before it told, that stands: Optuna
        never changes a constraint that is set, and another machine may measure a little else.
        """
        before = asked.trial.user_attrs
        if FOUND in before:
            found = before[FOUND]
        else:
            asked.trial.set_user_attr(FOUND, None if found is None else runs.to_json(dict(found)))
        held = asked.trial.constraints
        for name, excess in self._excesses(found).items():
            if name not in held:
                asked.trial.set_constraint(name, excess)
        if self._reported(asked, found):
            state = journals.optuna().trial.TrialState.PRUNED
            self._study.tell(asked.number, state=state)
            return
        values = (
            self.plan.goals.values(found) if found else [WORST] * len(self.plan.goals.objectives)
        )
        self._study.tell(asked.number, values)

    def told(self) -> list[Told]:
        """Every finished trial, by number."""
        found = []
        for t in self._study.get_trials(deepcopy=False):
            if t.state.is_finished():
                setting = self.plan.space.setting(t.params)
                found.append(Told(t.number, dict(t.params), setting, t.user_attrs.get(FOUND)))
        return found

    def counts(self) -> tuple[int, int]:
        """Trials that are finished, and trials that run, whoever has them."""
        states = [t.state.is_finished() for t in self._study.get_trials(deepcopy=False)]
        return sum(states), len(states) - sum(states)

    def awaited(self) -> str:
        """The sentence about settings that other processes have, and what may be done."""
        running = [t for t in self._study.get_trials(deepcopy=False) if not t.state.is_finished()]
        workers = sorted({str(t.user_attrs.get(WORKER)) for t in running})
        what = f"waiting for {len(running)} settings that other processes have"
        if locks.are_real(self.folder):
            return f"{what} ({', '.join(workers)}); of one that ends they are taken over"
        files = " ".join(str(self.folder / "workers" / worker) for worker in workers)
        return (
            f"{what}; this file system has no locks, so that a process that died looks like one at"
            f" work: where none of them runs any more, rm {files} and this one goes on"
        )

    def taken_over(self) -> int:
        """How often a trial of a dead worker was taken over."""
        trials = self._study.get_trials(deepcopy=False)
        return sum(t.user_attrs.get(TAKEN_OVER, 0) for t in trials)

    def sessions(self) -> list[dict[str, Any]]:
        """What every process kept of its speed."""
        held = self._study.user_attrs
        return [held[name] for name in held if name.startswith(SESSION)]

    def keep_session(self, trials: int, seconds: float) -> None:
        """How many trials this process evaluated, and how long it was at work on them."""
        self.note(SESSION + self.worker, {"trials": trials, "seconds": seconds})

    def note(self, name: str, value: Any) -> None:
        """Keeps a fact beside the trials, whole or not at all."""
        self._study.set_user_attr(name, runs.to_json(value))

    def noted(self, name: str) -> Any:
        """A fact that was kept, None where there is none."""
        return self._study.user_attrs.get(name)

    def _reported(self, asked: Asked, found: Mapping[str, Any] | None) -> bool:
        """Reports the rungs of a trial, those alone that a worker before did not; whether it is to
        be PRUNED: see the top of this file."""
        plan = self.plan
        if plan.whole is None or not found or len(plan.goals.objectives) > 1:
            return False
        measure, most = plan.whole
        identifier = self._storage.get_trial_id_from_study_id_trial_number(self._id, asked.number)
        held = self._storage.get_trial(identifier).intermediate_values
        for taken, value in found.get("rungs", [[found[measure], *plan.goals.values(found)]]):
            if taken not in held:
                asked.trial.report(value, taken)
        return found[measure] < most and plan.way != "nsga2"

    def _excesses(self, found: Mapping[str, Any] | None) -> dict[str, float]:
        if found is None:
            return {FINITE: WORST}
        return {c.measure: c.excess(found) for c in self.plan.goals.constraints}

    @property
    def _lease_path(self) -> Path:
        return self.folder / "workers" / self.worker

    def _lives(self, worker: str | None) -> bool:
        if worker is None:
            return False
        return worker == self.worker or locks.is_leased(self.folder / "workers" / worker)

    def _new(self, number: int) -> Asked:
        known = journals.optuna().trial
        if self._point is None:
            trial = self._study.ask()
            trial.set_user_attr(WORKER, self.worker)
            return self._asked(trial)
        params = self._point(number)
        held = ways.distributions(self.plan.space, params)
        state, owner = known.TrialState.RUNNING, {WORKER: self.worker}
        self._study.add_trial(
            known.create_trial(state=state, params=params, distributions=held, user_attrs=owner)
        )
        return self._asked(self._trial(number))

    def _taken_over(self, frozen: Any) -> Asked:
        trial = self._trial(frozen.number)
        trial.set_user_attr(TAKEN_OVER, frozen.user_attrs.get(TAKEN_OVER, 0) + 1)
        trial.set_user_attr(WORKER, self.worker)
        return self._asked(trial)

    def _trial(self, number: int) -> Any:
        identifier = self._storage.get_trial_id_from_study_id_trial_number(self._id, number)
        return journals.optuna().trial.Trial(self._study, identifier)

    def _asked(self, trial: Any) -> Asked:
        # A worker may have died when only some of a trial's numbers were drawn.
        params = ways.suggested(trial, self.plan.space)
        return Asked(trial.number, self.plan.space.setting(params), trial)
