"""The pipeline against diffusers' own on one folder, where torch, diffusers and transformers are.

pip install torch==2.13.0 diffusers==0.42.1 transformers==5.24.0 tokenizers==0.23.3
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax import guidance, posterior, sampling
from dng_jax.denoisers import branches
from dng_jax.denoisers.branches import prompts_of
from dng_jax.stable_diffusion import pictures, pipeline
from tests import pipeline_reference as reference

torch = pytest.importorskip("torch", reason="torch is not installed: no extra asks for it")
pytest.importorskip("diffusers", reason="diffusers is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

pytestmark = [
    pytest.mark.usefixtures("quick_compilation"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    return reference.write(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def model(folder):
    return pipeline.load(folder)


@pytest.fixture(scope="module")
def roles(model):
    prompts = prompts_of("b", reference.PROMPT, reference.NEGATIVE)
    return branches(model.network(prompts), "b", reference.SCALE)


def sampled(model, roles, rule):
    table = model.table(reference.STEPS)
    start, noises = reference.noise(table)
    found = sampling.sample(roles, table, rule, reference.keys(), jnp.asarray(start))
    return found, start, noises


def test_cfg_is_that_of_diffusers(model, roles, folder):
    found, start, noises = sampled(model, roles, guidance.unguided())
    latents, pixels = reference.diffusers_images(folder, start, noises)
    error = np.abs(found.x - latents).max() / np.abs(latents).max()
    differing = (pictures.pixels(model.decode(found.x)) != pixels).mean()
    print(f"latents {error:.1e} of {np.abs(latents).max():.1f}, pixels {differing:.2%}")
    assert error <= 1e-5
    assert differing <= 1e-3
    record = reference.golden()
    recorded = np.abs(record["latents"] - latents).max() / np.abs(latents).max()
    assert recorded <= 1e-5
    assert (record["pixels"] != pixels).mean() <= 1e-3


def test_the_posterior_is_that_of_torch_and_a_loop_in_float64(model, roles, folder):
    tracker = posterior.pair(reference.PRIOR, temperature=reference.TAU, delta=reference.DELTA)
    found, start, noises = sampled(
        model, roles, guidance.dynamic_negative(tracker, reference.LAMBDA)
    )
    made = reference.diffusers_pipeline(folder)
    texts = [made.encode_prompt(prompt, "cpu", 1, False)[0].double()
             for prompt in ("", reference.PROMPT, reference.NEGATIVE)]  # fmt: skip
    unet = made.unet.double()

    def eps(x, t):
        inside = torch.tensor(x).permute(0, 3, 1, 2)
        with torch.no_grad():
            answers = [unet(inside, int(t), text.expand(len(x), -1, -1)).sample for text in texts]
        return [answer.permute(0, 2, 3, 1).numpy() for answer in answers]

    p, latents = reference.dng(eps, start, noises)
    off = np.abs(found.trace["posterior"] - p).max()
    print(f"p {np.round(p[::4, 0], 3)}, off by {off:.1e}")
    assert np.abs(p - reference.PRIOR).max() > 0.05
    assert off <= 1e-5
    np.testing.assert_allclose(found.x, latents, rtol=0, atol=1e-5 * np.abs(latents).max())


def test_the_text_is_that_of_transformers(model, folder):
    made = reference.diffusers_pipeline(folder)
    prompts = [reference.PROMPT, "кот 🐈 !!", ""]
    with torch.no_grad():
        theirs = [made.encode_prompt(prompt, "cpu", 1, False)[0][0].numpy() for prompt in prompts]
    np.testing.assert_allclose(model.encode(prompts), theirs, rtol=0, atol=4e-6)
