"""Networks that are compared with PyTorch's: bundled ones, and presets with random weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from dng_jax import nets
from dng_jax.errors import choose
from dng_jax.training import presets
from dng_jax.weights import files, pretrained


class Size(NamedTuple):
    """Images of a batch, and steps of a sampling loop, that take about a second on one core."""

    images: int
    steps: int


SIZES = {
    "digits-heads": Size(256, 5),
    "digits-label": Size(256, 5),
    "mnist-heads": Size(64, 3),
    "cifar10-label": Size(16, 3),
    "cifar10": Size(2, 2),
}


def load(name: str, seed: int = 0) -> tuple[Any, dict[str, np.ndarray]]:
    """Module and parameters {path: array} of a bundled network, or of a preset untrained.

    seed: of the random weights of a preset, none of them zero. InputError for another name.
    """
    if choose(name, SIZES, "network") in pretrained.NAMES:
        module, params, _ = pretrained.load(name)
        return module, {path: np.asarray(value) for path, value in files.flat(params).items()}
    module = nets.UNet(presets.diffusion(name).network)
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *module.config.example())["params"]

    def drawn(path: str, shape: tuple[int, ...]) -> np.ndarray:
        value = rng.standard_normal(shape, np.float32)
        if path.endswith("kernel"):
            return value / np.float32(np.sqrt(np.prod(shape[:-1])))
        return np.float32(0.1) * value + np.float32(path.endswith("scale"))

    return module, {path: drawn(path, x.shape) for path, x in files.flat(shapes).items()}
