"""A tiny Stable Diffusion from folder to pictures: a record of diffusers, a loop by the book."""

from __future__ import annotations

import json
import re
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax import guidance, posterior, sampling
from dng_jax.denoisers import branches
from dng_jax.errors import InputError
from dng_jax.rules import in_dtype
from dng_jax.stable_diffusion import hub, pictures, pipeline, schedule
from dng_jax.stable_diffusion.pipeline import Pipeline
from dng_jax.stable_diffusion.prompt_network import MODES, prompt_network
from dng_jax.stable_diffusion.unet import UNet2DConditionModel
from tests import pipeline_reference as reference

pytestmark = pytest.mark.usefixtures("quick_compilation")

PROMPTS = {"empty": "", "prompt": reference.PROMPT, "negative": reference.NEGATIVE}


class Recorded:
    """The tokenizer, as far as it was recorded: tests need no package for it."""

    def __init__(self):
        self.known = dict(zip(PROMPTS.values(), reference.golden()["tokens"], strict=True))

    def __call__(self, prompts):
        return np.array([self.known[prompt] for prompt in prompts], np.int32)


@pytest.fixture(scope="module")
def model():
    made = reference.modules()
    return Pipeline(
        made["unet"],
        made["vae"],
        made["text_encoder"],
        Recorded(),
        schedule.from_config(reference.SCHEDULER),
        reference.parameters(),
        (16, 16),
    )


@pytest.fixture(scope="module")
def network(model):
    return model.network(PROMPTS)


@pytest.fixture(scope="module")
def tracked():
    """DNG with a posterior that moves."""

    def rule(scale=reference.LAMBDA, **changes):
        numbers = {"temperature": reference.TAU, "delta": reference.DELTA} | changes
        return guidance.dynamic_negative(posterior.pair(reference.PRIOR, **numbers), scale)

    return rule


@pytest.fixture(scope="module")
def chain(model, network):
    """Runs a rule; the same program whatever its numbers, the variant and the prompts are."""
    table = model.table(reference.STEPS)
    start, _ = reference.noise(table)

    def run(rule, variant="b", on=network, scale=reference.SCALE):
        roles = branches(on, variant, scale)
        return sampling.sample(roles, table, rule, reference.keys(), jnp.asarray(start))

    return run


def test_latents_and_pixels_are_those_of_diffusers(model, chain, tracked):
    found, theirs = chain(tracked(0.0)).x, reference.golden()
    error = np.abs(found - theirs["latents"]).max() / np.abs(theirs["latents"]).max()
    differing = (pictures.pixels(model.decode(found)) != theirs["pixels"]).mean()
    print(f"latents {error:.1e} of {np.abs(theirs['latents']).max():.1f}, pixels {differing:.2%}")
    assert error <= 1e-5
    assert differing <= 1e-3
    assert theirs["pixels"].std() > 20


