"""Options of eval.text_to_image."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from dng_jax.errors import InputError, choose
from dng_jax.experiments.rule_specs import TrackerOptions
from dng_jax.jobs.devices import Devices
from dng_jax.jobs.options import RunOptions, as_typed, at_least, at_most, option, seed

RULES = ("unguided", "np=1", "dng:pair")
VARIANTS = ("a", "b", "c", "d", "nested")
STUDIES = ("paper",)
MODES = ("batch", "map")
# What --cpu-demo stands for: minutes of two cores, where the usual numbers are hours.
DEMO: dict[str, Any] = {"size": "256", "steps": 20, "seeds": 1}


@dataclass(frozen=True)
class Config:
    """Pictures of a prompt, without what negative prompts say."""

    model: str = "digit-scenes"
    """Folder of the model as diffusers saves it, or its repository OWNER/NAME on the Hugging Face
    hub, which is fetched; or digit-scenes, a small one that comes with the library and knows
    prompts such as "even digits" and "a four"."""
    weights: str = ""
    """Variant of the weight files, such as fp16; default: the files without one."""
    prompt: str = ""
    """What the images should show; default: the empty prompt."""
    negative: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """What they should not show; repeat for several negatives, which are tracked one by one; shown
    is the posterior of their total."""
    rule: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Rule, as NAME[:TRACKER][=SCALE][,SETTING=VALUE]: unguided, np=1, inplace (Stable Diffusion's
    own negative prompt), sld=1, feedback=.9, dng:pair=5,tau=.2, dng:odds; repeat for several.
    Default: unguided np=1 dng:pair, without negatives unguided."""
    variant: str = "d"
    """What base and negative are made of: a, b, c, d or nested (above)."""
    guidance_scale: float = 7.5
    """Scale of classifier-free guidance towards the prompt; 1 is the prompt alone."""
    seeds: int = 4
    """Images per rule, at least 1, each with noise of its own."""
    seed: int = 0
    """Seed of their noise, 0 to 2^64 - 1."""
    steps: int = 50
    """Sampling steps (DDPM, on the grid of the model's scheduler), 1 to 1000."""
    size: str | None = None
    """Pixels of the sides, PIXELS or HEIGHTxWIDTH; default: what the model was trained on."""
    batch: int = 4
    """Images sampled at once, at least 1; does not change them."""
    branches: str = "batch"
    """Prompts of a step: batch, all at once; map, one after the other, in less memory."""
    dtype: str | None = None
    """float32 or bfloat16, of the U-Net; default: float32 on a CPU, bfloat16 elsewhere."""
    options: Annotated[TrackerOptions, tyro.conf.arg(name="")] = field(
        default_factory=TrackerOptions
    )
    study: str | None = None
    """paper: the five prompts of the DNG paper (abridged), each with a related and an unrelated
    negative, by unguided, np=1.7 np=2.55 np=3.4 and DNG with the paper's numbers."""
    cpu_demo: bool = False
    """What a CPU does in minutes: 256 pixels, 20 steps, one image."""
    resume: bool = False
    """Go on with the study in --out: prompts that are finished are kept."""
    devices: Annotated[Devices, tyro.conf.arg(name="")] = field(default_factory=Devices)
    run: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)


def checked(config: Config) -> Config:
    """The options with what --cpu-demo and the default rules stand for; InputError, before anything
    is loaded, for what makes no sense."""
    if config.cpu_demo:
        _must_be_usual(config, Config(), DEMO, "--cpu-demo sets {}: leave it out")
        config = dataclasses.replace(config, **DEMO)
    choose(config.variant, VARIANTS, "variant")
    choose(config.branches, MODES, "way to ask for --branches")
    at_least(1, seeds=config.seeds, batch=config.batch, steps=config.steps)
    at_most(1000, steps=config.steps)
    seed(seed=config.seed)
    if not math.isfinite(config.guidance_scale):
        raise InputError(f"--guidance-scale must be finite, got {config.guidance_scale}")
    if config.study is None:
        if config.resume:
            raise InputError("--resume belongs to --study: leave it out")
        usual = RULES if config.negative else RULES[:1]
        return config if config.rule else dataclasses.replace(config, rule=usual)
    if config.study == "claims":
        scenes = as_typed("python -m eval.scenes")
        raise InputError(f"the claims are studied on scenes of digits: start {scenes}")
    choose(config.study, STUDIES, "study")
    if config.variant == "c" and config.guidance_scale != Config().guidance_scale:
        raise InputError("--variant c is without --guidance-scale: leave one of them out")
    said = "--study brings its own {}: leave it out"
    _must_be_usual(config, Config(), ("prompt", "negative", "rule"), said)
    numbers = [f.name for f in dataclasses.fields(TrackerOptions)]
    _must_be_usual(config.options, TrackerOptions(), numbers, said)
    return config


def sides(config: Config, usual: tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels; InputError for what is no size."""
    if config.size is None:
        return usual
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", config.size)
    if found is None:
        raise InputError(
            f"--size must be PIXELS or HEIGHTxWIDTH, such as 512 or 512x768, got '{config.size}'"
        )
    return int(found[1]), int(found[2] or found[1])


def _must_be_usual(config: Any, usual: Any, names: Iterable[str], said: str) -> None:
    given = [option(n) for n in names if getattr(config, n) != getattr(usual, n)]
    if given:
        raise InputError(said.format(" and ".join(given)))
