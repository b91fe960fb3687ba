"""What is sampled and who judges it: a data set, a denoiser and a classifier, ready for a job.

A network is one of the bundled ones by its short name, or a model file of `train.diffusion`:

    heads      one output head a class: every prediction from one call
    label      class-conditional with label dropout: one call a role
    FILE       whatever it was trained as; one without classes needs a file a forbidden class beside
               it (the paper's two networks), and can serve rules that ask for the forbidden classes
               only

The judge is the data set's bundled classifier, or a model file of `train.classifier`. What the
data look like to it (moments and samples of its features, class by class) comes from a file beside
its weights where there is one, so that no data set is needed; otherwise from the data.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax import data, denoisers, mixtures, nets, steps
from dng_jax.errors import InputError, choose
from dng_jax.metrics import Moments, Reference, features
from dng_jax.mixtures import Mixture
from dng_jax.schedules import Schedule, linear
from dng_jax.steps import StepTable
from dng_jax.weights import load, pretrained

DENOISERS = ("exact", "network")
PATTERN_SCALE = 0.15


@dataclass(frozen=True)
class Source:
    """Where networks come from; see the file's docstring."""

    denoiser: str = "network"
    """network: a trained one; exact: the data as a Gaussian mixture, no network at all."""
    network: str = "heads"
    """heads: one output head a class; label: class-conditional with label dropout; or a model
    file."""
    negatives: tuple[str, ...] = ()
    """Model files of the forbidden classes' own networks, beside a --network without classes."""
    classifier: str | None = None
    """Model file of the classifier that judges; default: the data set's bundled one."""


@dataclass(frozen=True)
class Problem:
    """A class-removal problem.

    denoiser: roles "base", "class:k", "negative:i" for the i-th forbidden class, "positive".
    judge: images [B, H, W, C] -> (labels int [B], features float [B, F]), its name and that of its
    features; real, real_features: moments and a sample [M, F] of the features of the data without
    the forbidden classes; mixture: the exact model, where it is one.
    """

    info: data.Info
    forbidden: tuple[int, ...]
    schedule: Schedule
    denoiser: Any
    judge: Callable[[Any], tuple[np.ndarray, np.ndarray]]
    judge_name: str
    features_name: str
    real: Moments
    real_features: np.ndarray
    mixture: Mixture | None = None

    @property
    def negatives(self) -> tuple[str, ...]:
        """Roles of the forbidden classes."""
        return tuple(f"negative:{i}" for i in range(len(self.forbidden)))

    @property
    def allowed(self) -> np.ndarray:
        """[K] bool mask of the allowed classes."""
        mask = np.ones(self.info.num_classes, bool)
        mask[list(self.forbidden)] = False
        return mask

    @property
    def knows_classes(self) -> bool:
        """Whether the denoiser can be asked for any class, not only for the forbidden ones."""
        return not isinstance(self.denoiser, denoisers.SeparateNetworks)

    def table(self, sampler: str, count: int) -> StepTable:
        """The named step table of the problem's own schedule; InputError for unknown names."""
        return steps.TABLES[choose(sampler, steps.TABLES, "sampler")](self.schedule, count)

    def conditioned(self, k: int) -> Any:
        """The denoiser with class k behind the role "positive"."""
        if self.mixture is not None:
            return mixtures.mixture_denoiser(self.mixture, self._conditions() | {"positive": (k,)})
        return denoisers.with_conditions(self.denoiser, {"positive": k})

    def _conditions(self) -> dict[str, tuple[int, ...]]:
        return {role: (k,) for role, k in zip(self.negatives, self.forbidden, strict=True)} | {
            "negative": self.forbidden
        }


def class_indices(names: Sequence[str], info: data.Info) -> tuple[int, ...]:
    """Classes by name or number, sorted; InputError for unknown ones, none, or all of them."""
    known = {name: k for k, name in enumerate(info.class_names)}
    known |= {str(k): k for k in range(info.num_classes)}
    chosen = sorted({known[choose(str(name), known, f"{info.name} class")] for name in names})
    if not chosen:
        raise InputError("name at least one class with --forbid")
    if len(chosen) == info.num_classes:
        raise InputError(
            f"all {info.num_classes} classes of {info.name} are forbidden: leave at least one"
        )
    return tuple(chosen)


def make(dataset: str, forbid: Sequence[str], source: Source | None = None) -> Problem:
    """The problem a job's options describe; InputError where they describe none."""
    source = source or Source()
    if choose(source.denoiser, DENOISERS, "denoiser") == "exact":
        return _exact(dataset, forbid)
    judge, judge_name, reference, info = _judge(dataset, source.classifier)
    forbidden = class_indices(forbid, info)
    denoiser = _network(dataset, info, forbidden, source)
    real, real_features = reference.excluding(forbidden)
    return Problem(
        info,
        forbidden,
        linear(),
        denoiser,
        judge,
        judge_name,
        f"{judge_name} features",
        real,
        real_features,
    )


