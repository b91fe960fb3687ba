"""Folders of networks that are named as in torch: both ways, and whatever is wrong with one."""

from __future__ import annotations

import json
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import flax as safetensors_of_flax
from safetensors import numpy as safetensors

from dng_jax.errors import InputError
from dng_jax.nets.config import Config
from dng_jax.stable_diffusion import clip_config, clip_text
from dng_jax.stable_diffusion.layers import Attention, conv
from dng_jax.weights import diffusers_files, parts
from dng_jax.weights.diffusers_files import Layout
from tests import stable_diffusion_reference as reference
from tests import text_reference
from tests.stable_diffusion_here import module_of, params_of, shapes_here

LAYOUT, CONFIG = Layout("Toy"), {"_class_name": "Toy", "sample_size": [2, 2]}
FILE = "diffusion_pytorch_model.safetensors"
SHAPES = {
    "mid.attentions.0.group_norm.weight": (4,),
    "mid.attentions.0.group_norm.bias": (4,),
    "mid.attentions.0.to_q.weight": (4, 4),
    "mid.attentions.0.to_q.bias": (4,),
    "mid.attentions.0.to_k.weight": (4, 4),
    "mid.attentions.0.to_k.bias": (4,),
    "mid.attentions.0.to_v.weight": (4, 4),
    "mid.attentions.0.to_v.bias": (4,),
    "mid.attentions.0.to_out.0.weight": (4, 4),
    "mid.attentions.0.to_out.0.bias": (4,),
    "conv_in.weight": (4, 3, 3, 3),
    "conv_in.bias": (4,),
    "linear_1.weight": (2, 4),
    "linear_1.bias": (2,),
    "words.weight": (7, 4),
}
TENSORS = reference.weights(SHAPES)
NEW_TO_OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@dataclass(frozen=True)
class ToyConfig(Config):
    def example(self):
        return (np.zeros((1, 2, 2, 3), np.float32),)


class Toy(nn.Module):
    """A layer of every kind."""

    config: ToyConfig = ToyConfig()

    @nn.compact
    def __call__(self, x):
        x = conv(4, "conv_in", None)(x)
        x = Attention(1, bias=True, groups=2, name="mid.attentions.0")(x)
        return nn.Dense(2, name="linear_1")(x + nn.Embed(7, 4, name="words")(jnp.asarray(3)))


def put(folder, tensors=TENSORS, name=FILE):
    folder.mkdir(exist_ok=True)
    safetensors.save_file(tensors, folder / name, {"format": "pt"})
    return folder


def load(folder, **how):
    return parts.load(folder, Toy(), LAYOUT, **how)


def test_a_parameter_is_the_tensor_of_its_path(tmp_path):
    params = load(put(tmp_path))
    kernel = params["conv_in"]["kernel"]
    np.testing.assert_array_equal(kernel, TENSORS["conv_in.weight"].transpose(2, 3, 1, 0))
    attention = params["mid.attentions.0"]
    np.testing.assert_array_equal(
        attention["to_out.0"]["kernel"], TENSORS["mid.attentions.0.to_out.0.weight"].T
    )
    np.testing.assert_array_equal(
        attention["group_norm"]["scale"], TENSORS["mid.attentions.0.group_norm.weight"]
    )
    np.testing.assert_array_equal(params["words"]["embedding"], TENSORS["words.weight"])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_is_saved_is_the_layout_that_is_loaded(tmp_path, dtype):
    params = load(put(tmp_path / "theirs"))
    parts.save(tmp_path, Toy(), params, CONFIG, LAYOUT, variant="half", dtype=dtype)
    name = "diffusion_pytorch_model.half.safetensors"
    assert {p.name for p in tmp_path.iterdir()} == {"theirs", "config.json", name}
    assert json.loads((tmp_path / "config.json").read_text()) == CONFIG
    stored = safetensors_of_flax.load_file(tmp_path / name)
    assert {n: (v.shape, v.dtype) for n, v in stored.items()} == {
        n: (shape, dtype) for n, shape in SHAPES.items()
    }
    kept = load(tmp_path, variant="half")
    rounded = jax.tree.map(lambda p: p.astype(dtype).astype(np.float32), params)
    jax.tree.map(np.testing.assert_array_equal, kept, rounded)
    halves = load(tmp_path, variant="half", dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(halves)} == {"bfloat16"}


