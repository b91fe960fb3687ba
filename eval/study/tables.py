"""The tables of a study's curves: every setting, and rules at equal leak.

Arguments are those of eval.study.summary.curves: found, curves by family; pairs of names (tracker,
baseline) for what compares two of them (dng_jax.metrics.tradeoff).
"""

from __future__ import annotations

import numpy as np

from dng_jax.jobs.tables import Table
from dng_jax.metrics import tradeoff

LEVELS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02)


def settings_table(what: str, found, quality, calls) -> Table:
    """Every family and scale: leak, divergences, distances, network calls."""
    table = Table(
        what,
        (
            "rule",
            "forbidden % [95%]",
            "KL [95%]",
            "reversed KL",
            "Frechet [95%]",
            "KID x 1000",
            "precision",
            "recall",
            "calls/image",
        ),
    )
    for name, c in found.items():
        for i, scale in enumerate(c.scales):
            q = {measure: values[i] for measure, values in quality[name].items()}
            table.add(
                label(name, scale),
                *point(c, i),
                f"{1000 * q['kid']:.2f}",
                f"{q['precision']:.3f}",
                f"{q['recall']:.3f}",
                calls[name],
            )
    return table


def matched_table(found, matched) -> Table:
    """The baselines at each tracker's leak with lambda_0 = 1."""
    table = Table(
        "KL of the baselines at the leak of each tracker with lambda_0 = 1, paired bootstrap",
        ("tracker", "its leak %", "its KL", "rule", "KL [95%]", "excess over the tracker [95%]"),
    )
    for (a, b), m in matched.items():
        at = at_one(found[a])
        table.add(
            a,
            f"{100 * found[a].leak[at]:.2f}",
            f"{found[a].kl[at]:.4f}",
            b + ("" if m.reached else f" (nearest leak: {100 * m.leak:.2f})"),
            f"{m.kl:.4f} [{m.kl_low:.4f}, {m.kl_high:.4f}]",
            f"{m.excess:.4f} [{m.excess_low:.4f}, {m.excess_high:.4f}]",
        )
    return table


def levels_table(own, levels) -> Table:
    """Trackers and baselines at the leaks of LEVELS that both reach."""
    table = Table(
        "KL at equal leak, where both curves reach it, paired bootstrap",
        ("leak %", "tracker", "its KL [95%]", "rule", "its KL [95%]", "excess [95%]"),
    )
    for i, level in enumerate(LEVELS):
        for (a, b), other in levels.items():
            mine = own[a]
            if mine.reached[i] and other.reached[i]:
                table.add(
                    f"{100 * level:g}",
                    a,
                    interval(mine.kl[i], mine.kl_low[i], mine.kl_high[i]),
                    b,
                    interval(other.kl[i], other.kl_low[i], other.kl_high[i]),
                    interval(other.excess[i], other.excess_low[i], other.excess_high[i]),
                )
    return table


def areas_table(areas) -> Table:
    """Mean excess over all leaks that both cover."""
    table = Table(
        "Mean excess of KL over the tracker's along log leak, over the leaks that both cover",
        ("tracker", "rule", "leaks %", "excess [95%]"),
    )
    for (a, b), found in areas.items():
        if np.isfinite(found.excess):
            table.add(
                a,
                b,
                f"{100 * found.leak_low:.2f} to {100 * found.leak_high:.2f}",
                interval(found.excess, found.excess_low, found.excess_high),
            )
    return table


def point(c: tradeoff.Curve, i: int) -> tuple[str, ...]:
    """The cells of one point: leak in per cent, KL, reversed KL, Frechet distance."""
    return (
        f"{100 * c.leak[i]:.2f} [{100 * c.leak_low[i]:.2f}, {100 * c.leak_high[i]:.2f}]",
        interval(c.kl[i], c.kl_low[i], c.kl_high[i]),
        f"{c.reversed[i]:.4f}",
        f"{c.frechet[i]:.2f} [{c.frechet_low[i]:.2f}, {c.frechet_high[i]:.2f}]",
    )


def interval(value, low, high) -> str:
    """A value and its bounds."""
    return f"{value:.4f} [{low:.4f}, {high:.4f}]"


def at_one(c: tradeoff.Curve) -> int:
    """Index of lambda_0 = 1, else of the last scale."""
    return c.scales.index(1.0) if 1.0 in c.scales else len(c.scales) - 1


def label(family: str, scale: float | None) -> str:
    """A rule as jobs take it."""
    return family if scale is None else f"{family}={scale:g}"
