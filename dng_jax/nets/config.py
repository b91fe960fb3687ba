"""A network's static description: plain values, so that it round-trips through JSON."""

from __future__ import annotations

import typing
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Self

import numpy as np

from dng_jax.errors import InputError, choose


@dataclass(frozen=True)
class Config:
    """What the configurations of all networks can do; fields are numbers, strings and tuples."""

    def example(self) -> tuple[np.ndarray, ...]:
        """Inputs of one example, all zero: what the module's `init` and `apply` take."""
        values = vars(self)
        inputs = [np.zeros((1, *values["image_shape"]), np.float32)]
        if "conditioning" in values:
            inputs.append(np.zeros(1, np.float32))
            if values["conditioning"] == "label":
                inputs.append(np.zeros(1, np.int32))
        return tuple(inputs)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; tuples become lists."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; raises InputError for a field that is unknown, missing or of
        another type."""
        known = {f.name: f for f in fields(cls)}
        hints = typing.get_type_hints(cls)
        for name, value in values.items():
            choose(name, known, f"field of {cls.__name__}")
            if not _is(value, hints[name]):
                raise InputError(f"{name} of {cls.__name__} cannot be {str(value)[:60]}")
        for name, field in known.items():
            if name not in values and field.default is MISSING:
                raise InputError(f"{cls.__name__} lacks its field {name}")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _is(value: object, hint: Any) -> bool:
    """Whether a JSON value is of a field's type; a whole number will do for a float."""
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        if not isinstance(value, list):
            return False
        many = len(value) if inner[-1] is Ellipsis else len(inner)
        return len(value) == many and all(_is(v, inner[0]) for v in value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if hint is float else hint)
