"""Guidance rules in words, as jobs take them, and the words of a rule.

    RULE      NAME[:TRACKER][=SCALE][,SETTING=VALUE]...
              interval(LO,HI,RULE)
              MODULE:FACTORY[=SCALE]

    unguided              the base model
    np=0.3                negative prompting, lambda = 0.3; every (np=2.4,every=8): at one step in
                          so many, and nothing is asked at the others
    sld=0.5               Safe Latent Diffusion without a prompt, lambda = 0.5
    cfg=1.5               classifier-free guidance towards the allowed classes, one after the other
    feedback=0.9          Feedback Guidance towards them, pi = 0.9; settings tau and offset, or the
                          activation times t0 and t1
    dng=1  dng:pair=5     Dynamic Negative Guidance, lambda_0, with a tracker: pair, odds, classes
    reject:pair=1.2       unguided samples, 1.2 drawn per kept one (dng_jax.experiments.rejection)
    safe=1  sgf=1         Safe Denoiser, Safety-Guided Flow, of forbidden images (--forbid-images):
                          settings width, critical (dng_jax.experiments.image_rules)
    spell=1.6             SPELL, of forbidden images: setting radius
    retrained             a network trained without the forbidden class (--retrained)
    reference             the allowed classes in equal parts, sampled class-conditionally: what a
                          perfect rule scores
    dng:exact             any tracker can be the exact posterior (--denoiser exact only)
    my_rules:soft=2       your own: soft(2) of my_rules.py (dng_jax.experiments.own_rules)

Settings of a tracked rule, each of which takes the place of the job's option of that name: tau,
delta, drift, prior, calibration (a file, bundled, or none). skip and every of dng:pair and dng:odds
ask for what is forbidden only where its posterior is at least skip, and at every so-many-th step
(dng_jax.guidance.skipping). An interval limits a rule to
LO < sigma/alpha <= HI. A shell takes all of it as it stands but the parentheses: quote those.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from dng_jax.errors import InputError, choose
from dng_jax.experiments import rejection

REFERENCE, RETRAINED = "reference", "retrained"
TRACKERS = ("pair", "odds", "classes", "classes-model", "exact")
TRACKER = "classes"  # of a dng or reject that names none
FITTED = ("pair", "odds", "classes")  # what a calibration can hold; classes-model is one of them
CALIBRATION, NO_CALIBRATION = "calibration", "none"
PROBES = "probes"


@dataclass(frozen=True)
class TrackerOptions:
    """Numbers of the trackers of dng and reject; a rule's own settings go before them."""

    tau: float = 1.0
    """Temperature of the likelihood ratio, >= 0; 1 is Bayes' rule."""
    delta: float = 0.0
    """The paper's offset, a finite number: a squared distance in units of what is sampled, pixels
    (-1 to 1) or, of a text-to-image model, latents."""
    drift: float = 0.0
    """Portable offset: the fraction of a step's expected drift that is given back, 0 to 1."""
    prior: float | None = None
    """Prior of each forbidden class for pair and odds, between 0 and 1; default: 1 / classes. Of
    forbidden images: their share of the model's mass; default: .01, or what it is for images of
    the exact model's own. Of negative prompts: default .01."""
    probes: int = 0
    """Random probes of the divergence term per step, 0 to 64; deterministic samplers need 1."""


class Range(NamedTuple):
    """Where a number may lie, ends included unless open; whole: whole numbers only."""

    low: float = -math.inf
    high: float = math.inf
    open: bool = False
    whole: bool = False

    def holds(self, value: float) -> bool:
        """Whether a finite value lies in it."""
        inside = self.low < value < self.high if self.open else self.low <= value <= self.high
        return inside and math.isfinite(value) and (not self.whole or value == int(value))

    def __str__(self) -> str:
        if self.high == math.inf:
            above = f" {'>' if self.open else '>='} {self.low:g}"
            kind = "whole" if self.whole else "finite"
            return f"a {kind} number" + (above if self.low > -math.inf else "")
        between = "strictly between" if self.open else "between"
        return f"{'a whole number ' * self.whole}{between} {self.low:g} and {self.high:g}"