def test_what_cannot_be_saved_is_named(tmp_path):
    params = load(put(tmp_path))
    params["linear_1"]["bias"] = np.asarray([1.0, 1e30])

    def save(params, **how):
        parts.save(tmp_path / "new", Toy(), params, CONFIG, LAYOUT, **how)

    with pytest.raises(InputError, match=r"linear_1/bias has numbers up to 1e\+30, which float16"):
        save(params, dtype="float16")
    with pytest.raises(InputError, match=r"these parameters: .* 'linear_1/bias' is missing"):
        save(params | {"linear_1": {"kernel": params["linear_1"]["kernel"]}})
    assert not (tmp_path / "new").exists()


def test_old_names_of_attention_are_the_same_tensors(tmp_path):
    old = {}
    for name, value in TENSORS.items():
        for new, was in NEW_TO_OLD.items():
            name = name.replace(f".{new}.", f".{was}.")
        old[name] = value
    assert len(old.keys() - TENSORS.keys()) == 8
    found = load(put(tmp_path / "old", old))
    jax.tree.map(np.testing.assert_array_equal, found, load(put(tmp_path / "new")))
    name = "mid.attentions.0.to_k.bias"
    put(tmp_path, old | {name: TENSORS[name]})
    with pytest.raises(InputError, match=r"key.bias' and '.*to_k.bias', which are one tensor"):
        load(tmp_path)


def test_names_can_be_translated_and_tensors_left_out(tmp_path):
    put(tmp_path, {f"toy.{n}": v for n, v in TENSORS.items()} | {"ids": np.arange(2)})

    def names(found):
        return {n: n.removeprefix("toy.") for n in found if n != "ids"}

    found = load(tmp_path, names=names)
    jax.tree.map(np.testing.assert_array_equal, found, load(put(tmp_path / "plain")))


def test_a_text_encoder_is_such_a_part(tmp_path):
    module = clip_text.CLIPTextModel(clip_config.text_config(text_reference.ENCODERS["quick"]))
    layout = Layout("CLIPTextModel", "transformers", "model")
    made = reference.weights(shapes_here(module))
    ids = {"text_model.embeddings.position_ids": np.arange(9)[None]}
    put(tmp_path, made | ids, "model.safetensors")
    found = parts.load(tmp_path, module, layout, names=clip_text.tensor_names)
    jax.tree.map(np.testing.assert_array_equal, found, params_of(module))
    put(tmp_path, {n.removeprefix("text_model."): v for n, v in made.items()}, "model.safetensors")
    found = parts.load(tmp_path, module, layout, names=clip_text.tensor_names)
    jax.tree.map(np.testing.assert_array_equal, found, params_of(module))


