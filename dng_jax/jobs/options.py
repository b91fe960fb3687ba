"""Options that jobs share, and the bounds of numbers."""

from __future__ import annotations

from dataclasses import dataclass

from dng_jax.errors import InputError


@dataclass(frozen=True)
class RunOptions:
    """Where a run goes; does not count when two runs are compared (a field named `run`)."""

    out: str | None = None
    """Folder of the results; default: a new one below runs/, named after the job."""
    overwrite: bool = False
    """Write the same run into its folder --out anew."""


def at_least(low: float, **numbers: float) -> None:
    """InputError for a number below low (or NaN), named as its option: some_name as --some-name."""
    for name, value in numbers.items():
        if not value >= low:  # so that NaN is refused as well
            raise InputError(f"--{name.replace('_', '-')} must be at least {low:g}, got {value:g}")
