"""Networks by name: bundled with the library, a model file of the training jobs, or a folder that
diffusers wrote.

A name is that of a bundled network, in full ("mnist-heads") or without its data set ("heads");
"bundled" is a data set's first, which jobs take where none is named. One
that ends in .safetensors, has a slash or is that of a folder here is a path: ./heads is a folder
whose name is a bundled network's.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dng_jax import data, disk
from dng_jax.errors import InputError, choose
from dng_jax.experiments.source import BUNDLED, CLASS, Source
from dng_jax.weights import diffusers, files, pretrained, tensors


def is_path(name: str) -> bool:
    """Whether a name is that of a model file or folder; see the file's docstring."""
    if name.endswith(".safetensors") or "/" in name or os.sep in name:
        return True
    bundled = any(name in (full, full.partition("-")[2]) for full in pretrained.NAMES)
    return not (bundled or name == BUNDLED) and os.path.isdir(name)


def load(info: data.Info, name: str, kind: Any) -> tuple[Any, Any]:
    """(module, params) of a network for the data set, a `kind` of dng_jax.nets.

    InputError for a name that stands for nothing, another kind, or another shape of image or number
    of classes; a warning for a file trained on images of one's own that are not those of info.
    """
    if is_path(name):
        if not os.path.exists(name):
            raise InputError(
                f"{name} does not exist: name a model file, a folder of diffusers, or a bundled"
                " network"
            )
        if os.path.isdir(name):
            module, params, _ = diffusers.load_folder(name, info.num_classes)
        else:
            module, params, _ = files.load(name)
            _compare_images(name, info)
    else:
        name = _bundled(info.name, name)
        module, params, _ = pretrained.load(name)
    if not isinstance(module, kind):
        raise InputError(f"{name} holds a {type(module).__name__}, not a {kind.__name__}")
    data.must_fit(module.config, info, name)
    return module, params


def _compare_images(name: str, info: data.Info) -> None:
    trained_on = tensors.read_metadata(name).get("dataset_sha256")
    if trained_on == info.sha256:
        return
    if trained_on is None:
        found = f"{name} does not say that it was trained on the images of {info.name}"
    else:
        found = f"{name} was trained on other images than those of {info.name} as they are now"
    warnings.warn(
        f"{found}: distances to these may say nothing about how well it learned its own",
        UserWarning,
        stacklevel=3,
    )


def of_class(name: str, k: int) -> str:
    """A name that holds {k}, of the network of class k; others as they are."""
    return name.replace(CLASS, str(k))


def check_without(name: str, classes: Sequence[str]) -> None:
    """InputError for a file that says that it was trained without another class than these."""
    if not is_path(name) or os.path.isdir(name):
        return
    trained = tensors.read_metadata(name)
    if "without_class" in trained and [trained["without_class"]] != list(classes):
        raise InputError(
            f"{name} was trained without {trained['without_class']}, but {', '.join(classes)} is"
            " forbidden: name the network that was trained without it"
        )


def full_name(dataset: str, name: str) -> str:
    """The name of a bundled network with its data set; a path's as it is."""
    if is_path(name) or name in pretrained.NAMES:
        return name
    if name == BUNDLED and (own := networks_of(dataset)):
        return own[0]
    return f"{dataset}-{name}"


def networks_of(dataset: str) -> list[str]:
    """The bundled networks of a data set that generate, in full, the default one first."""
    own = [n for n in pretrained.NAMES if n.startswith(f"{dataset}-")]
    return [n for n in own if n != f"{dataset}-classifier"]


def fingerprint(
    dataset: str, source: Source, classes: Sequence[int] = (), num_classes: int = 0
) -> dict[str, str]:
    """SHA-256 of every weights file the problems of forbidding these classes, each on its own, rest
    on, so that other weights under the same names are recognised; with num_classes those of the
    other classes too, where they are there. InputError for one that is not."""
    if source.denoiser == "exact":
        return {}
    beside = (*source.negatives, *([] if source.retrained is None else [source.retrained]))
    every = []
    for name in beside:
        for k in sorted({*classes, *range(num_classes)}) if CLASS in name else (0,):
            one = of_class(name, k)
            if k in classes and is_path(one) and not os.path.exists(one):
                raise InputError(f"{one} does not exist: name the networks of all classes")
            if CLASS not in name or k in classes or os.path.exists(one):
                every.append(one)
    names = (source.network, *every, source.classifier or "classifier")
    return {
        full_name(dataset, name): hashlib.sha256(_bytes(dataset, name)).hexdigest()
        for name in names
    }


def _bytes(dataset: str, name: str) -> bytes:
    if is_path(name):
        folder = os.path.isdir(name)
        files = diffusers.files_of(name) if folder else [Path(name)]
        for file in files:
            disk.check_file(file)  # a device has no end
        return b"".join(file.read_bytes() for file in files)
    return pretrained.stored(full_name(dataset, name))


def _bundled(dataset: str, name: str) -> str:
    full = full_name(dataset, name)
    if full not in pretrained.NAMES:
        networks = [n.partition("-")[2] for n in networks_of(dataset)]
        if not networks:
            raise InputError(
                f"no bundled network for {dataset}: name a model file with --network, or use "
                "--denoiser exact"
            )
        choose(name, networks, "network")
    return full
