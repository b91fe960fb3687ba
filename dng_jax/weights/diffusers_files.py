r"""Folders as save_pretrained of diffusers and transformers leaves them, read by name and strictly.

    config.json
    STEM.safetensors                        all of the weights, or
    STEM.safetensors.index.json             {"weight_map": {tensor: file}}, of files in the folder

and with a variant, such as fp16, STEM.fp16.safetensors or STEM.safetensors.index.fp16.json. One
folder may hold several: the one that is asked for is read, never another. Nothing that is read
is code: pickles are refused.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax import disk
from dng_jax.errors import InputError
from dng_jax.weights import files, tensors

CONFIG = "config.json"
# Attention as files from before diffusers 0.15 name it, and some later ones of autoencoders.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(rf"(.*\.attentions\.\d+)\.({'|'.join(_OLD_ATTENTION)})\.(weight|bias)")
_CONVERT = (
    "import sys; from {} import {} as Net;"
    " Net.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[1])"
)


@dataclass(frozen=True)
class Layout:
    """Who writes such a folder: a class of a library, which gives its files a stem."""

    kind: str
    library: str = "diffusers"
    stem: str = "diffusion_pytorch_model"

    def file(self, variant: str = "") -> str:
        """The name of the file that holds all weights."""
        return ".".join([self.stem, *filter(None, [variant]), "safetensors"])

    def index(self, variant: str = "") -> str:
        """The name of the file that says which tensor is in which of several."""
        return ".".join([self.stem, "safetensors.index", *filter(None, [variant]), "json"])


@dataclass(frozen=True)
class Weights:
    """The files of a network's weights, and the index that names them where they are several."""

    files: tuple[Path, ...]
    index: Path | None = None

    @property
    def where(self) -> Path:
        """What to call them in an error: the file, or the index of several."""
        return self.index or self.files[0]

    def outline(self) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
        """Types and shapes of the tensors, as `tensors.outline` has them, before one is read.

        InputError for files that are not whole, or not what their index says.
        """
        kinds: dict[str, str] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        places: dict[str, str] = {}
        for file in self.files:
            _, types, inside = tensors.outline(file)
            for name in inside:
                if name in places:
                    raise InputError(
                        f"{file} and {places[name]} both hold '{name}': copy them again"
                    )
                places[name] = file.name
            kinds, shapes = kinds | types, shapes | inside
        if self.index is not None:
            _must_be_indexed(places, self.index)
        return kinds, shapes

    def numbers(self, dtype: str = "float32") -> dict[str, np.ndarray]:
        """All tensors by name; errors of `files.numbers`."""
        return {n: value for file in self.files for n, value in files.numbers(file, dtype).items()}


def find(folder: str | os.PathLike, layout: Layout, variant: str = "") -> Weights:
    """The weights of that variant; InputError where there are none, or a pickle alone."""
    folder = Path(folder)
    file, index = folder / layout.file(variant), folder / layout.index(variant)
    if not os.path.exists(index):
        if os.path.exists(file):
            return Weights((file,))
        raise _absent(folder, layout, variant)
    if os.path.exists(file):
        raise InputError(
            f"{folder} has {file.name} and {index.name}: remove the one that is out of date"
        )
    names = sorted({*_weight_map(index).values()})
    return Weights(tuple(folder / name for name in names), index)


def modern_names(names: Iterable[str], what: object) -> dict[str, str]:
    """Names as they are in a file to those of today's diffusers; InputError for both of one."""
    names, found = list(names), {}
    for name in names:
        old = _OLD_NAME.fullmatch(name)
        found[name] = f"{old[1]}.{_OLD_ATTENTION[old[2]]}.{old[3]}" if old else name
        if old and found[name] in names:
            raise InputError(f"{what} holds '{name}' and '{found[name]}', which are one tensor")
    return found


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """The object that a JSON file holds; InputError where there is none."""
    disk.check_memory(path, 10 * disk.check_file(path))
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path} is no JSON object, as diffusers writes one: copy it again")
    return found


def write(
    folder: str | os.PathLike,
    layout: Layout,
    config: dict[str, Any],
    arrays: dict[str, np.ndarray],
    variant: str = "",
) -> None:
    """Writes config.json and the tensors, as they are, to one file of the folder.

    InputError where the disk refuses, or the folder has shards of that variant.
    """
    folder = Path(folder)
    index = folder / layout.index(variant)
    if os.path.exists(index):
        raise InputError(f"{index} belongs to other weights: name another folder, or remove it")
    tensors.write(folder / layout.file(variant), arrays, {"format": "pt"})
    with disk.whole(folder / CONFIG) as part:
        part.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _weight_map(index: Path) -> dict[str, str]:
    found = read_json(index).get("weight_map")
    fits = isinstance(found, dict) and all(
        isinstance(name, str) and Path(name).name == name for name in found.values()
    )
    if not fits or not found:
        raise InputError(f"{index} names no files of its folder in weight_map: copy it again")
    return found


def _must_be_indexed(places: dict[str, str], index: Path) -> None:
    """InputError unless the tensors are in the files in which the index says they are."""
    stated = _weight_map(index)
    wrong = sorted(n for n in {*stated, *places} if stated.get(n) != places.get(n))
    if wrong:
        first = wrong[0]
        said, held = (f"in {of[first]}" if first in of else "nowhere" for of in (stated, places))
        raise InputError(f"{index}: '{first}' should be {said} and is {held}: copy it again")


def _absent(folder: Path, layout: Layout, variant: str) -> InputError:
    """What to say of a folder without the weights that were asked for."""
    # For the message alone: what is read is never picked from what happens to lie there.
    there = sorted(p.name for p in folder.glob(f"{layout.stem}*.safetensors*"))
    if there:
        return InputError(
            f"{folder} has no {layout.file(variant)}, but {', '.join(there[:3])}: name the variant"
        )
    pickles = sorted(p.name for p in folder.glob("*.bin"))
    if pickles:
        convert = _CONVERT.format(layout.library, layout.kind)
        return InputError(
            f"{folder / pickles[0]} is a pickle, which can run any code when it is read: convert it"
            f' where PyTorch and {layout.library} are installed, by python -c "{convert}"'
            f" {shlex.quote(str(folder))}"
        )
    return InputError(
        f"{folder} has no {layout.file(variant)}: name a model file, or a folder that"
        f" save_pretrained of {layout.library} wrote"
    )
