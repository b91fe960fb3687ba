"""Networks of Stable Diffusion with weights that are functions of their names, and their outputs.

    python -m tests.stable_diffusion_reference     writes tests/golden/stable_diffusion.npz anew,
                                                   where torch and diffusers are installed (made by
                                                   2.13.0 and 0.42.1)

For each network of TINY, NAME/OUTPUT: what diffusers makes of `inputs` and quiet `weights` in
float64, stored as float32, channels last. For each of FULL: the digest of names and shapes of its
tensors.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

RECORD = Path(__file__).parent / "golden" / "stable_diffusion.npz"
TIMES = (3, 777)

# What the files on the hub hold, but for fields with diffusers' own default.
FULL: dict[str, dict[str, Any]] = {
    "sd15": {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.6.0",
        "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "cross_attention_dim": 768,
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "norm_eps": 1e-05,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    },
    "xl": {
        "_class_name": "UNet2DConditionModel",
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "attention_head_dim": [5, 10, 20],
        "block_out_channels": [320, 640, 1280],
        "cross_attention_dim": 2048,
        "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
        "projection_class_embeddings_input_dim": 2816,
        "sample_size": 128,
        "transformer_layers_per_block": [1, 2, 10],
        "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
        "upcast_attention": None,
        "use_linear_projection": True,
    },
    "vae": {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.6.0",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "sample_size": 512,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    },
}
FULL["sd21"] = FULL["sd15"] | {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "sample_size": 96,
    "upcast_attention": True,
    "use_linear_projection": True,
}
_SMALL = {"norm_num_groups": 4, "layers_per_block": 1, "sample_size": 8}
_TWO = {
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 12,
}
TINY: dict[str, dict[str, Any]] = {
    "sd1": FULL["sd15"] | _SMALL | _TWO | {"attention_head_dim": 2},
    "sd2": FULL["sd21"] | _SMALL | _TWO | {"attention_head_dim": [1, 4]},
    "xl": FULL["xl"]
    | _SMALL
    | {
        "addition_time_embed_dim": 6,
        "projection_class_embeddings_input_dim": 46,
        "attention_head_dim": [1, 2],
        "block_out_channels": [8, 16],
        "cross_attention_dim": 12,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "transformer_layers_per_block": [1, 2],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    },
    "vae": FULL["vae"]
    | _SMALL
    | {
        "block_out_channels": [8, 16],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    },
}
# Layers whose outputs are small where those of all layers before a norm are to be.
_INTO_NORMS = re.compile(
    r"\b(conv_in|conv2|proj_in|to_out\.0|net\.2)\.\w+$|(conv_shortcut|samplers\.0\.conv|proj_out)\.bias$"
)


def digest(tensors: Mapping[str, tuple[int, ...]]) -> str:
    """Of names and shapes."""
    text = json.dumps(sorted([name, list(shape)] for name, shape in tensors.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def weights(
    tensors: Mapping[str, tuple[int, ...]], quiet: bool = False, gain: float = 1.0
) -> dict[str, np.ndarray]:
    """float32, of a size that keeps activations near 1; those of a name and shape never change.

    quiet: what goes into the norms of a whole network is near .01, where the eps of every one of
    them shows. gain: of matrices and kernels.
    """
    found = {}
    for name, shape in tensors.items():
        rng = np.random.RandomState(zlib.crc32(name.encode()))
        # No norm and no bias may be what it is without them.
        scale = 0.2 if len(shape) == 1 else gain * np.prod(shape[1:]) ** -0.5
        centre = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
        value = centre + scale * rng.standard_normal(shape)
        if quiet and _INTO_NORMS.search(name):
            value = 0.01 * value
        found[name] = value.astype(np.float32)
    return found


def inputs(config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arguments of a tiny network by their names here, float32 [2, ...], channels last."""
    rng = np.random.RandomState(1)
    if config["_class_name"] == "AutoencoderKL":
        shapes = {"images": (2, 8, 8, 3), "latents": (2, 4, 4, 4)}
    else:
        shapes = {"x": (2, 8, 8, 4), "text": (2, 5, config["cross_attention_dim"])}
    found = {n: rng.standard_normal(shape).astype(np.float32) for n, shape in shapes.items()}
    if "x" in found:
        found["t"] = np.asarray(TIMES, np.float32)
    if config.get("addition_embed_type"):
        pooled = config["projection_class_embeddings_input_dim"] - 6 * 6
        found["pooled"] = rng.standard_normal((2, pooled)).astype(np.float32)
        found["time_ids"] = np.asarray(
            [[1024, 1024, 0, 0, 1024, 1024], [512, 640, 32, 8, 768, 1024]], np.float32
        )
    return found


def outputs(name: str) -> dict[str, np.ndarray]:
    """What diffusers made of a tiny network: "eps", or "mean", "logvar" and "images"."""
    with np.load(RECORD) as record:
        return {n.split("/")[1]: record[n] for n in record.files if n.startswith(f"{name}/")}


def full_digest(name: str) -> str:
    """The digest of a full network's tensors in diffusers."""
    with np.load(RECORD) as record:
        return str(record[f"full/{name}"])


def torch_model(config: Mapping[str, Any], device: str = "cpu"):
    """The network of diffusers, with quiet `weights` unless it is on the device meta."""
    import diffusers
    import torch

    torch.set_num_threads(1)
    with torch.device(device):
        found = getattr(diffusers, config["_class_name"]).from_config(dict(config)).eval()
    if device == "cpu":
        made = weights(torch_shapes(found), quiet=True)
        found.load_state_dict({name: torch.tensor(value) for name, value in made.items()})
    return found


def torch_shapes(model) -> dict[str, tuple[int, ...]]:
    """Names and shapes of its tensors."""
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def torch_outputs(config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """`outputs`, computed anew."""
    import torch

    model, given = torch_model(config).double(), inputs(config)
    first = {n: torch.tensor(v).double() for n, v in given.items()}
    first = {n: v.permute(0, 3, 1, 2) if v.ndim == 4 else v for n, v in first.items()}
    with torch.no_grad():
        if "images" in given:
            latent = model.encode(first["images"]).latent_dist
            images = model.decode(first["latents"]).sample
            found = {"mean": latent.mean, "logvar": latent.logvar, "images": images}
        else:
            added = None
            if "pooled" in given:
                added = {"text_embeds": first["pooled"], "time_ids": first["time_ids"]}
            x, t, text = first["x"], first["t"], first["text"]
            found = {"eps": model(x, t, text, added_cond_kwargs=added).sample}
    return {n: v.permute(0, 2, 3, 1).numpy().astype(np.float32) for n, v in found.items()}


if __name__ == "__main__":
    record: dict[str, Any] = {}
    for name, config in TINY.items():
        record |= {f"{name}/{n}": value for n, value in torch_outputs(config).items()}
    for name, config in FULL.items():
        record[f"full/{name}"] = digest(torch_shapes(torch_model(config, "meta")))
    np.savez_compressed(RECORD, **record)
