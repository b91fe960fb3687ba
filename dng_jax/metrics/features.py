r"""Feature extractors: images [B, H, W, C] in [-1, 1] -> features float32 [B, F].

classifier   labels, and the penultimate layer of a classifier (dng_jax.nets.Classifier): one
             compiled program, whatever the number of images, since the last batch is filled up
inception    the 2,048 pool features of the Inception network that FID was published with (Heusel
             et al. 2017, arXiv 1706.08500), through torch-fidelity, the optional extra `fid`

torch-fidelity takes uint8 RGB [B, 3, H, W] and resizes to 299 x 299 the way the original
TensorFlow graph does; grey images have their channel repeated. [-1, 1] becomes 0..255 by
round((x + 1) 127.5), out-of-range values cut off, as an image file would store them.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax.errors import InputError

Extract = Callable[[Any], np.ndarray]
Classify = Callable[[Any], tuple[np.ndarray, np.ndarray]]
REMEDY = "pip install 'dng-jax[fid]'"


def classifier(module: Any, params: Any, batch: int = 256) -> Classify:
    """images [B, H, W, C] -> (labels int32 [B], features float32 [B, F]), B >= 0.

    module.apply({"params": params}, x, features=True) must return (logits [B, K], f [B, F]).
    """
    if batch < 1:
        raise InputError(f"a batch needs at least one image, got {batch}")

    evaluate = jax.jit(functools.partial(labelled, module))

    def run(images) -> tuple[np.ndarray, np.ndarray]:
        images = unit_images(images)
        found = [evaluate(params, part) for part in _batches(images, batch)]
        labels, features = (np.concatenate(part) for part in zip(*found, strict=True))
        return labels[: len(images)], features[: len(images)]

    return run


def labelled(module: Any, params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What `classifier` compiles, for programs that hold it: x [B, H, W, C] -> (labels int32 [B],
    features float32 [B, F])."""
    logits, features = module.apply({"params": params}, x, features=True)
    return jnp.argmax(logits, axis=1).astype(jnp.int32), features.astype(jnp.float32)


def inception(
    weights: str | os.PathLike | None = None, *, device: str = "cpu", batch: int = 64
) -> Extract:
    """Inception features, F = 2048, on a torch device; colour or grey images.

    weights: the file weights-inception-2015-12-05-6726825d.pth of torch-fidelity's releases; None
    takes torch's download cache, or downloads it (91 MB). InputError where the extra `fid` is not
    installed or no weights can be had.
    """
    if batch < 1:
        raise InputError(f"a batch needs at least one image, got {batch}")
    try:
        torch = importlib.import_module("torch")
        network = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    except (ImportError, RuntimeError) as error:
        # RuntimeError: torchvision built for another torch.
        raise InputError(
            f"Inception features need the optional extra 'fid' ({error}): {REMEDY}"
        ) from error
    path = None if weights is None else os.fspath(weights)
    if path is not None and not os.path.isfile(path):
        raise InputError(f"no Inception weights at {path}: check the path, or leave it out")
    try:
        if path is not None:
            # A pickle may hold code, and torch-fidelity would run it: tensors only get past this.
            torch.load(path, map_location="cpu", weights_only=True)
        model = network.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=path
        )
    except Exception as error:
        # No network, a full disk, a truncated pickle, other keys: each library has its own errors.
        raise InputError(
            f"no usable Inception weights ({type(error).__name__}: {str(error)[:200]}): download "
            "weights-inception-2015-12-05-6726825d.pth from torch-fidelity's releases and pass "
            "its path"
        ) from error
    model = model.to(device)

    def run(images) -> np.ndarray:
        images = unit_images(images)
        if images.shape[3] not in (1, 3):
            raise InputError(f"Inception needs 1 or 3 channels, got {images.shape[3]}")
        found = []
        with torch.no_grad():
            for start in range(0, len(images), batch):
                x = np.asarray(images[start : start + batch], np.float32)
                pixels = np.clip(np.rint((x + 1) * 127.5), 0, 255).astype(np.uint8)
                pixels = np.repeat(pixels, 3 // pixels.shape[3], axis=3).transpose(0, 3, 1, 2)
                (f,) = model(torch.from_numpy(np.ascontiguousarray(pixels)).to(device))
                found.append(f.cpu().numpy().astype(np.float32))
        return np.concatenate(found) if found else np.zeros((0, 2048), np.float32)

    return run


def unit_images(images) -> Any:
    """Images [B, H, W, C] as they are; InputError for another shape or the pixels of a file.

    Generated images may leave [-1, 1], but pixels 0..255 are whole numbers, or never negative.
    """
    if np.ndim(images) != 4:
        raise InputError(f"images must have shape [B, H, W, C], got {list(np.shape(images))}")
    known = np.asarray(images)
    if known.size and (
        not jnp.issubdtype(known.dtype, jnp.floating) or (known.min() >= 0 and known.max() > 2)
    ):
        raise InputError(
            f"images must be floats in [-1, 1], got {known.dtype} from {known.min():g} to"
            f" {known.max():g}: scale them with dng_jax.data.to_unit"
        )
    return images


def _batches(images, batch: int):
    """Parts of exactly `batch` images, the last one filled up with zeros; at least one part."""
    for start in range(0, max(len(images), 1), batch):
        part = np.asarray(images[start : start + batch], np.float32)
        yield np.pad(part, ((0, batch - len(part)), (0, 0), (0, 0), (0, 0)))
