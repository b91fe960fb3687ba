"""CLIP's text encoder: what transformers' says, to the last digits; the names of its tensors."""

from __future__ import annotations

import math
from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax.errors import InputError
from dng_jax.stable_diffusion import clip_config, clip_text
from tests import text_reference as reference

pytestmark = pytest.mark.usefixtures("quick_compilation")

ENCODERS, TOKENS = reference.ENCODERS, reference.TOKENS
# config.json of the three encoders of Stable Diffusion 1, 2 and XL, with the number of tensors and
# of parameters that transformers' own have.
OLD = {
    "_name_or_path": "openai/clip-vit-large-patch14", "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0, "bos_token_id": 0, "dropout": 0.0, "eos_token_id": 2,
    "initializer_factor": 1.0, "initializer_range": 0.02, "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77, "model_type": "clip_text_model", "pad_token_id": 1,
    "torch_dtype": "float32", "transformers_version": "4.22.0.dev0", "vocab_size": 49408,
}  # fmt: skip
FULL = {
    "CLIP-L": (
        {"hidden_act": "quick_gelu", "hidden_size": 768, "intermediate_size": 3072,
         "num_attention_heads": 12, "num_hidden_layers": 12, "projection_dim": 768},
        196, 123_060_480,
    ),
    "OpenCLIP-H": (
        {"hidden_act": "gelu", "hidden_size": 1024, "intermediate_size": 4096,
         "num_attention_heads": 16, "num_hidden_layers": 23, "projection_dim": 512},
        372, 340_387_840,
    ),
    "OpenCLIP-bigG": (
        {"hidden_act": "gelu", "hidden_size": 1280, "intermediate_size": 5120,
         "num_attention_heads": 20, "num_hidden_layers": 32, "projection_dim": 1280},
        517, 694_659_840,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def golden():
    return reference.golden("clip_text")


@cache
def said(name):
    return reference.encode_here(ENCODERS[name])


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("field", reference.FIELDS)
def test_it_says_what_it_does_in_transformers(golden, name, field):
    theirs, ours = golden[f"{name}.{field}"], getattr(said(name), field)
    assert ours.dtype == jnp.float32
    assert np.abs(theirs).max() > 1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=4e-6)


def test_what_a_mistake_costs_is_more_than_the_tolerance(golden):
    quick, exact = golden["quick.last"], golden["exact.last"]  # all else is the same
    assert np.abs(quick - exact).max() > 1e-3
    ends = {"quick": (5, 3), "exact": (3, 4)}  # the first 2 of TOKENS would be at 1
    for name, positions in ends.items():
        last, pooled = golden[f"{name}.last"], golden[f"{name}.pooled"]
        np.testing.assert_array_equal(pooled, last[[0, 1], positions])
        assert np.abs(pooled - last[:, 1]).max() > 0.1


def test_a_position_sees_only_what_stands_before_it():
    changed = TOKENS.copy()
    changed[:, 5:] = 7
    other = reference.encode_here(ENCODERS["quick"], changed)
    for field in ("last", "penultimate"):
        before, after = getattr(said("quick"), field), getattr(other, field)
        np.testing.assert_array_equal(before[:, :5], after[:, :5])
        assert np.abs(before[:, 5:] - after[:, 5:]).max() > 0.1


def test_half_precision_is_that_of_the_products_alone(golden):
    found = reference.encode_here(ENCODERS["exact"], dtype=jnp.bfloat16)
    for field in reference.FIELDS:
        value = getattr(found, field)
        assert value.dtype == jnp.float32
        error = np.abs(value - golden[f"exact.{field}"]).max()
        assert 1e-4 < error < 0.1, (field, error)


@pytest.mark.parametrize("name", FULL)
def test_the_encoders_of_stable_diffusion_have_the_tensors_that_are_published(name):
    sizes, many, numbers = FULL[name]
    config = clip_config.text_config(OLD | sizes)
    kind = reference.PROJECTED if name.endswith("bigG") else clip_text.CLIPTextModel
    shapes = reference.torch_shapes(kind(config))
    assert (len(shapes), sum(map(math.prod, shapes.values()))) == (many, numbers)
    width = sizes["hidden_size"]
    assert shapes["text_model.embeddings.token_embedding.weight"] == (49408, width)
    last = f"text_model.encoder.layers.{sizes['num_hidden_layers'] - 1}"
    assert shapes[f"{last}.mlp.fc1.weight"] == (4 * width, width)
    assert {f"{last}.self_attn.{part}_proj.bias" for part in ("q", "k", "v", "out")} < {*shapes}


def test_both_layouts_of_names_are_read():
    bare = {
        "embeddings.position_ids", "embeddings.token_embedding.weight", "final_layer_norm.bias",
        "encoder.layers.0.self_attn.q_proj.weight",
    }  # fmt: skip
    own = {f"text_model.{name}" for name in bare} | {"text_projection.weight"}
    for names in (bare | {"text_projection.weight"}, own):
        found = clip_text.tensor_names(names)
        assert set(found.values()) == own - {"text_model.embeddings.position_ids"}
        assert found.keys() < names
    with pytest.raises(InputError, match=r"'text_model\.(.*)' and '\1', which are one"):
        clip_text.tensor_names(sorted(own | bare))


CONFIGS = {
    "another key": ({"rope_theta": 1e4}, r"rope_theta 10000.0 \(not known\)"),
    "another model": ({"model_type": "clip"}, r'model_type "clip" \(must be "clip_text_model"\)'),
    "a decoder": ({"add_cross_attention": True}, "add_cross_attention true"),
    "an activation": ({"hidden_act": "gelu_new"}, "did you mean 'gelu'"),
    "no number": ({"vocab_size": "62"}, "vocab_size must be a whole number"),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers must be at least 1"),
    "heads": ({"num_attention_heads": 3}, "hidden_size 16 does not divide"),
    "eps": ({"layer_norm_eps": 0.0}, "layer_norm_eps must lie"),
    "two ends": ({"eos_token_id": [2, 59]}, "eos_token_id must be a whole number"),
}  # fmt: skip


@pytest.mark.parametrize("what", CONFIGS)
def test_what_the_encoder_is_not_is_named(what):
    changes, text = CONFIGS[what]
    with pytest.raises(InputError, match=text) as caught:
        clip_config.text_config(ENCODERS["quick"] | changes)
    assert "another text encoder" in str(caught.value)


def test_fields_that_say_nothing_and_defaults_are_passed_over():
    usual = {"dtype": "float16", "is_decoder": False, "pruned_heads": {}, "projection_dim": None}
    plain = {n: v for n, v in ENCODERS["quick"].items() if n != "projection_dim"}
    assert clip_config.text_config(plain | usual) == clip_config.text_config(plain)
    assert clip_config.text_config(plain).projection_dim == 512


@pytest.mark.parametrize(
    ("tokens", "text"),
    [(TOKENS[0], r"\[B, S\], got int32 of shape \(9,\)"), (TOKENS * 1.0, "got float"),
     (np.zeros((1, 10), int), "a prompt of 10 tokens: this encoder takes 1 to 9")],
)  # fmt: skip
def test_what_are_no_tokens_is_refused(tokens, text):
    with pytest.raises(InputError, match=text):
        reference.encode_here(ENCODERS["quick"], tokens)
