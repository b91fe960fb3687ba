"""Classes as people name them, and as numbers."""

from __future__ import annotations

from collections.abc import Sequence

from dng_jax import data
from dng_jax.errors import InputError, choose


def class_indices(names: Sequence[str | int], info: data.Info) -> tuple[int, ...]:
    """Numbers of classes given by name or number, ascending, each once.

    InputError for unknown ones, for none, and for all of them.
    """
    known = {name: k for k, name in enumerate(info.class_names)}
    known |= {str(k): k for k in range(info.num_classes)}
    chosen = sorted({known[choose(str(name), known, f"{info.name} class")] for name in names})
    if not chosen:
        raise InputError("name at least one class with --forbid")
    if len(chosen) == info.num_classes:
        raise InputError(
            f"all {info.num_classes} classes of {info.name} are forbidden: leave at least one"
        )
    return tuple(chosen)
