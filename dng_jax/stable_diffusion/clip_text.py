r"""CLIP's text encoder (Radford et al. 2021, arXiv 2103.00020): CLIP-L, OpenCLIP-H, OpenCLIP-bigG.

tokens [B, S] -> hidden states [B, S, D], S <= 77, N layers over x_0 = E[tokens] + P[0 .. S-1]:

    a     = x_i + out(softmax(q k^T / sqrt(d) + mask) v),   q, k, v = dense(norm(x_i))
    x_i+1 = a + fc2(act(fc1(norm(a))))

    mask         causal: position i sees positions 0 .. i
    act          gelu(x) = x Phi(x) (OpenCLIP),  quick_gelu(x) = x sigmoid(1.702 x) (CLIP-L)

    last         norm(x_N): the condition of Stable Diffusion 1 and 2
    penultimate  x_{N-1}, without a norm: that of Stable Diffusion XL. The encoder of Stable
                 Diffusion 2 was cut to 23 of its 24 layers, so that its last is what it needs.
    pooled       last at the first token that is eos_token_id; where config.eos_token_id is 2, as in
                 configurations from before transformers 4.31, at the largest token: there eos has
                 the largest number of the vocabulary, and 2 is a token like any other
    projected    dense(pooled), without a bias

Modules are named as in PyTorch, so that a parameter's path, joined by dots, is the name of its
tensor but for the leaf: kernel, scale and embedding are "weight" there.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dng_jax.errors import InputError
from dng_jax.stable_diffusion.clip_config import CLIPTextConfig

_PREFIX = "text_model."
_PARTS = ("embeddings", "encoder", "final_layer_norm")
_POSITIONS = "text_model.embeddings.position_ids"


class TextEncoding(NamedTuple):
    """What the encoder says of B prompts of S tokens; float32.

    last, penultimate: [B, S, D];  pooled: [B, D];  projected: [B, P], None without a projection
    """

    last: jax.Array
    penultimate: jax.Array
    pooled: jax.Array
    projected: jax.Array | None = None


class CLIPTextModel(nn.Module):
    """The encoder; `apply({"params": p}, tokens)` returns a TextEncoding.

    tokens int32 [B, S] in 0..vocab_size-1, S at most max_position_embeddings; a larger one becomes
    NaN. InputError for tokens of another shape or type.
    dtype: of the matrix products and what is applied to them, None for float32; the norms,
    attention's softmax, the sums of the layers and the output stay float32.
    """

    config: CLIPTextConfig
    dtype: Any = None

    @nn.compact
    def __call__(self, tokens: jax.Array) -> TextEncoding:
        return _TextTransformer(self.config, self.dtype, name="text_model")(tokens)


class CLIPTextModelWithProjection(nn.Module):
    """The encoder and the projection of its pooled output; otherwise as CLIPTextModel."""

    config: CLIPTextConfig
    dtype: Any = None

    @nn.compact
    def __call__(self, tokens: jax.Array) -> TextEncoding:
        c = self.config
        found = _TextTransformer(c, self.dtype, name="text_model")(tokens)
        project = nn.Dense(
            c.projection_dim, use_bias=False, dtype=self.dtype, name="text_projection"
        )
        return found._replace(projected=project(found.pooled).astype(jnp.float32))


def tensor_names(names: Iterable[str]) -> dict[str, str]:
    """Names in a file to names of this module's tensors, without those that are no parameters.

    transformers 5 writes a CLIPTextModel without "text_model.", everything before it with it, and
    old versions a table of positions besides. InputError where one tensor has both names.
    """
    found: dict[str, str] = {}
    for name in names:
        own = _PREFIX + name if name.partition(".")[0] in _PARTS else name
        if own == _POSITIONS:
            continue
        if own in found.values():
            raise InputError(
                f"the text encoder's file holds '{own}' and '{own.removeprefix(_PREFIX)}', which"
                " are one tensor: take the file as it was published"
            )
        found[name] = own
    return found


class _TextTransformer(nn.Module):
    config: CLIPTextConfig
    dtype: Any

    @nn.compact
    def __call__(self, tokens: jax.Array) -> TextEncoding:
        c = self.config
        _check(tokens, c.max_position_embeddings)
        x = before = _Embeddings(c, name="embeddings")(tokens)
        for i in range(c.num_hidden_layers):
            before, x = x, _Layer(c, self.dtype, name=f"encoder.layers.{i}")(x)
        last = _norm(c, "final_layer_norm")(x)
        ends = tokens if c.eos_token_id == 2 else tokens == c.eos_token_id
        pooled = jnp.take_along_axis(last, jnp.argmax(ends, -1)[:, None, None], 1)[:, 0]
        return TextEncoding(last, before, pooled)


class _Embeddings(nn.Module):
    config: CLIPTextConfig

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        c = self.config
        table = nn.Embed(c.vocab_size, c.hidden_size, name="token_embedding")
        positions = nn.Embed(c.max_position_embeddings, c.hidden_size, name="position_embedding")
        return table(tokens) + positions(jnp.arange(tokens.shape[1]))


class _Layer(nn.Module):
    config: CLIPTextConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c, dense = self.config, partial(nn.Dense, dtype=self.dtype)
        x = x + _Attention(c, self.dtype, name="self_attn")(_norm(c, "layer_norm1")(x))
        h = dense(c.intermediate_size, name="mlp.fc1")(_norm(c, "layer_norm2")(x))
        h = h * nn.sigmoid(1.702 * h) if c.hidden_act == "quick_gelu" else nn.gelu(h, False)
        return x + dense(c.hidden_size, name="mlp.fc2")(h)


class _Attention(nn.Module):
    config: CLIPTextConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c, dense = self.config, partial(nn.Dense, self.config.hidden_size, dtype=self.dtype)
        heads = (*x.shape[:2], c.num_attention_heads, -1)
        q, k, v = (dense(name=f"{name}_proj")(x).reshape(heads) for name in "qkv")
        # Scaled by 1 / sqrt(d); the softmax is float32 whatever the products are.
        found = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return dense(name="out_proj")(found.reshape(x.shape))


def _norm(config: CLIPTextConfig, name: str) -> nn.LayerNorm:
    # E[x^2] - E[x]^2 loses digits in float32 where the mean is large.
    return nn.LayerNorm(
        config.layer_norm_eps, dtype=jnp.float32, use_fast_variance=False, name=name
    )


def _check(tokens: jax.Array, most: int) -> None:
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise InputError(
            f"tokens must be whole numbers [B, S], got {tokens.dtype} of shape {tokens.shape}: take"
            " what the tokenizer returns"
        )
    if not 1 <= tokens.shape[1] <= most:
        raise InputError(
            f"a prompt of {tokens.shape[1]} tokens: this encoder takes 1 to {most}, cut it"
        )
