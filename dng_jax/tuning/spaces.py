"""Search spaces in words, and a setting of one.

    SPACE     RULE [LEAF=VALUES]...
    RULE      as dng_jax.experiments.rule_specs has it: dng:pair, np, dng:classes,drift=.5
    LEAF      scale, lo, hi, steps, sampler, and the rule's settings that are numbers
    VALUES    LOW..HIGH             any number between them
              LOW..HIGH:log         the same, evenly in the logarithm
              LOW..HIGH:7           7 of them where the search is a grid; also LOW..HIGH:log:7
              A,B,C                 one of these
              A                     this one

    dng:pair scale=.1..10:log delta=0..2 tau=.2..2 drift=0..0.8
    dng:classes scale=.5,1,2,4 steps=25,50
    np scale=0.05..1:log lo=.05..1 hi=1..20:log

lo and hi limit the rule to noise levels, as interval(LO,HI,RULE) does; where RULE is such an
interval, the end that no leaf names stays, and one that a leaf names must be open in it: 0 or inf.
steps and sampler are those of the step table. Steps change the program that is compiled, so they
are listed, never a range; a tracker is part of RULE, and several spaces are searched as one.
Numbers of a range are rounded to 4 digits, those of `every` to whole ones, so that a setting is
what its words say.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dng_jax.errors import InputError, choose
from dng_jax.experiments import rule_specs
from dng_jax.experiments.rule_specs import CALIBRATION, SETTINGS, Range, Spec

STEPS, SAMPLER, SCALE, LO, HI = "steps", "sampler", "scale", "lo", "hi"
WORDS = (SAMPLER,)
EVERYWHERE = (0.0, math.inf)  # an interval that limits nothing
# These draw class by class, or choose among many images: their numbers are no leaves of a program.
NOT_TUNED = ("unguided", "reject", "cfg", "feedback", rule_specs.RETRAINED, rule_specs.REFERENCE)
DIGITS = 4
RULE = "rule"  # the name of the choice between several spaces
STEPS_MAX = 1000


@dataclass(frozen=True)
class Leaf:
    """One number (or sampler) of a space: a range low..high, or `values`; points: of a grid; whole:
    whole numbers only."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    points: int | None = None
    values: tuple[float | str, ...] = ()
    whole: bool = False

    @property
    def ends(self) -> tuple[float | str, ...]:
        """Its lowest and its highest value; of words all."""
        if self.name in WORDS:
            return self.values
        held = [float(v) for v in self.values or (self.low, self.high)]
        return tuple(dict.fromkeys((min(held), max(held))))

    def grid(self, points: int) -> tuple[float | str, ...]:
        """Its values on a grid: `points` of them where it does not say how many, and fewer where
        the range does not hold as many."""
        if self.values:
            return self.values
        count = self.points or points
        if count == 1:
            return (self.low,)
        at = (self._between(self.low, self.high, i / (count - 1)) for i in range(count))
        return tuple(dict.fromkeys(map(self.rounded, at)))

    def rounded(self, value: float) -> float:
        """A number of the range, whole or in DIGITS digits, still inside it."""
        near = float(round(value)) if self.whole else float(f"{value:.{DIGITS}g}")
        return min(max(near, self.low), self.high)

    def at(self, share: float) -> float | str:
        """The value at a share in [0, 1) of the range or of the list."""
        if self.values:
            return self.values[int(share * len(self.values))]
        if self.whole:  # the ends as often as the others
            return self.rounded(self._between(self.low - 0.5, self.high + 0.5, share))
        return self._between(self.low, self.high, share)

    def _between(self, low: float, high: float, share: float) -> float:
        return low * (high / low) ** share if self.log else low + share * (high - low)

    def __str__(self) -> str:
        if self.values:
            return f"{self.name}={','.join(map(rule_specs.written, self.values))}"
        ends = f"{rule_specs.written(self.low)}..{rule_specs.written(self.high)}"
        return f"{self.name}={ends}{':log' * self.log}" + (f":{self.points}" if self.points else "")


@dataclass(frozen=True)
class Setting:
    """What is evaluated: a rule with all its numbers, on a step table."""

    spec: Spec
    sampler: str
    steps: int

    def __str__(self) -> str:
        return f"{self.spec} in {self.steps} steps of {self.sampler}"

    @property
    def program(self) -> tuple[str, int]:
        """Settings that have this in common run as one compiled program."""
        bare = dataclasses.replace(self.spec, scale=None, settings=(), interval=None)
        kind = f"{bare} {sorted(name for name, _ in self.spec.settings)} {self.spec.calibration}"
        return kind + " limited" * (self.spec.interval is not None), self.steps


