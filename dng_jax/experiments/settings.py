"""A rule with everything it was found with, as a file: best.json of a search.

    {"rule": "dng:pair=3.2,tau=.5", "sampler": "ddpm", "steps": 50, "dataset": "mnist",
     "forbid": ["0"], "source": {...}, "options": {...}, ...}

    applied(config, read(path))

gives the options of a job what the file says wherever they stand at their defaults, and refuses
others than the file's: the rule was found for these.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from dng_jax import disk
from dng_jax.errors import InputError
from dng_jax.experiments import rule_specs

T = TypeVar("T")
APPLIED = ("dataset", "forbid", "sampler", "steps", "source", "options")
SIZE_MAX = 2**20


def read(path: str | os.PathLike) -> dict[str, Any]:
    """The file's record; InputError where it is none of these."""
    if disk.check_file(path) > SIZE_MAX:
        raise InputError(f"{path} is too large for the settings of a rule: is it the right file?")
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read as JSON ({error}): is it the right file?"
        ) from None
    absent = [n for n in ("rule", *APPLIED) if not isinstance(found, dict) or n not in found]
    if absent:
        raise InputError(f"{path} holds no settings of a rule (no {absent[0]}): name a best.json")
    if not isinstance(found["rule"], str):
        raise InputError(f"{path} names no rule, but {found['rule']!r}: name a best.json")
    rule_specs.parse(found["rule"])
    return found


def applied(config: T, found: Mapping[str, Any], path: str | os.PathLike) -> T:
    """The options with the file's in the place of defaults; InputError for others than these.

    config: a dataclass with a default for every field, and the fields APPLIED.
    """
    usual = type(config)()
    changes = {
        name: _applied(name, getattr(config, name), getattr(usual, name), found[name], path)
        for name in APPLIED
    }
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def _applied(name: str, given: Any, usual: Any, stored: Any, path: str | os.PathLike) -> Any:
    if dataclasses.is_dataclass(usual) and not isinstance(usual, type):
        names = {field.name for field in dataclasses.fields(usual)}
        if not isinstance(stored, dict) or not set(stored) <= names:
            raise InputError(f"{path} holds no {name} of this version: search again")
        parts = {
            inner: _applied(inner, getattr(given, inner), getattr(usual, inner), value, path)
            for inner, value in stored.items()
        }
        return dataclasses.replace(given, **parts)
    value = tuple(map(str, stored)) if isinstance(stored, list) else stored
    kinds = {type(usual), type(given), *((str, int, float) if usual is None else ())}
    if value is not None and not isinstance(value, tuple(kinds - {type(None)})):
        raise InputError(f"{path} says {name} is {stored!r}, which it cannot be: search again")
    if given not in (usual, value):
        option = f"--{name.replace('_', '-')}"
        raise InputError(f"{path} was found with another {option} ({stored!r}): leave {option} out")
    return value
