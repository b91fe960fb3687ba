"""Who looks at generated images, and what real images look like to it.

A classifier gives labels [B], from which leak and class proportions are counted, and features
[B, F], in which distances to the real data are measured:

    trained        the data set's bundled classifier, or a model file of train.classifier; its
                   penultimate layer are the features
    closed form    the Bayes classifier argmax_k p(k | x) of a mixture; pixels are the features
    inception      either of them, with the features of FID in the place of its own

The real features (moments and a sample, class by class) come from a file beside the classifier's
weights where there is one, so that no data set is needed; otherwise from the data.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax import data, nets
from dng_jax.errors import InputError
from dng_jax.experiments import models
from dng_jax.metrics import Moments, Reference, features
from dng_jax.mixtures import Mixture
from dng_jax.weights import pretrained

Classify = Callable[[Any], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Classifier:
    """classify: images [B, H, W, C] -> (labels int [B], features float [B, F]); its name and that
    of its features; real: forbidden classes -> moments and a sample [M, F] of the features of the
    data without them; traced: `classify` as a pytree for compiled programs, None where it is none
    of JAX's."""

    classify: Classify
    name: str
    features_name: str
    real: Callable[[tuple[int, ...]], tuple[Moments, np.ndarray]]
    traced: Callable[[jax.Array], tuple[jax.Array, jax.Array]] | None = None


def trained(info: data.Info, name: str | None) -> Classifier:
    """The data set's bundled classifier (name None), or that of a model file."""
    usual = f"{info.name}-classifier"
    if name is None and usual in pretrained.NAMES:
        name = usual
    if name is None or not (models.is_path(name) or name in pretrained.NAMES):
        known = sorted(n.partition("-")[0] for n in pretrained.NAMES if n.endswith("-classifier"))
        raise InputError(
            f"no classifier for {info.name} comes with the library (there is one for "
            f"{', '.join(known)}): train one and name its file with --classifier"
        )
    module, params = models.load(info, name, nets.Classifier)
    classify = features.classifier(module, params)
    traced = jax.tree_util.Partial(functools.partial(features.labelled, module), params)
    short = Path(name).stem if models.is_path(name) else name

    @functools.cache
    def reference() -> Reference:
        return _stored_reference(name) or _made(classify, info, short)

    return Classifier(
        classify, short, f"{short} features", lambda f: reference().excluding(f), traced
    )


def closed_form(mixture: Mixture, x: np.ndarray, labels: np.ndarray) -> Classifier:
    """The Bayes classifier of a mixture; x [N, H, W, C] in [-1, 1], labels [N]: its data."""

    @jax.jit
    def most_likely(mixture, x):  # an argument: as a constant, large ones take minutes to compile
        return jnp.argmax(mixture.log_posterior(x, 1.0, 0.0), axis=1)

    def classify(images):
        return np.asarray(most_likely(mixture, features.unit_images(images))), pixels(images)

    def real(forbidden):
        kept = x[~np.isin(labels, forbidden)].reshape(-1, x[0].size)
        return Moments.zero(kept.shape[1]).update(kept), kept

    traced = jax.tree_util.Partial(_likeliest_and_pixels, mixture)
    return Classifier(classify, "closed form", "pixels", real, traced)


def _likeliest_and_pixels(mixture: Mixture, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    likeliest = jnp.argmax(mixture.log_posterior(x, 1.0, 0.0), axis=1)
    return likeliest.astype(jnp.int32), x.reshape(len(x), -1)


def with_inception(classifier: Classifier, info: data.Info, weights: str | None) -> Classifier:
    """The same labels, with Inception features, those of the data included.

    InputError where the extra `fid` is not installed.
    """
    extract = features.inception(weights)

    def classify(images):
        return classifier.classify(images)[0], extract(images)

    @functools.cache
    def reference() -> Reference:
        return _made(lambda images: (None, extract(images)), info, "inception")

    return dataclasses.replace(
        classifier,
        classify=classify,
        features_name="inception",
        real=lambda forbidden: reference().excluding(forbidden),
        traced=None,
    )


def pixels(images) -> np.ndarray:
    """Images [B, ...] as float64 [B, d]."""
    return np.asarray(images, np.float64).reshape(len(images), -1)


def _made(classify, info: data.Info, extractor: str) -> Reference:
    images, labels, _ = data.load(info.name, "all" if info.name == "digits" else "train")
    return Reference.of_images(classify, images, labels, info.num_classes, extractor=extractor)


def _stored_reference(name: str) -> Reference | None:
    if not models.is_path(name):
        return Reference.bundled(name)
    beside = Reference.path_beside(name)
    return Reference.load(beside) if beside.exists() else None