@dataclass(frozen=True)
class Family:
    """One space: a rule and its leaves; str(family) is read back as the same."""

    spec: Any  # a Spec; None where what is searched is no rule (dng_jax.tuning.numbers)
    named: str
    leaves: tuple[Leaf, ...]

    def __str__(self) -> str:
        return " ".join([self.named, *map(str, self.leaves)])

    def setting(self, values: Mapping[str, Any], sampler: str, steps: int) -> Setting:
        """The setting of values {leaf: value}; sampler and steps: where no leaf has them."""
        found = {leaf.name: values[leaf.name] for leaf in self.leaves}
        for leaf in self.leaves:
            if not leaf.values:
                found[leaf.name] = leaf.rounded(float(found[leaf.name]))
        spec = self.spec.with_scale(found.pop(SCALE, None))
        steps, sampler = int(found.pop(STEPS, steps)), str(found.pop(SAMPLER, sampler))
        if LO in found or HI in found:
            low, high = spec.interval or EVERYWHERE
            ends = float(found.pop(LO, low)), float(found.pop(HI, high))
            spec = dataclasses.replace(spec, interval=ends)
        order = (*SETTINGS, CALIBRATION)
        pairs = sorted([*spec.settings, *found.items()], key=lambda pair: order.index(pair[0]))
        return Setting(dataclasses.replace(spec, settings=tuple(pairs)), sampler, steps)


@dataclass(frozen=True)
class Space:
    """Families searched as one, and the step table where a family has none of its own.

    A point of it, as trials hold it: {"rule": RULE, "RULE LEAF": value, ...}; without "rule" where
    there is one family.
    """

    families: tuple[Family, ...]
    sampler: str = "ddpm"
    steps: int = 50

    @property
    def facts(self) -> dict[str, Any]:
        """What makes two spaces the same."""
        spaces = [str(family) for family in self.families]
        return {"space": spaces, "sampler": self.sampler, "steps": self.steps}

    def family(self, params: Mapping[str, Any]) -> Family:
        """The family of a point."""
        if len(self.families) == 1:
            return self.families[0]
        return next(f for f in self.families if f.named == params[RULE])

    def setting(self, params: Mapping[str, Any]) -> Setting:
        """The setting of a point."""
        family = self.family(params)
        values = {leaf.name: params[f"{family.named} {leaf.name}"] for leaf in family.leaves}
        return family.setting(values, self.sampler, self.steps)

    def grid(self, points: int) -> Iterator[dict[str, Any]]:
        """Every point of the grid, family by family; program by program inside one."""
        for family in self.families:
            # What changes the program varies slowest, so that a block holds few of them.
            leaves = sorted(family.leaves, key=lambda leaf: leaf.name != STEPS)
            for values in itertools.product(*(leaf.grid(points) for leaf in leaves)):
                yield self.point(family, {leaf.name: v for leaf, v in zip(leaves, values)})  # noqa: B905

    def point(self, family: Family, values: Mapping[str, Any]) -> dict[str, Any]:
        """A point from the values of one family's leaves."""
        named = {f"{family.named} {name}": value for name, value in values.items()}
        return named if len(self.families) == 1 else {RULE: family.named, **named}

    def programs(self) -> list[tuple[Family, int]]:
        """Every (family, steps) that is compiled."""
        found = []
        for family in self.families:
            steps = next((leaf.values for leaf in family.leaves if leaf.name == STEPS), ())
            found += [(family, int(n)) for n in steps or (self.steps,)]
        return found

    def samplers(self) -> set[str]:
        """Every step table that a setting may name."""
        names = {self.sampler}
        for family in self.families:
            named = next((leaf.values for leaf in family.leaves if leaf.name == SAMPLER), ())
            names |= set(map(str, named))
        return names


def parse(texts: Sequence[str], sampler: str = "ddpm", steps: int = 50) -> Space:
    """Reads spaces; InputError names the space, what is wrong with it, and what would be right."""
    if not texts:
        raise InputError("a search needs a space: --space 'dng:pair scale=.1..10:log'")
    families = [_family(text) for text in texts]
    names = [family.named for family in families]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"the space of {twice[0]} is given twice: write it once")
    return Space(tuple(families), sampler, steps)


def by_hand(texts: Sequence[str], sampler: str, steps: int) -> list[Setting]:
    """Rules with all their numbers as settings; InputError for one that no program could search,
    or that is named twice."""
    specs = [rule_specs.parse(text) for text in texts]
    for spec in specs:
        if spec.name in NOT_TUNED:
            raise InputError(
                f"{spec} cannot be judged beside a search: take it to eval.class_removal"
            )
    if len(set(specs)) < len(specs):
        raise InputError(f"{' '.join(map(str, specs))} names a rule twice: leave one out")
    return [Setting(spec, sampler, steps) for spec in specs]