def test_the_posterior_is_that_of_a_loop_in_float64(model, network, chain, tracked):
    table = model.table(reference.STEPS)

    @jax.jit
    def ask(x, i):
        row = jax.tree.map(lambda column: jnp.asarray(column)[i], in_dtype(table, jnp.float32))
        found = network(x, row, tuple(PROMPTS))
        return [found[role] for role in PROMPTS]

    asked = iter(range(reference.STEPS))

    def eps(x, t):
        return ask(jnp.asarray(x, jnp.float32), next(asked))

    p, latents = reference.dng(eps, *reference.noise(table))
    found = chain(tracked())
    half = p[: len(p) // 2]
    assert np.abs(p - reference.PRIOR).max() > 0.05
    assert half.max() < 0.98
    assert half.min() > 1e-5
    np.testing.assert_allclose(found.trace["posterior"], p, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.x, latents, rtol=0, atol=1e-5 * np.abs(latents).max())


def test_scale_zero_is_cfg_and_the_prompt_as_a_negative_keeps_the_prior(model, chain, tracked):
    same = model.network(PROMPTS | {"negative": reference.PROMPT})
    kept = chain(tracked(delta=0.0), on=same)
    np.testing.assert_allclose(kept.trace["posterior"], reference.PRIOR, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(chain(tracked(0.0)).x, kept.x)


@pytest.mark.parametrize("dtype", [None, jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("mode", MODES)
def test_a_unet_in_float32_is_never_rounded_to_tf32(dtype, mode, model):
    row = jax.tree.map(lambda column: jnp.asarray(column[0]), model.table(20))
    unet = UNet2DConditionModel(model.unet.config, dtype)
    texts = {role: jnp.ones((77, 12)) for role in PROMPTS}
    asked = prompt_network(unet, model.params["unet"], texts, model.schedule, mode)
    traced = jax.make_jaxpr(lambda x: asked(x, row, tuple(PROMPTS)))(jnp.ones((2, 8, 8, 4)))
    found = re.findall(r"\bprecision=(.+)", str(traced))
    assert len(found) > 20
    assert {"HIGHEST" in precision for precision in found} == {dtype != jnp.bfloat16}


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "most"), [("d", 3e-4), ("b", 2e-3)])
def test_what_bfloat16_costs_the_posterior(variant, most, model):
    texts = dict(zip(PROMPTS, model.encode([*PROMPTS.values()]), strict=True))
    table, keys = model.table(reference.STEPS), sampling.sample_keys(0, 64)
    x = sampling.initial_noise(keys, (8, 8, 4), table)
    numbers = {"temperature": reference.TAU, "delta": reference.DELTA, "reference": "reference"}
    rule = guidance.dynamic_negative(posterior.pair(reference.PRIOR, **numbers))

    def posterior_in(dtype):
        kept = jax.tree.map(lambda a: jnp.asarray(a, dtype), model.params["unet"])
        unet = UNet2DConditionModel(model.unet.config, dtype)
        on = prompt_network(unet, kept, texts, model.schedule)
        return sampling.sample(branches(on, variant, 7.5), table, rule, keys, x).trace["posterior"]

    error = np.abs(posterior_in(jnp.bfloat16) - posterior_in(jnp.float32)).max()
    assert most / 3 < error < most


@pytest.mark.slow
def test_one_role_after_the_other_is_the_batch(model, network, chain, tracked):
    alone = chain(tracked(), on=model.network(PROMPTS, "map"))
    np.testing.assert_allclose(alone.x, chain(tracked()).x, rtol=0, atol=1e-3)
    assert model.network(PROMPTS, "map").calls(tuple(PROMPTS)) == 3


def test_shapes_and_numbers_that_make_no_picture_are_named(model):
    assert model.latent_shape(16) == (8, 8, 4)
    assert model.latent_shape(16, 24) == (8, 12, 4)
    for size in (18, 0, -4, 16.0):
        with pytest.raises(InputError, match=f"{size} x {size} pixels.* multiples of 4"):
            model.latent_shape(size)
    with pytest.raises(InputError, match="1000 steps of spacing leading with steps_offset 1"):
        model.table(1000)
    with pytest.raises(InputError, match="unknown way to ask for branches"):
        model.network(PROMPTS, "loop")


def test_pixels_are_rounded_and_clipped():
    values = np.array([-3, -1, -0.5, 0, 0.001, 1, 7.0])
    np.testing.assert_array_equal(pictures.pixels(values), [0, 0, 64, 128, 128, 255, 255])
    assert pictures.pixels(values).dtype == np.uint8


# --------------------------------------------------------------------------- folders


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    pytest.importorskip("tokenizers")
    return reference.write(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "tiny")


def test_a_folder_is_the_model(whole, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # never asked for a folder
    found = pipeline.load(whole)
    assert found.unet == model.unet
    jax.tree.map(np.testing.assert_array_equal, found.params, model.params)
    np.testing.assert_array_equal(
        found.tokenizer([*PROMPTS.values()]), reference.golden()["tokens"]
    )
    assert found.encode(["cat"]).shape == (1, 77, 12)
    assert found.size == (16, 16)
    halves = pipeline.load(whole, dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(halves.params["unet"])} == {"bfloat16"}
    assert halves.unet.dtype == jnp.bfloat16


def changed(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


BROKEN = {
    "no index": (lambda f: (f / "model_index.json").unlink(), "no model_index.json"),
    "XL": (
        lambda f: changed(f / "model_index.json", _class_name="StableDiffusionXLPipeline"),
        "holds a StableDiffusionXLPipeline: only StableDiffusionPipeline",
    ),
    "no part": (lambda f: shutil.rmtree(f / "vae"), "has no vae/: copy or fetch"),
    "no config": (lambda f: (f / "unet" / "config.json").unlink(), r"unet/config\.json"),
    "a config": (lambda f: changed(f / "unet" / "config.json", act_fn="gelu"), 'act_fn "gelu"'),
    "another variant": (
        lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").rename(
            f / "unet" / "diffusion_pytorch_model.fp16.safetensors"
        ),
        r"but diffusion_pytorch_model\.fp16\.safetensors: name the variant",
    ),
    "a pickle": (
        lambda f: (f / "text_encoder" / "model.safetensors").rename(
            f / "text_encoder" / "pytorch_model.bin"
        ),
        "is a pickle",
    ),
    "another encoder": (
        lambda f: changed(f / "text_encoder" / "config.json", hidden_size=16),
        "unet takes a text of 12 channels, text_encoder makes 16",
    ),
    "few positions": (
        lambda f: changed(f / "text_encoder" / "config.json", max_position_embeddings=16),
        "tokenizer makes 77 tokens, text_encoder takes 16",
    ),
    "a size": (
        lambda f: changed(f / "unet" / "config.json", sample_size=[8, 8, 8]),
        r"sample_size \[8, 8, 8\] of the unet",
    ),
    "other words": (
        lambda f: changed(f / "text_encoder" / "config.json", vocab_size=500),
        "tokenizer has 526 entries, text_encoder 500",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_folder_that_is_no_model_is_named(folder, what):
    harm, said = BROKEN[what]
    harm(folder)
    with pytest.raises(InputError, match=said) as found:
        pipeline.load(folder)
    assert "\n" not in str(found.value)


def test_the_hub_is_asked_for_repositories_alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for name in ("models/mistyped", "nowhere", "/no/such/folder", "a/b/c"):
        with pytest.raises(InputError, match=f"no folder {name}: name that of a model"):
            hub.folder_of(name)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"fetching a repository needs .*dng-jax\[text\]"):
        hub.folder_of("owner/name")


def test_of_a_repository_the_files_of_one_variant_are_fetched(monkeypatch, tmp_path):
    class Hub:
        asked = None

        @classmethod
        def snapshot_download(cls, name, allow_patterns):
            cls.asked = name, allow_patterns
            if name == "owner/gone":
                raise OSError("404\nnot found")
            return str(tmp_path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub)
    monkeypatch.chdir(tmp_path)
    assert hub.folder_of("owner/name", "fp16") == tmp_path
    name, patterns = Hub.asked
    assert name == "owner/name"
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in patterns
    assert "text_encoder/model.fp16-?????-of-?????.safetensors" in patterns
    assert not any(p.endswith((".bin", "model.safetensors", "*")) for p in patterns)
    with pytest.raises(InputError, match=r"owner/gone is no folder here .*\(OSError 404 not found"):
        hub.folder_of("owner/gone")
