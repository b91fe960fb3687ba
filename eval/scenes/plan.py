"""What the study measures: the curves of each of its parts, and the figures seen before."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from .options import CLAIM, GUIDED

TRUE = "true"
STEPS = 30
SCALES = {
    ("np", "a"): (0.15, 0.3, 0.6, 1.0, 2.0),
    ("np", "b"): (0.05, 0.1, 0.2, 0.3, 0.6),
    ("dng", "a"): (1.0, 2.0, 4.0, 8.0, 16.0),
    ("dng", "b"): (0.5, 1.0, 2.0, 4.0, 8.0),
    ("dng", "c"): (0.5, 1.0, 2.0, 4.0, 8.0),
    ("dng", "d"): (0.25, 0.5, 1.0, 2.0, 4.0),
    ("dng", "nested"): (0.5, 1.0, 2.0, 4.0, 8.0),
}
SMALL_PRIOR = (1.0, 5.0, 20.0, 80.0, 320.0)  # of .01, the paper's: odds begin at 1/99
DETECTOR = (0.0,)  # nothing is guided, and the tracker runs
# A trained tracker sees less than the exact one, and a calibrated one more.
CLAIMED = {False: (0.5, 1.0, 2.0, 4.0, 8.0, 16.0), True: (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)}
WITH_DELTA = (1.0, 2.0, 5.0, 10.0, 20.0)


@dataclass(frozen=True)
class Curve:
    """One rule over its scale.

    part: of the study; family: np, negative prompting, or dng, with the tracker `pair`; variant: of
    dng_jax.denoisers.branches; w: classifier-free guidance; prior: a number, or "true", the share
    of the reference's scenes that show the related negative; calibrated: with the temperature and
    offset that fit unguided scenes of another seed (dng_jax.experiments.scene_calibrations), in the
    place of tau; the others as the tracker's and the rule's.
    """

    part: str
    family: str
    variant: str
    w: float = 3.0
    scales: tuple[float, ...] = ()
    prior: float | str = TRUE
    tau: float = 1.0
    delta: float = 0.0
    drift: float = 0.0
    scale_max: float | None = None
    steps: int = STEPS
    calibrated: bool = False

    @property
    def name(self) -> str:
        """Of its rule and everything but the scales, as a file may be called."""
        usual = Curve(self.part, self.family, self.variant)
        words = [f"{self.family}-{self.variant}", f"w{self.w:g}"]
        for field in ("prior", "tau", "delta", "drift", "scale_max", "steps"):
            value = getattr(self, field)
            if value != getattr(usual, field):
                words.append(f"{field}{value:g}")
        if self.calibrated:
            words.append("calibrated")
        if self.scales == DETECTOR:
            words.append("detector")
        return "-".join(words)

    @property
    def reference(self) -> Curve:
        """Negative prompting with the plain negative that it is compared with, from the same
        unguided scenes: those of variant c know no guidance scale, as if it were 1."""
        w = 1.0 if self.variant == "c" else self.w
        return _curve("variants", "np", "a", w=w, steps=self.steps)


def curves(parts: tuple[str, ...]) -> list[Curve]:
    """The curves of some parts, each once and over the scales of all of them, with what they are
    compared with before them."""
    chosen: dict[str, Curve] = {}
    for curve in _all():
        if curve.part in parts:
            reference = dataclasses.replace(curve.reference, part=curve.part)
            for one in (reference, curve):
                first = chosen.get(one.name, one)
                scales = tuple(sorted({*first.scales, *one.scales}))
                chosen[one.name] = dataclasses.replace(first, scales=scales)
    return list(chosen.values())


# (curve, scale) -> % of scenes left with a four [95%], % of cells the unrelated negative changed:
# what a first, separate program saw at n = 512, for the default prompts.
SEEN: dict[tuple[str, float], tuple[float, float]] = {
    ("np-a-w3", 1.0): (7.4, 33.2),
    ("np-a-w3", 0.3): (25.0, 13.2),
    ("dng-b-w3", 1.0): (25.6, 6.1),
    ("dng-nested-w3", 1.0): (20.3, 6.1),
    ("dng-d-w3", 1.0): (8.8, 4.1),
    ("dng-b-w3-prior0.01-delta0.1", 5.0): (36.1, 1.2),
    ("dng-b-w3-prior0.01-delta0.5", 5.0): (2.7, 3.8),
    ("dng-d-w3-prior0.01-delta0.1", 5.0): (15.6, 2.4),
    ("dng-d-w3-prior0.01-delta0.5", 5.0): (0.4, 24.2),
    ("dng-nested-w1", 1.0): (7.0, 8.7),
    ("np-a-w1", 1.0): (5.5, 32.7),
}


def _all() -> Iterator[Curve]:
    for w in (3.0, 1.0, 7.5):
        yield _curve("variants", "np", "a", w=w)
        if w != 1:  # where a, b and c are one
            yield _curve("variants", "np", "b", w=w)
        for variant in ("b", "d", "nested") if w != 3 else ("a", "b", "c", "d", "nested"):
            yield _curve("variants", "dng", variant, w=w)
    for variant in ("b", "d", "nested"):
        yield _curve("variants", "dng", variant, scales=SMALL_PRIOR, prior=0.01)
    for variant in ("d", "b"):
        for delta in (0.1, 0.5):
            yield _curve("tracker", "dng", variant, scales=WITH_DELTA, prior=0.01, delta=delta)
        for tau in (0.25, 0.5):
            yield _curve("tracker", "dng", variant, tau=tau)
        for drift in (0.25, 0.5, 1.0):
            yield _curve("tracker", "dng", variant, drift=drift)
        yield _curve("tracker", "dng", variant, drift=1.0, scale_max=5.0)
    yield _curve("tracker", "dng", "d", tau=2.0)
    for delta in (0.02, 0.1):
        yield _curve("tracker", "dng", "d", delta=delta)
    capped: dict[str, float] = {"prior": 0.01, "delta": 0.1, "scale_max": 5.0}
    yield _curve("tracker", "dng", "d", scales=WITH_DELTA, **capped)
    for w in (3.0, 1.0, 7.5):
        for variant in ("b", "d", "nested"):
            yield _curve("detector", "dng", variant, w=w, scales=DETECTOR)
    for count in (15, 60):
        for family, variant in (("np", "a"), ("dng", "d"), ("dng", "b")):
            yield _curve("steps", family, variant, steps=count)
    yield _curve(CLAIM, "np", "a")
    for calibrated in (False, True):
        yield _curve(CLAIM, "dng", "d", scales=CLAIMED[calibrated], calibrated=calibrated)
    yield _curve(GUIDED, "np", "b")


def _curve(part: str, family: str, variant: str, **numbers) -> Curve:
    numbers.setdefault("scales", SCALES[family, variant])
    return Curve(part, family, variant, **numbers)
