"""Classes as people name them, and as numbers.

A word is a class's name before it is a number: of classes "0", "1", "10", ... the word 10 is the
third. An integer is always a number.
"""

from __future__ import annotations

from collections.abc import Sequence

from dng_jax import data
from dng_jax.errors import InputError, choose, class_number


def class_indices(names: Sequence[str | int], info: data.Info) -> tuple[int, ...]:
    """Numbers of classes given by name or number, ascending, each once.

    InputError for unknown ones, for a name of two classes, for none, and for all of them.
    """
    chosen = sorted({class_index(name, info) for name in names})
    if not chosen:
        raise InputError("name at least one class with --forbid")
    if len(chosen) == info.num_classes:
        raise InputError(
            f"all {info.num_classes} classes of {info.name} are forbidden: leave at least one"
        )
    return tuple(chosen)


def class_title(k: int, info: data.Info) -> str:
    """A class for a title: its name, and its number where that is another word."""
    name = info.class_names[k]
    return name if name == str(k) else f'class {k}, "{name}"'


def class_index(name: str | int, info: data.Info) -> int:
    """Number of a class given by name or number; InputError for an unknown one, or for a name of
    two."""
    by_number = {str(k): k for k in range(info.num_classes)}
    if not isinstance(name, str):
        return by_number[choose(str(class_number(name)), by_number, f"{info.name} class")]
    if name in info.class_names:
        if info.class_names.count(name) > 1:
            same = [str(k) for k, other in enumerate(info.class_names) if other == name]
            raise InputError(
                f"the {info.name} classes {' and '.join(same)} are both called '{name}': rename one"
            )
        return info.class_names.index(name)
    return by_number[choose(name, [*info.class_names, *by_number], f"{info.name} class")]
