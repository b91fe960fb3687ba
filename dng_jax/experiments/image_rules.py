"""Rules that push away from forbidden images, for one problem: safe, sgf, spell.

Widths and radii are distances between whole images: by default the width of the set's mixture
(dng_jax.experiments.image_sets), and the radius within which a sample counts as forbidden. critical
is a time, 1 the noisiest level and 0 the cleanest, after which a rule leaves the base alone: the
papers' critical time, .78 by default. At 1 it would act on no step, so it ends at .999.
"""

from __future__ import annotations

import math
from typing import Any

from dng_jax import guidance
from dng_jax.errors import InputError
from dng_jax.experiments.problems import Problem
from dng_jax.experiments.rule_specs import Spec
from dng_jax.schedules import Schedule

CRITICAL = 0.78


def build(spec: Spec, problem: Problem) -> Any:
    """The rule; InputError where no images are forbidden."""
    images = problem.images
    if images is None:
        raise InputError(f"{spec} pushes away from images: name a folder with --forbid-images")
    scale = 1.0 if spec.scale is None else spec.scale
    if spec.name == "spell":
        radius = spec.numbers.get("radius", images.radius)
        return guidance.sparse_repellency(images.images, radius, scale)
    width = spec.numbers.get("width", images.width)
    critical = spec.numbers.get("critical", CRITICAL)
    level = critical_level(problem.schedule, critical)
    if spec.name == "safe":
        odds = guidance.kernel_odds(images.images, width, sigma_min=level)
        return guidance.safe_denoiser(odds, scale)
    return guidance.safety_flow(images.images, scale, width, sigma_min=level)


def critical_level(schedule: Schedule, time: float) -> float:
    """sigma/alpha of a schedule at a time in [0, 1); 0 at time 0."""
    if time == 0:
        return 0.0
    index = math.ceil(time * len(schedule.alpha)) - 1
    return float(schedule.sigma[index] / schedule.alpha[index])
