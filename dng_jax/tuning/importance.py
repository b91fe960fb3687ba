"""Which of a family's numbers an objective rests on: functional ANOVA (Hutter et al. 2014).

The share of the variance of an objective over the space that one number explains on its own or with
others, from a forest fitted to the trials; the shares of a family sum to 1. Families have other
numbers, so each is judged on its own trials; "rule" itself is not judged.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from dng_jax.tuning import journals, ways
from dng_jax.tuning.goals import Goals
from dng_jax.tuning.spaces import RULE, Space
from dng_jax.tuning.studies import Told

LEAST = 16  # trials below which a forest says nothing


def importance(told: Sequence[Told], space: Space, goals: Goals, seed: int) -> list[dict[str, Any]]:
    """Records {rule, leaf, trials, objective: share, ...}; families of too few trials, or with an
    objective that is the same everywhere, are left out."""
    known, records = journals.optuna(), []
    for family in space.families:
        mine = [t for t in told if t.found is not None and space.family(t.params) is family]
        if len(mine) < LEAST:
            continue
        trials = [_trial(known, t, space) for t in mine]
        shares = {name: _shares(known, trials, mine, name, seed) for name in goals.measures}
        for leaf in family.leaves:
            name = f"{family.named} {leaf.name}"
            record = {measure: found.get(name) for measure, found in shares.items()}
            if any(value is not None for value in record.values()):
                records.append(
                    {"rule": family.named, "leaf": leaf.name, "trials": len(mine)} | record
                )
    return records


def _trial(known: Any, told: Told, space: Space) -> Any:
    held = ways.distributions(space, told.params)
    params = {name: value for name, value in told.params.items() if name != RULE}
    held = {name: distribution for name, distribution in held.items() if name != RULE}
    return known.trial.create_trial(value=0.0, params=params, distributions=held)


def _shares(known: Any, trials: list, told: Sequence[Told], measure: str, seed: int) -> dict:
    values = [float((t.found or {})[measure]) for t in told]
    if len(set(values)) < 2:
        return {}
    study = known.create_study()
    study.add_trials(trials)
    by_number = dict(enumerate(values))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return known.importance.get_param_importances(
            study,
            evaluator=known.importance.FanovaImportanceEvaluator(seed=seed),
            target=lambda trial: by_number[trial.number],
        )
