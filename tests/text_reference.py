"""What transformers and diffusers make of small inputs: recorded, so that tests need neither.

    python -m tests.text_reference     writes the files of tests/golden anew, where torch,
                                       transformers, diffusers and tokenizers are installed (made by
                                       2.13.0, 5.24.0, 0.42.1 and 0.23.3)

clip_text.npz        NAME.FIELD: what CLIPTextModelWithProjection says of TOKENS in float64, as
                     float32, for each of ENCODERS, its weights by `weight`
clip_tokens.npz      NAME: tokens of PROMPTS by CLIPTokenizer, its vocabulary that of `vocabulary`,
                     for each of PADS
diffusers_grids.npz  SPACING: timesteps of DDPMScheduler with SCHEDULER, for all of STEPS one after
                     the other
"""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dng_jax.stable_diffusion import clip_config, clip_text

GOLDEN = Path(__file__).with_name("golden")
FIELDS = ("last", "penultimate", "pooled", "projected")

# --------------------------------------------------------------------------- the text encoder

_SMALL = {
    "model_type": "clip_text_model",
    "vocab_size": 62,
    "hidden_size": 16,
    "intermediate_size": 24,
    "projection_dim": 6,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 9,
    "layer_norm_eps": 1e-5,
}
ENCODERS = {
    "quick": _SMALL | {"hidden_act": "quick_gelu", "eos_token_id": 2},
    "exact": _SMALL | {"hidden_act": "gelu", "eos_token_id": 59},
}
# 60 starts a prompt and 61 ends it in the first rule (the largest token), 59 in the second. Of the
# first prompt the rules and the mistake of looking for a 2 find three positions.
TOKENS = np.array([[60, 2, 17, 59, 4, 61, 61, 61, 61], [60, 33, 5, 61, 59, 0, 0, 0, 0]], np.int32)
PROJECTED = clip_text.CLIPTextModelWithProjection


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor as PyTorch has it: random numbers of its name, vectors near 1 for scales."""
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) == 1:
        return (0.1 * draw + ("norm" in name and name.endswith("weight"))).astype(np.float32)
    return (draw * (1.0 if "embedding" in name else shape[-1] ** -0.5)).astype(np.float32)


def torch_shapes(module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a module's parameters in PyTorch."""
    return {name: _torch_shape(path, shape) for path, name, shape in _parameters(module)}


def parameters(module) -> dict:
    """The module's parameters, each the `weight` of its name."""
    found = {}
    for path, name, shape in _parameters(module):
        value = weight(name, _torch_shape(path, shape))
        found[path] = value.T if path[-1] == "kernel" else value
    return unflatten_dict(found)


def encode_here(config: dict, tokens=TOKENS, dtype=None) -> clip_text.TextEncoding:
    """What the encoder of this library says of the tokens."""
    run, params = _built(clip_config.text_config(config), dtype)
    return run({"params": params}, tokens)


@functools.cache
def _built(config: clip_config.CLIPTextConfig, dtype):
    module = PROJECTED(config, dtype)
    return jax.jit(module.apply), parameters(module)


def encode(model, tokens=TOKENS) -> dict[str, np.ndarray]:
    """What a model of transformers says of them in float64."""
    import torch

    with torch.no_grad():
        inner = model.eval().double().text_model
        ids = torch.tensor(tokens, dtype=torch.int64)
        said = inner(ids, output_hidden_states=True)
        found = {
            "last": said.last_hidden_state,
            "penultimate": said.hidden_states[-2],
            "pooled": said.pooler_output,
            "projected": model(ids).text_embeds,
        }
    return {name: value.numpy().astype(np.float32) for name, value in found.items()}


