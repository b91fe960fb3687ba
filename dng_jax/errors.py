"""What a person did wrong, in one sentence that names the value and the remedy."""

from __future__ import annotations

import difflib
import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


class InputError(ValueError):
    """Bad input. Jobs print its one sentence, without a traceback; exit code 2.

    What cannot be printed, of a value that the sentence names, is written as its escape: a line
    stays one line, and a terminal obeys nothing in it.
    """

    def __init__(self, said: str) -> None:
        super().__init__(printable(said))


class MissingDataError(InputError):
    """A data set that is nowhere to be found; the message says where it was looked for."""


class NonFiniteError(FloatingPointError):
    """A network or a rule produced NaN or infinity; names the sampling step and the sample."""


def printable(said: str) -> str:
    """The text with an escape in the place of every character that cannot be printed."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in said)


def check_seed(seed: int) -> int:
    """Returns a seed in 0..2^64-1; InputError for any other: two seeds never mean one image."""
    found = as_whole(seed)
    if found is None or not 0 <= found < 2**64:
        raise InputError(f"a seed must be a whole number from 0 to 2^64 - 1, got {seed!r}")
    return found


def as_whole(value: object) -> int | None:
    """A whole number of Python, NumPy or JAX as an int; None for anything else, True included."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:  # arrays have __index__ whatever they hold
        return None


def find(table: Mapping[str, T], role: str) -> T:
    """table[role]; raises InputError naming the roles that a denoiser does answer."""
    if role not in table:
        raise InputError(
            f"the denoiser has no role '{role}' (it has {', '.join(table)}):"
            " name it in the denoiser's conditions"
        )
    return table[role]


def distinct_roles(roles: Sequence[str], kind: str) -> tuple[str, ...]:
    """Roles as a tuple; InputError for none, a bare string, or one that is named twice."""
    if not roles or isinstance(roles, str):
        raise InputError(f"name at least one {kind}, in a tuple; got {roles!r}")
    twice = [role for role in roles if list(roles).count(role) > 1]
    if twice:
        raise InputError(f"the {kind} '{twice[0]}' is named twice: name each once")
    return tuple(roles)


def choose(name: str, known: Iterable[str], kind: str) -> str:
    """Returns name where it is one of the known ones; raises InputError with a suggestion."""
    known = tuple(known)
    if name in known:
        return name
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    raise InputError(f"unknown {kind} '{name}': {hint}choose from {', '.join(known)}")


def difference(stored: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    """The first three entries, at any depth, in which two records differ: "steps 50, not 51"."""
    a, b = _flat(stored), _flat(wanted)
    names = [n for n in {**a, **b} if a.get(n, ...) != b.get(n, ...)]
    found = [f"{n} {_short(a, n)}, not {_short(b, n)}" for n in names[:3]]
    return "; ".join(found) + ("; ..." if len(names) > 3 else "")


def _flat(values: Mapping[str, object], above: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in values.items():
        inner = _flat(value, f"{above}{name}.") if isinstance(value, dict) else {}
        found |= inner or {above + name: value}
    return found


def _short(values: Mapping[str, object], name: str) -> str:
    text = json.dumps(values[name], ensure_ascii=False) if name in values else "unset"
    return text if len(text) <= 40 else text[:37] + "..."


def class_number(k: object) -> int:
    """A whole number of Python, NumPy or JAX as an int; InputError for anything else."""
    if (found := as_whole(k)) is None:
        raise InputError(f"a class is given by a whole number, got {k!r}")
    return found


def some_classes(forbidden: Iterable[int], num_classes: int) -> tuple[int, ...]:
    """Forbidden classes, sorted, each once; InputError for none, all or unknown ones."""
    if isinstance(forbidden, str) or not isinstance(forbidden, Iterable):
        raise InputError(f"forbidden must be a list of class numbers, got {forbidden!r}")
    chosen = tuple(sorted({class_number(k) for k in forbidden}))
    outside = [k for k in chosen if not 0 <= k < num_classes]
    if outside:
        raise InputError(f"class {outside[0]} does not exist: choose from 0..{num_classes - 1}")
    if not chosen:
        raise InputError("name at least one class to forbid")
    if len(chosen) == num_classes:
        raise InputError(f"all {num_classes} classes are forbidden: leave at least one allowed")
    return chosen


def counted(number: int, noun: str) -> str:
    """A number of things in words: "1 image", "1,797 images"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
