"""The networks of Stable Diffusion of this library with the weights and inputs of the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dng_jax.stable_diffusion.config_json import unet_config, vae_config
from dng_jax.stable_diffusion.unet import UNet2DConditionModel
from dng_jax.stable_diffusion.vae import AutoencoderKL
from dng_jax.weights import files, parts
from tests import stable_diffusion_reference as reference


def module_of(config: Mapping[str, Any], dtype: Any = None):
    """The module that a config.json describes."""
    if config["_class_name"] == "AutoencoderKL":
        return AutoencoderKL(vae_config(config), dtype)
    return UNet2DConditionModel(unet_config(config), dtype)


def paths_of(module, *example: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of its parameters by their paths; example: its arguments, if not config.example()."""
    given = example or module.config.example()
    return {
        path: leaf.shape
        for path, leaf in files.flat(
            jax.eval_shape(module.init, jax.random.key(0), *given)["params"]
        ).items()
    }


def shapes_here(module, *example: Any) -> dict[str, tuple[int, ...]]:
    """The same by their names and shapes in torch."""
    paths = paths_of(module, *example)
    return {parts.torch_name(p): parts.torch_shape(shape, p) for p, shape in paths.items()}


def params_of(module, *example: Any, **kind: Any) -> dict:
    """Its parameters, `weights` of the reference of that kind."""
    paths = paths_of(module, *example)
    shapes = {parts.torch_name(p): parts.torch_shape(shape, p) for p, shape in paths.items()}
    made = reference.weights(shapes, **kind)
    return files.nested({p: parts.from_torch(made[parts.torch_name(p)], p) for p in paths})


def outputs_here(config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """As `outputs` of the reference."""
    module, given = module_of(config), reference.inputs(config)
    variables = {"params": params_of(module, quiet=True)}
    if "images" not in given:
        return {"eps": np.asarray(jax.jit(module.apply)(variables, **given))}

    @jax.jit
    def both(variables, images, latents):
        mean, logvar = module.apply(variables, images, method="encode")
        decoded = module.apply(variables, latents, method="decode")
        return {"mean": mean, "logvar": logvar, "images": decoded}

    return {n: np.asarray(v) for n, v in both(variables, **given).items()}
