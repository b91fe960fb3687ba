"""A class-removal problem: a data set, forbidden classes, a denoiser and a classifier.

Roles that every denoiser of a problem answers:

    base          the whole model
    negative:i    the i-th forbidden class
    class:k       class k              \\  where the model knows its classes
    positive      a class of choice    /   (Problem.conditioned)
    negative      the forbidden images, where images are forbidden and no class

and a denoiser of its own (Problem.retrained) the role "retrained".
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dng_jax import data, denoisers, disk, mixtures, nets, steps
from dng_jax.denoisers.compaction import evaluations
from dng_jax.errors import InputError, choose
from dng_jax.experiments import classifiers, image_sets, models
from dng_jax.experiments.classes import class_indices, class_title
from dng_jax.experiments.classifiers import Classifier
from dng_jax.experiments.image_sets import ForbiddenImages
from dng_jax.experiments.source import CLASS, DENOISERS, FEATURES, Source
from dng_jax.metrics import Moments
from dng_jax.mixtures import Mixture
from dng_jax.schedules import Schedule, linear
from dng_jax.steps import StepTable

PATTERNS = 10_000

Conditioned = Callable[[int], Any]


@dataclass(frozen=True)
class Problem:
    """A class-removal problem. Make it with `make`.

    forbidden: numbers of the forbidden classes, ascending; conditioned: k -> the denoiser with
    class k behind the role "positive", None where the model knows the forbidden classes alone;
    real, real_features: moments and a sample [M, F] of the features of the data without the
    forbidden classes; mixture: the exact model, where it is one; network: name of the bundled
    network or model file otherwise; images: those that are forbidden in the place of classes, the
    mixture then being of two classes, these and all others; retrained: reads the denoiser of a
    network that never saw the forbidden classes, where one is named; knows_negatives: whether the
    denoiser answers `negatives`.
    """

    info: data.Info
    forbidden: tuple[int, ...]
    schedule: Schedule
    denoiser: Any
    conditioned: Conditioned | None
    classifier: Classifier
    real: Moments
    real_features: np.ndarray
    mixture: Mixture | None = None
    network: str | None = None
    images: ForbiddenImages | None = None
    retrained: Callable[[], Any] | None = None
    knows_negatives: bool = True

    @property
    def negatives(self) -> tuple[str, ...]:
        """Roles of the forbidden classes, or that of the forbidden images."""
        return tuple(_negatives(self.forbidden)) if self.images is None else ("negative",)

    @property
    def forbidden_components(self) -> tuple[int, ...]:
        """Classes of the mixture that are forbidden."""
        return self.forbidden if self.images is None else (image_sets.COMPONENT,)

    @property
    def prior(self) -> float:
        """Of each negative, where no option says another."""
        return 1 / self.info.num_classes if self.images is None else self.images.prior

    @property
    def allowed(self) -> np.ndarray:
        """[K] bool mask of the allowed classes."""
        mask = np.ones(self.info.num_classes, bool)
        mask[list(self.forbidden)] = False
        return mask

    @property
    def knows_classes(self) -> bool:
        """Whether the denoiser can be asked for any class, not only for the forbidden ones."""
        return self.conditioned is not None

    @property
    def classifier_name(self) -> str:
        """Name of the classifier, for a record."""
        return self.classifier.name

    @property
    def forbidden_names(self) -> str:
        """The forbidden classes by name, "3, 8"; by number too where they differ: 2 ("bird")."""
        if self.images is not None:
            return self.images.title
        return ", ".join(class_title(k, self.info) for k in self.forbidden)

    def hits(self, images, labels) -> np.ndarray:
        """Which of images [B, H, W, C], labelled [B], are forbidden, bool [B]."""
        if self.images is not None:
            return self.images.inside(images)
        return np.isin(labels, self.forbidden)

    def classify(self, images) -> tuple[np.ndarray, np.ndarray]:
        """Images [B, H, W, C] -> labels int [B], features float [B, F]."""
        return self.classifier.classify(images)

    def table(self, sampler: str, count: int) -> StepTable:
        """The named step table of the problem's own schedule; InputError for unknown names."""
        return steps.TABLES[choose(sampler, steps.TABLES, "sampler")](self.schedule, count)

    def network_calls(self, rule: Any, count: int, ran: float | None = None) -> float | None:
        """Network evaluations per image of `count` steps; None where there is no network.

        ran: how often roles that the rule has on demand were evaluated per image, all roles and
        steps together (`Generated.ran`); None of other rules.
        """
        return evaluations(self.denoiser, rule, count, ran)


