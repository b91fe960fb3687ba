"""One curve of the study: sampled, classified and stored."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax import arrays, disk, guidance, initial_noise, posterior, sample, sample_keys
from dng_jax.denoisers.branches import REFERENCE, branches, prompts_of
from dng_jax.errors import InputError
from dng_jax.experiments.scene_models import SceneModel
from dng_jax.jobs import runs
from dng_jax.metrics import rms_distance
from dng_jax.metrics.invasiveness import Outcomes
from dng_jax.scenes import prompts
from dng_jax.weights.diffusers_files import read_json

from .options import Config
from .plan import TRUE, Curve


@dataclass(frozen=True, eq=False)
class Found:
    """Outcomes of n scenes at S scales, [S, n] each, under the related negative:

    left: it is still shown; kept: the prompt is; size: RMS of the pixels; p: posterior at the end

    and under the unrelated one: changed, share of cells; distance, RMS; p_unrelated. unguided [n]:
    whether the unguided scene shows the related negative; seconds it took.
    """

    scales: np.ndarray
    left: np.ndarray
    kept: np.ndarray
    size: np.ndarray
    p: np.ndarray
    changed: np.ndarray
    distance: np.ndarray
    p_unrelated: np.ndarray
    unguided: np.ndarray
    seconds: np.ndarray

    @property
    def outcomes(self) -> Outcomes:
        """What rules are compared by."""
        return Outcomes(self.left, self.changed, self.unguided)


@dataclass(frozen=True)
class Study:
    """Options, the model, and the unguided scenes by what they follow: images and labels."""

    config: Config
    model: SceneModel
    plain: dict[tuple[Any, ...], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def unguided(self, curve: Curve) -> tuple[np.ndarray, np.ndarray]:
        """Scenes [n, 8, 8 M, 1] and labels [n, M] of the base that the curve starts from."""
        key = (curve.reference.w, curve.steps)
        if key not in self.plain:
            denoise = self.denoiser(curve, self.config.related)
            # by the rule that is compiled anyway: at scale 0 it adds nothing
            images, labels, _ = self.drawn(curve, denoise, guidance.negative_prompt(0.0))
            self.plain[key] = images, labels
        return self.plain[key]

    def denoiser(self, curve: Curve, negative: str) -> Any:
        """The roles of the curve's variant."""
        told = prompts_of(curve.variant, self.config.prompt, negative)
        return branches(self.model.denoiser(told), curve.variant, curve.w)

    def drawn(self, curve: Curve, denoise: Any, rule: Any) -> tuple[np.ndarray, ...]:
        """Scenes [n, 8, 8 M, 1], labels [n, M], and the posterior at the end [n], NaN if none."""
        config, model, parts = self.config, self.model, []
        table = model.table(curve.steps)
        for first in range(0, config.samples, config.batch):
            keys = sample_keys(config.seed, min(config.batch, config.samples - first), first)
            result = sample(denoise, table, rule, keys, initial_noise(keys, model.shape, table))
            scenes, trace = model.decode(result.x), result.trace.get("posterior")
            p = np.full(len(scenes), np.nan) if trace is None else np.asarray(trace[-1])
            parts.append((scenes, model.classify(scenes), p))
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def prior(curve: Curve, config: Config) -> float:
    """The prior as a number."""
    if curve.prior != TRUE:
        return float(curve.prior)
    given = "" if curve.variant == "d" else config.prompt
    return prompts.share(config.related, given, config.cells)


def rules(curve: Curve, config: Config) -> list[Any]:
    """The curve's rule at each of its scales."""
    if curve.family == "np":
        return [guidance.negative_prompt(scale) for scale in curve.scales]
    tracker = posterior.pair(
        prior(curve, config),
        temperature=curve.tau,
        delta=curve.delta,
        drift=curve.drift,
        reference=REFERENCE,
    )
    build = functools.partial(guidance.dynamic_negative, tracker, scale_max=curve.scale_max)
    return [build(scale) for scale in curve.scales]


def measured(study: Study, curve: Curve) -> Found:
    """Samples a curve, both negatives, and says what its scenes show."""
    config, began = study.config, time.monotonic()
    plain, usual = study.unguided(curve)

    def under(negative: str) -> tuple[np.ndarray, ...]:
        denoise = study.denoiser(curve, negative)
        every = [study.drawn(curve, denoise, rule) for rule in rules(curve, config)]
        return tuple(np.stack(part) for part in zip(*every, strict=True))

    def shown(labels: np.ndarray, prompt: str) -> np.ndarray:
        return prompts.tuples(prompt, config.cells)[tuple(np.moveaxis(labels, -1, 0))]

    images, labels, p = under(config.related)
    others, other_labels, p_other = under(config.unrelated)
    # A picture that is no number shows nothing, neither the prompt nor that anything was removed.
    lost, others_lost = (~np.isfinite(x).all(axis=(2, 3, 4)) for x in (images, others))
    changed = np.mean(other_labels != usual, axis=-1)
    return Found(
        np.asarray(curve.scales),
        shown(labels, config.related) | lost,
        shown(labels, config.prompt) & ~lost,
        np.stack([rms_distance(x, np.zeros_like(x)) for x in images]),
        p,
        np.where(others_lost, 1.0, changed),
        np.stack([rms_distance(x, plain) for x in others]),
        p_other,
        shown(usual, config.related),
        np.asarray(time.monotonic() - began),
    )


def stored(folder: Path, curve: Curve, samples: int, model: str) -> tuple[Found, str] | None:
    """The curve as it was stored, and the commit of then; None where it was not, or of other
    scales, samples or models (their identities)."""
    path = folder / "curves" / f"{curve.name}.npz"
    if not (path.exists() and path.with_suffix(".json").exists()):
        return None
    try:
        said = read_json(path.with_suffix(".json"))
        found = Found(**arrays.read_npz(path))
    except (InputError, TypeError):
        return None
    if said.get("model") != model:
        return None
    alike = found.left.shape == (len(curve.scales), samples)
    same = alike and np.array_equal(found.scales, curve.scales)
    return (found, str(said.get("commit"))) if same else None


def store(folder: Path, curve: Curve, found: Found, model: str, commit: str) -> None:
    """Writes a curve's outcomes, and of which model and commit they are."""
    path = folder / "curves" / f"{curve.name}.npz"
    path.with_suffix(".json").unlink(missing_ok=True)
    with disk.whole(path) as part:
        np.savez_compressed(part, allow_pickle=False, **vars(found))
    runs.write_json(path.with_suffix(".json"), {"model": model, "commit": commit})
