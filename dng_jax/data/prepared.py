"""Image-classification sets prepared by TensorFlow Datasets (TFDS), read without TensorFlow.

A prepared set is a folder <root>/<name>[/<config>]/<version> of array_record files, each example a
serialised dict in which one feature is an encoded image and one a class label. TFDS decodes about
3,000 of them a second, so the arrays are kept beside them as dng_jax-<split>-<key>.npz (where the
folder can be written to): images uint8 [N, H, W, C], labels int32 [N], stored uncompressed with the
checksums of a zip file. The key is a SHA-256 over names, sizes and times of the prepared files.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dng_jax import arrays, disk
from dng_jax.data.info import Info, parts
from dng_jax.errors import InputError

PREFIX = "dng_jax-"
INSTALL = "pip install 'dng-jax[data]'"


def locate(name: str, roots: Sequence[Path]) -> Path | None:
    """The folder of the newest prepared version of a set, from the first root that has one.

    name: as TFDS spells it, name[/config][:version].
    """
    base = re.split("[/:]", str(name))[0]
    for root in roots if base.isidentifier() else ():
        if not (root / base).is_dir():  # or TFDS, slow to import, would look for nothing
            continue
        tfds()
        from tensorflow_datasets.core import read_only_builder, registered

        try:
            builder = read_only_builder.builder_from_files(str(name), data_dir=root)
        except registered.DatasetNotFoundError:
            continue
        except Exception as error:  # of parsers of several formats
            raise InputError(
                f"the prepared data set in {root / base} cannot be read ({_first_line(error)}):"
                " remove it and prepare it again"
            ) from error
        return Path(builder.data_dir)
    return None


def names(roots: Sequence[Path]) -> list[str]:
    """Names of the sets that are prepared in the roots."""
    return sorted(
        {
            path.relative_to(root).parts[0]
            for root in roots
            for pattern in ("*/*/dataset_info.json", "*/*/*/dataset_info.json")
            for path in root.glob(pattern)
        }
    )


def load(name: str, split: str, folder: Path) -> tuple[np.ndarray, np.ndarray, Info]:
    """Images uint8 [N, H, W, C], labels int32 [N] in the order of the files, and Info.

    Raises InputError for a split that the set does not have, files that cannot be read, images of
    several sizes or other than uint8, examples without one image and one class label.
    """
    info = tfds().builder_from_directory(folder).info
    image, label = _features(name, info)
    chosen = [part for part in parts(split) if part in info.splits]
    if not chosen:
        raise InputError(f"data set '{name}' has no split '{split}', only {', '.join(info.splits)}")
    both = [_cached(name, folder, part, image, label) for part in chosen]
    images, labels = (list(arrays) for arrays in zip(*both, strict=True))
    _same_shape(name, images)
    classes = info.features[label]
    return (
        np.concatenate(images),
        np.concatenate(labels),
        Info(str(name), classes.num_classes, tuple(classes.names), images[0].shape[1:]),
    )


def installed() -> bool:
    """Whether TensorFlow Datasets is there; it is not imported, which takes seconds."""
    return importlib.util.find_spec("tensorflow_datasets") is not None


def tfds():
    """The module tensorflow_datasets; InputError where it is not installed."""
    try:
        import tensorflow_datasets  # imported late: it takes two seconds
    except ImportError as error:
        raise InputError(
            f"downloads and prepared data sets need the extra data ({error}): {INSTALL}"
        ) from error
    return tensorflow_datasets


def _features(name: str, info) -> tuple[str, str]:
    """Names of the image and of the label in an example."""
    core = tfds().features
    images = [key for key, feature in info.features.items() if isinstance(feature, core.Image)]
    labels = [key for key, feature in info.features.items() if isinstance(feature, core.ClassLabel)]
    preferred = info.supervised_keys or ()
    image, label = (
        next((key for key in found if key in preferred or len(found) == 1), None)
        for found in (images, labels)
    )
    if image is None or label is None:
        raise InputError(
            f"data set '{name}' is no image classification: it has the images"
            f" {', '.join(images) or 'none'} and the class labels {', '.join(labels) or 'none'}"
        )
    if info.features[image].np_dtype != np.uint8:
        raise InputError(
            f"data set '{name}' has {np.dtype(info.features[image].np_dtype)} images: only uint8"
            " images can be loaded"
        )
    return image, label


def _cached(name: str, folder: Path, part: str, image: str, label: str):
    path = folder / f"{PREFIX}{part}-{_key(folder)}.npz"
    # Anything but whole arrays is as good as no cache: decode again.
    with contextlib.suppress(InputError, KeyError):
        held = arrays.read_npz(path)
        images, labels = held["images"], held["labels"]
        if images.dtype == np.uint8 and images.ndim == 4 and labels.shape == images.shape[:1]:
            return images, labels.astype(np.int32)
    images, labels = _decode(name, folder, part, image, label)
    stale = list(folder.glob(f"{PREFIX}{part}-*.npz"))
    # A folder that is read-only or full costs the next load some seconds, no more.
    with contextlib.suppress(OSError, disk.RefusedError):
        with disk.whole(path) as file:
            np.savez(file, images=images, labels=labels)
        for old in stale:
            if old != path:
                old.unlink(missing_ok=True)
    return images, labels


def _key(folder: Path) -> str:
    stats = sorted(
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.iterdir()
        if not path.name.startswith((PREFIX, "."))
    )
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]


def _decode(name: str, folder: Path, part: str, image: str, label: str):
    builder = tfds().builder_from_directory(folder)
    count = builder.info.splits[part].num_examples
    images: list[np.ndarray] = []
    labels = np.empty(count, np.int32)
    try:
        source = builder.as_data_source(part)
        for i, example in enumerate(source):
            images.append(example[image])
            labels[i] = example[label]
            _same_shape(name, (images[0][None], images[i][None]))
    except InputError:
        raise
    except NotImplementedError:
        raise InputError(
            f"{folder} is prepared as {builder.info.file_format.value}, which only TensorFlow"
            " reads: prepare it again with file_format='array_record'"
        ) from None
    except Exception as error:  # the readers of array_record, protobuf and PNG share no base class
        raise InputError(
            f"the split '{part}' in {folder} cannot be read at example {len(images)} of {count}"
            f" ({_first_line(error)}): where it is truncated or altered, remove it and prepare it"
            " again"
        ) from error
    if len(images) != count or not count:
        raise InputError(f"the split '{part}' in {folder} has {len(images)} of {count} examples")
    if labels.min() < 0:
        raise InputError(f"data set '{name}' has no labels in its split '{part}'")
    return np.stack(images), labels


def _same_shape(name: str, images: Sequence[np.ndarray]) -> None:
    for other in images[1:]:
        if other.shape[1:] != images[0].shape[1:]:
            raise InputError(
                f"data set '{name}' has images of several sizes, {images[0].shape[1:]} and"
                f" {other.shape[1:]}: prepare a copy in which all have one"
            )


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
