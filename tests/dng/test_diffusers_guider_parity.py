"""The guider of diffusers against this library's sampler, on one folder and the same noise."""

from __future__ import annotations

import copy
import types

import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax import guidance, posterior, sampling
from dng_jax.denoisers import branches
from dng_jax.denoisers.branches import prompts_of
from dng_jax.errors import InputError
from dng_jax.stable_diffusion import pipeline
from tests import pipeline_reference as reference
from tests import text_reference

torch = pytest.importorskip("torch", reason="torch is not installed: no extra asks for it")
pytest.importorskip("diffusers", reason="diffusers is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

from diffusers import (  # noqa: E402
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    UNet2DConditionModel,
)
from diffusers.guiders import ClassifierFreeGuidance  # noqa: E402
from diffusers.modular_pipelines.modular_pipeline import BlockState  # noqa: E402
from diffusers.modular_pipelines.stable_diffusion_xl import (  # noqa: E402
    StableDiffusionXLAutoBlocks,
)
from diffusers.modular_pipelines.stable_diffusion_xl.denoise import (  # noqa: E402
    StableDiffusionXLLoopDenoiser,
)
from diffusers.modular_pipelines.stable_diffusion_xl.encoders import (  # noqa: E402
    StableDiffusionXLTextEncoderStep,
)
from diffusers.schedulers import scheduling_ddpm  # noqa: E402
from transformers import (  # noqa: E402
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from dng_jax.stable_diffusion.diffusers_guider import DynamicNegativeGuidance  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("quick_compilation"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
NUMBERS = {"prior": reference.PRIOR, "temperature": reference.TAU, "delta": reference.DELTA}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    return reference.write(tmp_path_factory.mktemp("models") / "tiny")


def sampled_by_diffusers(made, guider, empty, start, noises, monkeypatch):
    """Its own denoising block and DDPM's steps: latents [B, h, w, C], p [T, B] before each step."""
    scheduler, drawn = made.scheduler, iter(noises)
    texts = [made.encode_prompt(prompt, "cpu", 1, False)[0].expand(len(start), -1, -1)
             for prompt in (reference.PROMPT, reference.NEGATIVE)]  # fmt: skip
    guider.attach(scheduler, empty)
    scheduler.set_timesteps(reference.STEPS)
    monkeypatch.setattr(
        scheduling_ddpm,
        "randn_tensor",
        lambda shape, **more: torch.tensor(next(drawn)).permute(0, 3, 1, 2),
    )
    state = BlockState(
        prompt_embeds=texts[0],
        negative_prompt_embeds=texts[1],
        num_inference_steps=reference.STEPS,
        timestep_cond=None,
        cross_attention_kwargs=None,
    )
    x = torch.tensor(start).permute(0, 3, 1, 2)
    parts = types.SimpleNamespace(guider=guider, unet=made.unet)
    block, trace = StableDiffusionXLLoopDenoiser(), []
    for i, t in enumerate(scheduler.timesteps):
        state.scaled_latents = x
        block(parts, state, i, t)
        trace.append(guider.posterior.numpy())
        x = scheduler.step(state.noise_pred, t, x, return_dict=False)[0]
    return x.permute(0, 2, 3, 1).numpy(), np.array(trace)


@pytest.mark.parametrize("variant", ["c", "d"])
def test_the_guider_gives_the_numbers_of_the_sampler(folder, variant, monkeypatch):
    model = pipeline.load(folder)
    prompts = prompts_of(variant, reference.PROMPT, reference.NEGATIVE)
    denoise = branches(model.network(prompts), variant, reference.SCALE)
    tracker = posterior.pair(**NUMBERS, reference="reference" if variant == "d" else "base")
    table = model.table(reference.STEPS)
    start, noises = reference.noise(table)
    rule = guidance.dynamic_negative(tracker, 2.0, scale_max=5.0)
    found = sampling.sample(denoise, table, rule, reference.keys(), jnp.asarray(start))

    made = reference.diffusers_pipeline(folder)
    empty = {"prompt_embeds": made.encode_prompt("", "cpu", 1, False)[0]}
    guider = DynamicNegativeGuidance(reference.SCALE, 2.0, scale_max=5.0, **NUMBERS)
    latents, p = sampled_by_diffusers(
        made, guider, empty if variant == "d" else None, start, noises, monkeypatch
    )
    size = np.abs(latents).max()
    off, off_p = np.abs(found.x - latents).max() / size, np.abs(found.trace["posterior"] - p).max()
    print(f"{variant}: latents {off:.1e} of {size:.1f}, p {off_p:.1e}, {np.round(p[::4, 0], 3)}")
    assert np.abs(p - reference.PRIOR).max() > 0.05
    assert off <= 1e-5
    assert off_p <= 1e-5


def test_switched_off_it_is_classifier_free_guidance(folder, monkeypatch):
    model = pipeline.load(folder)
    prompts = prompts_of("d", reference.PROMPT, reference.NEGATIVE)
    denoise = branches(model.network(prompts), "d", reference.SCALE)
    table = model.table(reference.STEPS)
    start, noises = reference.noise(table)
    rule = guidance.unguided()
    found = sampling.sample(denoise, table, rule, reference.keys(), jnp.asarray(start))
    made = reference.diffusers_pipeline(folder)
    empty = {"prompt_embeds": made.encode_prompt("", "cpu", 1, False)[0]}
    guider = DynamicNegativeGuidance(reference.SCALE, enabled=False)
    monkeypatch.setattr(DynamicNegativeGuidance, "posterior", torch.zeros(2))
    latents, _ = sampled_by_diffusers(made, guider, empty, start, noises, monkeypatch)
    assert np.abs(found.x - latents).max() <= 1e-5 * np.abs(latents).max()


def test_what_has_no_posterior_is_refused(folder):
    guider = DynamicNegativeGuidance()
    with pytest.raises(InputError, match="DDIMScheduler steps otherwise: take DDPMScheduler"):
        guider.attach(DDIMScheduler())
    with pytest.raises(InputError, match="clip_sample is True: a clipped step has no Gaussian"):
        guider.attach(DDPMScheduler())
    with pytest.raises(InputError, match=r"variance_type is 'fixed_large': .* fixed_small"):
        guider.attach(DDPMScheduler(clip_sample=False, variance_type="fixed_large"))
    with pytest.raises(InputError, match="no posterior before the first step"):
        _ = guider.posterior
    with pytest.raises(InputError, match="prior 0"):
        DynamicNegativeGuidance(prior=0.0)
    with pytest.raises(InputError, match="negative_scale must be finite and at least 0, got -1"):
        DynamicNegativeGuidance(negative_scale=-1.0)
    with pytest.raises(InputError, match="delta must be finite, got nan"):
        DynamicNegativeGuidance(delta=float("nan"))
    with pytest.raises(InputError, match="guidance_scale must be a number, got '7'"):
        DynamicNegativeGuidance("7")
    with pytest.raises(InputError, match=r"p_max 1\.0$"):
        DynamicNegativeGuidance(p_max=1.0)
    x = torch.zeros(2, 4, 8, 8)
    guider.set_state(0, 2, torch.tensor(1))
    guider.forward(x, x)
    guider.set_state(1, 2, torch.tensor(0))
    with pytest.raises(InputError, match="has not seen the last step"):
        guider.forward(x, x)


def test_the_modular_pipeline_of_xl_takes_it(tmp_path):
    torch.manual_seed(0)
    text_reference.write_tokenizer(tmp_path)
    words = CLIPTokenizer.from_pretrained(tmp_path)
    sizes = CLIPTextConfig(
        vocab_size=len(text_reference.vocabulary()), hidden_size=16, intermediate_size=16,
        num_attention_heads=2, num_hidden_layers=2, projection_dim=16, bos_token_id=0,
        eos_token_id=2,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(2, 4),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1), projection_class_embeddings_input_dim=64,
        cross_attention_dim=32,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=[8, 8], down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2, latent_channels=4, norm_num_groups=4,
    )  # fmt: skip
    pipe = StableDiffusionXLAutoBlocks().init_pipeline()
    pipe.update_components(
        text_encoder=CLIPTextModel(sizes).eval(), tokenizer=words, tokenizer_2=words,
        text_encoder_2=CLIPTextModelWithProjection(sizes).eval(), unet=unet.eval(), vae=vae.eval(),
        guider=DynamicNegativeGuidance(5.0, prior=0.1, temperature=1e-3, scale_max=20.0),
        scheduler=DDPMScheduler(beta_schedule="scaled_linear", clip_sample=False),
    )  # fmt: skip
    with torch.no_grad():
        _, text, _, pooled = StableDiffusionXLTextEncoderStep.encode_prompt(
            pipe, "", device=torch.device("cpu")
        )
    empty = {"prompt_embeds": text, "text_embeds": pooled}

    def images(**told):
        return pipe(
            prompt=reference.PROMPT, num_inference_steps=4, height=16, width=16, output="images",
            num_images_per_prompt=2, output_type="np", generator=torch.Generator().manual_seed(0),
            **told,
        )  # fmt: skip

    pipe.guider.attach(pipe.scheduler, empty)
    with pytest.raises(InputError, match="give negative_prompt"):
        images()
    guided = images(negative_prompt=reference.NEGATIVE)
    p = pipe.guider.posterior.numpy()
    assert (np.abs(p - 0.1) > 1e-4).all()
    again = images(negative_prompt=reference.NEGATIVE)
    np.testing.assert_array_equal(guided, again)  # nothing is left of the images before

    pipe.update_components(guider=ClassifierFreeGuidance(5.0))
    plain = images()
    assert np.abs(plain - guided).max() > 1e-3
    for idle in (DynamicNegativeGuidance(5.0, 0.0), DynamicNegativeGuidance(5.0, enabled=False)):
        pipe.update_components(guider=idle)
        pipe.guider.attach(pipe.scheduler, empty)
        found = images(negative_prompt=reference.NEGATIVE)
        np.testing.assert_allclose(found, plain, rtol=0, atol=1e-5)

    pipe.guider.attach(pipe.scheduler, {"pooled_prompt_embeds": pooled})
    with pytest.raises(InputError, match=r"no input 'pooled_prompt_embeds'.*'text_embeds'"):
        images()
    pipe.guider.attach(pipe.scheduler, {"text_embeds": pooled[:, :-1]})
    with pytest.raises(InputError, match=r"shape \(1, 15\), the prompt's \(2, 16\)"):
        images()


def test_a_copy_of_a_scheduler_steps_by_its_own_timesteps():
    scheduler = DDPMScheduler(clip_sample=False)
    DynamicNegativeGuidance().attach(scheduler)
    scheduler.set_timesteps(1000)
    other = copy.deepcopy(scheduler)
    other.set_timesteps(2)
    x = torch.ones(1, 1, 2, 2)
    fresh = DDPMScheduler(clip_sample=False)
    fresh.set_timesteps(2)
    step = {"generator": torch.Generator().manual_seed(0), "return_dict": False}
    found = other.step(x, 500, x, **step)[0]
    step["generator"].manual_seed(0)
    assert torch.equal(found, fresh.step(x, 500, x, **step)[0])


def test_half_precision_neither_overflows_nor_rounds_the_posterior():
    torch.manual_seed(0)
    scheduler = DDPMScheduler(clip_sample=False)
    base, negative, x, moved = (torch.randn(2, 4, 8, 8).half() for _ in range(4))
    found = []
    for dtype in (torch.float16, torch.float32):
        guider = DynamicNegativeGuidance(1.0, 1e5, prior=0.5, temperature=1e-2)
        guider.attach(scheduler)
        guider.set_state(0, 1000, torch.tensor(500))
        pred = guider.forward(base.to(dtype), negative.to(dtype))[0]
        assert pred.dtype == dtype
        still = guider.forward(base.to(dtype), base.to(dtype))[0]
        assert torch.equal(still, base.to(dtype))
        guider.forward(base.to(dtype), negative.to(dtype))
        guider._update(scheduler, 500, x.to(dtype), moved.to(dtype))
        assert 1e-3 < (guider.posterior - 0.5).abs().max() < 0.48
        found.append(guider.posterior)
    assert torch.equal(*found)


def test_its_numbers_are_saved_and_loaded(tmp_path):
    DynamicNegativeGuidance(prior=0.2, delta=0.5).save_pretrained(tmp_path)
    again = DynamicNegativeGuidance.from_pretrained(tmp_path)
    assert (again.config.prior, again.config.delta, again.config.guidance_scale) == (0.2, 0.5, 7.5)
