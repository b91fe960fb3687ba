"""Who proposes the next settings: WAYS.

    grid      every point of the grid, in order
    random    trial n is drawn from (seed, n): the same settings however many processes draw them
    tpe       tree-structured Parzen estimators (Bergstra et al. 2011; several objectives: Ozaki et
              al. 2020), with trials that run counted as bad ones, so that a block is diverse
    nsga2     the genetic algorithm NSGA-II (Deb et al. 2002)

The last two are Optuna's; constraints reach them by Trial.set_constraint. Both mutate or perturb
by number, and NSGA-II every number of a space that has one alone, so that it then draws at random.

A sampler is made anew for every block, seeded by the study's seed and the number of trials so far,
and what it knows is in the journal. So grid and random propose the same settings however often a
search is interrupted. tpe and nsga2 do where one process works and is stopped between two blocks;
else what was told when they proposed is another, and so is what they propose, no better or worse.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from dng_jax.tuning import journals
from dng_jax.tuning.spaces import RULE, Leaf, Space

PLANNED = ("grid", "random")
WAYS = (*PLANNED, "tpe", "nsga2")


def planned(way: str, space: Space, seed: int, points: int) -> Callable[[int], dict[str, Any]]:
    """number of a trial -> its point, of the ways that need no earlier trial."""
    if way == "grid":
        return list(space.grid(points)).__getitem__

    def draw(number: int) -> dict[str, Any]:
        rng = np.random.default_rng([seed, number])
        family = space.families[int(rng.integers(len(space.families)))]
        return space.point(family, {leaf.name: leaf.at(rng.random()) for leaf in family.leaves})

    return draw


def startup(way: str, block: int) -> int:
    """Trials that a way draws at random before it proposes any by what it knows, in blocks of so
    many; 0 of grid and random."""
    return {"tpe": max(10, block), "nsga2": max(2, block)}.get(way, 0)


def only_random(way: str, trials: int, block: int, option: str) -> str | None:
    """A sentence about a study that ends before its way has begun; option: what sets the block."""
    first = startup(way, block)
    if trials > first or not first:
        return None
    return (
        f"--search {way} draws the first {first} trials at random, and --trials {trials} are no"
        f" more: this is --search random; raise --trials, or lower {option}"
    )


def sampler(way: str, seed: int, done: int, block: int) -> Any:
    """Optuna's sampler for the block that begins after `done` trials."""
    samplers, each = journals.optuna().samplers, np.random.SeedSequence([seed, done])
    number, first = int(each.generate_state(1)[0]), startup(way, block)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # multivariate and group are marked as experimental
        if way == "tpe":
            return samplers.TPESampler(
                seed=number, multivariate=True, group=True, n_startup_trials=first
            )
        if way == "nsga2":
            return samplers.NSGAIISampler(seed=number, population_size=first)
        return samplers.RandomSampler(seed=number)


def suggested(trial: Any, space: Space) -> dict[str, Any]:
    """The point that a trial proposes; what it holds already stays."""
    names = [family.named for family in space.families]
    params = {} if len(names) == 1 else {RULE: trial.suggest_categorical(RULE, names)}
    family = space.family(params)
    for leaf in family.leaves:
        name = f"{family.named} {leaf.name}"
        if leaf.values:
            params[name] = trial.suggest_categorical(name, list(leaf.values))
        elif leaf.whole:
            params[name] = trial.suggest_int(name, int(leaf.low), int(leaf.high), log=leaf.log)
        else:
            params[name] = trial.suggest_float(name, leaf.low, leaf.high, log=leaf.log)
    return params


def distributions(space: Space, params: dict[str, Any]) -> dict[str, Any]:
    """Optuna's distributions of a point's names."""
    family = space.family(params)
    found = {f"{family.named} {leaf.name}": _distribution(leaf) for leaf in family.leaves}
    if RULE in params:
        known = journals.optuna().distributions
        found[RULE] = known.CategoricalDistribution([f.named for f in space.families])
    return found


def _distribution(leaf: Leaf) -> Any:
    known = journals.optuna().distributions
    if leaf.values:
        return known.CategoricalDistribution(list(leaf.values))
    if leaf.whole:
        return known.IntDistribution(int(leaf.low), int(leaf.high), log=leaf.log)
    return known.FloatDistribution(leaf.low, leaf.high, log=leaf.log)
