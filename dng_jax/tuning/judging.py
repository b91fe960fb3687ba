r"""The front of a search on seeds that the search never saw.

A setting is on the front because it is good, and because its noise was: of many settings measured
on n images, those that look best were lucky, and on other images they look worse. So

    front      found on the search's seed: the settings whose samples are complete, the front and
               as many ranks behind it as are to be judged
    fresh      the same settings on another seed; intervals as of dng_jax.metrics.tradeoff, samples
               redrawn by their number, alike in all settings, since they share noise
    bias       mean over these settings of (fresh - search): what the first look flatters, with an
               interval of the fresh mean; that of the search is what it is, the figure one would
               have reported
    chosen     the best of the fresh front that keep the constraints with the upper ends of their
               95% intervals; where none does, of those that keep them by the estimate. Its figures
               come from a third seed, because it was chosen on these images, and may show that it
               does not keep them
    verdict    whether one constraint is kept, and how that is known:
                   leak       Wilson's interval
                   kl         the bootstrap's, with no upper end where a class was never drawn
                   calls      exact, but of a rule that skips: then a mean, without an interval
                   frechet    the estimate alone
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dng_jax.errors import InputError
from dng_jax.metrics import tradeoff
from dng_jax.metrics.tradeoff import Curve
from dng_jax.tuning import fronts
from dng_jax.tuning.goals import Constraint, Goals, shown
from dng_jax.tuning.measuring import Measurer, Tally
from dng_jax.tuning.studies import Told

FRONT = "front"
LEVELS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
BIASED = ("leak", "kl")
# How it is known whether a constraint is kept.
EXACTLY = "exactly"
BY_INTERVAL = "by the 95% interval"
BY_ESTIMATE = "by the estimate, the 95% interval holds the limit"
NO_INTERVAL = "by the estimate, which has no interval"


class UnmetError(InputError):
    """No setting keeps the constraints; everything is written."""


@dataclass(frozen=True)
class Verdict:
    """Whether a constraint is kept, and how that is known; see the top of this file."""

    constraint: str
    kept: bool
    how: str


@dataclass(frozen=True)
class Bias:
    """Means over the front of one measure, and the interval of what the first look flatters."""

    measure: str
    search: float
    fresh: float
    flattery: float
    low: float
    high: float


@dataclass(frozen=True)
class Compared:
    """A rule made by hand against the front, at one leak: KL of both, and the excess of its KL."""

    rule: str
    level: float
    kl: float
    kl_low: float
    kl_high: float
    own: float
    own_low: float
    own_high: float
    excess: float
    excess_low: float
    excess_high: float
    sparse: bool


def complete(told: Sequence[Told], samples: int) -> list[Told]:
    """Trials that were measured on all `samples`."""
    return [t for t in told if t.found is not None and t.found["samples"] >= samples]


def candidates(told: Sequence[Told], goals: Goals, most: int) -> list[Told]:
    """The front of complete trials over all measures of the goals, and what only it dominates, and
    so on up to `most`: where few images were drawn, one lucky setting may dominate all others.

    Of a rank that is too large those that keep the constraints come first, thinned where they are
    crowded. By their first measure; empty where nothing is told.
    """
    if not told:
        return []
    values = np.array([[t.found[m] for m in goals.measures] for t in told])  # type: ignore[index]
    kept = np.array([goals.violation(t.found or {}) == 0 for t in told])
    rank, chosen = fronts.ranks(values), np.zeros(0, int)
    for level in np.unique(rank):
        for members in (np.flatnonzero((rank == level) & side) for side in (kept, ~kept)):
            room = most - len(chosen)
            if room > 0 and len(members):
                chosen = np.append(chosen, members[fronts.spread(values[members], room)])
    return [told[i] for i in sorted(chosen, key=lambda i: tuple(values[i]))]


def curve(
    measurer: Measurer, tallies: Mapping[str, Sequence[Tally]], resamples: int = 1000
) -> dict[str, Curve]:
    """Curves through the tallies of each name, by their leak, paired by sample number.

    InputError where a name has none: no setting's predictions were finite.
    """
    if not all(tallies.values()):
        raise InputError(
            "no setting of the front gave finite predictions on fresh seeds: lower the scales of"
            " --space"
        )
    problem = measurer.problem
    names = {name: sorted(found, key=_leaked(measurer)) for name, found in tallies.items()}
    return tradeoff.curves(
        {name: [np.stack([t.labels for t in found])] for name, found in names.items()},
        [problem.forbidden],
        problem.info.num_classes,
        {name: [str(t.setting) for t in found] for name, found in names.items()},
        resamples=resamples,
    )


def bias(front: Curve, search: Mapping[str, Mapping[str, float]]) -> list[Bias]:
    """How far the search flattered its front; search: setting -> what it measured there."""
    out = []
    for name in BIASED:
        before = float(np.mean([search[setting][name] for setting in front.scales]))
        fresh = float(getattr(front, name).mean())
        draws = getattr(front.draws, name).mean(axis=1)
        low, high = np.quantile(draws - draws.mean(), tradeoff.TAILS) + fresh - before
        out.append(Bias(name, before, fresh, fresh - before, float(low), float(high)))
    return out


def with_interval(found: Mapping[str, Any], curve: Curve, setting: object) -> dict[str, Any]:
    """What was measured of a setting of a curve, with the interval of its KL beside the leak's."""
    i = curve.scales.index(str(setting))
    numbers = {end: float(getattr(curve, end)[i]) for end in ("kl_low", "kl_high")}
    return {**found, **numbers, "sparse": bool(curve.sparse[i])}


