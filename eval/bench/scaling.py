"""How seconds grow with a size: seconds ~ size^exponent, by least squares of the logarithms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dng_jax.jobs.tables import Table

from . import timing


def measured(runs: Mapping[int, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """{"sizes", "seconds", "exponent", "off"} of programs by size, timed in turn."""
    timed = {str(size): timing.timed(run) for size, run in runs.items()}
    times = timing.in_turn(timed, rounds)
    seconds = [float(np.median(values)) for values in times.values()]
    return {"sizes": [*runs], **exponent([*runs], seconds)}


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> dict[str, Any]:
    """The slope of log seconds against log size, and by what share the worst point is off it."""
    x, y = np.log(sizes), np.log(seconds)
    slope, intercept = np.polyfit(x, y, 1)
    worst = np.abs(y - slope * x - intercept).max()
    return {"seconds": seconds, "exponent": float(slope), "off": float(np.expm1(worst))}


def table_of(growth: Mapping[str, Any]) -> Table:
    """Seconds over sizes."""
    return Table.of(
        "Growth: seconds ~ size^exponent",
        [{"size": name} | found for name, found in growth.items()],
        {
            "size": "size",
            "values": lambda r: " ".join(map(str, r["sizes"])),
            "s": lambda r: " ".join(f"{s:.3g}" for s in r["seconds"]),
            "exponent": lambda r: f"{r['exponent']:.2f}",
            "off the line by": lambda r: f"{r['off']:.0%}",
        },
    )
