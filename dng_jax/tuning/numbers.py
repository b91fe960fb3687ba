"""Spaces of training numbers: learning_rate=1e-4..1e-2:log weight_decay=0..0.1 warmup=50,200

LEAF=VALUES as in dng_jax.tuning.spaces; a leaf is a number of a training job that does not change
the shape of anything, so that members which differ in it are one program. What a number may be is
what the job itself takes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dng_jax.errors import InputError, choose
from dng_jax.experiments.rule_specs import Range, written
from dng_jax.training.jobs import ClassifierJob, DiffusionJob, Job
from dng_jax.tuning.spaces import Family, Leaf, Space, read_leaf

WHOLE = ("warmup",)
COMMON = ("learning_rate", "warmup", "weight_decay", "clip", "ema_decay")


@dataclass(frozen=True)
class Numbers:
    """Numbers of one member, (name, value) in the order of the space."""

    values: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        return " ".join(f"{name}={written(value)}" for name, value in self.values)

    def of(self, job: Job) -> Job:
        """The job with these numbers."""
        return dataclasses.replace(job, **whole(dict(self.values)))


@dataclass(frozen=True)
class NumberSpace(Space):
    """A space of one family, whose settings are Numbers."""

    def setting(self, params: Mapping[str, Any]) -> Numbers:  # type: ignore[override]
        """The numbers of a point."""
        family = self.families[0]
        found = []
        for leaf in family.leaves:
            value = float(params[f"{family.named} {leaf.name}"])
            found.append((leaf.name, value if leaf.values else leaf.rounded(value)))
        return Numbers(tuple(found))

    @property
    def facts(self) -> dict[str, Any]:
        """As of Space."""
        return {"space": [str(family) for family in self.families]}


def whole(values: Mapping[str, float]) -> dict[str, Any]:
    """The values, those that a job has as whole numbers as such."""
    return {name: int(v) if name in WHOLE else v for name, v in values.items()}


def leaves_of(job: Job) -> tuple[str, ...]:
    """The numbers of a job that can be searched, of those that its network and optimiser have."""
    if isinstance(job, ClassifierJob):
        return (*COMMON, "smoothing") + ("momentum",) * (job.momentum is not None)
    assert isinstance(job, DiffusionJob)
    more = {"label": ("label_dropout",), "heads": ("unconditional_weight",)}
    return (*COMMON, "focus", *more.get(job.network.conditioning, ()))


def parse(text: str, job: Job) -> NumberSpace:
    """Reads the space of a job; InputError names what is wrong with it, and what would be right."""
    known, where = leaves_of(job), f"space '{text}'"
    leaves: list[Leaf] = []
    for word in text.split():
        said, equals, values = word.partition("=")
        name = said.replace("-", "_")
        try:
            choose(name, known, "leaf of this training")
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if not equals or not values:
            raise InputError(f"{where}: {name} needs values, as in {name}=0.1..1 or {name}=0.1,1")
        if name in [leaf.name for leaf in leaves]:
            raise InputError(f"{where}: {name} is given twice")
        allowed = Range(0, whole=True) if name in WHOLE else Range()
        leaf = read_leaf(where, name, values, allowed)
        for value in map(float, leaf.values or (leaf.low, leaf.high)):
            try:
                dataclasses.replace(job, **whole({name: value})).check()
            except InputError as error:
                raise InputError(f"{where}: {error}") from None
        leaves.append(leaf)
    if not leaves:
        raise InputError(f"{where} has nothing to search: add a leaf, {', '.join(known)}")
    # The rule of a family is what a point's names begin with.
    named = "classifier" if isinstance(job, ClassifierJob) else "diffusion"
    return NumberSpace((Family(None, named, tuple(leaves)),))
