r"""Training targets with less noise: posterior means over a reference batch instead of one image.

Xu, Tong & Jaakkola 2023, "Stable Target Field" (arXiv 2302.00670), here class by class. A network
that regresses on x_0 learns E[x_0 | x, k]; at high noise most of what it sees is the spread of x_0
about that mean. With references x_kj, j = 1..M, drawn from class k, and x = alpha x_0 + sigma eps,

    l_kj = -|x - alpha x_kj|^2 / (2 sigma^2)
    E_k  = sum_j softmax_j(l_kj) x_kj          p_k ~ P(k) mean_j exp(l_kj)        E = sum_k p_k E_k

the exact denoiser of the references: a Hopfield update with one head per class (dng_jax.mixtures at
scale 0). x_0 itself counts as one more reference of its class c,

    E_c <- (1 - r) E_c + r x_0,     r = sigmoid(l_c0 - lse_j l_cj),     l_c0 = -|eps|^2 / 2

so at low noise, where it is the only image near x, the target is x_0 as before; at high noise it is
the mean of many. The estimate is self-normalised, hence biased by O(1/M) and right as M grows.

Every class has a target at every x, so all heads can learn from every image: at high noise the
target of a class that is not x_0's is the mean of many references, as noise falls it becomes the
one that is nearest to x, of M drawn anew each step.

Shapes: x, x0 [B, ...]; alpha, sigma [B, 1, ...]; references [K, M, ...]; float32.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError


class Targets(NamedTuple):
    """Posterior means: of_class [B, K, ...], marginal [B, ...]."""

    of_class: jax.Array
    marginal: jax.Array


def targets(
    x: jax.Array,
    x0: jax.Array,
    labels: jax.Array,
    alpha: jax.Array,
    sigma: jax.Array,
    references: jax.Array,
    log_prior: jax.Array,
) -> Targets:
    """See the file's docstring. labels int32 [B] in 0..K-1; log_prior [K]: log P(k)."""
    b, (k, m) = len(x), references.shape[:2]
    flat, own, refs = x.reshape(b, -1), x0.reshape(b, -1), references.reshape(k, m, -1)
    a, s = alpha.reshape(b, 1), sigma.reshape(b, 1)
    # l without -|x|^2 / (2 sigma^2), which all share: one matrix product.
    product = functools.partial(jnp.einsum, precision="highest")
    cross = product("bd,kmd->bkm", a * flat, refs)
    logits = (cross - (a**2 / 2)[..., None] * (refs**2).sum(-1)[None]) / (s**2)[..., None]
    logit_own = (a * flat * own - (a * own) ** 2 / 2).sum(-1) / s[:, 0] ** 2
    evidence = jax.nn.logsumexp(logits, axis=-1)
    w = jnp.exp(logits - evidence[..., None])
    means = product("bkm,kmd->bkd", w, refs)
    hot = jax.nn.one_hot(labels, k)
    r = (hot * jax.nn.sigmoid(logit_own[:, None] - evidence))[..., None]
    means = (1 - r) * means + r * own[:, None]
    # One reference more in the class of x_0, so that its mean likelihood stays a mean.
    evidence = jnp.where(hot > 0, jnp.logaddexp(evidence, logit_own[:, None]), evidence)
    p = jax.nn.softmax(evidence - jnp.log(m + hot) + log_prior[None], axis=-1)
    marginal = product("bk,bkd->bd", p, means)
    return Targets(means.reshape(b, k, *x.shape[1:]), marginal.reshape(x.shape))


def rows_by_class(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """[K, N_max] int32 row numbers of every class, repeated in turn where a class has fewer.

    labels int [N]. InputError for a class without images: it has no posterior mean to learn.
    """
    rows = [np.flatnonzero(labels == k) for k in range(num_classes)]
    if empty := [k for k, found in enumerate(rows) if not len(found)]:
        raise InputError(
            f"classes {empty} have no images to draw references from: take more --examples, or"
            " --references 0"
        )
    width = max(map(len, rows))
    return np.stack([np.resize(r, width) for r in rows]).astype(np.int32)


def draw(key: jax.Array, images: jax.Array, rows: jax.Array, count: int) -> jax.Array:
    """[K, count, ...] images of every class, with replacement; images [N, ...], rows [K, N_max]."""
    chosen = jax.random.randint(key, (len(rows), count), 0, rows.shape[1])
    return images[jnp.take_along_axis(rows, chosen, axis=1)]
