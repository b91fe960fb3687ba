"""Whether a rule, a step table and a denoiser fit together: what is refused, and warned of, before
the first step."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from dng_jax.rules import Denoise, Rule
from dng_jax.steps import StepTable, nearly_deterministic, noise_ratio


def check_table(table: StepTable, rule: Rule) -> None:
    """InputError for a table on which a part of the rule cannot run (its `check_table`); warns the
    caller's caller where a tracker's table needs a probe that it does not have."""
    if isinstance(table.std, jax.core.Tracer):
        return
    refuse_table(table, rule)
    if _unprobed(rule) and nearly_deterministic(table):
        warnings.warn(
            "a posterior tracker without divergence probe runs on a (nearly) deterministic step"
            f" table (std^2/k_var = {np.median(noise_ratio(table)):.2f}): its log-ratio lacks the"
            " divergence term and leaks at any step count; give the tracker probes=1, or an"
            " ancestral table",
            UserWarning,
            stacklevel=3,
        )


def refuse_table(table: StepTable, rule: Any) -> None:
    """The refusals of `check_table` alone; the table's columns must be known."""
    for part in (rule, *_parts(rule)):
        if hasattr(part, "check_table"):
            part.check_table(table)


def warn_reference(denoise: Denoise, rule: Rule) -> None:
    """Warns the caller's caller where the denoiser says that negatives are scored against another
    role than "base" (dng_jax.denoisers.branches), and a tracker scores them against that."""
    wanted = getattr(denoise, "reference", "base")
    held = [getattr(part, "reference", None) for part in (rule, *_parts(rule))]
    if wanted != "base" and "base" in held:
        warnings.warn(
            f"this denoiser's negatives are to be scored against the role '{wanted}', and a tracker"
            " or recorder scores them against 'base', which is another variant: make it with"
            f" reference='{wanted}', or name the variant that is meant",
            UserWarning,
            stacklevel=3,
        )


def _unprobed(rule: Rule) -> bool:
    return any(getattr(part, "probes", None) == 0 for part in _parts(rule))


def _parts(rule: Any) -> Iterator[Any]:
    """The trackers and rules within a rule."""
    held = (getattr(rule, name, None) for name in ("tracker", "rule"))
    for part in (*held, *getattr(rule, "rules", ())):
        if part is not None:
            yield part
            yield from _parts(part)