class Kind(NamedTuple):
    """What a rule takes: its usual scale and where scales may lie (None: it has none), names of
    settings, whether it tracks a posterior."""

    scale: float | None = None
    scales: Range = Range(0)
    settings: tuple[str, ...] = ()
    tracked: bool = False


TRACKED = ("tau", "delta", "drift", "prior", CALIBRATION)
SKIPPED = ("skip", "every")
RULES = {
    "unguided": Kind(),
    "np": Kind(0.3, settings=("every",)),
    "sld": Kind(0.5),
    "cfg": Kind(1.5, Range()),
    "feedback": Kind(0.9, Range(0, 1, open=True), ("tau", "offset", "t0", "t1")),
    "dng": Kind(1.0, Range(0), (*TRACKED, *SKIPPED), tracked=True),
    "reject": Kind(1.2, Range(1, rejection.FACTOR_MAX), TRACKED, tracked=True),
    "safe": Kind(1.0, Range(0), ("width", "critical")),
    "sgf": Kind(1.0, Range(0), ("width", "critical")),
    "spell": Kind(1.6, Range(0), ("radius",)),
    RETRAINED: Kind(),
    REFERENCE: Kind(),
}
OF_IMAGES = ("safe", "sgf", "spell")
OWN = Kind(1.0, Range())
UNLIMITED = (
    "unguided",
    "reject",
    RETRAINED,
    REFERENCE,
)  # nothing of them could be limited to an interval
SETTINGS = {
    "tau": Range(0),
    "delta": Range(),
    "drift": Range(0, 1),
    "prior": Range(0, 1, open=True),
    "offset": Range(),
    "t0": Range(0, 0.999),
    "t1": Range(0, 0.999),
    "width": Range(1e-6, 1e6),
    "critical": Range(0, 0.999),
    "radius": Range(1e-6, 1e6),
    "skip": Range(0, 1, open=True),
    "every": Range(1, 1000, whole=True),
}


@dataclass(frozen=True)
class Spec:
    """A parsed rule; str(spec) is read back as the same.

    name: of RULES, or MODULE:FACTORY; scale None: the rule has none; settings: (name, value) in
    the order of SETTINGS; interval: (LO, HI).
    """

    name: str
    tracker: str | None = None
    scale: float | None = None
    settings: tuple[tuple[str, float | str], ...] = ()
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        return self._written("" if self.scale is None else f"={written(self.scale)}")

    @property
    def family(self) -> str:
        """The rule without its scale: what a trade-off curve runs along."""
        return self._written("")

    @property
    def shares_noise(self) -> bool:
        """Whether image i starts from the noise of image i of the unguided rule."""
        return self.name not in ("reject", "cfg", "feedback", REFERENCE)

    @property
    def asks_every_class(self) -> bool:
        """Whether it asks for the predictions of all classes, not of the forbidden ones alone."""
        tracks_all = self.tracker is not None and self.tracker.startswith("classes")
        return tracks_all or self.name in ("cfg", "feedback", REFERENCE)

    @property
    def is_own(self) -> bool:
        """Whether it is a rule of the user's own."""
        return ":" in self.name

    @property
    def cost(self) -> float:
        """Chains that are sampled per image."""
        return rejection.cost(self.scale) if self.name == "reject" and self.scale else 1

    @property
    def numbers(self) -> dict[str, float]:
        """The settings that are numbers."""
        return {name: v for name, v in self.settings if isinstance(v, float)}

    @property
    def calibration(self) -> str | None:
        """The calibration's name; None where none is asked for."""
        name = dict(self.settings).get(CALIBRATION, NO_CALIBRATION)
        return None if name == NO_CALIBRATION else str(name)

    def with_scale(self, scale: float | None) -> Spec:
        """The same rule at another scale; None keeps the one it has."""
        return self if scale is None else dataclasses.replace(self, scale=scale)

    def takes(self, name: str) -> bool:
        """Whether a job's option of that name reaches it: it tracks kernels, with no setting of its
        own instead."""
        if name == PROBES:
            return self.tracker not in (None, "exact") or self.name == "feedback"
        instead = {CALIBRATION, "tau"} if name == CALIBRATION else {name}
        return self.tracker not in (None, "exact") and not instead & {n for n, _ in self.settings}

    def with_calibration(self, name: str | None) -> Spec:
        """The same rule with a calibration, where it takes one."""
        if name is None or not self.takes(CALIBRATION):
            return self
        return dataclasses.replace(self, settings=(*self.settings, (CALIBRATION, name)))

    def _written(self, scale: str) -> str:
        tracker = f":{self.tracker}" if self.tracker else ""
        values = "".join(f",{name}={written(v)}" for name, v in self.settings)
        rule = f"{self.name}{tracker}{scale}{values}"
        if self.interval is None:
            return rule
        low, high = map(written, self.interval)
        return f"interval({low},{high},{rule})"


