"""Any safetensors file: named arrays and a little text, never code.

tensors, text = tensors.read(path)              all of it
with tensors.opened(path) as file:              one at a time:
    file.keys(), file.get_slice(name).get_shape(), file.get_tensor(name), file.metadata()
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dng_jax import disk
from dng_jax.errors import InputError


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[Any]:
    """The open file, as safetensors.safe_open gives it.

    InputError where it is missing, or is no whole safetensors file.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: check the path") from error
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a whole safetensors file ({error}): copy or make it again"
        ) from error


def read(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors by name, in the dtypes they are stored in, and the metadata; errors of `opened`.

    bfloat16 comes as ml_dtypes.bfloat16.
    """
    with opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The metadata alone; errors of `opened`."""
    with opened(path) as file:
        return file.metadata() or {}


def write(
    path: str | os.PathLike, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes the file, whole or not at all; InputError where the disk refuses."""
    # safetensors writes the bytes as they lie: a transposed view would come back scrambled.
    whole = {name: np.ascontiguousarray(x).reshape(x.shape) for name, x in tensors.items()}
    with disk.whole(path) as part:
        save_file(whole, part, dict(metadata))
