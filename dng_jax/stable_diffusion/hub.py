"""Where a model's folder is: on this machine, in this package, or fetched from the Hugging Face hub
by its name.

A folder that is here is taken as it is, and the network is never asked. Of a repository only the
files of one variant are fetched, each by its name: configurations, vocabulary, safetensors.
"""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path

from dng_jax.errors import InputError
from dng_jax.stable_diffusion.tokenizer import REMEDY
from dng_jax.weights import pretrained
from dng_jax.weights.diffusers_files import CONFIG, Layout

INDEX = "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"
LAYOUTS = {
    "unet": Layout("UNet2DConditionModel"),
    "vae": Layout("AutoencoderKL"),
    "text_encoder": Layout("CLIPTextModel", "transformers", "model"),
}
TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json",
             "special_tokens_map.json")  # fmt: skip
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def folder_of(name: str | os.PathLike, variant: str = "") -> Path:
    """The folder of a model: one that is here, or that comes with this library
    (dng_jax.weights.pretrained), or of a repository OWNER/NAME, fetched into the hub's cache.

    InputError for what is none of them, without the extra `text`, and where the hub refuses.
    """
    if os.path.isdir(name):
        return Path(name)
    text = os.fspath(name)
    if text in pretrained.FOLDERS:
        return pretrained.folder(text)
    # A path that was mistyped is no name: its folder is here.
    if not _REPOSITORY.fullmatch(text) or os.path.exists(text.partition("/")[0]):
        raise InputError(
            f"there is no folder {text}: name that of a model, a repository as OWNER/NAME, or"
            f" {', '.join(pretrained.FOLDERS)}"
        )
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise InputError(
            f"there is no folder {text}, and fetching a repository needs the optional extra 'text'"
            f" ({error}): {REMEDY}"
        ) from error
    try:
        return Path(hub.snapshot_download(text, allow_patterns=files_of(variant)))
    except Exception as error:  # of HTTP, of the disk, of the hub's own kinds
        reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise InputError(
            f"{text} is no folder here and cannot be fetched from the hub ({reason}): check the"
            " name, or fetch it by hand and name its folder"
        ) from error


def files_of(variant: str = "") -> list[str]:
    """Names of the files of a variant, "*" where the parts of weights are numbered."""
    dotted = f".{variant}" if variant else ""
    found = [INDEX, SCHEDULER, *(f"tokenizer/{name}" for name in TOKENIZER)]
    for part, layout in LAYOUTS.items():
        names = [CONFIG, layout.file(variant), layout.index(variant)]
        names.append(f"{layout.stem}{dotted}-?????-of-?????.safetensors")
        found += [f"{part}/{name}" for name in names]
    return found
