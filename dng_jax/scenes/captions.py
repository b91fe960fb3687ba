r"""Captions that a text-to-image model is trained on, so that what it should draw is known exactly.

A caption c is drawn first, a scene that it allows afterwards,

    c ~ pi,     y uniform over the tuples A_c that c allows,     x | y as in images.py

so that p(x | c) is that of exact.py for every c, the empty one included. Were the scene drawn first
and then one of its captions, two equal digits, of which less can be said, would be too frequent
under what can be said of them.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from dng_jax.errors import InputError
from dng_jax.scenes import prompts


class Captions(NamedTuple):
    """C captions, "" the first; allowed bool [C, 10^M], a row its tuples, the last digit fastest;
    probability float64 [C], pi."""

    texts: tuple[str, ...]
    allowed: np.ndarray
    probability: np.ndarray


def captions(cells: int, *, empty: float = 0.1, most: int = 2) -> Captions:
    """All captions of up to `most` phrases that some scene fulfils, and how often each is drawn.

    "" has the probability `empty`; what is left is shared equally by the numbers of phrases, and
    within one of them by the captions. InputError unless 0 <= empty < 1 and most >= 1.
    """
    if not 0 <= empty < 1 or most < 1:
        raise InputError(
            f"the share of empty captions is at least 0 and below 1, got {empty}, and the most"
            f" phrases at least 1, got {most}"
        )
    scenes = itertools.combinations_with_replacement(range(10), cells)
    texts = tuple(dict.fromkeys(c for y in scenes for c in prompts.captions(y, most=most)))
    texts = tuple(sorted(texts, key=lambda text: len(prompts.phrases(text))))
    allowed = np.stack([prompts.tuples(text, cells).reshape(-1) for text in texts])
    counts = np.array([len(prompts.phrases(text)) for text in texts])
    numbers, inverse, sizes = np.unique(counts, return_inverse=True, return_counts=True)
    share = np.full(len(numbers), (1 - empty) / (len(numbers) - 1))
    share[0] = empty
    return Captions(texts, allowed, (share / sizes)[inverse])


def words() -> tuple[str, ...]:
    """All words of captions, and the comma that joins phrases."""
    spoken = " ".join([*prompts.PARITIES, *map(prompts.mention, range(10)), *prompts.JOINS])
    return tuple(dict.fromkeys(spoken.replace(",", " , ").split()))
