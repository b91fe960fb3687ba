"""Text-to-image parts against PyTorch's own, where transformers and diffusers are installed.

pip install torch==2.13.0 diffusers==0.42.1 transformers==5.24.0 tokenizers==0.23.3
pip install --no-deps open-clip-torch==3.3.0        for the published vocabulary, never imported
"""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import random
import unicodedata

import jax
import numpy as np
import pytest

from dng_jax import steps
from dng_jax.stable_diffusion import clip_config, clip_text, schedule, tokenizer
from tests import text_reference as reference
from tests.dng import test_clip_text as clip

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ENCODERS = reference.ENCODERS | {
    "wide": reference.ENCODERS["exact"]
    | {"hidden_size": 96, "intermediate_size": 384, "num_attention_heads": 3},
    "deep": reference.ENCODERS["quick"] | {"num_hidden_layers": 7, "max_position_embeddings": 77},
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # two are five times as slow where a core is busy
    yield
    torch.set_num_threads(before)


# --------------------------------------------------------------------------- the text encoder


@pytest.mark.parametrize("name", ENCODERS)
def test_the_encoder_says_what_it_does_in_transformers(name):
    config = ENCODERS[name]
    tokens = np.random.RandomState(3).randint(0, 58, (3, config["max_position_embeddings"]))
    tokens[:, [0, 6]] = 60, 59
    tokens[:2, 7] = 61
    theirs = reference.encode(reference.encoder(config), tokens)
    ours = reference.encode_here(config, tokens)
    for field, value in theirs.items():
        error = np.abs(getattr(ours, field) - value).max()
        print(f"{name} {field}: {error:.1e} of {np.abs(value).max():.1f}")
        assert error <= 4e-6


@pytest.mark.parametrize("name", reference.ENCODERS)
def test_what_was_recorded_of_the_encoder_is_what_it_says(name):
    record = reference.golden("clip_text")
    for field, value in reference.encode(reference.encoder(ENCODERS[name])).items():
        np.testing.assert_allclose(record[f"{name}.{field}"], value, atol=1e-6)


@pytest.mark.parametrize("name", clip.FULL)
@pytest.mark.parametrize("projected", [False, True])
def test_tensors_are_those_of_transformers(name, projected):
    kind = "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
    stored = clip.OLD | clip.FULL[name][0]
    with torch.device("meta"):
        model = getattr(transformers, kind)(transformers.CLIPTextConfig(**stored))
    theirs = {n: tuple(value.shape) for n, value in model.state_dict().items()}
    own = clip_text.tensor_names(theirs)
    ours = reference.torch_shapes(getattr(clip_text, kind)(clip_config.text_config(stored)))
    assert {own[n]: shape for n, shape in theirs.items()} == ours
    print(f"{name} {kind}: {len(ours)} tensors")


@pytest.mark.parametrize("name", ENCODERS)
def test_configurations_are_read_as_transformers_writes_them(name):
    theirs = transformers.CLIPTextConfig(**ENCODERS[name])
    own = clip_config.text_config(ENCODERS[name])
    for stored in (theirs.to_dict(), theirs.to_diff_dict(), json.loads(theirs.to_json_string())):
        assert clip_config.text_config(stored) == own
    assert clip_config.text_config(transformers.CLIPTextConfig().to_dict()) == (
        clip_config.CLIPTextConfig()
    )


# --------------------------------------------------------------------------- the tokenizer


@pytest.fixture(scope="module")
def merges():
    """Those of the published vocabulary, 49,408 tokens, out of a package that is not imported."""
    try:
        package = importlib.metadata.distribution("open-clip-torch")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("open-clip-torch is not installed")
    with gzip.open(package.locate_file("open_clip/bpe_simple_vocab_16e6.txt.gz")) as file:
        lines = file.read().decode().split("\n")
    found = [tuple(line.split()) for line in lines[1 : 49_408 - 512 - 2 + 1]]
    assert len(reference.vocabulary(found)) == 49_408
    return found


def _prompts(count: int, words: list[str]) -> list[str]:
    """Random prompts: words of the vocabulary, other scripts, emoji, white space, specials."""
    rng = random.Random(0)
    letters = [chr(c) for c in range(0x3000) if unicodedata.category(chr(c))[0] in "LMNPSZ"]
    rare = [chr(c) for c in (*range(0x4E00, 0x9FFF, 7), *range(0xAC00, 0xD7A3, 11),
                             *range(0x1F300, 0x1FAFF), 0x200D, 0xFE0F, 0, 9, 10, 0x85)]  # fmt: skip
    special = [reference.START, reference.END, reference.END.upper(), "!", "'s", "'RE", "...", "<|"]
    pick = {
        0: lambda: rng.choice(words),
        1: lambda: "".join(rng.choices(letters, k=rng.randint(1, 6))),
        2: lambda: "".join(rng.choices(rare, k=rng.randint(1, 4))),
        3: lambda: rng.choice(special),
        4: lambda: str(rng.randint(0, 99_999)),
        5: lambda: rng.choice(words).upper() + rng.choice(",.;:!?)(-/"),
    }
    gaps = [" ", "", "  ", "\t", "\n", "\u00a0", "\u3000", "\u200b"]

    def prompt() -> str:
        kinds = rng.choices(range(6), [8, 2, 2, 1, 1, 2], k=rng.choice([0, 1, 3, 8, 20, 60, 90]))
        return "".join(pick[k]() + rng.choices(gaps, [9, 2, 1, 1, 1, 1, 1, 1])[0] for k in kinds)

    return [prompt() for _ in range(count)]


@pytest.mark.filterwarnings("ignore:75 tokens of a prompt are read")
@pytest.mark.parametrize("layout", ["two files", "one file"])
@pytest.mark.parametrize("pad", reference.PADS)
def test_tokens_are_those_of_transformers(merges, tmp_path, pad, layout):
    folder = reference.write_tokenizer(tmp_path / "two", reference.PADS[pad], merges)
    if layout == "one file":
        transformers.CLIPTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "one")
        folder = tmp_path / "one"
        assert not (folder / "vocab.json").exists()
    words = [token.removesuffix("</w>") for token in reference.vocabulary(merges)]
    prompts = _prompts(10_000, words)
    found = tokenizer.load(folder)
    ours = found(prompts)
    np.testing.assert_array_equal(ours, reference.tokens_of_transformers(folder, prompts))
    full = (ours[:, -2] != found.pad).mean()
    plain = np.mean([prompt.isascii() for prompt in prompts])
    print(f"{pad}, {layout}: {len(ours)} prompts, {plain:.0%} ASCII, {full:.0%} of 77 tokens")
    assert plain < 0.6
    assert 0.15 < full < 0.6


