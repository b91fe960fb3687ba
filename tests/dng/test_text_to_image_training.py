"""What a text-to-image model is trained by: captions, a vocabulary, losses, quick convolutions."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dng_jax import data, training
from dng_jax.errors import InputError
from dng_jax.nets import convolution
from dng_jax.sampling import root_key
from dng_jax.scenes import captions, images, prompts
from dng_jax.stable_diffusion import schedule as schedules
from dng_jax.stable_diffusion import vocabulary
from dng_jax.stable_diffusion.sizes import Sizes
from dng_jax.training import autoencoder, text_to_image

pytestmark = pytest.mark.usefixtures("quick_compilation")

KNOWN = captions.captions(2)
LEVELS = schedules.from_config(Sizes().scheduler()).levels
TINY = Sizes(
    channels=(4, 8), groups=2, heads=2, autoencoder_channels=(4, 4), text_width=4, text_layers=1
)


# --------------------------------------------------------------------------- captions


def test_captions_say_what_scenes_they_allow_and_leave_none_out():
    assert KNOWN.texts[0] == ""
    assert KNOWN.probability[0] == pytest.approx(0.1)
    assert KNOWN.probability.sum() == pytest.approx(1)
    counts = np.array([len(prompts.phrases(text)) for text in KNOWN.texts])
    for number in (1, 2):
        assert KNOWN.probability[counts == number].sum() == pytest.approx(0.45)
    for text, allowed in zip(KNOWN.texts, KNOWN.allowed, strict=True):
        np.testing.assert_array_equal(allowed, prompts.tuples(text, 2).reshape(-1))
        assert allowed.any()
    for y in ((4, 4), (3, 8), (9, 1)):
        assert set(prompts.captions(y)) <= set(KNOWN.texts)
    for wrong in ({"empty": 1.0}, {"empty": -0.1}, {"most": 0}):
        with pytest.raises(InputError, match="share of empty captions"):
            captions.captions(2, **wrong)


def test_what_is_drawn_for_a_caption_is_uniform_over_what_it_allows():
    _, labels = images.scenes(2, 3000, root_key(0))
    rows = jnp.asarray(text_to_image.rows_by_kind(labels))
    few = [KNOWN.texts.index(text) for text in ("", "even digits", "a four")]
    kept = text_to_image.Prompts(np.zeros((3, 1)), KNOWN.allowed[few], np.array([0.2, 0.5, 0.3]))
    which, chosen = jax.jit(lambda key: text_to_image.draw(key, kept, rows, 4_000))(root_key(1))
    which, y = np.asarray(which), labels[np.asarray(chosen)]
    for number, share in enumerate(kept.probability):
        assert np.mean(which == number) == pytest.approx(share, abs=0.04)
        counts = np.bincount(y[which == number] @ [10, 1], minlength=100)
        allowed = kept.allowed[number]
        assert not counts[~allowed].any()
        mean = counts.sum() / allowed.sum()
        chi2 = np.sum((counts[allowed] - mean) ** 2 / mean)
        assert chi2 < allowed.sum() + 5 * (2 * allowed.sum()) ** 0.5


def test_a_kind_without_scenes_is_refused():
    with pytest.raises(InputError, match=r"of 100 label tuples have no scene among 50: take more"):
        text_to_image.rows_by_kind(images.scenes(2, 50, root_key(0))[1])


# --------------------------------------------------------------------------- the vocabulary


def test_every_word_becomes_one_token_whatever_was_merged_before():
    words = ("even", "seven", "eve", "nine", "ninety", "a", "an")
    known = vocabulary.tokens(words)
    assert {f"{word}</w>" for word in words} <= set(known)
    assert len(known) == len(set(known)) == 2 * 256 + len(vocabulary.merges(words)) + 2
    assert known[-2:] == [vocabulary.START, vocabulary.END]


def test_the_tokenizer_of_captions_has_a_token_for_every_word():
    pytest.importorskip("tokenizers")
    found = vocabulary.tokenizer_of(captions.words(), 16)
    size = len(vocabulary.tokens(captions.words()))
    assert (found.start, found.end, found.pad, found.length) == (size - 2, size - 1, size - 1, 16)
    for text in KNOWN.texts:
        (row,) = found([text])
        inner = row[(row != found.start) & (row != found.end)]
        assert len(inner) == len(text.replace(",", " ,").split()), text
    assert (found(["Äpfel"])[0] < 512).sum() == 6  # by bytes


# --------------------------------------------------------------------------- losses


class Perfect:
    """Knows the clean latents z: predicts v or eps without an error, but for an offset."""

    def __init__(self, kind: str) -> None:
        self.config = SimpleNamespace(parameterisation=kind)

    def apply(self, variables, x, t, tokens):
        z, offset = variables["params"]
        alpha, sigma = (jnp.asarray(v, jnp.float32)[t][:, None, None, None] for v in LEVELS)
        eps = (x - alpha * z) / sigma
        return offset + (eps if self.config.parameterisation == "eps" else alpha * eps - sigma * z)


@pytest.mark.parametrize("kind", ["v", "eps"])
def test_the_loss_is_that_of_the_prediction_by_levels(kind):
    z = jax.random.normal(root_key(3), (6, 2, 2, 4))
    t = jnp.array([100, 200, 450, 500, 900, 950])
    tokens = jnp.zeros((6, 16), jnp.int32)

    def loss(offset):
        return text_to_image.text_to_image_loss(
            Perfect(kind), (z, offset), z, tokens, t, LEVELS, root_key(4)
        )

    assert loss(0.0)[0] < 1e-5
    offset = jnp.arange(1.0, 7.0)[:, None, None, None]
    total, parts = loss(offset)
    assert total == pytest.approx(91 / 6, rel=1e-4)
    for name, mean in (("loss_high", 2.5), ("loss_middle", 12.5), ("loss_low", 30.5)):
        assert parts[name] == pytest.approx(mean, rel=1e-3)


class Doubling:
    """An autoencoder of known latents, mean 2 x and a small deviation."""

    def apply(self, variables, x, method):
        if method == "decode":
            return x / 2 + variables["params"]
        return 2 * x, jnp.full(x.shape, -20.0)


def test_the_autoencoder_is_measured_and_its_latents_are_scaled():
    pixels = data.to_pixels(images.scenes(2, 700, root_key(0))[0])
    x = data.to_unit(pixels)
    loss, parts = autoencoder.autoencoder_loss(Doubling(), 0.1, jnp.asarray(x), 1e-3, root_key(1))
    assert parts["rms"] == pytest.approx(0.1, rel=1e-3)
    divergence = 0.5 * np.mean(4 * x**2 + np.exp(-20) - 1 + 20)
    assert parts["kl"] == pytest.approx(divergence, rel=1e-5)
    assert loss == pytest.approx(float(parts["rms"]) ** 2 + 1e-3 * divergence, rel=1e-5)
    assert autoencoder.reconstruction_error(Doubling(), 0.1, pixels) == pytest.approx(0.1, rel=1e-4)
    latents, factor = autoencoder.encode(Doubling(), 0.0, pixels)
    assert factor == pytest.approx(1 / (2 * x.std()), rel=1e-4)
    np.testing.assert_allclose(latents, 2 * x * factor, rtol=1e-6)


def test_the_fresh_network_predicts_zero_and_its_sizes_are_those_told():
    module = text_to_image.TextToImage(TINY, 530)
    optimiser = training.make_optimiser(2, 1e-3, 0)
    state = jax.eval_shape(lambda: training.init_state(module, optimiser, root_key(0)))
    assert set(state.params) == {"text_encoder", "unet"}
    filled = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), state.params)
    calm = text_to_image.calmed(state._replace(params=filled))
    out = calm.params["unet"]["conv_out"]
    assert not out["kernel"].any()
    assert not out["bias"].any()
    resnet = calm.params["unet"]["mid_block"]["resnets.0"]
    assert not resnet["conv2"]["kernel"].any()
    assert resnet["conv1"]["kernel"].all()
    assert calm.ema is calm.params
    assert calm.params["text_encoder"] is filled["text_encoder"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"image_shape": (8, 6, 1)}, "sides that are multiples of 4"),
        ({"parameterisation": "x0"}, "unknown parameterisation"),
        ({"text_width": 5}, "text_width 5 does not divide by heads 4"),
        ({"channels": (48, 50)}, "norm_num_groups 8 does not divide 50 channels"),
        ({"text_length": 2}, "text_length must be"),
    ],
)
def test_sizes_that_no_network_has_are_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        Sizes(**wrong)


# --------------------------------------------------------------------------- convolutions


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [((1, 1), (1, 1)), ((0, 1), (0, 1))])
@pytest.mark.parametrize("shape", [(2, 4), (4, 8)])
def test_small_images_are_convolved_as_large_ones_are(stride, padding, shape):
    x = jax.random.normal(root_key(5), (3, *shape, 5))
    kernel = jax.random.normal(root_key(6), (3, 3, 5, 7))
    dims = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}

    def both(way):
        def f(x, kernel):
            return way(x, kernel, (stride, stride), padding, **dims)

        y, pull = jax.vjp(f, x, kernel)
        return y, pull(jnp.cos(y))

    found, wanted = both(convolution.conv_general_dilated), both(jax.lax.conv_general_dilated)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-4), found, wanted)
    text = str(jax.make_jaxpr(lambda x: convolution.conv_general_dilated(
        x, kernel, (stride, stride), padding, **dims))(x))  # fmt: skip
    assert ("dot_general" in text) == (shape == (2, 4))
