"""One curve of the study: sampled, classified and stored."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dng_jax import arrays, disk, guidance, initial_noise, posterior, sample, sample_keys
from dng_jax.denoisers.branches import REFERENCE, branches, prompts_of
from dng_jax.errors import InputError
from dng_jax.experiments import scene_calibrations
from dng_jax.experiments.scene_models import SceneModel
from dng_jax.jobs import runs
from dng_jax.metrics import rms_distance
from dng_jax.metrics.invasiveness import Outcomes
from dng_jax.posterior.fitting import Fit
from dng_jax.scenes import prompts
from dng_jax.weights.diffusers_files import read_json

from .options import Config
from .plan import TRUE, Curve

FITTED_FROM = 2**31  # number of the first scene of a fit: no study has as many
TELLING = 10.0  # seconds after which a scale is worth a line of its own


@dataclass(frozen=True, eq=False)
class Found:
    """Outcomes of n scenes at S scales, [S, n] each, under the related negative:

    left: it is still shown; kept: the prompt is; size: RMS of the pixels; p: posterior at the end

    and under the unrelated one: changed, share of cells; distance, RMS; p_unrelated. unguided [n]:
    whether the unguided scene shows the related negative; seconds it took. Of a calibrated tracker
    profile [3, knots]: log-SNR, temperature, offset; nll [3]: before the fit, after it (means over
    the chain, nats), at its end; of others empty.
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
    profile: np.ndarray
    nll: np.ndarray

    @property
    def outcomes(self) -> Outcomes:
        """What rules are compared by."""
        return Outcomes(self.left, self.changed, self.unguided)


@dataclass(frozen=True)
class Study:
    """Options, the model, the unguided scenes by what they follow (images and labels), and the
    trackers' calibrations by their curves."""

    config: Config
    model: SceneModel
    plain: dict[tuple[Any, ...], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    fits: dict[str, Fit] = field(default_factory=dict)

    def unguided(self, curve: Curve) -> tuple[np.ndarray, np.ndarray]:
        """Scenes [n, 8, 8 M, 1] and labels [n, M] of the base that the curve starts from."""
        key = (curve.reference.w, curve.steps)
        if key not in self.plain:
            denoise = self.denoiser(curve, self.config.related)
            # by the rule that is compiled anyway: at scale 0 it adds nothing
            images, labels, _ = self.drawn(curve, denoise, guidance.negative_prompt(0.0))
            self.plain[key] = images, labels
        return self.plain[key]

    def fit(self, curve: Curve) -> Fit:
        """The calibration of the curve's tracker, on half as many unguided scenes as it guides:
        of the same seed, numbered far beyond them."""
        if curve.name not in self.fits:
            concepts = scene_calibrations.CONCEPTS
            rule = guidance.recorder(tuple(concepts), reference=REFERENCE)
            denoise = self.denoiser(curve, concepts)
            evidence, labels = [], []
            for keys in self.batches(max(self.config.samples // 2, 2), FITTED_FROM):
                result = self.sampled(curve, denoise, rule, keys)
                evidence.append(guidance.recorded(result.trace))
                labels.append(self.model.classify(self.model.decode(result.x)))
            together = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *evidence)
            # Every digit's, not that of what is to be removed.
            share = prompts.share(prompts.mention(0), given(curve, self.config), self.config.cells)
            raw = tracker(dataclasses.replace(curve, prior=share), self.config)
            table = self.model.table(curve.steps)
            self.fits[curve.name] = scene_calibrations.fitted(
                raw, together, table, np.concatenate(labels), min(8, curve.steps - 1)
            )
        return self.fits[curve.name]

    def denoiser(self, curve: Curve, negative: str | Mapping[str, str]) -> Any:
        """The roles of the curve's variant, for one negative or for roles of several."""
        told = prompts_of(curve.variant, self.config.prompt, negative)
        roles = ("negative",) if isinstance(negative, str) else tuple(negative)
        return branches(self.model.denoiser(told), curve.variant, curve.w, negatives=roles)

    def batches(self, count: int, start: int = 0) -> Iterator[jax.Array]:
        """The keys of so many scenes from number `start` on, `batch` at a time."""
        for first in range(0, count, self.config.batch):
            size = min(self.config.batch, count - first)
            yield sample_keys(self.config.seed, size, start + first)

    def sampled(self, curve: Curve, denoise: Any, rule: Any, keys: jax.Array) -> Any:
        """What the sampler returns for these keys."""
        table = self.model.table(curve.steps)
        return sample(denoise, table, rule, keys, initial_noise(keys, self.model.shape, table))

    def drawn(self, curve: Curve, denoise: Any, rule: Any) -> tuple[np.ndarray, ...]:
        """Scenes [n, 8, 8 M, 1], labels [n, M], and the posterior at the end [n], NaN if none."""
        config, model, parts = self.config, self.model, []
        for keys in self.batches(config.samples):
            result = self.sampled(curve, denoise, rule, keys)
            scenes, trace = model.decode(result.x), result.trace.get("posterior")
            p = np.full(len(scenes), np.nan) if trace is None else np.asarray(trace[-1])
            parts.append((scenes, model.classify(scenes), p))
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def prior(curve: Curve, config: Config) -> float:
    """The prior as a number."""
    if curve.prior != TRUE:
        return float(curve.prior)
    return prompts.share(config.related, given(curve, config), config.cells)


def given(curve: Curve, config: Config) -> str:
    """The prompt of what the curve's negatives are scored against."""
    return "" if curve.variant == "d" else config.prompt


def tracker(curve: Curve, config: Config, fit: Fit | None = None) -> Any:
    """The curve's tracker, with its own temperature or that of a fit."""
    return posterior.pair(
        prior(curve, config),
        temperature=curve.tau if fit is None else fit.temperature,
        delta=curve.delta,
        drift=curve.drift,
        offset=0.0 if fit is None else fit.offset,
        reference=REFERENCE,
    )


def rules(curve: Curve, study: Study) -> list[Any]:
    """The curve's rule at each of its scales."""
    if curve.family == "np":
        return [guidance.negative_prompt(scale) for scale in curve.scales]
    made = tracker(curve, study.config, study.fit(curve) if curve.calibrated else None)
    build = functools.partial(guidance.dynamic_negative, made, scale_max=curve.scale_max)
    return [build(scale) for scale in curve.scales]


def measured(study: Study, curve: Curve) -> Found:
    """Samples a curve, both negatives, and says what its scenes show."""
    config, began = study.config, time.monotonic()
    plain, usual = study.unguided(curve)
    guiding = rules(curve, study)

    def under(negative: str) -> tuple[np.ndarray, ...]:
        denoise = study.denoiser(curve, negative)
        every = []
        for scale, rule in zip(curve.scales, guiding, strict=True):
            since = time.monotonic()
            every.append(study.drawn(curve, denoise, rule))
            if (took := time.monotonic() - since) > TELLING:
                print(f"  {curve.name}, scale {scale:g}, {negative}: {took:.0f} s", flush=True)
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
        *fit_of(study, curve),
    )


def fit_of(study: Study, curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """`profile` and `nll` of `Found`."""
    if not curve.calibrated:
        return np.zeros((3, 0)), np.zeros(0)
    fit = study.fit(curve)
    profile = (fit.temperature.knots, fit.temperature.values, fit.offset.values)
    return np.stack([np.asarray(part) for part in profile]), np.array([*fit[2:]])


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
