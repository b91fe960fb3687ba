"""The fields of a config.json that diffusers or transformers wrote, read strictly.

    fields = Fields(stored, "AutoencoderKL", defaults={"act_fn": "silu"}, unused=("sample_size",))
    channels = fields.whole_number("in_channels", 3)        3 where the field is not there
    fields.end()                                            InputError for whatever is left over

A field that is not there has the default that the code which wrote the file has for it. One that is
neither read nor unused must have that default: what another value would ask for is not built here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from dng_jax.errors import InputError
from dng_jax.weights.diffusers_config import differing, shown


class Fields:
    """One reader of one file; see the file's docstring.

    stored: what the file holds; kind: its _class_name; defaults: of the fields that must have them;
    unused: fields of any value. InputError for another kind, and of every method for a value that
    is none of those it says.
    """

    def __init__(
        self,
        stored: Mapping[str, Any],
        kind: str,
        defaults: Mapping[str, Any],
        unused: Collection[str] = (),
    ) -> None:
        if stored.get("_class_name") != kind:
            raise InputError(f"_class_name {shown(stored.get('_class_name'))} (must be {kind})")
        self._stored, self._defaults, self._seen = stored, defaults, {*unused, *defaults}

    def one_of(self, name: str, default: Any, *known: Any) -> Any:
        """The value, one of those that are known."""
        value = self._value(name, default)
        if value not in known:
            _refuse(name, value, " or ".join(map(shown, known)))
        return value

    def number(self, name: str, default: float) -> float:
        """A number above 0."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            _refuse(name, value, "a number above 0")
        return float(value)

    def whole_number(self, name: str, default: int | None = None) -> int:
        """A whole number from 1; without a default it must be there."""
        value = self._value(name, default)
        if type(value) is not int or value < 1:
            _refuse(name, value, "a whole number from 1")
        return value

    def whole_numbers(self, name: str, default: list[int]) -> tuple[int, ...]:
        """A list of one or more whole numbers from 1."""
        value = self._value(name, default)
        if not isinstance(value, list) or not value or not all(map(_is_whole, value)):
            _refuse(name, value, "a list of whole numbers from 1")
        return tuple(value)

    def by_level(self, name: str, default: int, levels: int) -> tuple[int, ...]:
        """A whole number from 1 for every level: a list of so many, or one for all of them."""
        value = self._value(name, default)
        values = value if isinstance(value, list) else [value] * levels
        if len(values) != levels or not all(map(_is_whole, values)):
            _refuse(name, value, f"a whole number from 1, or {levels} of them")
        return tuple(values)

    def which(
        self, name: str, default: list[str], levels: int, no: str, yes: str
    ) -> tuple[bool, ...]:
        """Of a list of names, one for every level, which are `yes`; the others are `no`."""
        value = self._value(name, default)
        fits = isinstance(value, list) and all(kind in (no, yes) for kind in value)
        if not fits or len(value) != levels:
            _refuse(name, value, f"{no} or {yes}, for each of {levels} levels")
        return tuple(kind == yes for kind in value)

    def end(self) -> None:
        """InputError, naming them, for fields that were not read and are not their defaults."""
        stored = self._stored
        wrong = list(differing(stored, {n: (v, v) for n, v in self._defaults.items()}))
        unknown = [n for n in stored if not n.startswith("_") and n not in self._seen]
        wrong += [f"{n} {shown(stored[n])} (not known here)" for n in unknown]
        if wrong:
            raise InputError("; ".join(wrong[:5]) + ("; ..." if len(wrong) > 5 else ""))

    def _value(self, name: str, default: Any) -> Any:
        self._seen.add(name)
        return self._stored.get(name, default)


def _is_whole(value: Any) -> bool:
    return type(value) is int and value > 0  # True is an int


def _refuse(name: str, value: Any, must: str) -> NoReturn:
    raise InputError(f"{name} {shown(value)} (must be {must})")
