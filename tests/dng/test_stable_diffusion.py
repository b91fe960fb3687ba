"""The networks of Stable Diffusion: what diffusers recorded, names, sizes, and what is refused."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax.errors import InputError
from dng_jax.stable_diffusion.config import UNetConfig
from dng_jax.stable_diffusion.config_json import unet_config, vae_config
from dng_jax.stable_diffusion.layers import attend, attend_by_head
from tests import stable_diffusion_reference as reference
from tests.helpers import SWITCHES, switched
from tests.stable_diffusion_here import module_of, outputs_here, params_of, shapes_here

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("sd1", marks=pytest.mark.slow),
        pytest.param("sd2", marks=pytest.mark.slow),
        pytest.param("xl", marks=pytest.mark.slow),
        "vae",
    ],
)
def test_a_network_makes_what_it_does_in_diffusers(name):
    ours, theirs = outputs_here(reference.TINY[name]), reference.outputs(name)
    assert ours.keys() == theirs.keys()
    for what, value in theirs.items():
        assert 1 < np.abs(value).max() < 4, what
        tolerance = 1e-5 if name == "vae" else 4e-6
        np.testing.assert_allclose(ours[what], value, rtol=0, atol=tolerance, err_msg=what)


@pytest.mark.parametrize(
    ("name", "tensors", "numbers"),
    [
        ("vae", 248, 83_653_863),
        pytest.param("sd15", 686, 859_520_964, marks=pytest.mark.slow),
        pytest.param("sd21", 686, 865_910_724, marks=pytest.mark.slow),
        pytest.param("xl", 1680, 2_567_463_684, marks=pytest.mark.slow),
    ],
)
def test_full_networks_have_the_tensors_of_diffusers(name, tensors, numbers):
    shapes = shapes_here(module_of(reference.FULL[name]))
    assert (len(shapes), sum(map(math.prod, shapes.values()))) == (tensors, numbers)
    assert reference.digest(shapes) == reference.full_digest(name)


def test_one_head_at_a_time_is_attention():
    q, k, v = (
        jnp.asarray(np.random.RandomState(i).standard_normal((2, n, 3, 4)), jnp.float32)
        for i, n in enumerate((6, 5, 5))
    )
    np.testing.assert_allclose(attend_by_head(q, k, v), attend(q, k, v), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_halves_compute_in_halves_and_answer_in_float32():
    config = reference.TINY["sd1"]
    module = module_of(config, jnp.bfloat16)
    params = jax.tree.map(
        lambda p: p.astype(jnp.bfloat16), params_of(module_of(config), quiet=True)
    )
    program = jax.jit(module.apply)
    eps = program({"params": params}, **reference.inputs(config))
    assert eps.dtype == jnp.float32
    theirs = reference.outputs("sd1")["eps"]
    assert 1e-3 < np.abs(eps - theirs).max() < 0.1


@pytest.mark.parametrize(("dtype", "kind"), [(jnp.bfloat16, np.float16), (None, np.float64)])
@pytest.mark.parametrize("name", ["xl", "vae"])
def test_inputs_of_any_float_type_are_taken_under_strict_settings(name, dtype, kind):
    module, given = module_of(reference.TINY[name], dtype), reference.inputs(reference.TINY[name])
    given.pop("latents", None)
    with switched(**SWITCHES):
        out, variables = jax.eval_shape(
            lambda arguments: module.init_with_output(jax.random.key(0), **arguments),
            {n: jnp.asarray(v, kind) for n, v in given.items()},
        )
    assert {leaf.dtype.name for leaf in jax.tree.leaves([out, variables])} == {"float32"}


# --------------------------------------------------------------------------- configurations

CONFIGS = {
    "not read": ("sd15", {"class_embed_type": "timestep"}, r'_type "timestep" \(must be null\)'),
    "of tomorrow": ("sd15", {"novel": 1}, r"novel 1 \(not known here\)"),
    "another network": ("sd15", {"_class_name": "UNet2DModel"}, "must be UNet2DConditionModel"),
    "few layers": ("sd15", {"down_block_types": ["DownBlock2D"] * 3}, "for each of 4 levels"),
    "other layers": ("sd15", {"down_block_types": ["X"] * 4}, "DownBlock2D or CrossAttn"),
    "few heads": ("sd15", {"attention_head_dim": [8, 8]}, r"\[8, 8\] \(must be .*, or 4 of them"),
    "no such heads": ("sd15", {"attention_head_dim": 7}, "attention_head_dim 7: 320 channels"),
    "no sizes": ("xl", {"addition_time_embed_dim": None}, "addition_time_embed_dim null"),
    "sizes": ("sd15", {"addition_time_embed_dim": 256}, r"embed_dim 256 \(must be null\)"),
    "pooled": ("xl", {"projection_class_embeddings_input_dim": 1536}, "1536: it must be more"),
    "odd": ("xl", {"addition_time_embed_dim": 255}, "an embedding of 255 channels"),
    "groups": ("sd15", {"norm_num_groups": 33}, "norm_num_groups 33 does not divide 320"),
    "true": ("sd15", {"layers_per_block": True}, "layers_per_block true"),
    "eps": ("sd15", {"norm_eps": 0}, "norm_eps 0 .must be a number above 0"),
    "shifted": ("vae", {"shift_factor": 0.1}, r"shift_factor 0.1 \(must be null\)"),
    "no quant_conv": ("vae", {"use_quant_conv": False}, r"use_quant_conv false \(must be true\)"),
    "VAE blocks": ("vae", {"up_block_types": ["UpDecoderBlock2D"]}, "up_block_types"),
}  # fmt: skip


@pytest.mark.parametrize("what", CONFIGS)
def test_what_a_network_cannot_be_is_named(what):
    name, changes, said = CONFIGS[what]
    read = vae_config if name == "vae" else unet_config
    with pytest.raises(InputError, match=said):
        read(reference.FULL[name] | changes)


def test_fields_that_say_what_is_so_anyway_are_read():
    spelled = {"num_class_embeds": None, "conv_in_kernel": 3, "flip_sin_to_cos": True}
    more = {"attention_head_dim": [8] * 4, "layers_per_block": [2] * 4, "_name_or_path": "x"}
    assert unet_config(reference.FULL["sd15"] | spelled | more) == UNetConfig(
        cross_attention_dim=768
    )
    assert vae_config(reference.FULL["vae"] | {"scaling_factor": 0.13025}).scaling_factor == 0.13025
    assert vae_config(reference.FULL["vae"]).scaling_factor == 0.18215


def test_inputs_of_other_shapes_are_refused():
    config = reference.TINY["xl"]
    module, given = module_of(config), reference.inputs(config)
    plain = module_of(reference.TINY["sd1"])
    vae = module_of(reference.TINY["vae"])

    def shapes(module, **changes):
        jax.eval_shape(lambda: module.init(jax.random.key(0), **(given | changes)))

    for changes, said in (
        ({"x": given["x"][:, :7]}, "h and w multiples of 2"),
        ({"t": given["t"][:1]}, r"t has shape \(1,\), not \(2,\)"),
        ({"text": given["text"][..., :3]}, r"text has shape \(2, 5, 3\), not \(2, 5, 12\)"),
        ({"pooled": None}, "takes both pooled and time_ids"),
        ({"time_ids": given["time_ids"][:, :5]}, r"time_ids has shape \(2, 5\), not \(2, 6\)"),
    ):
        with pytest.raises(InputError, match=said):
            shapes(module, **changes)
    with pytest.raises(InputError, match="takes neither pooled nor time_ids"):
        shapes(plain)
    with pytest.raises(InputError, match="sides multiples of 2"):
        vae.init(jax.random.key(0), np.zeros((1, 7, 8, 3), np.float32))
    with pytest.raises(InputError, match=r"latents have shape \(1, 4, 4, 3\)"):
        vae.apply({}, np.zeros((1, 4, 4, 3), np.float32), method="decode")
