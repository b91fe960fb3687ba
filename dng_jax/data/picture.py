"""One PNG, JPEG or WebP file as pixels; what would take too much memory is refused by its header.

Grey (also black and white) stays grey, colour (also of a palette) is RGB, and a photograph is
turned as its EXIF orientation says; of a camera's file of several pictures (MPO) it is the first.
Transparency, more than 8 bits per channel and animations are
refused: there is no one right way to make pixels of them.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax.errors import InputError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
LARGEST = 50_000_000  # pixels
LARGEST_FILE = 8 * LARGEST  # bytes: four channels of 16 bits, unpacked
_MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}
_PNG_BITS = 24  # where the first chunk of a PNG says how many bits a channel has


def decode(content: bytes, path: Path, size: int | None) -> np.ndarray:
    """uint8 [H, W, C], C = 1 or 3, of a file's bytes; path: for messages.

    size: see `resized`; None: as it is. InputError for what is no whole image, or of a kind that is
    not taken.
    """
    from PIL import Image, ImageOps  # imported late: other data sets need no Pillow

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bombs, which are refused here
            image = Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP"))
        mode = _mode(image, content, path)
        pixels = np.asarray(ImageOps.exif_transpose(image).convert(mode))
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise _too_large(path) from None
    except Exception as error:  # of one decoder per format: OSError, SyntaxError, struct.error, ...
        raise InputError(
            f"{path} is truncated, or no PNG, JPEG or WebP image: replace or remove it"
        ) from error
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return pixels if size is None else resized(pixels, size)


def as_picture(pixels: np.ndarray) -> Any:
    """Pillow's image of uint8 [H, W, C], grey for C = 1, in colour for C = 3."""
    from PIL import Image  # imported late, as above

    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def resized(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W, C] -> [size, size, C]: the middle square, resampled by Lanczos' filter."""
    from PIL import Image, ImageOps  # imported late, as above

    found = np.asarray(ImageOps.fit(as_picture(pixels), (size, size), Image.Resampling.LANCZOS))
    return found.reshape(size, size, -1)


def _mode(image: Any, content: bytes, path: Path) -> str:
    if image.width * image.height > LARGEST:
        raise _too_large(path)
    # MPO is a JPEG with a preview or a second view, which cameras write beside the photograph.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise InputError(f"{path} is animated: save one of its frames")
    kind = image.mode
    if image.format == "PNG" and content[_PNG_BITS] > 8:  # Pillow drops half of them, unasked
        kind = f"{kind}, {content[_PNG_BITS]} bits per channel"
    if "transparency" in image.info:
        kind = f"{kind} with transparency"
    if kind not in _MODES:
        raise InputError(
            f"{path} has pixels of mode {kind}: save it as 8-bit grey or RGB, without transparency"
        )
    return _MODES[kind]


def _too_large(path: Path) -> InputError:
    return InputError(f"{path} has more than {LARGEST // 10**6} million pixels: make it smaller")
