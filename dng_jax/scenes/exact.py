r"""The exact text-to-image model of scenes: every prompt's density and denoiser in closed form.

Symbols: x_m cell m of a noised scene x, k a class, y = (y_1 .. y_M) a label tuple, A and B sets of
tuples, w(y) = 10^-M; l_mk = log p(x_m | k) and eps_mk, the log-likelihood and the prediction of
class k in cell m, of the mixture of its images (dng_jax.mixtures).

    log p_A(x)  = lse_{y in A} [ sum_m l_m,y_m ] - log |A|
    r_A(y)      = softmax_{y in A} sum_m l_m,y_m              responsibilities of tuples
    eps_A,m     = sum_k [ sum_{y in A: y_m = k} r_A(y) ] eps_mk
    p(B | x, A) = sum_{y in A and B} r_A(y)

with the identity eps_A = -sigma grad log p_A (tested). For a batch the mixture is asked once per
cell and level, whatever the number of prompts; a prompt costs B 10^M numbers more.

A prompt that contradicts itself ("even digits and a seven") allows no scene and has no density. It
stands here for the scenes that satisfy as many of its phrases as can be, all equally likely: the
limit of captions each of whose phrases is wrong with a small probability. So variant "nested" has
an answer for a negative that never occurs under the prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax import mixtures
from dng_jax.errors import InputError, find
from dng_jax.mixtures import PATTERN_SCALE, Mixture
from dng_jax.rules import Predictions, pytree
from dng_jax.scenes.images import apart, digits, side_by_side
from dng_jax.scenes.prompts import phrases, tuples
from dng_jax.steps import StepRow


@pytree
class ExactScenes:
    """A Denoise of scenes [B, 8, 8 M, 1] with one role per prompt. Make it with `exact_scenes`.

    cell: mixture of one cell, its 10 classes equally likely; prompts {role: log w_A, [10] * M},
    -inf where a tuple is not allowed. Methods take x at a level (alpha, sigma); sigma 0 is the
    clean scene. float32, or float64 where x or the mixture is.
    """

    cell: Mixture
    prompts: dict[str, jax.Array]

    def __call__(self, x, row: StepRow, roles: Sequence[str]) -> Predictions:
        cells = apart(x)
        eps, log_posterior = self.cell.class_eps(_flat(cells), row.alpha, row.sigma)
        # [B, M, 10, 64]; of equal classes the posterior differs from the likelihood by no class
        eps = eps.reshape(*cells.shape[:2], *eps.shape[1:])
        log_like = log_posterior.reshape(*cells.shape[:2], -1)
        out = {}
        for role in roles:
            shares = _shares(find(self.prompts, role), log_like)
            mean = jnp.einsum("bmk,bmkd->bmd", shares, eps, precision="highest")
            out[role] = side_by_side(mean.reshape(cells.shape))
        return out

    def log_density(self, x, alpha, sigma, role: str = "empty") -> jax.Array:
        """log p_A(x_t) of a role's prompt, [B]; a density in x."""
        joint = self.cell.log_class_joint(_flat(apart(x)), alpha, sigma) + np.log(10)
        log_like = joint.reshape(len(x), -1, 10)
        return _lse(_tuples(find(self.prompts, role), log_like))

    def log_probability(self, x, alpha, sigma, satisfies, given: str = "empty") -> jax.Array:
        """log p(the scene is in B | x_t, A), [B]; -inf where no scene of A is.

        satisfies: B, bool [10] * M, as `prompts.tuples` has it, else InputError; given: role of the
        prompt A.
        """
        allowed = find(self.prompts, given)
        if np.shape(satisfies) != allowed.shape:
            raise InputError(
                f"satisfies has shape {list(np.shape(satisfies))}: it must be"
                f" {list(allowed.shape)}, 10 for each cell"
            )
        joint = _tuples(allowed, self._log_like(x, alpha, sigma))
        inside = jnp.where(jnp.asarray(satisfies)[None], joint, -jnp.inf)
        return _lse(inside) - _lse(joint)

    def cell_posterior(self, x, alpha=1.0, sigma=0.0) -> jax.Array:
        """log p(k | x_m) of each cell for itself, [B, M, 10]."""
        return self._log_like(x, alpha, sigma)

    def classify(self, x) -> jax.Array:
        """The likeliest digit of each cell of clean scenes, int32 [B, M]."""
        return jnp.argmax(self.cell_posterior(x), axis=-1).astype(jnp.int32)

    def with_prompts(self, prompts: Mapping[str, str]) -> ExactScenes:
        """The same scenes with other prompts behind some roles."""
        cells = np.ndim(self.prompts["empty"])
        dtype = self.cell.means.dtype
        found = {role: jnp.asarray(_log_weights(p, cells), dtype) for role, p in prompts.items()}
        return dataclasses.replace(self, prompts=self.prompts | found)

    def _log_like(self, x, alpha, sigma) -> jax.Array:
        posterior = self.cell.log_posterior(_flat(apart(x)), alpha, sigma)
        return posterior.reshape(len(x), -1, 10)


