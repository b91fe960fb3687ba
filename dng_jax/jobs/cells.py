"""How a measured number stands in a table: rounded, with its interval, marked where it is weak.

    0.0241 [0.0129, 0.0365]      value [95% interval]
    0.1310* [0.0000, inf]        an allowed class has fewer than 5 samples; no upper end exists

A table that holds a mark says in its title what it means.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

MARK = "*"
NOTHING = "–"
SPARSE = f"{MARK} a class has fewer than 5 samples; inf: one that is allowed has none"


def number(value: float, digits: int = 4, sparse: bool = False) -> str:
    """The value, marked if sparse; an en dash for NaN."""
    return NOTHING if math.isnan(value) else f"{value:.{digits}f}" + MARK * bool(sparse)


def interval(value: float, low: float, high: float, digits: int = 4, sparse: bool = False) -> str:
    """The value as `number` has it, and its bounds."""
    return f"{number(value, digits, sparse)} [{low:.{digits}f}, {high:.{digits}f}]"


def milliseconds(seconds: float | None) -> str | None:
    """Seconds in milliseconds; None where nothing was timed."""
    return None if seconds is None else f"{1000 * seconds:.2f}"


def titled(title: str, sparse: Iterable[object]) -> str:
    """The title, with what the mark means if any row is sparse."""
    return f"{title} ({SPARSE})" if any(sparse) else title
