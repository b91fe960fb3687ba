"""A CLIP text encoder, as the config.json of transformers describes it.

Keys that are not fields of CLIPTextConfig are passed over where they say nothing of what the
encoder computes (how it was initialised, trained, saved), and otherwise must have transformers' own
default: a key that is not known here is an error, as it may mean another network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from dng_jax.errors import InputError, choose
from dng_jax.nets import checks
from dng_jax.nets.config import Config
from dng_jax.weights.diffusers_config import differing, shown

ACTIVATIONS = ("quick_gelu", "gelu")
# Of no influence on what a trained encoder makes of tokens.
_PASSED_OVER = (
    "_name_or_path", "_commit_hash", "_attn_implementation", "transformers_version",
    "architectures", "auto_map", "dtype", "torch_dtype", "initializer_range", "initializer_factor",
    "dropout", "attention_dropout", "bos_token_id", "pad_token_id",
    "return_dict", "output_hidden_states", "output_attentions", "torchscript", "use_cache",
    "id2label", "label2id", "finetuning_task", "task_specific_params", "tokenizer_class", "prefix",
    "tf_legacy_loss",
    # Of generating text, as transformers 4 wrote them.
    "sep_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id",
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups",
    "num_return_sequences", "diversity_penalty", "repetition_penalty", "length_penalty",
    "exponential_decay_length_penalty", "temperature", "top_k", "top_p", "typical_p",
    "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "suppress_tokens",
    "begin_suppress_tokens", "remove_invalid_values", "output_scores", "return_dict_in_generate",
)  # fmt: skip
# transformers' default, and what the encoder is.
_FIXED = {
    "model_type": ("clip_text_model", "clip_text_model"),
    "add_cross_attention": (False, False),
    "chunk_size_feed_forward": (0, 0),
    "cross_attention_hidden_size": (None, None),
    "is_decoder": (False, False),
    "is_encoder_decoder": (False, False),
    "problem_type": (None, None),
    "pruned_heads": ({}, {}),
    "quantization_config": (None, None),
    "tie_encoder_decoder": (False, False),
    "tie_word_embeddings": (True, True),
    "use_bfloat16": (False, False),
}


@dataclass(frozen=True)
class CLIPTextConfig(Config):
    """Static description of a CLIP text encoder; see dng_jax.stable_diffusion.clip_text.

    Names and defaults are those of transformers' class of this name.
    """

    vocab_size: int = 49408
    """Number of tokens, at least 1."""
    hidden_size: int = 512
    """D, a multiple of num_attention_heads."""
    intermediate_size: int = 2048
    """Width inside the dense network of a layer, at least 1."""
    projection_dim: int = 512
    """P, the width of the projected prompt, at least 1; of CLIPTextModelWithProjection alone."""
    num_hidden_layers: int = 12
    """N, at least 1."""
    num_attention_heads: int = 8
    """At least 1."""
    max_position_embeddings: int = 77
    """The most tokens that a prompt can have, at least 1."""
    hidden_act: str = "quick_gelu"
    """quick_gelu or gelu."""
    layer_norm_eps: float = 1e-5
    """Above 0."""
    eos_token_id: int = 49407
    """The token that ends a prompt; 2: the largest token of a prompt does."""

    def __post_init__(self):
        choose(self.hidden_act, ACTIVATIONS, "hidden_act")
        sizes = [f.name for f in fields(self) if f.type == "int" and f.name != "eos_token_id"]
        checks.whole_numbers(1, **{name: getattr(self, name) for name in sizes})
        checks.whole_numbers(0, eos_token_id=self.eos_token_id)
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"hidden_size {self.hidden_size} does not divide by num_attention_heads"
                f" {self.num_attention_heads}: choose a multiple"
            )
        if type(self.layer_norm_eps) is not float or not 0 < self.layer_norm_eps < 1:
            raise InputError(
                f"layer_norm_eps must lie strictly between 0 and 1, got {self.layer_norm_eps!r}"
            )

    def example(self) -> tuple[np.ndarray, ...]:
        """The tokens of one prompt, all zero: what the module's `init` and `apply` take."""
        return (np.zeros((1, self.max_position_embeddings), np.int32),)


def text_config(stored: Mapping[str, Any]) -> CLIPTextConfig:
    """The configuration of the encoder that a config.json describes.

    stored: what the file holds. InputError, naming keys and values, where the encoder of this
    library cannot be it.
    """
    own = {f.name for f in fields(CLIPTextConfig)}
    unknown = [n for n in stored if n not in own and n not in _FIXED and n not in _PASSED_OVER]
    wrong = [*differing(stored, _FIXED), *(f"{n} {shown(stored[n])} (not known)" for n in unknown)]
    if wrong:
        raise _not_ours("; ".join(wrong))
    try:
        # The projection's width is null where there is none.
        given = {n: v for n, v in stored.items() if n in own and (n, v) != ("projection_dim", None)}
        return CLIPTextConfig(**given)
    except InputError as error:
        raise _not_ours(error) from error


def text_json(config: CLIPTextConfig) -> dict[str, Any]:
    """The config.json of a CLIPTextModel, for transformers and for `text_config`.

    Prompts start with the token before the one that ends them, and are filled up with the latter,
    as in CLIP's vocabulary.
    """
    end = config.eos_token_id
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        **config.to_dict(),
        "bos_token_id": end - 1,
        "pad_token_id": end,
    }


def _not_ours(why: object) -> InputError:
    return InputError(
        f"CLIPTextModel cannot be the text encoder of this config.json, {why}: take the folder of"
        " another text encoder"
    )