def chosen(measured: Sequence[Mapping[str, Any] | None], goals: Goals) -> int:
    """Number of the best of settings that were measured, of which there is one at least: of those
    that keep the constraints with the upper ends of their intervals, else of those that keep them
    by the estimate, else the nearest. Of several objectives the one in the middle: least sum of
    ranks."""
    numbers = [i for i, m in enumerate(measured) if m is not None]
    found = [measured[i] or {} for i in numbers]
    values = np.array([goals.values(m) for m in found])
    violation = np.zeros(0)
    for held in ([_at_most(m, goals) for m in found], found):
        violation = np.array([goals.violation(m) for m in held])
        kept = np.flatnonzero(violation == 0)
        if len(kept):
            place = np.argsort(np.argsort(values[kept], axis=0, kind="stable"), axis=0)
            best = kept[np.lexsort((values[kept][:, 0], place.sum(axis=1)))[0]]
            return numbers[int(best)]
    return numbers[int(np.argmin(violation))]


def verdicts(goals: Goals, found: Mapping[str, Any]) -> dict[str, Verdict]:
    """Of every constraint's measure whether one setting keeps it."""
    return {c.measure: _verdict(c, found) for c in goals.constraints}


def _verdict(constraint: Constraint, found: Mapping[str, Any]) -> Verdict:
    name, most = constraint.measure, constraint.most
    kept = found[name] <= most
    low, high = (found.get(f"{name}_{end}") for end in ("low", "high"))
    if low is None or high is None:
        how = NO_INTERVAL
    elif low == high:
        how = EXACTLY
    else:
        how = BY_INTERVAL if high <= most or low > most else BY_ESTIMATE
    return Verdict(str(constraint), kept, how)


def _at_most(found: Mapping[str, Any], goals: Goals) -> dict[str, Any]:
    ends = {c.measure: found.get(f"{c.measure}_high") for c in goals.constraints}
    return {**found, **{name: high for name, high in ends.items() if high is not None}}


def compared(curves: Mapping[str, Curve], levels: Sequence[float]) -> list[Compared]:
    """Every other curve against the front's, at the leaks that both reach."""
    own = tradeoff.at_levels(curves[FRONT], levels)
    out = []
    for name, other in curves.items():
        if name == FRONT:
            continue
        found = tradeoff.at_levels(other, levels, curves[FRONT])
        for i in np.flatnonzero(own.reached & found.reached):
            ends = [f"{kind}{end}" for kind in ("kl", "excess") for end in ("", "_low", "_high")]
            numbers = {end: float(getattr(found, end)[i]) for end in ends}
            numbers |= {
                f"own{end}": float(getattr(own, f"kl{end}")[i]) for end in ("", "_low", "_high")
            }
            sparse = bool(found.sparse[i])
            out.append(Compared(name, float(levels[int(i)]), sparse=sparse, **numbers))
    return out


def unmet(goals: Goals, setting: object, found: Mapping[str, float]) -> str:
    """The sentence about constraints that nothing keeps, with the nearest setting."""
    wanted = " and ".join(map(str, goals.constraints))
    has = ", ".join(f"{c.measure} {shown(c.measure, found[c.measure])}" for c in goals.constraints)
    return (
        f"no setting keeps {wanted}: the nearest, {setting}, has {has}; widen --space, or loosen"
        " --constraints"
    )


def _leaked(measurer: Measurer):
    allowed = measurer.problem.allowed
    return lambda tally: (float(np.mean(~allowed[tally.labels])), str(tally.setting))