def exact_scenes(
    prompts: Mapping[str, str] | None = None, *, cells: int = 2, cell: Mixture | None = None
) -> ExactScenes:
    """The exact model of scenes of so many cells, 1 to 6.

    prompts {role: prompt}, see `dng_jax.scenes.prompts`; the role "empty" is always there. cell:
    mixture of one cell (default `cell_mixture()`). InputError for a mixture whose classes are not
    ten, equally likely.
    """
    cell = cell_mixture() if cell is None else cell
    if cell.num_classes != 10 or np.ptp(np.asarray(cell.prior)) > 1e-5:
        raise InputError("cells need ten classes that are equally likely: see cell_mixture")
    empty = jnp.asarray(_log_weights("", cells), cell.means.dtype)
    return ExactScenes(cell, {"empty": empty}).with_prompts(prompts or {})


def cell_mixture(
    images=None, labels=None, *, scale: float = PATTERN_SCALE, dtype=jnp.float32
) -> Mixture:
    """The images of a cell as a mixture: classes equally likely, and so the images of each.

    images [N, 8, 8, 1] with labels [N], all of 0..9 among them; default: the embedded digits.
    scale: standard deviation of every image, in every pixel, > 0 (without it a clean scene off the
    images has no class).
    """
    if not scale > 0:
        raise InputError(f"the scale of the images of a cell must be above 0, got {scale}")
    if (images is None) != (labels is None):
        raise InputError("images of a cell come with their labels: give both, or neither")
    if images is None:
        images, labels = digits()
    labels = np.asarray(labels)
    weights = 1 / np.bincount(labels, minlength=10)[labels]
    return mixtures.gaussians(images, scale, classes=labels, weights=weights, dtype=dtype)


def _log_weights(prompt: str, cells: int) -> np.ndarray:
    said = dict.fromkeys(phrases(prompt))  # a phrase that is repeated counts once
    satisfied = sum((tuples(p, cells).astype(int) for p in said), tuples("", cells) * 0)
    allowed = satisfied == satisfied.max()
    return np.where(allowed, -np.log(allowed.sum()), -np.inf)


def _tuples(log_weights, log_like) -> jax.Array:
    # log w_A(y) + sum_m l_m,y_m, [B, 10, .., 10]
    total = log_weights[None].astype(log_like.dtype)
    cells = log_like.shape[1]
    if cells != log_weights.ndim:
        raise InputError(
            f"scenes of {cells} cells for a model of {log_weights.ndim}: make it with cells={cells}"
        )
    for m in range(cells):
        shape = [len(log_like), *(10 if i == m else 1 for i in range(cells))]
        total = total + log_like[:, m].reshape(shape)
    return total


def _shares(log_weights, log_like) -> jax.Array:
    # sum_{y in A: y_m = k} r_A(y), [B, M, 10]
    joint = _tuples(log_weights, log_like)
    axes = tuple(range(1, joint.ndim))
    r = jax.nn.softmax(joint, axis=axes)
    return jnp.stack([r.sum(axis=[a for a in axes if a != m]) for m in axes], axis=1)


def _lse(joint) -> jax.Array:
    return jax.nn.logsumexp(joint, axis=tuple(range(1, joint.ndim)))


def _flat(cells) -> jax.Array:
    # [B, M, 8, 8, 1] -> [B M, 64]
    return jnp.asarray(cells).reshape(cells.shape[0] * cells.shape[1], -1)
