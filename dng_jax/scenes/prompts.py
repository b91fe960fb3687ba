"""What a prompt allows: the label tuples of a scene of M digits.

    ""                       every tuple
    "even digits"            every digit even;  "odd digits": every digit odd
    "a four"                 at least one four; so for each digit, "a zero" .. "a nine"
    "even digits and a four" both;  "even digits, a four" is the same

Phrases are joined by "and" or commas; capitals and spaces do not count.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np

from dng_jax.errors import InputError, choose

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PARITIES = ("even digits", "odd digits")
JOINS = (" and ", ", ")
CELLS_MAX = 6  # 10^6 tuples


def tuples(prompt: str, cells: int) -> np.ndarray:
    """The label tuples that a prompt allows, bool [10] * cells.

    All False where its phrases contradict each other ("even digits and a seven"). InputError for
    words that are not known, and unless 1 <= cells <= 6.
    """
    if not 1 <= cells <= CELLS_MAX:
        raise InputError(f"a scene has 1 to {CELLS_MAX} cells, got {cells}")
    allowed = np.ones((10,) * cells, bool)
    labels = np.indices(allowed.shape)
    for phrase in phrases(prompt):
        if phrase in PARITIES:
            allowed &= np.all(labels % 2 == PARITIES.index(phrase), axis=0)
        else:
            allowed &= np.any(labels == DIGITS.index(phrase.split()[1]), axis=0)
    return allowed


def share(what: str, given: str, cells: int) -> float:
    """How many of the scenes that `given` allows `what` allows too, all tuples equally likely."""
    allowed = tuples(given, cells)
    if not allowed.any():
        raise InputError(f"no scene of {cells} cells shows '{given}': ask for less")
    return float((tuples(what, cells) & allowed).sum() / allowed.sum())


def phrases(prompt: str) -> tuple[str, ...]:
    """The phrases of a prompt in their usual spelling; none for the empty prompt.

    InputError, which lists what is known, for words that are not.
    """
    words = " ".join(prompt.lower().split())
    parts = re.split(r",(?: and\b)?| and ", words) if words else []
    return tuple(_phrase(part.strip(), prompt) for part in parts)


def joined(*prompts: str) -> str:
    """Prompts as one, "even digits, a four"; what is empty is left out."""
    return ", ".join(prompt for prompt in prompts if prompt.strip())


def captions(labels: Sequence[int], *, most: int = 2) -> tuple[str, ...]:
    """The true captions of a scene, each once: "" and all choices of up to `most` true phrases.

    labels: the scene's digits, 0..9. Two phrases or more stand in both forms, with "and" and with
    commas.
    """
    distinct = sorted({int(label) for label in labels})
    if not distinct or not all(0 <= label <= 9 for label in distinct):
        raise InputError(f"the labels of a scene are digits 0..9, got {list(labels)}")
    parities = {label % 2 for label in distinct}
    facts = [PARITIES[parities.pop()]] if len(parities) == 1 else []
    facts += [mention(label) for label in distinct]
    chosen = [c for n in range(most + 1) for c in itertools.combinations(facts, n)]
    return tuple(dict.fromkeys(join.join(c) for c in chosen for join in JOINS))


def mention(digit: int) -> str:
    """The phrase of one digit: "a four", "an eight"."""
    word = DIGITS[digit]
    return f"{'an' if word[0] == 'e' else 'a'} {word}"


def _phrase(part: str, prompt: str) -> str:
    known = (*PARITIES, *(mention(digit) for digit in range(10)))
    usual = part.replace("a eight", "an eight")
    try:
        return choose(usual, known, "phrase")
    except InputError as error:
        raise InputError(f"prompt '{prompt}': {error}") from None