def written(value: float | str) -> str:
    """A number in the fewest digits that are read back as the same; words as they are."""
    if isinstance(value, str):
        return value
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))


def parse_all(texts: Sequence[str], tracker: str | None) -> list[Spec]:
    """Reads the rules of a job; `tracker` is its --tracker, None where it was not given.

    InputError for a rule that cannot be read, or a tracker that none of them would take.
    """
    if tracker is None:
        return [parse(text) for text in texts]
    specs = [parse(text, tracker) for text in texts]
    if specs == [parse(text, _another(tracker)) for text in texts]:
        raise InputError(
            f"no rule takes --tracker {tracker}: it is of a dng or reject that names none; leave it"
            " out"
        )
    return specs


def parse(text: str, tracker: str = TRACKER, kinds: Mapping[str, Kind] = RULES) -> Spec:
    """Reads one rule; `tracker` is that of a dng or reject without one, kinds: the rules there are.

    InputError names the rule, the character at which it goes wrong, and what is wrong.
    """
    choose(tracker, TRACKERS, "tracker")
    if not text.startswith("interval("):
        return _Reader(text, kinds).rule(0, len(text), tracker)
    reader = _Reader(text, kinds)
    if not text.endswith(")"):
        reader.fail(len(text), "the interval is not closed: write interval(LO,HI,RULE)")
    low_at = len("interval(")
    commas = [i for i, c in enumerate(text) if c == ","]
    if len(commas) < 2:
        reader.fail(low_at, "an interval needs two levels and a rule: interval(LO,HI,RULE)")
    high_at, rule_at = commas[0] + 1, commas[1] + 1
    low = reader.number(low_at, high_at - 1)
    high = reader.number(high_at, rule_at - 1)
    if not 0 <= low < high:
        reader.fail(low_at, f"need 0 <= LO < HI, got {low:g} and {high:g}")
    spec = reader.rule(rule_at, len(text) - 1, tracker)
    if spec.name in UNLIMITED:
        reader.fail(rule_at, f"{spec.name} guides nothing that an interval could limit")
    return dataclasses.replace(spec, interval=(low, high))


def check_taken(
    specs: Sequence[Spec],
    option: str,
    calibration: str | None,
    numbers: TrackerOptions | None = None,
) -> None:
    """InputError for a job's --calibration, or numbers of trackers, that no rule would take.

    option: that of the rules, for the message.
    """
    if calibration is not None and (not calibration or set(calibration) & set(",()")):
        raise InputError(
            f"--calibration takes a file's name without commas and parentheses, '{calibration}' has"
            " no place in a rule: rename the file"
        )
    usual, given = TrackerOptions(), numbers or TrackerOptions()
    numbered = [f.name for f in dataclasses.fields(TrackerOptions)]
    names = [name for name in numbered if getattr(given, name) != getattr(usual, name)]
    if calibration not in (None, NO_CALIBRATION):
        names.append(CALIBRATION)
    for name in names:
        if not any(spec.takes(name) for spec in specs):
            raise InputError(
                f"no rule of {option} takes --{name}: it is of dng and reject"
                f"{', and of feedback' if name == PROBES else ''}, where they bring no setting"
                " instead and the tracker is not exact; leave it out"
            )


