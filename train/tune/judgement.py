"""The best numbers against the preset's own, on fresh seeds: see dng_jax.tuning.paired.

The best was chosen by the held-out images, and with the seed, that all members had. So both are
trained again, n times, with the start, batches and noise of another seed, and compared on images
that all members trained on, others for each seed; these two train on the rest.

    number of seed k of n = 1000 T + k, k = 1 .. n < 1000         T: trials told by then

so that more seeds begin with those that are known, and the best of more trials is judged where no
judgement looked before. What was trained on a number is noted in the study, and not trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dng_jax.jobs import cli
from dng_jax.tuning import blocks, paired
from dng_jax.tuning.numbers import Numbers
from dng_jax.tuning.studies import Study

from .options import MOST_SEEDS

SAID = {
    paired.BETTER: "the best beats the preset",
    paired.WORSE: "the preset beats the best: keep it",
    paired.UNDECIDED: "best and preset are not told apart: keep the preset",
}
ONE_LOOK = "of one look at a number of seeds decided on beforehand"


@dataclass(frozen=True)
class FreshSeeds:
    """Where the two are trained: number of a fresh seed -> who trains there, on how many images,
    compared on how many others."""

    trainings: Callable[[int], blocks.Trainings]
    trained_on: int
    held_out: int

    @property
    def share(self) -> float:
        """n_test / n_train of dng_jax.tuning.paired."""
        return self.held_out / self.trained_on

    def least(self, objective: str) -> float:
        """The step that an objective moves in: an error's is one image."""
        return 1 / self.held_out if objective == "error" else 0.0


def seeds(told: int, count: int) -> list[int]:
    """The numbers of the fresh seeds of a judgement: see the top of this file."""
    return [(MOST_SEEDS + 1) * told + k for k in range(1, count + 1)]


def split_again(
    rows: np.ndarray, held: np.ndarray, seed: int, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, and as many held out as before, of those trained on before; both rising."""
    order = np.random.default_rng([seed, number]).permutation(rows)
    return np.sort(np.r_[order[len(held) :], held]), np.sort(order[: len(held)])


def judged(
    study: Study,
    fresh: FreshSeeds,
    numbers: Sequence[int],
    objective: str,
    best: Numbers,
    preset: Numbers,
) -> dict[str, Any]:
    """Trains both on the seeds of these numbers, but where the study has noted what came of it."""
    found: dict[Numbers, list[float | None]] = {best: [], preset: []}
    with cli.progress_bar() as bar:
        task = bar.add_task("judging", total=len(numbers))
        for done, number in enumerate(numbers):
            left = [one for one in found if study.noted(_name(number, one)) is None]
            if left:
                train = fresh.trainings(number)
                train.advance = partial(_advanced, bar, task, train.rungs[-1])
                for one, measured in zip(left, train(left), strict=True):
                    value = None if measured is None else measured[objective]
                    study.note(_name(number, one), {objective: value})
            for one, values in found.items():
                values.append(study.noted(_name(number, one))[objective])
            bar.update(task, completed=done + 1)
    facts = {"seeds": list(numbers), "trained_on": fresh.trained_on, "held_out": fresh.held_out}
    names = {"best": str(best), "preset": str(preset)}
    of = fresh.share, fresh.least(objective)
    return summary(found[best], found[preset], *of) | names | facts


def summary(
    best: list[float | None], preset: list[float | None], share: float, least: float = 0.0
) -> dict[str, Any]:
    """The values of both, seed by seed, their means and that of their difference with intervals,
    and the verdict; without means where a training was not finite. share, least: as of
    paired.mean."""
    whole = [[v for v in values if v is not None] for values in (best, preset)]
    results: dict[str, Any] = {"values": {"best": best, "preset": preset}, "means": None}
    if all(len(some) == len(best) for some in whole):
        difference = paired.difference(whole[0], whole[1], share, least)
        best_mean, preset_mean = (paired.mean(some, share, least) for some in whole)
        means = {"best": best_mean, "preset": preset_mean}
        results["means"] = means | {"difference": difference}
        results["verdict"] = difference.verdict
    return results


def sentence(found: dict[str, Any], objective: str) -> str:
    """What the judgement comes to."""
    count = len(found["values"]["best"])
    where = f"on {count} fresh seeds"
    if found["means"] is None:
        bad = {name: sum(v is None for v in values) for name, values in found["values"].items()}
        which = " and ".join(f"the {name}" for name, n in bad.items() if n)
        return (
            f"{where} trainings of {which} were not finite ({max(bad.values())} of {count}): they"
            " are not compared; narrow --space to lower rates"
        )
    d = found["means"]["difference"]
    return (
        f"{where} {SAID[found['verdict']]} (held-out {objective} of the best less that of the"
        f" preset {d.mean:+.3g}, 95% [{d.low:+.3g}, {d.high:+.3g}], {ONE_LOOK})"
    )


def _advanced(bar: Any, task: Any, whole: int, steps: float) -> None:
    bar.advance(task, steps / whole)


def _name(number: int, one: Numbers) -> str:
    return f"judged {number} {one}"
