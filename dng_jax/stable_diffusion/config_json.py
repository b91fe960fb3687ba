"""UNetConfig and VAEConfig of the config.json that diffusers wrote of each network, and back.

A field that is not there has diffusers' own default. One that is not read must have it, or
InputError names it: what another value would ask for is no part of these networks. Without effect
here, and so of any value, are

    dropout                             nothing is trained
    upcast_attention, force_upcast      softmax and norms are float32 anyway, and so are images
    sample_size                         the networks take every size

and names that begin with "_", but for _class_name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dng_jax.stable_diffusion.config import UNetConfig, VAEConfig
from dng_jax.weights.fields import Fields

# Fields of UNet2DConditionModel that are not read: diffusers' default.
_UNET = {
    "center_input_sample": False,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "only_cross_attention": False,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "reverse_transformer_layers_per_block": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "num_attention_heads": None,
    "dual_cross_attention": False,
    "class_embed_type": None,
    "num_class_embeds": None,
    "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "time_cond_proj_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
    "class_embeddings_concat": False,
    "mid_block_only_cross_attention": None,
    "cross_attention_norm": None,
    "addition_embed_type_num_heads": 64,
}
# The same of AutoencoderKL.
_VAE = {
    "act_fn": "silu",
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}


def unet_config(stored: Mapping[str, Any]) -> UNetConfig:
    """Of what unet/config.json holds; InputError, naming fields and values."""
    fields = Fields(
        stored, "UNet2DConditionModel", _UNET, ("dropout", "upcast_attention", "sample_size")
    )
    widths = fields.whole_numbers("block_out_channels", [320, 640, 1280, 1280])
    levels = len(widths)
    down, up = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
    found: dict[str, Any] = {
        "in_channels": fields.whole_number("in_channels", 4),
        "out_channels": fields.whole_number("out_channels", 4),
        "block_out_channels": widths,
        "attention_down": fields.which(
            "down_block_types", [down[1]] * 3 + [down[0]], levels, *down
        ),
        "attention_up": fields.which("up_block_types", [up[0]] + [up[1]] * 3, levels, *up),
        "layers_per_block": fields.by_level("layers_per_block", 2, levels),
        "transformer_layers_per_block": fields.by_level("transformer_layers_per_block", 1, levels),
        "num_heads": fields.by_level("attention_head_dim", 8, levels),
        "cross_attention_dim": fields.whole_number("cross_attention_dim", 1280),
        "use_linear_projection": fields.one_of("use_linear_projection", False, False, True),
        "norm_num_groups": fields.whole_number("norm_num_groups", 32),
        "norm_eps": fields.number("norm_eps", 1e-5),
        "flip_sin_to_cos": fields.one_of("flip_sin_to_cos", True, False, True),
        "freq_shift": float(fields.one_of("freq_shift", 0, 0, 1)),
    }
    added = fields.one_of("addition_embed_type", None, None, "text_time")
    for name in ("addition_time_embed_dim", "projection_class_embeddings_input_dim"):
        if added:
            found[name] = fields.whole_number(name)
        else:
            fields.one_of(name, None, None)
    fields.end()
    return UNetConfig(**found)


def vae_config(stored: Mapping[str, Any]) -> VAEConfig:
    """Of what vae/config.json holds; InputError, naming fields and values."""
    fields = Fields(stored, "AutoencoderKL", _VAE, ("force_upcast", "sample_size"))
    widths = fields.whole_numbers("block_out_channels", [64])
    for way, kind in (("down", "DownEncoderBlock2D"), ("up", "UpDecoderBlock2D")):
        fields.one_of(f"{way}_block_types", [kind], [kind] * len(widths))
    found: dict[str, Any] = {
        "in_channels": fields.whole_number("in_channels", 3),
        "out_channels": fields.whole_number("out_channels", 3),
        "latent_channels": fields.whole_number("latent_channels", 4),
        "block_out_channels": widths,
        "layers_per_block": fields.whole_number("layers_per_block", 1),
        "norm_num_groups": fields.whole_number("norm_num_groups", 32),
        "scaling_factor": fields.number("scaling_factor", 0.18215),
    }
    fields.end()
    return VAEConfig(**found)


def unet_json(config: UNetConfig) -> dict[str, Any]:
    """What unet/config.json is to hold, for diffusers and for `unet_config`."""
    c, plain = config, config.to_dict()
    kinds = {True: "CrossAttnDownBlock2D", False: "DownBlock2D"}
    ups = {True: "CrossAttnUpBlock2D", False: "UpBlock2D"}
    same = (
        "in_channels", "out_channels", "block_out_channels", "layers_per_block",
        "transformer_layers_per_block", "cross_attention_dim", "use_linear_projection",
        "norm_num_groups", "norm_eps", "flip_sin_to_cos",
    )  # fmt: skip
    added = ("addition_time_embed_dim", "projection_class_embeddings_input_dim")
    return {
        "_class_name": "UNet2DConditionModel",
        **{name: plain[name] for name in same},
        "attention_head_dim": plain["num_heads"],
        "down_block_types": [kinds[attends] for attends in c.attention_down],
        "up_block_types": [ups[attends] for attends in c.attention_up],
        "freq_shift": int(c.freq_shift),
        **(
            {n: plain[n] for n in added} | {"addition_embed_type": "text_time"}
            if c.pooled_dim
            else {}
        ),
    }


def vae_json(config: VAEConfig) -> dict[str, Any]:
    """What vae/config.json is to hold, for diffusers and for `vae_config`."""
    levels = len(config.block_out_channels)
    return {
        "_class_name": "AutoencoderKL",
        **config.to_dict(),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }
