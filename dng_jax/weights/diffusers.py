r"""UNet2DModel of diffusers from a local folder: google/ddpm-cifar10-32, and others of its kind.

    module, params, config = diffusers.load_folder("ddpm-cifar10-32")

What is read of the folder; nothing of it is code:

    config.json                            these two lie in unet/, in the folder of a pipeline
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

import json
import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax import disk
from dng_jax.errors import InputError
from dng_jax.nets.config import UNetConfig
from dng_jax.weights import files, tensors
from dng_jax.weights.diffusers_config import unet_config

WEIGHTS = "diffusion_pytorch_model.safetensors"
_CONVERT = (
    "import sys; from diffusers import UNet2DModel as Net;"
    " Net.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[1])"
)
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
# As files from before diffusers 0.15 have them.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(rf"(.*\.attentions\.\d+)\.({'|'.join(_OLD_ATTENTION)})\.(weight|bias)")
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def load_folder(path: str | os.PathLike, num_classes: int = 10) -> tuple[Any, dict, dict]:
    """Returns (module, params float32, config dict), as `weights.load` does of a model file.

    num_classes: what the configuration is to say of the data, as an unconditional network knows
    nothing of it. InputError for a folder without these files, weights in a pickle, a network that
    nets.UNet cannot be, and tensors that are missing, superfluous, misshapen or of no use.
    """
    from dng_jax import nets  # imported late: it takes a second
    from dng_jax.nets.blocks import groups_of

    file = weights_file(path)
    stored, schedule = read_json(file.with_name("config.json")), _scheduler(file.parent)
    scheduler = {} if schedule is None else read_json(schedule)
    try:
        config = unet_config(stored, scheduler, num_classes)
    except InputError as error:
        raise _not_ours(path, error) from error
    module = nets.UNet(config)
    _, kinds, shapes = tensors.outline(file)
    own = files.parameter_shapes(module, shapes, f"{file}")
    for name, shape in own.items():
        ours, groups = groups_of(shape[0]), stored.get("norm_num_groups", 32)
        if name.endswith("scale") and ours != groups:
            said = f"norm_num_groups {groups} (must be {ours} for {shape[0]} channels)"
            raise _not_ours(path, said)
    files.must_be_floats(kinds, file)
    modern, theirs = _modern(shapes, file), tensor_names(config, own)
    wanted = {theirs[name]: _torch_shape(name, shape) for name, shape in own.items()}
    files.must_agree({modern[n]: shape for n, shape in shapes.items()}, wanted, f"{file}")
    found = {modern[name]: value for name, value in files.numbers(file).items()}
    params = {name: _transposed(found[theirs[name]], len(shape)) for name, shape in own.items()}
    return module, files.nested(params), nets.describe(module)


def weights_file(path: str | os.PathLike) -> Path:
    """The file of weights in the folder; InputError where there is none, or a pickle alone."""
    inner = Path(path) / "unet"
    folder = inner if os.path.isdir(inner) else Path(path)
    file = folder / WEIGHTS
    if os.path.exists(file):
        return file
    pickles = sorted(p.name for p in folder.glob("*.bin"))
    if pickles:
        raise InputError(
            f"{folder / pickles[0]} is a pickle, which can run any code when it is read: convert it"
            f' where PyTorch and diffusers are installed, by python -c "{_CONVERT}"'
            f" {shlex.quote(str(folder))}"
        )
    raise InputError(
        f"{folder} has no {WEIGHTS}: name a model file, or a folder that save_pretrained of"
        " diffusers wrote"
    )


def files_of(path: str | os.PathLike) -> list[Path]:
    """The files that say what a folder's network is; InputError as `weights_file`."""
    file = weights_file(path)
    schedule = _scheduler(file.parent)
    return [file, file.with_name("config.json"), *([] if schedule is None else [schedule])]


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


def _modern(names: Iterable[str], file: Path) -> dict[str, str]:
    """Names as they are in the file to those of today's diffusers; InputError for both of one."""
    found: dict[str, str] = {}
    for name in names:
        old = _OLD_NAME.fullmatch(name)
        found[name] = f"{old[1]}.{_OLD_ATTENTION[old[2]]}.{old[3]}" if old else name
        if old and found[name] in names:
            raise InputError(f"{file} holds '{name}' and '{found[name]}', which are one tensor")
    return found


def _not_ours(path: str | os.PathLike, why: object) -> InputError:
    return InputError(
        f"{path}: nets.UNet cannot be this network of diffusers, {why}: wrap it yourself"
        " (docs/guides/own_network.md)"
    )


def _scheduler(folder: Path) -> Path | None:
    """scheduler_config.json, here or in the pipeline around; None without one."""
    above = folder.parent if folder.name == "unet" else folder
    files = (p / "scheduler_config.json" for p in (folder, above, above / "scheduler"))
    return next((file for file in files if os.path.exists(file)), None)


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds; InputError where it is missing, not whole, or no object."""
    disk.check_memory(path, 10 * disk.check_file(path))
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path} is no JSON object, as diffusers writes one: copy it again")
    return found