BIAS = "conv_in.bias"
WRONG = {
    "missing": ({BIAS: None}, "'conv_in.bias' is missing$"),
    "extra": ({"other.bias": np.ones(3)}, "'other.bias' belongs to no part of it"),
    "both": ({BIAS: None, "z": np.ones(1)}, "'conv_in.bias' is missing, 'z' belongs to no part"),
    "misshapen": ({BIAS: np.ones(3)}, r"'conv_in.bias' has shape \[3\], the network has \[4\]"),
    "transposed": (
        {"linear_1.weight": TENSORS["linear_1.weight"].T.copy()},
        r"'linear_1.weight' has shape \[4, 2\], the network has \[2, 4\]",
    ),
    "integers": ({BIAS: np.ones(4, np.int32)}, "is I32: store float32"),
    "NaN": ({BIAS: np.full(4, np.nan)}, "NaN or infinity"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_tensors_are_named(tmp_path, what):
    changes, said = WRONG[what]
    held = {n: v for n, v in (TENSORS | changes).items() if v is not None}
    with pytest.raises(InputError, match=said):
        load(put(tmp_path, held))


def test_a_network_that_so_few_tensors_cannot_be_is_not_even_traced(tmp_path):
    config = reference.TINY["xl"] | {"transformer_layers_per_block": 10**6}
    with pytest.raises(InputError, match="per_block 1000000 is more than 15 tensors"):
        parts.load(put(tmp_path), module_of(config), LAYOUT)


# --------------------------------------------------------------------------- which files


def shards(folder, variant="fp16"):
    """Two of them and their index, as diffusers names them."""
    stem = f"diffusion_pytorch_model.{variant}-0000"
    places = {n: f"{stem}{1 + (n < 'd')}-of-00002.safetensors" for n in TENSORS}
    for file in set(places.values()):
        put(folder, {n: TENSORS[n] for n in TENSORS if places[n] == file}, file)
    index = folder / f"diffusion_pytorch_model.safetensors.index.{variant}.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index, places


def test_shards_are_one_network(tmp_path):
    index, places = shards(tmp_path / "shards")
    found = load(index.parent, variant="fp16")
    jax.tree.map(np.testing.assert_array_equal, found, load(put(tmp_path)))
    first, second = sorted(set(places.values()))
    for weight_map, said in (
        (places | {BIAS: first}, f"'{BIAS}' should be in {first} and is in {second}"),
        (places | {"other": first}, f"'other' should be in {first} and is nowhere"),
        ({n: p for n, p in places.items() if n != BIAS}, "should be nowhere and is in"),
        (places | {BIAS: "../elsewhere.safetensors"}, "names no files of its folder"),
        ({}, "names no files of its folder"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(InputError, match=said):
            load(index.parent, variant="fp16")
    index.write_text(json.dumps({"weight_map": places}))
    put(index.parent, {BIAS: TENSORS[BIAS]}, first)
    with pytest.raises(InputError, match=r"both hold 'conv_in.bias'"):
        load(index.parent, variant="fp16")
    (index.parent / second).unlink()
    with pytest.raises(InputError, match=r"fp16-00002-of-00002.safetensors does not exist"):
        load(index.parent, variant="fp16")


def test_the_variant_that_is_asked_for_is_read_and_no_other(tmp_path):
    index, _ = shards(tmp_path)
    with pytest.raises(InputError, match=rf"has no {FILE}, but .*: name the variant"):
        load(tmp_path)
    put(tmp_path, TENSORS | {BIAS: np.full(4, 5, np.float32)}, FILE)
    assert load(tmp_path)["conv_in"]["bias"][0] == 5
    assert load(tmp_path, variant="fp16")["conv_in"]["bias"][0] == TENSORS[BIAS][0]
    put(tmp_path, TENSORS, LAYOUT.file("fp16"))
    with pytest.raises(InputError, match="remove the one that is out of date"):
        load(tmp_path, variant="fp16")
    with pytest.raises(InputError, match="belongs to other weights: name another folder"):
        parts.save(index.parent, Toy(), load(tmp_path), CONFIG, LAYOUT, "fp16")


def test_pickles_are_refused_with_the_command_that_converts_them(tmp_path):
    text = Layout("CLIPTextModel", "transformers", "model")
    with pytest.raises(InputError, match=r"has no model\.safetensors: .* of transformers wrote"):
        diffusers_files.find(tmp_path, text)
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    said = "is a pickle, .* python -c .* from transformers import CLIPTextModel as Net;"
    with pytest.raises(InputError, match=said):
        diffusers_files.find(tmp_path, text)