def _exact(dataset: str, forbid: Sequence[str]) -> Problem:
    images, labels, info = data.load(dataset)
    forbidden = class_indices(forbid, info)
    x = data.to_unit(images)
    mixture = mixtures.patterns(x, labels, scale=PATTERN_SCALE)
    classify = jax.jit(lambda x: jnp.argmax(mixture.log_posterior(x, 1.0, 0.0), axis=1))

    def judge(x):
        return np.asarray(classify(x)), np.asarray(x, np.float64).reshape(len(x), -1)

    real = x[~np.isin(labels, forbidden)].reshape(-1, int(np.prod(info.shape)))
    moments = Moments.zero(real.shape[1]).update(real)
    problem = Problem(
        info, forbidden, linear(), None, judge, "closed form", "pixels", moments, real, mixture
    )
    denoiser = mixtures.mixture_denoiser(mixture, problem._conditions())
    return dataclasses.replace(problem, denoiser=denoiser)


def _network(dataset: str, info: data.Info, forbidden, source: Source) -> Any:
    module, params = _model(dataset, source.network, nets.UNet)
    _must_fit(module.config, info, source.network)
    kind = module.config.conditioning
    if kind != "none":
        if source.negatives:
            raise InputError(
                f"--negatives belongs to a network without classes, {source.network} has them: "
                "leave it out"
            )
        conditions = {f"negative:{i}": k for i, k in enumerate(forbidden)} | {"positive": 0}
        return denoisers.from_module(module, params, conditions)
    if len(source.negatives) != len(forbidden):
        raise InputError(
            f"{source.network} knows no classes: name one model file a forbidden class with "
            f"--negatives ({len(forbidden)} needed, got {len(source.negatives)})"
        )
    parts = {"base": denoisers.plain_network(module, params)}
    for i, name in enumerate(source.negatives):
        module, params = _model(dataset, name, nets.UNet)
        _must_fit(module.config, info, name)
        parts[f"negative:{i}"] = denoisers.plain_network(module, params)
    return denoisers.separate_networks(parts)


def _judge(dataset: str, name: str | None):
    """(judge, its name, Reference, Info): of the bundled classifier, or of one from a file."""
    info = data.describe(dataset)
    name = name or f"{dataset}-classifier"
    if not _is_file(name) and name not in pretrained.NAMES:
        known = sorted(n.partition("-")[0] for n in pretrained.NAMES if n.endswith("-classifier"))
        raise InputError(
            f"no classifier for {dataset} comes with the library (there is one for "
            f"{', '.join(known)}): train one and name its file with --classifier"
        )
    module, params = _model(dataset, name, nets.Classifier)
    _must_fit(module.config, info, name)
    judge = features.judge(module, params)
    extractor = Path(name).stem if _is_file(name) else name
    beside = Reference.path_beside(name)
    if _is_file(name):
        reference = Reference.load(beside) if beside.exists() else None
    else:
        reference = Reference.bundled(name)
    if reference is None:
        images, labels, _ = data.load(dataset, "all" if dataset == "digits" else "train")
        reference = Reference.of_images(
            judge, images, labels, info.num_classes, extractor=extractor
        )
    return judge, extractor, reference, info


def fingerprint(dataset: str, source: Source) -> dict[str, str]:
    """SHA-256 of every weights file a problem rests on, so that retrained ones are told apart."""
    if source.denoiser == "exact":
        return {}
    names = (source.network, *source.negatives, source.classifier or "classifier")
    return {name: hashlib.sha256(_bytes(dataset, name)).hexdigest() for name in names}


def _bytes(dataset: str, name: str) -> bytes:
    if _is_file(name):
        return Path(name).read_bytes()
    full = name if name in pretrained.NAMES else f"{dataset}-{name}"
    return pretrained.stored(full)


def _model(dataset: str, name: str, kind: type) -> tuple[Any, Any]:
    if _is_file(name):
        if not Path(name).exists():
            raise InputError(f"{name} does not exist: name a model file, or a bundled network")
        module, params, _ = load(name)
    else:
        full = name if name in pretrained.NAMES else f"{dataset}-{name}"
        if full not in pretrained.NAMES:
            short = [n.partition("-")[2] for n in pretrained.NAMES if n.startswith(f"{dataset}-")]
            networks = [n for n in short if n != "classifier"]
            if not networks:
                raise InputError(
                    f"no bundled network for {dataset}: name a model file with --network, or use "
                    "--denoiser exact"
                )
            choose(name, networks, "network")
        module, params, _ = pretrained.load(full)
    if not isinstance(module, kind):
        raise InputError(f"{name} holds a {type(module).__name__}, not a {kind.__name__}")
    return module, params


def _is_file(name: str) -> bool:
    return name.endswith(".safetensors")


def _must_fit(config, info: data.Info, name: str) -> None:
    if tuple(config.image_shape) != tuple(info.shape) or config.num_classes != info.num_classes:
        raise InputError(
            f"{name} is made for images {list(config.image_shape)} of {config.num_classes} classes,"
            f" {info.name} has {list(info.shape)} of {info.num_classes}: choose another network"
        )
