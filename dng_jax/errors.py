"""What a person did wrong, in one sentence that names the value and the remedy."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class InputError(ValueError):
    """Bad input. Jobs print its one sentence and leave with exit code 2, without a traceback."""


class MissingDataError(InputError):
    """A data set that is nowhere to be found; the message says where it was looked for."""


class NonFiniteError(FloatingPointError):
    """A network or a rule produced NaN or infinity; names the sampling step and the sample."""


def find(table: Mapping[str, T], role: str) -> T:
    """table[role]; raises InputError naming the roles that a denoiser does answer."""
    if role not in table:
        raise InputError(
            f"the denoiser has no role '{role}' (it has {', '.join(table)}):"
            " name it in the denoiser's conditions"
        )
    return table[role]


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
