"""A text-to-image model that was trained here, as a folder: read by this library and diffusers."""

import jax
import numpy as np
import pytest

from dng_jax.sampling import root_key
from dng_jax.scenes import captions
from dng_jax.stable_diffusion import config_json, pipeline, saving, vocabulary
from dng_jax.stable_diffusion.clip_config import text_config, text_json
from dng_jax.stable_diffusion.sizes import Sizes
from dng_jax.stable_diffusion.unet import UNet2DConditionModel
from dng_jax.stable_diffusion.vae import AutoencoderKL
from dng_jax.training.text_to_image import TextToImage
from dng_jax.weights import files
from tests import stable_diffusion_reference as reference

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIZES = Sizes(
    channels=(4, 8), groups=2, heads=2, autoencoder_channels=(4, 4), text_width=4, text_layers=1
)
WORDS = captions.words()
FACTOR = 0.75


def random_params():
    modules = {
        "both": TextToImage(SIZES, len(vocabulary.tokens(WORDS))),
        "vae": AutoencoderKL(SIZES.autoencoder()),
    }
    shapes = {
        name: jax.eval_shape(module.init, root_key(0), *module.config.example())["params"]
        for name, module in modules.items()
    }
    rng = np.random.default_rng(0)

    def one(leaf):
        # Norms are no longer what they are initialised as.
        spread = 0.2 if len(leaf.shape) == 1 else np.prod(leaf.shape[:-1]) ** -0.5
        return (spread * rng.standard_normal(leaf.shape)).astype(np.float16).astype(np.float32)

    made = jax.tree.map(one, shapes)
    return {**made["both"], "vae": made["vae"]}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder, params = tmp_path_factory.mktemp("saved") / "model", random_params()
    saving.save(folder, SIZES, WORDS, params, FACTOR, "float16")
    return folder, params


def test_a_saved_model_is_what_is_loaded(saved):
    pytest.importorskip("tokenizers")
    folder, params = saved
    found = pipeline.load(folder)
    for name in ("unet", "vae", "text_encoder"):
        ours, theirs = files.flat(params[name]), files.flat(found.params[name])
        assert ours.keys() == theirs.keys()
        for path, value in ours.items():
            np.testing.assert_array_equal(theirs[path], value)
    assert found.unet.config == SIZES.unet()
    assert found.vae.config == SIZES.autoencoder(FACTOR)
    assert found.text_encoder.config == SIZES.text_encoder(len(vocabulary.tokens(WORDS)))
    assert found.tokenizer.length == 16
    assert found.schedule.parameterisation == "v"
    assert len(found.schedule.levels.alpha) == 1000
    assert found.latent_shape(*SIZES.image_shape[:2]) == SIZES.latent_shape
    assert len(found.table(30).logsnr) == 30


@pytest.mark.parametrize("config", [*reference.FULL.values(), *reference.TINY.values()])
def test_a_configuration_comes_back_from_what_is_written(config):
    if config["_class_name"] == "AutoencoderKL":
        own = config_json.vae_config(config)
        assert config_json.vae_config(config_json.vae_json(own)) == own
    else:
        own = config_json.unet_config(config)
        assert config_json.unet_config(config_json.unet_json(own)) == own


def test_a_text_encoder_comes_back_from_what_is_written():
    own = SIZES.text_encoder(554)
    assert text_config(text_json(own)) == own


def test_diffusers_opens_the_folder_and_computes_the_same(saved):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    pytest.importorskip("tokenizers")
    torch.set_num_threads(1)
    folder, _ = saved
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    theirs.to(torch.float32)
    ours = pipeline.load(folder)
    prompts = ["even digits and a four", ""]

    said = theirs.tokenizer(prompts, padding="max_length", max_length=16, return_tensors="pt")
    np.testing.assert_array_equal(said["input_ids"], ours.tokenizer(prompts))
    with torch.no_grad():
        text = theirs.text_encoder(said["input_ids"])[0]
        np.testing.assert_allclose(ours.encode(prompts), text, atol=4e-6)
        rng = np.random.default_rng(1)
        x = rng.standard_normal((2, *SIZES.latent_shape)).astype(np.float32)
        first = torch.tensor(x).permute(0, 3, 1, 2)
        t = np.array([3, 777])
        v = theirs.unet(first, torch.tensor(t), text).sample.permute(0, 2, 3, 1)
        module = UNet2DConditionModel(SIZES.unet())
        found = module.apply({"params": ours.params["unet"]}, x, t, np.asarray(text))
        np.testing.assert_allclose(found, v, atol=4e-6)
        images = theirs.vae.decode(first / FACTOR).sample.permute(0, 2, 3, 1)
        np.testing.assert_allclose(ours.decode(x), images, atol=1e-5)
    theirs.set_progress_bar_config(disable=True)
    drawn = theirs(prompts[0], num_inference_steps=2, guidance_scale=3.0, output_type="np").images
    assert drawn.shape == (1, *SIZES.image_shape)
