r"""A model's folder -> prompts -> latents -> pictures: Stable Diffusion 1 and 2.

    model = pipeline.load("stable-diffusion-v1-5")
    prompts = prompts_of("d", "a medieval feast", "candles")
    denoise = branches(model.network(prompts), "d", 7.5)
    table, keys = model.table(50), sample_keys(0, 4)
    x = initial_noise(keys, model.latent_shape(512), table)
    rule = dynamic_negative(pair(.01, reference="reference"))
    latents = sample(denoise, table, rule, keys, x).x
    images = pictures.pixels(model.decode(latents))

What is read of the folder (StableDiffusionPipeline of diffusers): model_index.json, unet/, vae/,
text_encoder/, tokenizer/, scheduler/. Safety checkers and the like are passed over.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError, as_whole, choose
from dng_jax.stable_diffusion import clip_text, hub, pictures, schedule, tokenizer
from dng_jax.stable_diffusion.clip_config import text_config
from dng_jax.stable_diffusion.clip_text import CLIPTextModel
from dng_jax.stable_diffusion.config_json import unet_config, vae_config
from dng_jax.stable_diffusion.prompt_network import PromptNetwork, prompt_network
from dng_jax.stable_diffusion.schedule import ModelSchedule
from dng_jax.stable_diffusion.tokenizer import Tokenizer
from dng_jax.stable_diffusion.unet import UNet2DConditionModel
from dng_jax.stable_diffusion.vae import AutoencoderKL
from dng_jax.steps import StepTable
from dng_jax.weights import parts
from dng_jax.weights.diffusers_config import shown
from dng_jax.weights.diffusers_files import CONFIG, read_json

KIND = "StableDiffusionPipeline"


@dataclass(frozen=True, eq=False)
class Pipeline:
    """The parts of a model; make it with `load`.

    unet, vae, text_encoder: modules;  params {"unet", "vae", "text_encoder"}: their parameters
    size: height and width of the images that it was trained on, as far as its files say
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: Tokenizer
    schedule: ModelSchedule
    params: Mapping[str, Any]
    size: tuple[int, int]

    def encode(self, prompts: Sequence[str]) -> jax.Array:
        """The condition of the U-Net, float32 [J, S, D], of J prompts.

        A prompt of more tokens than the encoder takes is cut, with a warning that quotes what was
        cut off; InputError for anything but a list of texts.
        """
        tokens = self.tokenizer(prompts)
        one = functools.partial(_encode, self.text_encoder, self.params["text_encoder"])
        return jnp.concatenate([one(row[None]) for row in tokens])

    def network(self, prompts: Mapping[str, str], mode: str = "batch") -> PromptNetwork:
        """The denoiser of raw roles {role: prompt}; mode "map" asks for one after the other."""
        texts = dict(zip(prompts, self.encode([*prompts.values()]), strict=True))
        return prompt_network(self.unet, self.params["unet"], texts, self.schedule, mode)

    def table(self, steps: int) -> StepTable:
        """DDPM's steps on the grid of diffusers; InputError where the grid has no such number."""
        return self.schedule.table(steps)

    @property
    def divisor(self) -> int:
        """What the sides of an image are multiples of."""
        levels = len(self.unet.config.block_out_channels)
        return self.vae.config.factor * 2 ** (levels - 1)

    def latent_shape(self, height: int, width: int | None = None) -> tuple[int, int, int]:
        """(h, w, C) of images of so many pixels, width by default the height; InputError for sides
        that the networks cannot halve."""
        sides = height, height if width is None else width
        for side in sides:
            whole = as_whole(side)
            if whole is None or whole < 1 or whole % self.divisor:
                raise InputError(
                    f"an image of {sides[0]} x {sides[1]} pixels: this model's sides are multiples"
                    f" of {self.divisor}"
                )
        h, w = (side // self.vae.config.factor for side in sides)
        return h, w, self.vae.config.latent_channels

    def decode(self, latents: Any) -> np.ndarray:
        """Images float32 [B, H, W, C], not clipped, of latents [B, h, w, C]."""
        return pictures.decoded(self.vae, self.params["vae"], latents)


def load(name: str | os.PathLike, variant: str = "", dtype: str | None = None) -> Pipeline:
    """The model of a folder, or of a repository OWNER/NAME of the Hugging Face hub.

    variant: such as fp16, of files that have one in their names, all networks alike. dtype of the
    U-Net, float32 or bfloat16: by default float32 on a CPU, bfloat16 elsewhere; everything else is
    float32. InputError for a folder without a part, or of another pipeline, and for what
    dng_jax.weights.parts and the parts' own modules refuse.

    What bfloat16 costs the posterior, in proportion to the tracker's temperature tau: with 2e-4, p
    is off by up to 3e-4 in variant d and 2e-3 in b, with 2e-3 by 3e-3 and .01 (a tiny U-Net of
    untrained weights, 64 chains of 20 steps, w = 7.5, delta = .01; pair).
    """
    # bfloat16 is widened on a CPU, and slower there.
    usual = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    dtype = choose(usual if dtype is None else dtype, parts.DTYPES, "dtype")
    folder = hub.folder_of(name, variant)
    _must_be_ours(folder)
    found = schedule.from_config(read_json(folder / hub.SCHEDULER))
    words = tokenizer.load(folder / "tokenizer")
    described = {part: read_json(folder / part / CONFIG) for part in hub.LAYOUTS}
    encoder = CLIPTextModel(text_config(described["text_encoder"]))
    unet = UNet2DConditionModel(
        unet_config(described["unet"]), None if dtype == "float32" else jnp.bfloat16
    )
    vae = AutoencoderKL(vae_config(described["vae"]))
    _must_fit(folder, unet, vae, encoder, words)

    def read(part: str, module: Any, kind: str = "float32", names: Any = None) -> Any:
        stored = parts.load(folder / part, module, hub.LAYOUTS[part], variant, kind, names)
        return jax.tree.map(jnp.asarray, stored)

    params = {
        "text_encoder": read("text_encoder", encoder, names=clip_text.tensor_names),
        "vae": read("vae", vae),
        "unet": read("unet", unet, dtype),
    }
    size = _size(described["unet"].get("sample_size"), vae.config.factor, folder)
    return Pipeline(unet, vae, encoder, words, found, params, size)


def load_autoencoder(folder: str | os.PathLike) -> tuple[AutoencoderKL, Any]:
    """The autoencoder of a model's folder and its parameters, float32; its configuration has the
    factor that latents are scaled by. InputError as of `load`."""
    folder = Path(folder)
    _must_be_ours(folder)
    module = AutoencoderKL(vae_config(read_json(folder / "vae" / CONFIG)))
    stored = parts.load(folder / "vae", module, hub.LAYOUTS["vae"])
    return module, jax.tree.map(jnp.asarray, stored)


def _size(latent: Any, factor: int, folder: Path) -> tuple[int, int]:
    """Pixels of the sides, of the latents' sides in unet/config.json, by diffusers' default 64."""
    sides = latent if isinstance(latent, list) else [latent, latent]
    sides = [64 if side is None else side for side in sides]
    if len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides):
        raise InputError(
            f"{folder}: sample_size {shown(latent)} of the unet (must be a whole number or two):"
            " copy it again"
        )
    return sides[0] * factor, sides[1] * factor


