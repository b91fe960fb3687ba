"""Options of eval.scenes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from dng_jax.jobs.devices import Devices
from dng_jax.jobs.options import RunOptions

PARTS = ("variants", "detector", "tracker", "steps")
CLAIM, GUIDED = "claim", "guided"


@dataclass(frozen=True)
class Config:
    """A study of negative guidance on scenes of digits."""

    model: str = "exact"
    """The text-to-image model: exact, the closed form; digit-scenes, a trained one that comes with
    the library; or a folder of one."""
    cells: int = 2
    """Digits of a scene, 1 to 6."""
    prompt: str = "even digits"
    """What is asked for: even digits, odd digits, a four and the like, joined by "and"."""
    related: str = "a four"
    """The negative that some of the prompt's scenes show, and that is to be removed."""
    unrelated: str = "a seven"
    """The negative that no scene of the prompt shows, so that nothing should change."""
    parts: tuple[str, ...] = PARTS
    """Parts of the study: variants, detector, tracker, steps; for models that take long claim, of
    the variants what the claim is made of, and guided, negative prompting with the guided
    negative."""
    levels: tuple[float, ...] = (0.2, 0.1, 0.05)
    """Shares of scenes left with the related negative at which rules are compared, each strictly
    between 0 and 1."""
    samples: int = 2048
    """Scenes of every setting, at least 2; all settings share their noise."""
    batch: int = 128
    """Scenes sampled at once, at least 1; does not change them. Of the exact model 128 fit into the
    cache of a core."""
    seed: int = 0
    """Seed of the noise, 0 to 2^64 - 1."""
    devices: Annotated[Devices, tyro.conf.arg(name="")] = field(default_factory=Devices)
    run: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