def leaves_of(spec: Spec) -> dict[str, Range]:
    """What can be searched of a rule, and where its numbers may lie; of a sampler: no range."""
    kind = rule_specs.OWN if spec.is_own else rule_specs.RULES[spec.name]
    known = {SCALE: kind.scales} if kind.scale is not None else {}
    names = [] if spec.tracker == "exact" else [n for n in kind.settings if n != CALIBRATION]
    if spec.tracker is not None and spec.tracker.startswith("classes"):
        names.remove("prior")
    known |= {name: SETTINGS[name] for name in names}
    levels = {LO: Range(0), HI: Range(0, open=True)}
    return known | levels | {STEPS: Range(1, STEPS_MAX, whole=True), SAMPLER: Range()}


def _family(text: str) -> Family:
    words = text.split()
    if not words:
        raise InputError("a space is empty: write a rule and its leaves, dng:pair scale=.1..10:log")
    spec = rule_specs.parse(words[0])
    if spec.name in NOT_TUNED:
        known = ", ".join(n for n in rule_specs.RULES if n not in NOT_TUNED)
        raise InputError(
            f"space '{text}': {spec.name} has no numbers that one program could search: choose from"
            f" {known}, or a rule of your own"
        )
    known_leaves = leaves_of(spec)
    leaves: list[Leaf] = []
    for word in words[1:]:
        name, equals, values = word.partition("=")
        where = f"space '{text}'"
        try:
            choose(name, known_leaves, f"leaf of {spec.family}")
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if not equals or not values:
            raise InputError(f"{where}: {name} needs values, as in {name}=0.1..1 or {name}=0.1,1")
        if name in [leaf.name for leaf in leaves] or name in dict(spec.settings):
            raise InputError(f"{where}: {name} is given twice")
        leaves.append(read_leaf(where, name, values, known_leaves[name]))
    if "=" in words[0].partition(",")[0] and any(leaf.name == SCALE for leaf in leaves):
        raise InputError(f"space '{text}': scale is given twice")
    _check_interval(text, spec, {leaf.name: leaf for leaf in leaves})
    if not leaves:
        raise InputError(
            f"space '{text}' has nothing to search: add a leaf, {', '.join(known_leaves)}"
        )
    return Family(spec, words[0], tuple(leaves))


def _check_interval(text: str, spec: Spec, leaves: Mapping[str, Leaf]) -> None:
    given = spec.interval or EVERYWHERE
    for name, end, open_ in zip((LO, HI), given, EVERYWHERE, strict=True):
        if name in leaves and end != open_:
            raise InputError(
                f"space '{text}': {name} is given twice, by the interval and as a leaf: write"
                f" {open_:g} in the interval, or leave the leaf out"
            )
    low, high = (
        leaves[name].ends if name in leaves else (end,)
        for name, end in zip((LO, HI), given, strict=True)
    )
    if max(map(float, low)) >= min(map(float, high)):
        raise InputError(f"space '{text}': all of lo must lie below all of hi: narrow one of them")


def read_leaf(where: str, name: str, text: str, allowed: Range) -> Leaf:
    """One leaf from its values in words; `where` begins the sentence of an InputError."""
    if ".." not in text or name in WORDS:
        found = tuple(w if name in WORDS else _number(where, name, w) for w in text.split(","))
        if len(set(found)) < len(found):
            raise InputError(f"{where}: {name}={text} names a value twice: leave one out")
        _check(where, name, found, allowed)
        return Leaf(name, values=found, whole=allowed.whole)
    if name == STEPS:
        raise InputError(
            f"{where}: each number of steps is a program of its own, so list those to try, as in"
            " steps=25,50,100"
        )
    ends, *how = text.split(":")
    first, _, last = ends.partition("..")
    low, high = _number(where, name, first), _number(where, name, last)
    log = "log" in how
    rest = [word for word in how if word != "log"]
    if len(rest) > 1 or len(how) - len(rest) > 1 or not all(w.isdecimal() for w in rest):
        raise InputError(
            f"{where}: after {name}={ends} comes :log, a number of grid points, or both, as in"
            f" {name}={ends}:log:5"
        )
    if low > high:
        raise InputError(f"{where}: {name} runs from {first} down to {last}: swap the ends")
    if low == high:
        raise InputError(f"{where}: {name}={ends} holds one number: write {name}={first}")
    if log and low <= 0:
        raise InputError(
            f"{where}: a logarithm of {name} needs a lower end above 0, got {first}: raise it, or"
            " leave :log out"
        )
    _check(where, name, (low, high), allowed)
    points = int(rest[0]) if rest else None
    if points == 0:
        raise InputError(f"{where}: {name} needs at least one grid point, got 0")
    return Leaf(name, low, high, log, points, whole=allowed.whole)


def _number(where: str, name: str, word: str) -> float:
    try:
        value = float(word) if "_" not in word else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: '{word}' of {name} is not a number")
    return value + 0.0


def _check(where: str, name: str, values: Sequence[float | str], allowed: Range) -> None:
    wrong = [v for v in values if isinstance(v, float) and not allowed.holds(v)]
    if wrong:
        raise InputError(f"{where}: {name} must be {allowed}, got {wrong[0]:g}")