def _must_be_ours(folder: Path) -> None:
    """InputError for a folder that lacks a part, or is that of another pipeline."""
    index = folder / hub.INDEX
    if not index.exists():
        raise InputError(
            f"{folder} has no {hub.INDEX}: name the folder of a whole pipeline, not of one network"
        )
    kind = read_json(index).get("_class_name")
    if kind != KIND:
        raise InputError(
            f"{folder} holds a {kind}: only {KIND} (Stable Diffusion 1 and 2) has a pipeline here,"
            " of XL there are the networks alone"
        )
    for part in (*hub.LAYOUTS, "tokenizer", "scheduler"):
        if not (folder / part).is_dir():
            raise InputError(f"{folder} has no {part}/: copy or fetch the whole folder again")


def _must_fit(
    folder: Path,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    encoder: CLIPTextModel,
    words: Tokenizer,
) -> None:
    """InputError for parts that are not of one model."""
    net, text, channels = unet.config, encoder.config, vae.config.latent_channels
    entries = words.backend.get_vocab_size()
    wrong = {
        f"unet takes {net.in_channels} channels, vae makes {channels}": (
            net.in_channels != channels or net.out_channels != channels
        ),
        f"unet takes a text of {net.cross_attention_dim} channels, text_encoder makes"
        f" {text.hidden_size}": net.cross_attention_dim != text.hidden_size,
        f"tokenizer makes {words.length} tokens, text_encoder takes"
        f" {text.max_position_embeddings}": words.length > text.max_position_embeddings,
        f"tokenizer has {entries} entries, text_encoder {text.vocab_size}": (
            entries > text.vocab_size
        ),
        "unet is that of Stable Diffusion XL": net.pooled_dim > 0,
    }
    for said, is_so in wrong.items():
        if is_so:
            raise InputError(f"{folder}: {said}: its parts are not of one model, copy it again")


@functools.partial(jax.jit, static_argnames="encoder")
def _encode(encoder, params, tokens):
    with jax.default_matmul_precision("highest"):  # else a GPU rounds products to TF32
        return encoder.apply({"params": params}, tokens).last