def test_what_was_recorded_of_the_tokenizer_is_what_it_says(tmp_path):
    for name, pad in reference.PADS.items():
        folder = reference.write_tokenizer(tmp_path / name, pad)
        theirs = reference.tokens_of_transformers(folder, reference.PROMPTS)
        np.testing.assert_array_equal(reference.golden("clip_tokens")[name], theirs)


def test_added_tokens_are_those_of_transformers(tmp_path):
    folder = reference.write_tokenizer(tmp_path, **reference.ADDED)
    prompts = [reference.WITH_ADDED, "<cat>!<dog> !", reference.END.upper()]
    theirs = reference.tokens_of_transformers(folder, prompts)
    np.testing.assert_array_equal(tokenizer.load(folder)(prompts), theirs)


# --------------------------------------------------------------------------- the schedule


@pytest.mark.parametrize("kind", ["DDPMScheduler", "DDIMScheduler"])
@pytest.mark.parametrize("spacing", reference.SPACINGS)
def test_timesteps_are_those_of_diffusers(kind, spacing):
    diffusers = pytest.importorskip("diffusers")
    found = schedule.from_config(reference.SCHEDULER | {"timestep_spacing": spacing})
    for count in reference.STEPS:
        if (spacing, count) != ("leading", 1000):
            theirs = reference.grid(getattr(diffusers, kind), spacing, count)
            ours = jax.jit(jax.vmap(found.level))(found.table(count))
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_levels_are_those_of_diffusers(betas):
    diffusers = pytest.importorskip("diffusers")
    stored = reference.SCHEDULER | {"beta_schedule": betas}
    theirs = diffusers.DDPMScheduler.from_config(stored).alphas_cumprod.numpy()
    ours = schedule.from_config(stored).levels.alpha ** 2
    np.testing.assert_allclose(ours, theirs, rtol=3e-5, atol=2e-6)


def test_the_kernel_is_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    config = reference.SCHEDULER | {"_class_name": "DDIMScheduler"}
    theirs = diffusers.DDIMScheduler.from_config(config)
    theirs.set_timesteps(20)
    table = schedule.from_config(reference.SCHEDULER).table(20, steps.ddpm)
    unit = torch.eye(3, dtype=torch.float64)  # x, eps and z, one at a time
    for i, t in enumerate(theirs.timesteps[:-1]):  # DDIM ends at the first level
        x, eps, z = unit
        step = theirs.step(eps, int(t), x, eta=1.0, variance_noise=z).prev_sample
        ours = [table.c_x[i], table.c_eps[i], table.std[i]]
        np.testing.assert_allclose(ours, step.numpy(), atol=2e-6)
