"""What the subcommands of `eval.hopfield` share: options, outcomes, axes, notes, protocols."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dng_jax.errors import InputError, choose
from dng_jax.jobs.options import at_least, option
from dng_jax.jobs.tables import Table
from hopfield_jax import spectrum, theory
from hopfield_jax.analyses import transition

from .sets import PatternSet

NO_MINIMUM = "no certified minimum, left out of what is shown,"
ONLY_BOUND = "the search did not settle, so that the value is only a bound,"
# What equidistant patterns have at a beta_eff, by hopfield_jax.theory.phase.
PHASES = {
    "centroid": "one attractor",
    "patterns metastable": "single keys, metastable",
    "patterns lowest": "single keys, lowest",
}
PROTOCOLS = ("started at the patterns", "lowest energy", "started at the centroid")


class Outcome(NamedTuple):
    """What a subcommand adds to results.json, the tables that it shows, its notes, and what draws
    its pictures."""

    results: dict[str, Any]
    tables: list[Table]
    notes: list[str]
    pictures: Sequence[Callable[[], object]]


@contextlib.contextmanager
def precise(precision: str) -> Iterator[None]:
    """Runs its block in the named precision."""
    choose(precision, ("float32", "float64"), "precision")
    with jax.enable_x64(precision == "float64"):
        yield


def bounded(low: float, high: float, **numbers: float | None) -> None:
    """InputError for a number outside [low, high], named as its option; None passes."""
    for name, value in numbers.items():
        at_least(low, **{name: value})
        if value is not None and value > high:
            raise InputError(f"{option(name)} must be at most {high:.0f}, got {value:g}")


def between(low: float | None, high: float | None, default: tuple[float, float], count: int):
    """count values of beta_eff, evenly spaced in their logarithm."""
    low, high = default[0] if low is None else low, default[1] if high is None else high
    if not (math.isfinite(low) and math.isfinite(high) and 0 < low < high):
        raise InputError(
            f"beta_eff must run from a number > 0 to a larger one, got {low:g} to {high:g}:"
            " set --low and --high"
        )
    bounded(2, 10_000, betas=count)
    return np.geomspace(low, high, count)


def note(what: str, rows: Iterable[object], outcome: str) -> list[str]:
    """[one sentence that names the rows and their outcome], [] where there are none."""
    names = [f"{row:.4g}" if isinstance(row, float) else str(row) for row in rows]
    if not names:
        return []
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return [f"{what}: {outcome} for {len(names)} of them ({shown})"]


def some(columns: Mapping[str, Any], most: int) -> list[dict[str, Any]]:
    """At most so many records of the columns [S], evenly spaced from the first to the last."""
    count = len(next(iter(columns.values())))
    chosen = np.unique(np.linspace(0, count - 1, most).astype(int))
    return [{name: column[s] for name, column in columns.items()} for s in chosen]


def cell(name: str, form: str = ".7g", unit: float = 1) -> Callable[[Mapping[str, Any]], Any]:
    """A table's cell from a field of the record in this format; nothing where it is missing."""

    def shown(record: Mapping[str, Any]) -> str | None:
        value = record[name]
        return None if value is None or np.isnan(value) else format(unit * value, form)

    return shown


def protocols(
    chosen: PatternSet, measured: transition.Protocols, first: spectrum.Instability | None = None
) -> list[dict[str, Any]]:
    """What each protocol calls beta_c, in beta_eff; for general sets, the branch from the mean too.

    first: how that branch ends, where it is known already.
    """
    values = (measured.patterns, measured.energy, measured.centroid)
    names = PROTOCOLS
    if not chosen.equidistant:
        names = (*PROTOCOLS[:2], "last minimum without a leading pattern")
    exact = theory.characteristic(chosen.count)
    rows: list[dict[str, Any]] = [
        {"protocol": f"{name} ({mark})", "exact": k, "measured": chosen.scale * beta}
        for name, mark, k, beta in zip(names, ("K_s", "K_c", "N"), exact, values, strict=True)
    ]
    if not chosen.equidistant:
        first = first or spectrum.first_instability(chosen.patterns, chosen.energy)
        name = f"branch from the mean: {first.kind}"
        rows.append({"protocol": name, "exact": None, "measured": chosen.scale * first.beta})
    return rows


def protocol_table(chosen: PatternSet, rows: Sequence[Mapping[str, Any]]) -> Table:
    """The protocols beside what is exact, or predicted."""

    def error(row: Mapping[str, Any]) -> str | None:
        return None if row["exact"] is None else f"{row['measured'] / row['exact'] - 1:.1e}"

    return Table.of(
        f"{chosen.name}: what each protocol calls the critical beta_eff",
        rows,
        {
            "protocol": "protocol",
            "exact" if chosen.equidistant else "equidistant prediction": cell("exact"),
            "measured": cell("measured"),
            "ratio - 1": error,
        },
    )


MARKS = ("$K_s$", "$K_c$", "$N$")


def marks_of(chosen: PatternSet) -> dict[str, float]:
    """The three characteristic values by their names in figures; `title_of` says what they are."""
    return dict(zip(MARKS, theory.characteristic(chosen.count), strict=True))


def title_of(what: str, chosen: PatternSet) -> str:
    """Two lines above a figure with `marks_of`: what of which set, and what the marks are."""
    whose = "" if chosen.equidistant else " (if equidistant)"
    said = "$K_s$: minima of patterns, $K_c$: they are lowest, $N$: centroid's lost"
    return f"{what}: {plain(chosen.name)}\n{said}{whose}"


def plain(name: str) -> str:
    """A name for a title, in which matplotlib must not read a formula."""
    return name.replace("$", r"\$")


def count_of(limit: float) -> str:
    """A limit on a number of patterns, rounded down for people: 158, 2,930, 451,000, 1.0e+19."""
    if limit >= 1e6:
        return f"{limit:.1e}"
    unit = 10 ** max(0, len(str(math.floor(limit))) - 3)
    return f"{math.floor(limit / unit) * unit:,}"
