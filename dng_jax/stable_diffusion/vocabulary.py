r"""A vocabulary of few words in the files of CLIP's tokenizer (tokenizer.py reads them).

    vocab.json               every byte, the same at the end of a word, what is merged, two specials
    merges.txt               pairs in the order of their ranks
    tokenizer_config.json    the most tokens of a prompt, the special tokens

Each of the words becomes one token; any other text is spelled by bytes, so that no prompt is
refused. Byte pairs are merged as Sennrich et al. 2016 (arXiv 1508.07909) do, word after word: the
pairs of the words before are merged first, then the first pair that is left becomes the next rank.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dng_jax import disk
from dng_jax.stable_diffusion import tokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"


def merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs, by rank, that make one token of each word; words: of ASCII letters, lower case."""
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        symbols = [*word[:-1], word[-1] + END_OF_WORD]
        while True:
            symbols = _merged(symbols, ranks)
            if len(symbols) == 1:
                break
            ranks[symbols[0], symbols[1]] = len(ranks)
    return list(ranks)


def tokens(words: Sequence[str]) -> list[str]:
    """The tokens in the order of their numbers; the last two start and end a prompt."""
    letters = byte_symbols()
    ends = [letter + END_OF_WORD for letter in letters]
    return [*letters, *ends, *map("".join, merges(words)), START, END]


def write(folder: str | os.PathLike, words: Sequence[str], length: int) -> None:
    """Writes the files; length: the most tokens of a prompt, start and end included."""
    vocabulary = {token: number for number, token in enumerate(tokens(words))}
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, **special}
    pairs = "".join(f"{a} {b}\n" for a, b in merges(words))
    for name, text in (
        ("vocab.json", json.dumps(vocabulary, ensure_ascii=False)),
        ("merges.txt", f"#version: 0.2\n{pairs}"),
        ("tokenizer_config.json", json.dumps(config, indent=2)),
        ("special_tokens_map.json", json.dumps(special, indent=2)),
    ):
        with disk.whole(Path(folder) / name) as part:
            part.write_text(text, encoding="utf-8")


def tokenizer_of(words: Sequence[str], length: int) -> tokenizer.Tokenizer:
    """The tokenizer of what `write` writes; InputError without the extra `text`."""
    with tempfile.TemporaryDirectory() as folder:
        write(folder, words, length)
        return tokenizer.load(folder)


def byte_symbols() -> list[str]:
    """The 256 letters that stand for bytes, in the order of CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*map(chr, printable), *(chr(256 + i) for i in range(256 - len(printable)))]


def _merged(symbols: Sequence[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """The symbols of a word after all merges, the lowest rank first."""
    symbols = list(symbols)
    while True:
        pairs = [*itertools.pairwise(symbols)]
        known = [pair for pair in pairs if pair in ranks]
        if not known:
            return symbols
        i = pairs.index(min(known, key=ranks.__getitem__))
        symbols[i : i + 2] = ["".join(pairs[i])]
