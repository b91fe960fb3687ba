r"""Which UNet2DModel of diffusers nets.UNet can be, by config.json and scheduler_config.json.

Fields that are read: sample_size, in_channels, block_out_channels, down_block_types,
layers_per_block, time_embedding_dim, dropout, and of the scheduler prediction_type. All others must
be what nets.UNet is, and those that differ are named; a field that is not there has diffusers' own
default. Without a scheduler_config.json the schedule is taken to be DDPM's, and eps predicted; a
scheduler of another kind (flow matching, EDM) is refused, as its lack of these fields would pass
for their defaults.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from dng_jax.errors import InputError
from dng_jax.nets.config import UNetConfig
from dng_jax.schedules import Parameterisation

# Fields of UNet2DModel: diffusers' default, and what nets.UNet is.
_NETWORK = {
    "time_embedding_type": ("positional", "positional"),
    "freq_shift": (0, 1),
    "flip_sin_to_cos": (True, False),
    "center_input_sample": (False, False),
    "mid_block_type": ("UNetMidBlock2D", "UNetMidBlock2D"),
    "mid_block_scale_factor": (1, 1),
    "downsample_padding": (1, 0),
    "downsample_type": ("conv", "conv"),
    "upsample_type": ("conv", "conv"),
    "act_fn": ("silu", "silu"),
    "norm_eps": (1e-5, 1e-6),
    "resnet_time_scale_shift": ("default", "default"),
    "class_embed_type": (None, None),
    "num_class_embeds": (None, None),
}
# Fields of its schedulers: the levels that nets/embeddings.py numbers.
_SCHEDULE = {
    "beta_schedule": ("linear", "linear"),
    "beta_start": (1e-4, 1e-4),
    "beta_end": (0.02, 0.02),
    "num_train_timesteps": (1000, 1000),
    "trained_betas": (None, None),
    "rescale_betas_zero_snr": (False, False),
}
# Schedulers whose betas are these fields.
SCHEDULERS = {
    f"{name}Scheduler"
    for name in (
        "DDPM", "DDIM", "PNDM", "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep",
        "DEISMultistep", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "LMSDiscrete",
        "KDPM2Discrete", "KDPM2AncestralDiscrete",
    )
}  # fmt: skip
PREDICTIONS: dict[str, Parameterisation] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
_UP = {"DownBlock2D": "UpBlock2D", "AttnDownBlock2D": "AttnUpBlock2D"}


def unet_config(
    network: Mapping[str, Any], scheduler: Mapping[str, Any], num_classes: int = 10
) -> UNetConfig:
    """The configuration with which nets.UNet is this UNet2DModel.

    network, scheduler: what the two files hold; scheduler is empty where there is none.
    num_classes: passed on, as an unconditional network knows nothing of classes. InputError, naming
    fields and values, where nets.UNet cannot be it.
    """
    if network.get("_class_name") != "UNet2DModel":
        raise InputError(f"_class_name {shown(network.get('_class_name'))} (must be UNet2DModel)")
    widths = _list(network, "block_out_channels", int)
    down = _list(network, "down_block_types", str)
    first, channels = widths[0], network.get("in_channels", 3)
    attention = tuple(i for i, kind in enumerate(down) if kind == "AttnDownBlock2D")
    wrong = [
        *differing(network, _NETWORK),
        *differing(network, _derived(network, widths, down, attention)),
        *differing(scheduler, _SCHEDULE),
    ]
    if (named := scheduler.get("_class_name")) is not None and named not in list(SCHEDULERS):
        wrong.append(f"scheduler {shown(named)} (must be one of DDPM's betas)")
    kind = scheduler.get("prediction_type", "epsilon")
    if kind not in tuple(PREDICTIONS):  # a list has no hash
        wrong.append(f"prediction_type {shown(kind)} (must be {' or '.join(PREDICTIONS)})")
    if any(width % first for width in widths):
        wrong.append(f"block_out_channels {widths} (must be multiples of the first)")
    if len(widths) != len(down) or set(down) - set(_UP):
        wrong.append(f"down_block_types {shown(down)} (must be {' or '.join(_UP)} for every level)")
    if wrong:
        raise InputError("; ".join(wrong))
    size = network.get("sample_size")
    return UNetConfig(
        image_shape=(*(size if isinstance(size, list) else (size, size)), channels),
        num_classes=num_classes,
        parameterisation=PREDICTIONS[kind],
        channels=first,
        multipliers=tuple(width // first for width in widths),
        blocks=network.get("layers_per_block", 2),
        attention_levels=attention,
        dropout=network.get("dropout", 0.0),
        embed_channels=network.get("time_embedding_dim") or 4 * first,
        embedding="timestep",
    )


def _derived(
    network: Mapping[str, Any], widths: list[int], down: list[str], attention: tuple[int, ...]
) -> dict[str, tuple[Any, Any]]:
    """Fields that must agree with others, as in _NETWORK."""
    groups = network.get("norm_num_groups", 32)
    found = {
        "out_channels": (3, network.get("in_channels", 3)),
        "up_block_types": (None, [_UP.get(kind) for kind in reversed(down)]),
        "add_attention": (True, bool(attention)),
    }
    if network.get("attn_norm_num_groups") is not None:
        found["attn_norm_num_groups"] = (None, groups)
    # The middle has attention too. None is one head of the full width, 8 channels a head are not.
    if attention and network.get("attention_head_dim", 8) is not None:
        attended = {*(width for i, width in enumerate(widths) if i in attention), widths[-1]}
        found["attention_head_dim"] = (8, attended.pop() if len(attended) == 1 else None)
    return found


def differing(stored: Mapping[str, Any], wanted: Mapping[str, tuple[Any, Any]]) -> Iterator[str]:
    """'name value (must be value)' for every field of a configuration that is not as wanted.

    wanted: field -> (value where the configuration does not have it, value that it must have).
    """
    for name, (default, must) in wanted.items():
        value = stored.get(name, default)
        if value != must:
            absent = "" if name in stored else ", diffusers' default"
            yield f"{name} {shown(value)}{absent} (must be {shown(must)})"


def _list(stored: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    values = stored.get(name)
    # True is an int, and a width of 0 divides nothing.
    fits = isinstance(values, list) and all(type(v) is kind and v for v in values)
    if not fits or not values:
        raise InputError(f"{name} {shown(values)} (must be a list, with an entry for every level)")
    return values


def shown(value: Any) -> str:
    """A value of a configuration as JSON, cut to 80 characters."""
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
