"""Arrays in NumPy's files, .npy and .npz, from wherever they come: whole, or refused in a sentence.

    rows = arrays.read_npy(path)
    named = arrays.read_npz(path)           {name: array}

A header says how long the array is, and np.load believes it: one that lies asks for any amount of
memory. Here it is compared with the size of the file before anything is allocated. The parts of an
.npz are a zip file's, each with a CRC-32. Never pickles.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from dng_jax import disk
from dng_jax.errors import InputError

_PACKED = 1100  # deflate, at its best, makes a thousandth of its input


def read_npy(path: str | os.PathLike) -> np.ndarray:
    """The array of an .npy file; InputError where there is none, or not a whole one."""
    size = disk.check_file(path)
    try:
        with open(path, "rb") as file:
            return _array(file, size, path)
    except InputError:
        raise
    except Exception as error:  # of NumPy's parser of headers: SyntaxError, TokenError, ...
        raise _unreadable(path, error) from error


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name; InputError where there is none, or not a whole one."""
    size = disk.check_file(path)
    try:
        with zipfile.ZipFile(path) as whole:
            return {
                part.filename.removesuffix(".npy"): _part(whole, part, path, size)
                for part in whole.infolist()
            }
    except InputError:
        raise
    except Exception as error:  # zipfile's own, zlib's, NotImplementedError, RuntimeError, ...
        raise _unreadable(path, error) from error


def _part(whole: zipfile.ZipFile, part: zipfile.ZipInfo, path: Any, size: int) -> np.ndarray:
    if part.file_size > _PACKED * size:
        raise ValueError(f"'{part.filename}' cannot unpack to {part.file_size} bytes")
    disk.check_memory(path, 2 * part.file_size)
    return _array(io.BytesIO(whole.read(part)), part.file_size, path)


def _array(file: IO[bytes], size: int, path: Any) -> np.ndarray:
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the format")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if min(shape, default=1) < 0:
        raise ValueError(f"shape {shape}")
    wanted, held = math.prod(shape) * dtype.itemsize, size - file.tell()
    if wanted != held:
        raise ValueError(f"shape {shape} of {dtype} takes {wanted} bytes and {held} are there")
    disk.check_memory(path, wanted)
    held_bytes = bytearray(wanted)  # read in place: what was asked for is what is used
    view = memoryview(held_bytes)
    while len(view):
        if not (count := file.readinto(view)):  # type: ignore[attr-defined]
            raise ValueError("it ends early")
        view = view[count:]
    flat = np.frombuffer(held_bytes, dtype) if wanted else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def _unreadable(path: Any, error: Exception) -> InputError:
    reason = " ".join((str(error) or type(error).__name__).split())[:150]
    return InputError(f"{path} cannot be read as NumPy's arrays ({reason}): make or copy it again")