@dataclass(frozen=True)
class Model:
    """What is sampled and who classifies it, before any class is forbidden. Make it with `load`.

    denoisers: forbidden classes -> (denoiser, conditioned), retrained: forbidden classes -> a
    denoiser, see `Problem`; patterns: float32 [N, H, W, C] in [-1, 1], of the mixture.
    """

    info: data.Info
    classifier: Classifier
    denoisers: Callable[[tuple[int, ...]], tuple[Any, Conditioned | None]]
    knows_classes: bool
    mixture: Mixture | None = None
    patterns: np.ndarray | None = None
    network: str | None = None
    retrained: Callable[[tuple[int, ...]], Any] | None = None
    knows_negatives: bool = True

    def problem(self, forbid: Sequence[str | int]) -> Problem:
        """The problem of forbidding these classes, given by name or number."""
        forbidden = class_indices(forbid, self.info)
        denoiser, conditioned = self.denoisers(forbidden)
        real, real_features = self.classifier.real(forbidden)
        return Problem(
            self.info,
            forbidden,
            linear(),
            denoiser,
            conditioned,
            self.classifier,
            real,
            real_features,
            self.mixture,
            self.network,
            retrained=None if self.retrained is None else partial(self.retrained, forbidden),
            knows_negatives=self.knows_negatives,
        )

    def problem_of_images(self, images: ForbiddenImages) -> Problem:
        """The problem of forbidding images, and no class."""
        denoiser, _ = self.denoisers(())
        mixture = None
        if self.patterns is not None:
            images, mixture = image_sets.divided(images, self.patterns)
        real, real_features = self.classifier.real(())
        return Problem(
            self.info,
            (),
            linear(),
            denoisers.image_set(denoiser, images.images, images.bandwidth),
            None,
            self.classifier,
            real,
            real_features,
            mixture,
            self.network,
            images,
        )


def make(dataset: str, forbid: Sequence[str | int], source: Source | None = None) -> Problem:
    """The problem a job's options describe; InputError where they describe none.

    forbid: classes by name or number.
    """
    return load(dataset, source or Source()).problem(forbid)


def make_of_images(
    dataset: str,
    folder: str,
    bandwidth: float | None,
    radius: float | None,
    source: Source | None = None,
) -> Problem:
    """The problem of forbidding the images of a folder; see image_sets.read."""
    source = source or Source()
    for name in ("negatives", "retrained"):
        if getattr(source, name):
            raise InputError(f"--{name} belongs to forbidden classes, not images: leave it out")
    images = image_sets.read(folder, data.describe(dataset).shape, bandwidth, radius)
    return load(dataset, source).problem_of_images(images)


def load(dataset: str, source: Source) -> Model:
    """The model that a job's options describe; for several problems of one model."""
    choose(source.denoiser, DENOISERS, "denoiser")
    choose(source.features, FEATURES, "kind of features")
    if source.patterns is not None and source.denoiser != "exact":
        raise InputError("--patterns belongs to --denoiser exact: add it, or leave --patterns out")
    if source.retrained is not None and source.denoiser == "exact":
        raise InputError(
            "--retrained is a network's: leave it out with --denoiser exact, whose rule reference"
            " is the model without the forbidden class"
        )
    if source.inception_weights is not None and source.features != "inception":
        raise InputError("--inception-weights belongs to --features inception: add it")
    info = data.describe(dataset)
    model = (_exact if source.denoiser == "exact" else _network)(info, source)
    if source.features == "classifier":
        return model
    classifier = classifiers.with_inception(model.classifier, info, source.inception_weights)
    return dataclasses.replace(model, classifier=classifier)


def _negatives(forbidden: tuple[int, ...]) -> dict[str, int]:
    return {f"negative:{i}": k for i, k in enumerate(forbidden)}


