"""What is sampled and who judges it: a data set, a denoiser and a classifier, ready for a job."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax import data, denoisers, mixtures, pretrained, steps
from dng_jax.errors import InputError, choose
from dng_jax.metrics import Moments
from dng_jax.mixtures import Mixture
from dng_jax.schedules import Schedule, linear
from dng_jax.steps import StepTable

DENOISERS = ("exact", "network")
NETWORKS = {"digits": ("heads", "label")}
PATTERN_SCALE = 0.15


@dataclass(frozen=True)
class Problem:
    """A class-removal problem.

    denoiser: roles "base", "class:k", "negative:i" for the i-th forbidden class, "positive".
    judge: images [B, H, W, C] -> (labels int [B], features float [B, F]), its name and that of its
    features; real: moments of the features of the data without the forbidden classes; mixture: the
    exact model, where it is one.
    """

    info: data.Info
    forbidden: tuple[int, ...]
    schedule: Schedule
    denoiser: Any
    judge: Callable[[jax.Array], tuple[np.ndarray, np.ndarray]]
    judge_name: str
    features_name: str
    real: Moments
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


def make(dataset: str, forbid: Sequence[str], denoiser: str, network: str = "heads") -> Problem:
    """The problem a job's options describe; InputError where they describe none."""
    images, labels, info = data.load(dataset)
    forbidden = class_indices(forbid, info)
    x = data.to_unit(images)
    if choose(denoiser, DENOISERS, "denoiser") == "exact":
        return _exact(x, labels, info, forbidden)
    if info.name not in NETWORKS:
        raise InputError(f"no bundled network for {info.name}: use --denoiser exact")
    choose(network, NETWORKS[info.name], "network")
    return _network(x, labels, info, forbidden, network)


def _exact(x, labels, info, forbidden) -> Problem:
    mixture = mixtures.patterns(x, labels, scale=PATTERN_SCALE)
    classify = jax.jit(lambda x: jnp.argmax(mixture.log_posterior(x, 1.0, 0.0), axis=1))

    def judge(x):
        return np.asarray(classify(x)), np.asarray(x, np.float64).reshape(len(x), -1)

    problem = Problem(
        info,
        forbidden,
        linear(),
        None,
        judge,
        "closed form",
        "pixels",
        _moments(judge, x, labels, forbidden),
        mixture,
    )
    denoiser = mixtures.mixture_denoiser(mixture, problem._conditions())
    return dataclasses.replace(problem, denoiser=denoiser)


def _network(x, labels, info, forbidden, network) -> Problem:
    module, params, _ = pretrained.load(f"{info.name}-{network}")
    conditions = {f"negative:{i}": k for i, k in enumerate(forbidden)} | {"positive": 0}
    make_denoiser = {"heads": denoisers.heads_network, "label": denoisers.label_network}[network]
    denoiser = make_denoiser(module, params, info.num_classes, conditions)
    judge_module, judge_params, _ = pretrained.load(f"{info.name}-classifier")

    @jax.jit
    def look(x):
        logits, features = judge_module.apply({"params": judge_params}, x, features=True)
        return jnp.argmax(logits, axis=1), features

    def judge(x):
        chosen, features = look(jnp.asarray(x))
        return np.asarray(chosen), np.asarray(features, np.float64)

    real = _moments(judge, x, labels, forbidden)
    name = f"{info.name}-classifier"
    return Problem(info, forbidden, linear(), denoiser, judge, name, f"{name} features", real)


def _moments(judge, x, labels, forbidden) -> Moments:
    allowed = ~np.isin(labels, forbidden)
    _, features = judge(x[allowed])
    return Moments.zero(features.shape[1]).update(features)