def _another(tracker: str) -> str:
    return next(name for name in TRACKERS if name != tracker)


class _Reader:
    """Parts of a text by position, and what is wrong with them."""

    def __init__(self, text: str, kinds: Mapping[str, Kind]) -> None:
        self.text, self.kinds = text, kinds

    def fail(self, at: int, said: str) -> NoReturn:
        raise InputError(f"rule '{self.text}', character {at + 1}: {said}")

    def chosen(self, at: int, word: str, known, kind: str) -> str:
        try:
            return choose(word, known, kind)
        except InputError as error:
            self.fail(at, str(error))

    def number(self, at: int, end: int) -> float:
        word = self.text[at:end]
        try:
            # Python alone reads 1_000 and blanks.
            value = float(word) if "_" not in word and word == word.strip() else math.nan
        except ValueError:
            value = math.nan
        if math.isnan(value):
            self.fail(at, f"'{word}' is not a number")
        return value + 0.0  # -0 is 0

    def rule(self, at: int, end: int, tracker: str) -> Spec:
        stop = self.text.find(",", at, end)
        name, kind, named = self.head(at, end if stop < 0 else stop)
        if named and not kind.tracked:
            self.fail(at, f"{name} takes no tracker, only dng and reject do, as in dng:pair")
        equals = self.text.find("=", at, end if stop < 0 else stop)
        scale = kind.scale
        if equals >= 0:
            if scale is None:
                self.fail(equals, f"{name} takes no scale")
            scale = self.number(equals + 1, end if stop < 0 else stop)
            if not kind.scales.holds(scale):
                self.fail(equals + 1, f"the scale must be {kind.scales}")
        settings: dict[str, float | str] = {}
        while stop >= 0:
            start = stop + 1
            stop = self.text.find(",", start, end)
            self.setting(start, end if stop < 0 else stop, name, kind, settings)
        if "tau" in settings and settings.get(CALIBRATION, NO_CALIBRATION) != NO_CALIBRATION:
            self.fail(at, "tau and calibration both set the temperature: leave one out")
        order = (*SETTINGS, CALIBRATION)
        chosen = (named or tracker) if kind.tracked else None
        if name == "reject" and chosen == "classes-model":
            self.fail(at, "reject never guides: classes-model is a tracker of dng, use classes")
        pairs = tuple(sorted(settings.items(), key=lambda item: order.index(item[0])))
        return Spec(name, chosen, scale, pairs)

    def head(self, at: int, end: int) -> tuple[str, Kind, str | None]:
        """Name, kind and tracker of NAME[:TRACKER] or MODULE:FACTORY."""
        words = self.text[at:end].partition("=")[0]
        name, colon, second = words.partition(":")
        if name in self.kinds or not colon:
            self.chosen(at, name, self.kinds, "rule")
            if colon:
                self.chosen(at + len(name) + 1, second, TRACKERS, "tracker")
            return name, self.kinds[name], second or None
        if not all(part.isidentifier() for part in (*name.split("."), second)):
            self.fail(at, f"'{words}' is no rule, nor MODULE:FACTORY of your own")
        return words, OWN, None

    def setting(self, at: int, end: int, rule: str, kind: Kind, into: dict) -> None:
        name, equals, word = self.text[at:end].partition("=")
        if not kind.settings:
            self.fail(at, f"{rule} takes no settings")
        self.chosen(at, name, kind.settings, f"setting of {rule}")
        if name in into:
            self.fail(at, f"{name} is given twice")
        value_at = at + len(name) + 1
        if name == CALIBRATION:
            if not word or set(word) & set("()"):
                self.fail(value_at, "calibration takes a file's name, 'bundled', or 'none'")
            into[name] = word
            return
        into[name] = self.number(value_at, end)
        if not equals or not SETTINGS[name].holds(into[name]):
            self.fail(value_at, f"{name} must be {SETTINGS[name]}")
