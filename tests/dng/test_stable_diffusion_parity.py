"""The networks of Stable Diffusion against the torch and diffusers that are installed.

Skipped where they are not. Compared is with float64 of theirs; float32 is itself 1e-6 from that.
"""

from __future__ import annotations

import inspect
import json

import jax
import numpy as np
import pytest

from dng_jax.stable_diffusion import layers
from dng_jax.stable_diffusion.config import UNetConfig, VAEConfig
from dng_jax.stable_diffusion.config_json import unet_config, vae_config
from dng_jax.weights import parts
from dng_jax.weights.diffusers_files import Layout
from tests import stable_diffusion_reference as reference
from tests.stable_diffusion_here import module_of, outputs_here, params_of, shapes_here

torch = pytest.importorskip("torch", reason="torch is not installed: no extra asks for it")
diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

from diffusers.models.attention import BasicTransformerBlock  # noqa: E402
from diffusers.models.attention_processor import Attention  # noqa: E402
from diffusers.models.downsampling import Downsample2D  # noqa: E402
from diffusers.models.resnet import ResnetBlock2D  # noqa: E402
from diffusers.models.transformers.transformer_2d import Transformer2DModel  # noqa: E402
from diffusers.models.upsampling import Upsample2D  # noqa: E402

C, E, D = 16, 12, 10  # channels, of the time's embedding, of the text
GAIN = 0.6  # so that outputs are at most 4
WITH = {"groups": 4}
VAE_ATTENTION = {
    "heads": 1, "dim_head": C, "norm_num_groups": 4, "eps": 1e-6, "bias": True,
    "residual_connection": True, "_from_deprecated_attn_block": True,
}  # fmt: skip


