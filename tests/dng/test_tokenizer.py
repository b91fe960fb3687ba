"""CLIP's tokenizer with a vocabulary of our own: tokens of transformers, and damaged folders."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from dng_jax.errors import InputError
from dng_jax.stable_diffusion import tokenizer
from tests import text_reference as reference

END, LONG, PROMPTS = reference.END, reference.LONG, reference.PROMPTS
NUMBER = reference.vocabulary()


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("tokenizers")


@pytest.fixture
def folder(library, tmp_path):
    return reference.write_tokenizer(tmp_path / "tokenizer")


@pytest.mark.filterwarnings("ignore:75 tokens of a prompt are read")
@pytest.mark.parametrize("pad", reference.PADS)
def test_tokens_are_those_of_transformers(library, tmp_path, pad):
    found = tokenizer.load(reference.write_tokenizer(tmp_path, reference.PADS[pad]))
    tokens = found(PROMPTS)
    assert (tokens.dtype, tokens.shape) == (np.int32, (len(PROMPTS), 77))
    np.testing.assert_array_equal(tokens, reference.golden("clip_tokens")[pad])


def test_a_prompt_that_is_too_long_is_cut_and_what_was_cut_is_quoted(folder):
    found = tokenizer.load(folder)
    with pytest.warns(UserWarning, match="75 tokens of a prompt are read, this one has 80") as said:
        (tokens,) = found([LONG])
    assert (tokens[0], tokens[-1]) == (NUMBER[reference.START], NUMBER[END])
    # 37 cats with their commas and one cat more.
    assert str(said[0].message).endswith(f"cut off was {LONG[37 * 5 + 3 :]!r}")
    assert said[0].filename == __file__
    reference.write_tokenizer(folder, model_max_length=5)
    with pytest.warns(UserWarning, match="cut off was 'É the'"):
        (tokens,) = tokenizer.load(folder)(["caFÉ the"])
    assert tokens.tolist() == [NUMBER[t] for t in (reference.START, "ca", "f", "Ã", END)]


def test_a_prompt_that_fits_is_not_cut(folder, recwarn):
    (tokens,) = tokenizer.load(folder)(["cat " * 75])
    assert tokens.tolist() == [NUMBER[t] for t in (reference.START, *["cat</w>"] * 75, END)]
    assert not recwarn


def _tokenizer_json(folder, **changes):
    """The folder as transformers 5 writes it: one file, its merges as pairs."""
    vocabulary, merges = json.loads((folder / "vocab.json").read_text()), reference.MERGES
    token = {"single_word": False, "lstrip": False, "rstrip": False, "special": True}
    added = [
        {"id": number, "content": text, "normalized": False} | token
        for text, number in {"!": 0, END: NUMBER[END]}.items()
    ]
    model = {"type": "BPE", "vocab": vocabulary, "merges": [list(pair) for pair in merges]}
    held = {"version": "1.0", "added_tokens": added, "model": model | changes}
    (folder / "tokenizer.json").write_text(json.dumps(held))
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        (folder / name).unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "!"}))


@pytest.mark.filterwarnings("ignore:75 tokens of a prompt are read")
@pytest.mark.parametrize("spelt", ["pairs", "texts"])
def test_one_file_says_the_same_as_two(folder, spelt):
    texts = {"merges": [" ".join(pair) for pair in reference.MERGES]} if spelt == "texts" else {}
    _tokenizer_json(folder, **texts)
    tokens = tokenizer.load(folder)(PROMPTS)
    np.testing.assert_array_equal(tokens, reference.golden("clip_tokens")["mark"])


def test_tokens_that_were_added_are_numbered_behind_the_others(folder):
    found = tokenizer.load(reference.write_tokenizer(folder, **reference.ADDED))
    (tokens,) = found([reference.WITH_ADDED])
    cat, dog = len(NUMBER), len(NUMBER) + 1
    typed = [NUMBER[t] for t in ("<</w>", "d", "o", "g</w>", "></w>")]
    assert tokens[1:11].tolist() == [NUMBER["a</w>"], dog, cat, *typed, cat, NUMBER[END]]
    assert tokens[-1] == found.pad == 0  # the map, which says otherwise, is not read then


def test_without_the_library_it_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match=r"optional extra 'text' .*pip install 'dng-jax\[text\]'"):
        tokenizer.load(tmp_path)


BROKEN = {
    "empty": (None, None, "has neither tokenizer.json nor vocab.json and merges.txt"),
    "no merges": ("merges.txt", None, "has neither"),
    "half a file": ("vocab.json", '{"!": 0', "holds no tokenizer"),
    "other merges": ("merges.txt", "#version: 0.2\nx y z\n", "holds no tokenizer"),
    "no such token": ("merges.txt", "#version: 0.2\nq x\n", "holds no tokenizer .*qx"),
    "no end": ("vocab.json", json.dumps(dict(list(NUMBER.items())[:-1])), "lacks '.*', its eos_to"),
    "another kind": ("tokenizer_config.json", '{"tokenizer_class": "T5Tokenizer"}', "a T5Tokeni"),
    "another file": ("tokenizer.json", '{"model": {"type": "Unigram"}}', "holds a Unigram"),
    "no model": ("tokenizer.json", "{}", "holds no tokenizer .*KeyError"),
    "a list": ("tokenizer_config.json", "[]", "is no JSON object"),
    "no length": ("tokenizer_config.json", '{"model_max_length": 2}', "model_max_length of"),
    "no text": ("special_tokens_map.json", '{"pad_token": 3}', "holds no tokenizer"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_damaged_folder_is_refused(folder, what):
    name, text, said = BROKEN[what]
    if text is not None:
        (folder / name).write_text(text)
    for file in [*folder.iterdir()] if name is None else [folder / name] if text is None else []:
        file.unlink()
    with pytest.raises(InputError, match=said):
        tokenizer.load(folder)


@pytest.mark.parametrize("prompts", ["a cat", None, [3], ["\ud83d"]])
def test_what_is_no_list_of_prompts_is_refused(folder, prompts):
    with pytest.raises(InputError, match=r"must be a list of texts|is not Unicode"):
        tokenizer.load(folder)(prompts)
    assert tokenizer.load(folder)([]).shape == (0, 77)
