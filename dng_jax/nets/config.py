"""A network's static description: plain values, so that it round-trips through JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from dng_jax.errors import choose


@dataclass(frozen=True)
class Config:
    """What the configurations of all networks can do; fields are numbers, strings and tuples."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; tuples become lists."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; raises InputError for an unknown field."""
        known = [f.name for f in fields(cls)]
        for name in values:
            choose(name, known, f"field of {cls.__name__}")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