def transformer(heads, **more):
    shape = {"in_channels": C, "norm_num_groups": 4, "cross_attention_dim": D}
    return lambda: Transformer2DModel(heads, C // heads, **shape, **more)


# Ours, theirs, what both take besides x.
BLOCKS = {
    "resnet": (
        layers.Resnet(C, eps=1e-5, **WITH),
        lambda: ResnetBlock2D(in_channels=C, temb_channels=E, groups=4, eps=1e-5),
        "e",
    ),
    "resnet with a shortcut": (
        layers.Resnet(2 * C, eps=1e-5, **WITH),
        lambda: ResnetBlock2D(
            in_channels=C, out_channels=2 * C, temb_channels=E, groups=4, eps=1e-5
        ),
        "e",
    ),
    "resnet of the autoencoder": (
        layers.Resnet(C, eps=1e-6, **WITH),
        lambda: ResnetBlock2D(in_channels=C, temb_channels=None, groups=4, eps=1e-6),
        None,
    ),
    "block of a transformer": (
        layers.TransformerBlock(4),
        lambda: BasicTransformerBlock(C, 4, C // 4, cross_attention_dim=D),
        "text",
    ),
    "transformer of SD 1": (layers.Transformer(8, 1, False, **WITH), transformer(8), "text"),
    "transformer of SD 2": (
        layers.Transformer(2, 1, True, **WITH),
        transformer(2, use_linear_projection=True),
        "text",
    ),
    "transformer of XL": (
        layers.Transformer(4, 2, True, **WITH),
        transformer(4, use_linear_projection=True, num_layers=2),
        "text",
    ),
    "attention of the autoencoder": (
        layers.Attention(1, bias=True, eps=1e-6, **WITH),
        lambda: Attention(C, **VAE_ATTENTION),
        None,
    ),
    "downsampler": (
        layers.Downsample(layers.AROUND),
        lambda: Downsample2D(C, use_conv=True, padding=1, name="op"),
        None,
    ),
    "downsampler of the autoencoder": (
        layers.Downsample(layers.RIGHT_AND_BOTTOM),
        lambda: Downsample2D(C, use_conv=True, padding=0, name="op"),
        None,
    ),
    "upsampler": (layers.Upsample(), lambda: Upsample2D(C, use_conv=True), None),
}
# The same blocks with a wrong eps.
MISTAKES = {
    "block of a transformer": layers.TransformerBlock(4, eps=1e-6),
    "resnet": layers.Resnet(C, eps=1e-6, **WITH),
    "resnet of the autoencoder": layers.Resnet(C, eps=1e-5, **WITH),
    "transformer of SD 1": layers.Transformer(8, 1, False, eps=1e-5, **WITH),
    "transformer of SD 2": layers.Transformer(2, 1, True, eps=1e-5, **WITH),
    "attention of the autoencoder": layers.Attention(1, bias=True, eps=1e-5, **WITH),
}


def example(other, scale=0.7):
    """x [2, 6, 4, C], and what else the block takes, none of it negligible."""
    draw = np.random.RandomState(2).standard_normal
    x = draw((2, 6, 4, C)) * scale
    more = {"e": draw((2, E)), "text": draw((2, 5, D)), None: None}[other]
    return [a.astype(np.float32) for a in (x, more) if a is not None]


def theirs_of(make, other, given):
    """What the block of diffusers makes of `weights` in float64."""
    torch.set_num_threads(1)
    block = make().eval()
    made = reference.weights(reference.torch_shapes(block), gain=GAIN)
    block.load_state_dict({name: torch.tensor(value) for name, value in made.items()})
    x, *more = (torch.tensor(a).double() for a in given)
    x = x.permute(0, 3, 1, 2)
    with torch.no_grad():
        block = block.double()
        if isinstance(block, BasicTransformerBlock):
            tokens = block(x.flatten(2).mT, encoder_hidden_states=more[0])
            found = tokens.mT.reshape(x.shape)
        elif other == "text":
            found = block(x, encoder_hidden_states=more[0]).sample
        elif isinstance(block, ResnetBlock2D):
            found = block(x, more[0] if more else None)
        else:
            found = block(x)
    return found.permute(0, 2, 3, 1).numpy()


def ours_of(block, given):
    x, *more = given
    if isinstance(block, layers.TransformerBlock):
        x = x.reshape(len(x), -1, C)
    variables = {"params": params_of(block, x, *more, gain=GAIN)}
    return np.asarray(jax.jit(block.apply)(variables, x, *more))


def furthest(ours, theirs):
    return np.abs(ours.reshape(theirs.shape) - theirs).max()


@pytest.mark.parametrize("what", BLOCKS)
def test_a_block_makes_what_it_does_in_diffusers(what):
    block, make, other = BLOCKS[what]
    given = example(other)
    theirs = theirs_of(make, other, given)
    assert 1 < np.abs(theirs).max() <= 4
    error = furthest(ours_of(block, given), theirs)
    print(f"{what}: {error:.1e} of {np.abs(theirs).max():.2f}")
    assert error <= 2e-6


@pytest.mark.parametrize("what", MISTAKES)
def test_a_wrong_eps_shows_where_inputs_are_small(what):
    _, make, other = BLOCKS[what]
    given = example(other, 0.01)
    theirs = theirs_of(make, other, given)
    right = furthest(ours_of(BLOCKS[what][0], given), theirs)
    wrong = furthest(ours_of(MISTAKES[what], given), theirs)
    print(f"{what}: right {right:.1e}, wrong {wrong:.1e}")
    assert right <= 2e-6
    assert wrong >= 3 * 2e-6


@pytest.mark.parametrize("name", reference.TINY)
def test_a_network_makes_what_it_does_in_diffusers(name):
    config = reference.TINY[name]
    ours, theirs = outputs_here(config), reference.torch_outputs(config)
    for what, value in theirs.items():
        error = np.abs(ours[what] - value).max()
        print(f"{name} {what}: {error:.1e} of {np.abs(value).max():.2f}")
        assert error <= (1e-5 if name == "vae" else 4e-6)


def test_the_record_is_what_this_diffusers_makes():
    for name, config in reference.TINY.items():
        for what, value in reference.torch_outputs(config).items():
            np.testing.assert_allclose(reference.outputs(name)[what], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", reference.FULL)
def test_full_networks_have_the_tensors_of_diffusers(name):
    config = reference.FULL[name]
    theirs = reference.torch_shapes(reference.torch_model(config, "meta"))
    assert shapes_here(module_of(config)) == theirs
    assert reference.digest(theirs) == reference.full_digest(name)


@pytest.mark.parametrize(
    ("kind", "read", "ours"),
    [
        ("UNet2DConditionModel", unet_config, UNetConfig()),
        ("AutoencoderKL", vae_config, VAEConfig(block_out_channels=(64,), layers_per_block=1)),
    ],
)
def test_defaults_are_those_of_diffusers(kind, read, ours):
    signature = inspect.signature(getattr(diffusers, kind).__init__).parameters.values()
    defaults = {p.name: p.default for p in signature if p.name != "self"}
    spelled = json.loads(json.dumps(defaults))  # tuples become lists
    assert read({"_class_name": kind}) == read(spelled | {"_class_name": kind}) == ours


@pytest.mark.parametrize("name", ["sd1", "vae"])
def test_folders_go_both_ways(name, tmp_path):
    config, layout = reference.TINY[name], Layout(reference.TINY[name]["_class_name"])
    model, module = reference.torch_model(config), module_of(config)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB", variant="fp16")
    assert len(list((tmp_path / "theirs").glob("*.fp16-*-of-*.safetensors"))) > 1
    params = parts.load(tmp_path / "theirs", module, layout, "fp16")
    jax.tree.map(np.testing.assert_array_equal, params, params_of(module, quiet=True))
    parts.save(tmp_path / "ours", module, params, config, layout)
    again = type(model).from_pretrained(tmp_path / "ours", use_safetensors=True)
    for key, value in again.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), model.state_dict()[key].numpy())
