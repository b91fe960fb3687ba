r"""Means and variances for networks with batch normalisation, set once their weights are final.

    mean = E[m_b],   variance = E[v_b] + Var[m_b]    m_b, v_b: of batch b, which is normalised
                                                     by its own throughout the network

over equal batches of the training images: "precise" statistics, Wu & Johnson 2021, arXiv
2105.07576, section 3. A running average would lag behind the weights, and there is none that
belongs to averaged weights.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from dng_jax.data import to_unit
from dng_jax.sampling import root_key


def exact(module: Any, params: Any, images: np.ndarray, batch: int = 512) -> Any:
    """params with every BatchNorm's mean and variance those of images uint8 [N, H, W, C].

    One pass in a fixed random order; images beyond the last whole batch are left out.
    """
    batch = min(batch, len(images))
    order = np.random.default_rng(0).permutation(len(images))

    @jax.jit
    def statistics(params, x):
        # Dropout comes after the last layer that is normalised: its key is of no account.
        rngs = {"dropout": root_key(0)}
        _, seen = module.apply(
            {"params": params}, to_unit(x), train=True, rngs=rngs, mutable=["statistics"]
        )
        return seen["statistics"]

    found = [
        jax.device_get(statistics(params, images[order[i : i + batch]]))
        for i in range(0, len(images) - batch + 1, batch)
    ]
    params = dict(params)
    for layer in found[0]:
        means, variances = (
            np.array([f[layer][name] for f in found], np.float64) for name in ("mean", "variance")
        )
        params[layer] = params[layer] | {
            "mean": means.mean(0).astype(np.float32),
            "variance": (variances.mean(0) + means.var(0)).astype(np.float32),
        }
    return params
