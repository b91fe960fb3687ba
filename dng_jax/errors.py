"""What a person did wrong, in one sentence that names the value and the remedy."""

from __future__ import annotations

import difflib
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
