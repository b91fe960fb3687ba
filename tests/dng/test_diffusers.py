"""Folders of diffusers: parity with what diffusers predicted, and whatever is wrong with one."""

from __future__ import annotations

import json
import math

import jax
import numpy as np
import pytest

from dng_jax import nets
from dng_jax.errors import InputError
from dng_jax.training import presets
from dng_jax.weights import diffusers
from tests import diffusers_reference as reference

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL, FULL = reference.SMALL, reference.FULL
SCHEDULER = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


@pytest.fixture(scope="module")
def tensors():
    return reference.weights(reference.shapes("small"))


@pytest.fixture(scope="module")
def folder(tensors, tmp_path_factory):
    return reference.write(
        tmp_path_factory.mktemp("diffusers") / "small", tensors, scheduler=SCHEDULER
    )


def test_a_network_predicts_what_it_does_in_diffusers(folder):
    module, params, config = diffusers.load_folder(folder)
    assert config == nets.describe(module)
    ours = reference.predict_here(module, params, SMALL)
    assert reference.furthest(ours, reference.output("small")) <= 2e-6


def test_it_is_the_network_of_the_preset_but_for_the_embedding():
    config = diffusers.unet_config(FULL, {})
    preset = presets.diffusion("cifar10", "none").network
    own = {"embedding": "timestep", "dropout": 0.0}  # dropout is for training
    assert config.to_dict() == preset.to_dict() | own
    stored = reference.shapes("full")
    assert (len(stored), sum(map(math.prod, stored.values()))) == (328, 35_746_307)
    assert stored.keys() <= {
        f"{layer}.{leaf}"
        for layer in diffusers.layer_names(config).values()
        for leaf in ("weight", "bias")
    }


def test_old_names_of_attention_are_the_same_weights(tmp_path, folder, tensors):
    old = reference.old_names(tensors)
    assert old.keys() != tensors.keys()
    _, params, _ = diffusers.load_folder(reference.write(tmp_path, old))
    jax.tree.map(np.testing.assert_array_equal, params, diffusers.load_folder(folder)[1])
    name = "mid_block.attentions.0.to_out.0.bias"
    reference.write(tmp_path, old | {name: tensors[name]})
    with pytest.raises(InputError, match=r"proj_attn.bias' and '.*to_out.0.bias'.* one tensor"):
        diffusers.load_folder(tmp_path)


def test_a_pipeline_keeps_it_in_unet_and_its_schedule_beside(tmp_path, folder, tensors):
    reference.write(tmp_path / "unet", tensors)
    scheduler = tmp_path / "scheduler" / "scheduler_config.json"
    scheduler.parent.mkdir()
    scheduler.write_text(json.dumps(SCHEDULER | {"prediction_type": "v_prediction"}))
    for path in (tmp_path, tmp_path / "unet"):
        module, params, _ = diffusers.load_folder(path, num_classes=3)
        assert (module.config.parameterisation, module.config.num_classes) == ("v", 3)
        jax.tree.map(np.testing.assert_array_equal, params, diffusers.load_folder(folder)[1])
        assert diffusers.weights_files(path) == (tmp_path / "unet" / diffusers.WEIGHTS,)
    for changes, said in (
        ({"beta_schedule": "squaredcos_cap_v2"}, r'squaredcos_cap_v2" \(must be "linear"\)'),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, 'scheduler "FlowMatch.*of DDPM'),
        ({"prediction_type": ["epsilon"]}, r'prediction_type \["epsilon"\] \(must be epsilon or'),
    ):
        scheduler.write_text(json.dumps(SCHEDULER | changes))
        with pytest.raises(InputError, match=said):
            diffusers.load_folder(tmp_path)


