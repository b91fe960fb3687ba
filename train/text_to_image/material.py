"""What a text-to-image model is trained on: scenes of digits, their captions, a vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dng_jax import data
from dng_jax.sampling import root_key
from dng_jax.scenes import captions, images
from dng_jax.stable_diffusion import vocabulary
from dng_jax.stable_diffusion.tokenizer import Tokenizer
from dng_jax.training import text_to_image
from dng_jax.training.jobs import TextToImageJob


@dataclass(frozen=True)
class Material:
    """pixels uint8 [N, H, W, C], labels int32 [N, M], rows as of `text_to_image.draw`; prompts:
    the captions; words of the vocabulary, of so many tokens; tokenizer: with that vocabulary."""

    pixels: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    prompts: text_to_image.Prompts
    words: tuple[str, ...]
    vocab_size: int
    tokenizer: Tokenizer


def load(job: TextToImageJob) -> Material:
    """What the job asks for; InputError where it has too few scenes, or `tokenizers` is missing."""
    words, known = captions.words(), captions.captions(job.cells, empty=job.empty_captions)
    tokenizer = vocabulary.tokenizer_of(words, job.network.text_length)
    prompts = text_to_image.Prompts(tokenizer(known.texts), known.allowed, known.probability)
    unit, labels = images.scenes(job.cells, job.examples, root_key(job.seed), split=job.split)
    rows, size = text_to_image.rows_by_kind(labels), len(vocabulary.tokens(words))
    return Material(data.to_pixels(unit), labels, rows, prompts, words, size, tokenizer)