def _exact(info: data.Info, source: Source) -> Model:
    x, labels = _patterns(info, source.patterns)
    mixture = mixtures.patterns(x, labels)

    def denoisers_of(forbidden):
        roles = {role: (k,) for role, k in _negatives(forbidden).items()}
        roles |= {"negative": forbidden} if forbidden else {}

        def conditioned(k: int) -> Any:
            return mixtures.mixture_denoiser(mixture, roles | {"positive": (k,)})

        return mixtures.mixture_denoiser(mixture, roles), conditioned

    classifier = classifiers.closed_form(mixture, x, labels)
    return Model(info, classifier, denoisers_of, True, mixture, x)


def _patterns(info: data.Info, count: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The first images of a data set, float32 [N, H, W, C] in [-1, 1], and their labels [N]."""
    images, labels, _ = data.load(info.name)
    if count is not None and not 1 <= count <= len(images):
        raise InputError(
            f"--patterns must lie between 1 and the {len(images):,} images of {info.name}, got"
            f" {count:,}"
        )
    count = min(PATTERNS, len(images)) if count is None else count
    absent = np.setdiff1d(np.arange(info.num_classes), labels[:count])
    if absent.size:
        raise InputError(
            f"the first {count:,} images of {info.name} hold none of"
            f" {', '.join(class_title(k, info) for k in absent)}: take more with --patterns (all:"
            f" {len(images):,})"
        )
    d = math.prod(info.shape)
    disk.check_memory(
        f"the exact model of {count:,} images of {info.name}",
        # pixels twice, and what moments of the pixels take
        2 * 4 * count * d
        + mixtures.bytes_of_means(labels[:count], d)
        + 2 * 8 * count * d
        + 5 * 8 * d**2,
        "take fewer with --patterns",
    )
    return data.to_unit(images[:count]), labels[:count]


def _network(info: data.Info, source: Source) -> Model:
    load = functools.cache(partial(models.load, info, kind=nets.UNet))
    module, params = load(source.network)
    full, kind = models.full_name(info.name, source.network), module.config.conditioning
    if kind != "none" and source.negatives:
        raise InputError(
            f"--negatives belongs to a network without classes, {full} has them: leave it out"
        )
    each = [name for name in source.negatives if CLASS in name]
    if each and len(source.negatives) > 1:
        raise InputError(
            f"--negatives {each[0]} stands for the networks of all forbidden classes: leave the"
            " others out"
        )
    if not each:
        for name in source.negatives:
            load(name)  # refused before a class is chosen

    def one_network(forbidden):
        roles = _negatives(forbidden) | {"positive": 0}
        denoiser = denoisers.from_module(module, params, roles)

        def conditioned(k: int) -> Any:
            return denoisers.with_conditions(denoiser, {"positive": k})

        return denoiser, conditioned

    def separate_networks(forbidden):
        names = [models.of_class(each[0], k) for k in forbidden] if each else source.negatives
        if names and len(names) != len(forbidden):
            raise InputError(
                f"{full} knows no classes: name one model file per forbidden class with"
                f" --negatives ({len(forbidden)} needed, got {len(names)})"
            )
        networks = [(module, params), *map(load, names)]
        parts = [denoisers.plain_network(*network) for network in networks]
        roles = ("base", *_negatives(forbidden)) if names else ("base",)
        return denoisers.separate_networks(dict(zip(roles, parts, strict=True))), None

    def retrained(forbidden):
        name = source.retrained or ""
        if CLASS in name:
            if len(forbidden) != 1:
                raise InputError(
                    f"--retrained {name} stands for a network without one class, but"
                    f" {len(forbidden)} are forbidden: name one trained without all of them"
                )
            name = models.of_class(name, *forbidden)
        network = load(name)
        if network[0].config.conditioning != "none":
            raise InputError(
                f"--retrained takes a network without classes, {name} has them: train one with"
                " --conditioning none --without-class"
            )
        models.check_without(name, [info.class_names[k] for k in forbidden])
        return denoisers.plain_network(*network)

    classifier = classifiers.trained(info, source.classifier)
    known = kind != "none"
    return Model(
        info,
        classifier,
        one_network if known else separate_networks,
        known,
        network=full,
        retrained=None if source.retrained is None else retrained,
        knows_negatives=known or bool(source.negatives),
    )
