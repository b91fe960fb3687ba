"""What diffusers itself makes of random weights: recorded once, so that tests need no PyTorch.

    python -m tests.diffusers_reference     writes tests/diffusers_reference.npz anew, where torch
                                            and diffusers are installed (made by 2.13.0 and 0.42.1)

For each network of CONFIGS: NAME.tensors, JSON of {name: shape} of its state dict; NAME.output, its
prediction [2, H, W, C] in float64 for `images` at TIMES with `weights`, stored as float32.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from dng_jax import schedules
from dng_jax.weights import diffusers

RECORD = Path(__file__).with_suffix(".npz")
TIMES = (3, 777)
# config.json of google/ddpm-cifar10-32.
FULL = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
SMALL = FULL | {
    "block_out_channels": [6, 6],
    "norm_num_groups": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "sample_size": 4,
}
CONFIGS = {"full": FULL, "small": SMALL}
_OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Tensors of the network in diffusers' state dict."""
    with np.load(RECORD) as record:
        return {n: tuple(s) for n, s in json.loads(str(record[f"{name}.tensors"])).items()}


def output(name: str) -> np.ndarray:
    """What diffusers predicted."""
    with np.load(RECORD) as record:
        return record[f"{name}.output"]


def weights(tensors: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Random ones of a size that keeps activations near 1; those of a seed never change."""
    rng = np.random.RandomState(0)
    found = {}
    for name in sorted(tensors):
        shape = tensors[name]
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        scale = 0.1 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5
        found[name] = (centre + scale * rng.standard_normal(shape)).astype(np.float32)
    return found


def images(config: dict) -> np.ndarray:
    """Inputs float32 [2, H, W, C]."""
    size, channels = config["sample_size"], config["in_channels"]
    return np.random.RandomState(1).standard_normal((2, size, size, channels)).astype(np.float32)


def old_names(tensors: dict) -> dict:
    """The same under the names that attention had before diffusers 0.15."""
    found = {}
    for name, value in tensors.items():
        for new, old in _OLD.items():
            name = name.replace(f".{new}.", f".{old}.")
        found[name] = value
    return found


def write(folder: Path, tensors: dict, config: dict = SMALL, scheduler: dict | None = None) -> Path:
    """A folder as save_pretrained of diffusers leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / diffusers.WEIGHTS, {"format": "pt"})
    if scheduler is not None:
        (folder / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


def predict_here(module, params: dict, config: dict) -> np.ndarray:
    """What a module of this library predicts for `images` at the levels TIMES."""
    level = jnp.asarray(schedules.linear().logsnr[list(TIMES)], jnp.float32)
    return np.asarray(jax.jit(module.apply)({"params": params}, images(config), level))


def furthest(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, by the largest number of theirs."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def predict(model, config: dict) -> np.ndarray:
    """What a model of diffusers predicts for `images` at TIMES in float64, as float32 [2, H, W, C].

    In float32 it is itself 2e-6 from that, and would hide as much of a difference.
    """
    import torch

    with torch.no_grad():
        x = torch.tensor(images(config).transpose(0, 3, 1, 2)).double()
        found = model.eval().double()(x, torch.tensor(TIMES)).sample
    return found.numpy().transpose(0, 2, 3, 1).astype(np.float32)


def model(config: dict):
    """A UNet2DModel with `weights`."""
    import torch
    from diffusers import UNet2DModel

    found = UNet2DModel.from_config(config)
    kept = {name: tuple(value.shape) for name, value in found.state_dict().items()}
    found.load_state_dict({name: torch.tensor(v) for name, v in weights(kept).items()})
    return found


if __name__ == "__main__":
    record = {}
    for name, config in CONFIGS.items():
        made = model(config)
        kept = {n: list(v.shape) for n, v in made.state_dict().items()}
        record |= {f"{name}.tensors": json.dumps(kept), f"{name}.output": predict(made, config)}
    np.savez_compressed(RECORD, **record)
