r"""Queries and keys of every layer of a transformer on disk, as its own code computes them.

    encoder = encoders.load("all-MiniLM-L6-v2")         a folder as transformers saves one
    seen = encoder("A text, one sequence.")
    seen.keys [L, H, T, d_head], seen.queries           L layers, H heads, T tokens

Forward hooks on the query and key projections of each layer catch what they give, biases included;
the text is one sequence with the tokenizer's own special tokens, without padding. What stands for
the model is hopfield_jax.attention: softmax(q k^T / sqrt(d_head)) over all keys, which holds for
encoders whose positions are added to the tokens (the families below), and neither for a causal mask
nor for rotary or relative positions.

Weights are read from safetensors files, and nothing is fetched. Needs the optional extra
`transformers`: Hugging Face's transformers and PyTorch.
"""

from __future__ import annotations

import importlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dng_jax.errors import InputError

REMEDY = "pip install 'dng-jax[transformers]'"
# Families by config.json's model_type: names of the projections of queries and of keys.
FAMILIES = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), ("query", "key")),
    "distilbert": ("q_lin", "k_lin"),
}
OFFSET = {"roberta": 2, "xlm-roberta": 2, "camembert": 2}  # positions that no token takes


class Sequence(NamedTuple):
    """tokens: T texts; queries, keys float64 [L, H, T, d_head]; cut: the text had more tokens."""

    tokens: list[str]
    queries: np.ndarray
    keys: np.ndarray
    cut: bool


@dataclass(frozen=True)
class Encoder:
    """Text -> Sequence; make it with `load`. longest: most tokens of a sequence."""

    model: Any
    tokenizer: Any
    layers: int
    heads: int
    head_dim: int
    longest: int

    def __call__(self, text: str, tokens: int | None = None) -> Sequence:
        """Queries and keys of all layers for one text, of which at most so many tokens are read.

        InputError for a text of fewer than 2 tokens.
        """
        torch = importlib.import_module("torch")
        most = self.longest if tokens is None else min(tokens, self.longest)
        whole = self.tokenizer(text, verbose=False)["input_ids"]
        read = self.tokenizer(text, truncation=True, max_length=most, return_tensors="pt")
        numbers = read["input_ids"][0].tolist()
        if len(numbers) < 2:
            raise InputError(f"the text {text[:40]!r} has {len(numbers)} tokens: 2 are needed")
        caught: dict[str, list[np.ndarray]] = {"query": [], "key": []}

        def catch(kind: str):
            def hook(module, inputs, output) -> None:
                flat = output[0].to(torch.float64).numpy()
                split = flat.reshape(len(numbers), self.heads, self.head_dim)
                caught[kind].append(split.transpose(1, 0, 2))

            return hook

        hooks = [
            module.register_forward_hook(catch(kind))
            for kind, modules in zip(caught, _projections(self.model), strict=True)
            for module in modules
        ]
        try:
            with torch.inference_mode():
                self.model(**read)
        finally:
            for hook in hooks:
                hook.remove()
        queries, keys = (np.stack(layers) for layers in caught.values())
        names = self.tokenizer.convert_ids_to_tokens(numbers)
        return Sequence(names, queries, keys, len(whole) > len(numbers))


def load(folder: str | os.PathLike) -> Encoder:
    """The encoder of a folder with config.json, *.safetensors and a tokenizer's files.

    InputError without the extra `transformers`, for a folder that holds no such model, and for a
    family other than those of FAMILIES.
    """
    folder, library = Path(folder), _library()
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no config.json: name the folder of a transformer")
    try:
        config = library.AutoConfig.from_pretrained(folder, local_files_only=True)
        _must_be_known(folder, config)
        model = library.AutoModel.from_pretrained(
            folder, config=config, local_files_only=True, use_safetensors=True
        ).eval()
        tokenizer = library.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except InputError:
        raise
    except Exception as error:  # of whatever the files break first
        reason = " ".join(f"{type(error).__name__} {error}".split())[:150]
        raise InputError(
            f"{folder} holds no whole transformer ({reason}): copy it again"
        ) from error
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    width = _projections(model)[1][0].out_features
    longest = config.max_position_embeddings - OFFSET.get(config.model_type, 0)
    longest = min(longest, tokenizer.model_max_length)
    return Encoder(model, tokenizer, layers, heads, width // heads, longest)


def scale(encoder: Encoder) -> float:
    """Inverse temperature of its softmax, 1/sqrt(d_head)."""
    return 1 / math.sqrt(encoder.head_dim)


def _must_be_known(folder: Path, config: Any) -> None:
    kind = config.model_type
    if kind not in FAMILIES:
        raise InputError(
            f"{folder} holds a model of type {kind}, whose positions or mask are not looked into:"
            f" name one of type {', '.join(FAMILIES)}, or one layer's weights with --file"
        )
    if getattr(config, "is_decoder", False):
        raise InputError(f"{folder} holds a decoder, whose causal mask is not looked into")
    if (positions := getattr(config, "position_embedding_type", "absolute")) != "absolute":
        raise InputError(f"{folder} has positions of type {positions}, which change its logits")


def _projections(model: Any) -> tuple[list[Any], list[Any]]:
    # Those of queries and those of keys, by layer: modules come in the order of their making.
    names = FAMILIES[model.config.model_type]
    modules = [(name.rpartition(".")[2], module) for name, module in model.named_modules()]
    queries, keys = ([m for leaf, m in modules if leaf == name] for name in names)
    return queries, keys


def _library() -> Any:
    try:
        importlib.import_module("torch")
        return importlib.import_module("transformers")
    except ImportError as error:
        raise InputError(
            f"a whole model needs the optional extra 'transformers' ({error}): {REMEDY}"
        ) from error