def encoder(config: dict):
    """A CLIPTextModelWithProjection of transformers with `weight`."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    found = CLIPTextModelWithProjection(CLIPTextConfig(**config))
    kept = {name: tuple(value.shape) for name, value in found.state_dict().items()}
    found.load_state_dict({name: torch.tensor(weight(name, s)) for name, s in kept.items()})
    return found


def _parameters(module):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *module.config.example())["params"]
    for path, leaf in flatten_dict(shapes).items():
        last = "bias" if path[-1] == "bias" else "weight"
        yield path, ".".join([*path[:-1], last]), leaf.shape


def _torch_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[::-1] if path[-1] == "kernel" else shape


# --------------------------------------------------------------------------- the tokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = [
    ("c", "a"), ("ca", "t</w>"), ("t", "h"), ("th", "e</w>"), ("e", "r</w>"), ("Ã", "©"),
    ("p", "h"), ("ph", "o"), ("pho", "t"), ("phot", "o</w>"), ("Ð", "º"), ("!", "!</w>"),
]  # fmt: skip
PADS = {"end": END, "mark": "!"}
# A tokenizer_config.json that lists added tokens: "<dog>" is looked for in the prompt as it is
# typed, "<cat>" in lower case; the order is not that of their numbers.
_BEHIND = 2 * 256 + len(MERGES) + 2
ADDED = {
    "added_tokens_decoder": {
        str(_BEHIND + 1): {"content": "<dog>", "normalized": False, "special": False},
        str(_BEHIND): {"content": "<cat>", "normalized": True, "special": False},
    },
    "pad_token": "!",
}
WITH_ADDED = "a <dog><cat> <DOG> <CAT>"
LONG = "cat, " * 40
PROMPTS = [
    "",
    "The cat",
    "a photo of the CATER\u2028\t at 12.5 cm!! ok!",
    f"cat{END}café {START} it's",
    "cafe\u0301 кот 猫🐈 ﬁ Ǆ İ '’ve\x00",
    " !!!  !",
    LONG,
]


def byte_symbols() -> list[str]:
    """The 256 letters that stand for bytes, in the order of CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*map(chr, printable), *(chr(256 + i) for i in range(256 - len(printable)))]


def vocabulary(merges=MERGES) -> dict[str, int]:
    """CLIP's: the letters, the same at the end of a word, what is merged, start and end."""
    letters = byte_symbols()
    tokens = [*letters, *(f"{c}</w>" for c in letters), *map("".join, merges), START, END]
    return {token: number for number, token in enumerate(tokens)}


def write_tokenizer(folder: Path, pad: str = END, merges=MERGES, **config) -> Path:
    """A folder as those of Stable Diffusion: vocab.json, merges.txt and what names the pad."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = "".join(f"{a} {b}\n" for a, b in merges)
    (folder / "vocab.json").write_text(json.dumps(vocabulary(merges)), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + pairs, encoding="utf-8")
    flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    special = {f"{n}_token": {"content": t} | flags for n, t in (("bos", START), ("eos", END))}
    usual = {"model_max_length": 77, "pad_token": END, "tokenizer_class": "CLIPTokenizer"}
    for name, held in (
        ("special_tokens_map.json", special | {"pad_token": pad, "unk_token": END}),
        ("tokenizer_config.json", usual | config),
    ):
        (folder / name).write_text(json.dumps(held), encoding="utf-8")
    return folder


def tokens_of_transformers(folder: Path, prompts: list[str]) -> np.ndarray:
    """Tokens int32 [B, 77] of the CLIPTokenizer in a folder."""
    from transformers import CLIPTokenizer

    found = CLIPTokenizer.from_pretrained(folder)
    said = found(prompts, padding="max_length", max_length=77, truncation=True)
    return np.array(said["input_ids"], np.int32)


# --------------------------------------------------------------------------- the schedule

# scheduler_config.json of Stable Diffusion 1.5.
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
SPACINGS = ("leading", "trailing", "linspace")
STEPS = (2, 5, 10, 20, 30, 35, 50, 75, 100, 999, 1000)


def grid(kind, spacing: str, steps: int) -> np.ndarray:
    """Timesteps of a scheduler of diffusers, noisiest first."""
    found = kind.from_config(SCHEDULER | {"_class_name": kind.__name__}, timestep_spacing=spacing)
    found.set_timesteps(steps)
    return found.timesteps.numpy()


def golden(name: str) -> dict[str, np.ndarray]:
    """The arrays of a file of tests/golden."""
    with np.load(GOLDEN / f"{name}.npz") as record:
        return dict(record)


def _record(folder: Callable[[str], Path]) -> None:
    from diffusers import DDPMScheduler

    encodings = {
        f"{name}.{field}": value
        for name, config in ENCODERS.items()
        for field, value in encode(encoder(config)).items()
    }
    tokens = {
        name: tokens_of_transformers(write_tokenizer(folder(name), pad), PROMPTS).astype(np.int16)
        for name, pad in PADS.items()
    }
    grids = {
        spacing: np.concatenate([grid(DDPMScheduler, spacing, n) for n in STEPS]).astype(np.int16)
        for spacing in SPACINGS
    }
    GOLDEN.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN / "clip_text.npz", **encodings)
    np.savez_compressed(GOLDEN / "clip_tokens.npz", **tokens)
    np.savez_compressed(GOLDEN / "diffusers_grids.npz", **grids)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        _record(lambda name: Path(scratch) / name)
