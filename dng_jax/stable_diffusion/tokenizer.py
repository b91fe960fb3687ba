r"""CLIP's tokenizer: prompts -> tokens int32 [B, L], as transformers' CLIPTokenizer makes them.

    tokens = tokenizer.load("stable-diffusion/tokenizer")(["a photo of a cat"])

    [start, byte pairs of the prompt, end, pad, ..., pad],   L = 77

A prompt is brought to Unicode's form NFC, its white space to single blanks and its letters to lower
case; it is split into words, digits and punctuation, and each of these into byte pairs by the
merges of the vocabulary (Sennrich et al. 2016, arXiv 1508.07909; Radford et al. 2021). Special
tokens are such wherever they stand in a prompt: where pad is "!" (Stable Diffusion 2, the second
encoder of XL), a "!" of the prompt becomes the pad token.

What is read of the folder:

    tokenizer.json, or vocab.json and merges.txt   the vocabulary
    tokenizer_config.json, where there is one      model_max_length, the special tokens
    special_tokens_map.json, where there is one    the special tokens, unless the former lists all
                                                   added tokens

Byte pairs are the work of Hugging Face's `tokenizers`, the optional extra `text`.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax import disk
from dng_jax.errors import InputError, as_whole
from dng_jax.weights.diffusers_files import read_json

REMEDY = "pip install 'dng-jax[text]'"
LENGTH = 77
# Special tokens by their names in the folder's files, with transformers' defaults.
_SPECIAL = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
_KINDS = (None, "CLIPTokenizer", "CLIPTokenizerFast")


@dataclass(frozen=True)
class Tokenizer:
    """Prompts -> tokens; make it with `load`.

    backend: a tokenizers.Tokenizer that neither cuts nor pads
    start, end, pad: numbers of these tokens;  length: L, start and end included
    """

    backend: Any
    start: int
    end: int
    pad: int
    length: int = LENGTH

    def __call__(self, prompts: Sequence[str]) -> np.ndarray:
        """Tokens int32 [B, L] of B prompts.

        A prompt of more than L - 2 tokens is cut, with a warning that quotes what was cut off.
        InputError for anything but a list of texts.
        """
        listed = isinstance(prompts, list | tuple)
        if not listed or not all(isinstance(prompt, str) for prompt in prompts):
            raise InputError(f"prompts must be a list of texts, got {str(prompts)[:80]!r}")
        found = np.full((len(prompts), self.length), self.pad, np.int32)
        for row, prompt in zip(found, prompts, strict=True):
            inner = self._cut(prompt)
            row[: len(inner) + 2] = [self.start, *inner, self.end]
        return found

    def _cut(self, prompt: str) -> list[int]:
        try:
            found = self.backend.encode(prompt, add_special_tokens=False)
        except (TypeError, UnicodeError):  # half of a surrogate pair
            raise InputError(f"the prompt {prompt[:80]!r} is not Unicode: type it anew") from None
        room = self.length - 2
        if len(found.ids) > room:
            warnings.warn(
                f"{room} tokens of a prompt are read, this one has {len(found.ids)}: cut off was"
                f" {prompt[found.offsets[room][0] :]!r}",
                UserWarning,
                stacklevel=3,
            )
        return found.ids[:room]


def load(folder: str | os.PathLike) -> Tokenizer:
    """The tokenizer of a folder.

    InputError without the extra `text`, for missing or damaged files, another kind of tokenizer,
    and special tokens that the vocabulary does not have.
    """
    library, folder = _library(), Path(folder)
    config = _optional(folder / "tokenizer_config.json")
    if (kind := config.get("tokenizer_class")) not in _KINDS:
        raise InputError(f"{folder} holds a {kind}: name the folder of a CLIPTokenizer")
    try:
        vocabulary, merges, added = _vocabulary(library, folder)
        if "added_tokens_decoder" in config:
            added = {int(number): t for number, t in config["added_tokens_decoder"].items()}
        else:
            config |= _optional(folder / "special_tokens_map.json")
        # In the order of their numbers: one that the vocabulary lacks is numbered as it comes.
        listed = [_added_token(library, added[number]) for number in sorted(added)]
        special = {n: _added_token(library, config.get(n) or t) for n, t in _SPECIAL.items()}
        texts = {token.content for token in listed}
        backend = _backend(library, vocabulary, merges, special["unk_token"].content)
        backend.add_tokens([*listed, *(t for t in special.values() if t.content not in texts)])
    except InputError:
        raise
    except Exception as error:  # of whatever the files break first
        reason = " ".join(f"{type(error).__name__} {error}".split())[:150]
        raise InputError(f"{folder} holds no tokenizer ({reason}): copy it again") from error
    for name, token in special.items():
        if token.content not in vocabulary and token.content not in texts:
            raise InputError(
                f"the vocabulary of {folder} lacks '{token.content}', its {name}: copy it again"
            )
    start, end, _, pad = (backend.token_to_id(token.content) for token in special.values())
    return Tokenizer(backend, start, end, pad, _length(config, folder))


def _library() -> Any:
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise InputError(f"prompts need the optional extra 'text' ({error}): {REMEDY}") from error


def _vocabulary(library: Any, folder: Path) -> tuple[dict, list, dict]:
    """Numbers of byte pairs, merges, and the added tokens by their numbers."""
    whole = folder / "tokenizer.json"
    if whole.exists():
        found = read_json(whole)
        model = found["model"]
        if model.get("type", "BPE") != "BPE":
            raise InputError(f"{whole} holds a {model['type']}: name the folder of a CLIPTokenizer")
        pairs = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
        added = {token["id"]: token for token in found.get("added_tokens", ())}
        return model["vocab"], [tuple(pair) for pair in pairs], added
    files = folder / "vocab.json", folder / "merges.txt"
    if not all(file.exists() for file in files):
        raise InputError(
            f"{folder} has neither tokenizer.json nor vocab.json and merges.txt: name the folder of"
            " a tokenizer"
        )
    for file in files:
        disk.check_memory(file, 10 * disk.check_file(file))
    return *library.models.BPE.read_file(*map(str, files)), {}


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _added_token(library: Any, token: Any) -> Any:
    """From a text, or from a dictionary of its text and flags."""
    if isinstance(token, str):
        return library.AddedToken(token, special=True)
    return library.AddedToken(
        token["content"], **{flag: token[flag] for flag in _FLAGS if flag in token}
    )


def _backend(library: Any, vocabulary: dict, merges: list, unknown: str) -> Any:
    found = library.Tokenizer(
        library.models.BPE(
            vocab=vocabulary,
            merges=merges,
            unk_token=unknown,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
        )
    )
    change, split = library.normalizers, library.pre_tokenizers
    blanks = change.Replace(library.Regex(r"\s+"), " ")
    found.normalizer = change.Sequence([change.NFC(), blanks, change.Lowercase()])
    words = split.Split(library.Regex(_WORDS), behavior="removed", invert=True)
    found.pre_tokenizer = split.Sequence([words, split.ByteLevel(add_prefix_space=False)])
    return found


def _length(config: dict[str, Any], folder: Path) -> int:
    # transformers writes 10^30 where it was told nothing.
    found = as_whole(config.get("model_max_length", LENGTH))
    if found is None or found < 3:
        raise InputError(
            f"model_max_length of {folder} must be a whole number from 3, got"
            f" {config['model_max_length']!r}: it is {LENGTH} of a CLIPTokenizer"
        )
    return found if found < 10**9 else LENGTH
