"""Any safetensors file: named arrays and a little text, never code.

tensors, text = tensors.read(path)              all of it
with tensors.opened(path) as file:              one at a time:
    file.keys(), file.get_slice(name).get_shape(), file.metadata()
    tensors.take(file, name, path)

Files written here carry a checksum, which `read` compares: metadata sha256 is the SHA-256 of

    JSON of [text, [[name, dtype, shape], ...]], text the metadata without sha256, names rising
    then the bytes of every tensor, in that order, row by row

so that one altered byte is refused. Files of others, and old ones, have none and are taken as
they are.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dng_jax import disk
from dng_jax.errors import InputError

CHECKSUM = "sha256"
# Bytes per number of the types that come as arrays; float8 and smaller ones have no NumPy type.
SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "C64": 8, "BOOL": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1,
}  # fmt: skip


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[Any]:
    """The open file, as safetensors.safe_open gives it.

    InputError where it is missing, or is no whole safetensors file.
    """
    disk.check_file(path)
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path} is not a whole safetensors file ({reason}): copy or make it again"
        ) from error


def outline(
    path: str | os.PathLike,
) -> tuple[dict[str, str], dict[str, str], dict[str, tuple[int, ...]]]:
    """Metadata, and of every tensor the type as safetensors spells it ("F32") and the shape: what
    can be said before a number is read. Errors of `opened`."""
    with opened(path) as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        kinds = {name: part.get_dtype() for name, part in parts.items()}
        shapes = {name: tuple(part.get_shape()) for name, part in parts.items()}
        return dict(file.metadata() or {}), kinds, shapes


def take(file: Any, name: str, path: str | os.PathLike) -> np.ndarray:
    """One tensor of an open file as it is stored; bfloat16 comes as ml_dtypes.bfloat16.

    InputError for a type that has no array (float8: dequantise it), and where memory is short.
    """
    found = file.get_slice(name)
    kind, shape = found.get_dtype(), found.get_shape()
    if kind not in SIZES:
        raise InputError(
            f"tensor '{name}' of {path} is {kind}, which no array here can hold: convert it to"
            " float32 or bfloat16"
        )
    disk.check_memory(f"tensor '{name}' of {path}", SIZES[kind] * math.prod(shape))
    return file.get_tensor(name)


def read(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors by name, in the dtypes they are stored in, and the metadata without the checksum.

    Errors of `opened` and `take`; InputError where the file has a checksum and it is another one.
    """
    disk.check_memory(path, disk.check_file(path))
    with opened(path) as file:
        text = dict(file.metadata() or {})
        found = {name: take(file, name, path) for name in file.keys()}  # noqa: SIM118
    stored = text.pop(CHECKSUM, None)
    if stored is not None and stored != checksum(found, text):
        raise InputError(
            f"{path} was altered after it was written (its checksum is another): copy or make it"
            " again"
        )
    return found, text


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The metadata alone, unchecked; errors of `opened`."""
    with opened(path) as file:
        return file.metadata() or {}


def write(
    path: str | os.PathLike, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes the file and its checksum, whole or not at all; InputError where the disk refuses."""
    # safetensors writes the bytes as they lie: a transposed view would come back scrambled.
    whole = {name: np.ascontiguousarray(x).reshape(x.shape) for name, x in tensors.items()}
    text = {name: value for name, value in metadata.items() if name != CHECKSUM}
    with disk.whole(path) as part:
        save_file(whole, part, text | {CHECKSUM: checksum(whole, text)})


def checksum(tensors: Mapping[str, np.ndarray], text: Mapping[str, str]) -> str:
    """The checksum of a file that holds these; see the file's docstring."""
    names = sorted(tensors)
    head = [dict(text), [[n, tensors[n].dtype.name, list(tensors[n].shape)] for n in names]]
    made = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for name in names:
        made.update(tensors[name].tobytes())
    return made.hexdigest()
