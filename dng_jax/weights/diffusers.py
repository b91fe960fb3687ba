r"""UNet2DModel of diffusers from a local folder: google/ddpm-cifar10-32, and others of its kind.

    module, params, config = diffusers.load_folder("ddpm-cifar10-32")

What is read of the folder (diffusers_files.py):

    config.json                            these lie in unet/, in the folder of a pipeline
    diffusion_pytorch_model.safetensors
    scheduler_config.json                  where there is one; in scheduler/, in a pipeline

The network is nets.UNet with embedding "timestep", which has the same layers in the same order:

    here                         in diffusers
    Dense_0, Dense_1, Conv3_0    time_embedding.linear_1, .linear_2, conv_in
    GroupNorm_0, Conv3_1         conv_norm_out, conv_out
    ResBlock_n, Attention_n      resnets and attentions of down_blocks, mid_block, up_blocks
    Down_i, Up_i                 down_blocks.i.downsamplers.0, up_blocks.i.upsamplers.0
    kernel, scale, bias          weight, weight, bias

    dense kernels [I, O] from weights [O, I], convolutions [h, w, I, O] from [O, I, h, w]
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax.errors import InputError
from dng_jax.nets.config import UNetConfig
from dng_jax.weights import diffusers_files, files
from dng_jax.weights.diffusers_config import unet_config
from dng_jax.weights.diffusers_files import CONFIG, Layout

LAYOUT = Layout("UNet2DModel")
WEIGHTS = LAYOUT.file()
_ENDS = {
    "Dense_0": "time_embedding.linear_1",
    "Dense_1": "time_embedding.linear_2",
    "Conv3_0": "conv_in",
    "GroupNorm_0": "conv_norm_out",
    "Conv3_1": "conv_out",
}
_RESNET = {
    "GroupNorm_0": "norm1",
    "Conv3_0": "conv1",
    "Dense_0": "time_emb_proj",
    "GroupNorm_1": "norm2",
    "Conv3_1": "conv2",
    "skip": "conv_shortcut",  # a 1x1 convolution there
}
_ATTENTION = {
    "GroupNorm_0": "group_norm",
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "out": "to_out.0",
}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def load_folder(path: str | os.PathLike, num_classes: int = 10) -> tuple[Any, dict, dict]:
    """Returns (module, params float32, config dict), as `weights.load` does of a model file.

    num_classes: what the configuration is to say of the data, as an unconditional network knows
    nothing of it. InputError for a folder without these files, weights in a pickle, a network that
    nets.UNet cannot be, and tensors that are missing, superfluous, misshapen or of no use.
    """
    from dng_jax import nets  # imported late: it takes a second
    from dng_jax.nets.blocks import groups_of

    folder, found = _folder(path), diffusers_files.find(_folder(path), LAYOUT)
    stored, schedule = diffusers_files.read_json(folder / CONFIG), _scheduler(folder)
    scheduler = {} if schedule is None else diffusers_files.read_json(schedule)
    try:
        config = unet_config(stored, scheduler, num_classes)
    except InputError as error:
        raise _not_ours(path, error) from error
    module, what = nets.UNet(config), f"{found.where}"
    kinds, shapes = found.outline()
    own = files.parameter_shapes(module, shapes, what)
    for name, shape in own.items():
        ours, groups = groups_of(shape[0]), stored.get("norm_num_groups", 32)
        if name.endswith("scale") and ours != groups:
            said = f"norm_num_groups {groups} (must be {ours} for {shape[0]} channels)"
            raise _not_ours(path, said)
    files.must_be_floats(kinds, what)
    modern, theirs = diffusers_files.modern_names(shapes, what), tensor_names(config, own)
    wanted = {theirs[name]: _torch_shape(name, shape) for name, shape in own.items()}
    files.must_agree({modern[n]: shape for n, shape in shapes.items()}, wanted, what)
    held = {modern[name]: value for name, value in found.numbers().items()}
    params = {name: _transposed(held.pop(theirs[name]), len(shape)) for name, shape in own.items()}
    return module, files.nested(params), nets.describe(module)


def weights_files(path: str | os.PathLike) -> tuple[Path, ...]:
    """The files of weights in the folder; InputError where there are none, or a pickle alone."""
    return diffusers_files.find(_folder(path), LAYOUT).files


def files_of(path: str | os.PathLike) -> list[Path]:
    """The files that say what a folder's network is; InputError as `weights_files`."""
    folder = _folder(path)
    schedule = _scheduler(folder)
    return [*weights_files(path), folder / CONFIG, *([] if schedule is None else [schedule])]


def layer_names(config: UNetConfig) -> dict[str, str]:
    """Path of every layer with parameters, "ResBlock_0/Conv3_0", to its name in diffusers."""
    levels, blocks = range(len(config.multipliers)), config.blocks
    last = len(levels) - 1

    def stage(name: str, level: int, many: int) -> tuple[str, int, int]:
        return name, many, many if level in config.attention_levels else 0

    stages = [
        *(stage(f"down_blocks.{i}", i, blocks) for i in levels),
        ("mid_block", config.middle_blocks, 1 if config.attention_levels else 0),
        *(stage(f"up_blocks.{last - i}", i, blocks + 1) for i in reversed(levels)),
    ]
    resnets = [f"{name}.resnets.{j}" for name, many, _ in stages for j in range(many)]
    attentions = [f"{name}.attentions.{j}" for name, _, many in stages for j in range(many)]
    found = dict(_ENDS)
    for kind, names, parts in (
        ("ResBlock", resnets, _RESNET),
        ("Attention", attentions, _ATTENTION),
    ):
        for n, name in enumerate(names):
            found |= {f"{kind}_{n}/{ours}": f"{name}.{part}" for ours, part in parts.items()}
    for i in range(last):
        found[f"Down_{i}/Conv_0"] = f"down_blocks.{i}.downsamplers.0.conv"
        found[f"Up_{i}/Conv3_0"] = f"up_blocks.{i}.upsamplers.0.conv"
    return found


def tensor_names(config: UNetConfig, paths: Iterable[str]) -> dict[str, str]:
    """Paths of parameters, "ResBlock_0/Conv3_0/kernel", to names of tensors in diffusers."""
    layers, found = layer_names(config), {}
    for path in paths:
        layer, _, leaf = path.rpartition("/")
        found[path] = f"{layers[layer]}.{_LEAVES[leaf]}"
    return found


def _torch_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) == 4:
        return (shape[3], shape[2], *shape[:2])
    return (*shape[::-1], 1, 1) if path.endswith("skip/kernel") else shape[::-1]


def _transposed(value: np.ndarray, axes: int) -> np.ndarray:
    """A tensor as the kernel of so many axes that it is here."""
    if axes == 4:
        return np.ascontiguousarray(value.transpose(2, 3, 1, 0))
    return np.ascontiguousarray(value.reshape(value.shape[:axes]).T)


def _not_ours(path: str | os.PathLike, why: object) -> InputError:
    return InputError(
        f"{path}: nets.UNet cannot be this network of diffusers, {why}: wrap it yourself"
        " (docs/guides/own_network.md)"
    )


def _folder(path: str | os.PathLike) -> Path:
    """The folder of the network: unet/ in that of a pipeline."""
    inner = Path(path) / "unet"
    return inner if os.path.isdir(inner) else Path(path)


def _scheduler(folder: Path) -> Path | None:
    """scheduler_config.json, here or in the pipeline around; None without one."""
    above = folder.parent if folder.name == "unet" else folder
    files = (p / "scheduler_config.json" for p in (folder, above, above / "scheduler"))
    return next((file for file in files if os.path.exists(file)), None)