def test_halves_come_as_float32(tmp_path, tensors):
    reference.write(tmp_path, {name: value.astype(np.float16) for name, value in tensors.items()})
    _, params, _ = diffusers.load_folder(tmp_path)
    kernel = params["Conv3_0"]["kernel"]
    assert kernel.dtype == np.float32
    expected = tensors["conv_in.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_allclose(kernel, expected, rtol=2**-11, atol=1e-7)


NETWORKS = {
    "flipped": ({"flip_sin_to_cos": True}, r"flip_sin_to_cos true \(must be false\)"),
    "two at once": (
        {"freq_shift": 0, "norm_eps": 1e-5},
        r"freq_shift 0 \(must be 1\); norm_eps 1e-05 \(must be 1e-06\)",
    ),
    "by default": (
        {"attention_head_dim": ...},
        r"attention_head_dim 8, diffusers' default \(must be 6\)",
    ),
    "many heads": ({"attention_head_dim": 2}, r"attention_head_dim 2 \(must be 6\)"),
    "another network": ({"_class_name": "UNet2DConditionModel"}, "must be UNet2DModel"),
    "another layer": (
        {"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]},
        r'down_block_types \["DownBlock2D", "SkipDownBlock2D"\] \(must be DownBlock2D or',
    ),
    "another way up": (
        {"up_block_types": ["UpBlock2D", "UpBlock2D"]},
        r'up_block_types .* \(must be \["AttnUpBlock2D", "UpBlock2D"\]\)',
    ),
    "no attention": ({"add_attention": False}, r"add_attention false \(must be true\)"),
    "groups": ({"norm_num_groups": 2}, r"norm_num_groups 2 \(must be 1 for 6 channels\)"),
    "other groups": ({"attn_norm_num_groups": 8}, r"attn_norm_num_groups 8 \(must be 1\)"),
    "learned variance": ({"out_channels": 6}, r"out_channels 6 \(must be 3\)"),
    "classes": ({"num_class_embeds": 10}, r"num_class_embeds 10 \(must be null\)"),
    "no size": ({"sample_size": None}, "image_shape"),
    "odd size": ({"sample_size": 5}, "images of 5x5 do not divide by 2"),
    "no width": ({"block_out_channels": [0, 6]}, r"block_out_channels \[0, 6\]"),
    "no multiple": ({"block_out_channels": [6, 8]}, "must be multiples of the first"),
    "one width": ({"block_out_channels": [6]}, "for every level"),
    "text": ({"layers_per_block": "2"}, "blocks must be a whole number, got '2'"),
    "huge": ({"layers_per_block": 10**9}, "blocks 1000000000 is more than 142 tensors"),
    "wider": ({"block_out_channels": [10**9, 10**9], "attention_head_dim": 10**9}, "is more than"),
}  # fmt: skip


@pytest.mark.parametrize("what", NETWORKS)
def test_what_the_network_is_not_is_named(tmp_path, folder, what):
    changes, said = NETWORKS[what]
    config = {name: value for name, value in (SMALL | changes).items() if value is not ...}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / diffusers.WEIGHTS).symlink_to(folder / diffusers.WEIGHTS)
    with pytest.raises(InputError, match=said) as caught:
        diffusers.load_folder(tmp_path)
    assert len(str(caught.value)) < 500


BIAS = "conv_in.bias"
TENSORS = {
    "missing": ({BIAS: None}, "'conv_in.bias' is missing"),
    "extra": ({"other.bias": np.ones(3)}, "'other.bias' belongs to no part of it"),
    "misshapen": ({BIAS: np.ones(3)}, r"'conv_in.bias' has shape \[3\], the network has \[6\]"),
    "integers": ({BIAS: np.ones(6, np.int32)}, "is I32: store float32"),
    "NaN": ({BIAS: np.full(6, np.nan)}, "NaN or infinity"),
}


@pytest.mark.parametrize("what", TENSORS)
def test_wrong_tensors_are_named_as_diffusers_names_them(tmp_path, tensors, what):
    changes, said = TENSORS[what]
    held = {name: value for name, value in (tensors | changes).items() if value is not None}
    with pytest.raises(InputError, match=said):
        diffusers.load_folder(reference.write(tmp_path, held))


def test_a_pickle_is_refused_with_the_command_that_converts_it(tmp_path):
    folder = tmp_path / "my nets"
    folder.mkdir()
    with pytest.raises(InputError, match=r"has no diffusion_pytorch_model\.safetensors"):
        diffusers.load_folder(folder)
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"never read")
    said = r"is a pickle, .* by python -c \"import sys; from diffusers import .*\" '.*/my nets'"
    with pytest.raises(InputError, match=said):
        diffusers.load_folder(folder)


@pytest.mark.parametrize("text", ["", "[1]", "[" * 100_000, "\xff"])
def test_a_configuration_that_is_none_is_refused(tmp_path, text):
    (tmp_path / diffusers.WEIGHTS).write_bytes(b"")
    with pytest.raises(InputError, match=r"config.json does not exist"):
        diffusers.load_folder(tmp_path)
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="is no JSON object"):
        diffusers.load_folder(tmp_path)
