"""Which samples a picture of rules shows: those in which the rules have something to do.

Sample i starts from the same noise under every rule but the reference. Where no rule had to act,
all rows look alike; so the noises that lead to a forbidden class without guidance come first.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dng_jax.experiments import rule_specs
from dng_jax.experiments.generating import Generated
from dng_jax.experiments.problems import Problem

COLUMNS = 16


def telling_images(shown: Mapping[str, Generated], problem: Problem) -> tuple[np.ndarray, str]:
    """Images [R, C, H, W, channels] of R rules on the same C <= 16 noises, and what to say of them.

    shown: rule as jobs take it -> its samples, from one seed. At most half of the columns are
    noises that lead to a forbidden class; without "unguided" among the rules, the first ones are
    shown, and nothing is said.
    """
    count = min(COLUMNS, *(g.images.shape[1] for g in shown.values()))
    plain = shown.get("unguided")
    chosen, said = np.arange(count), ""
    if plain is not None:
        labels = plain.labels[0, : plain.images.shape[1]]
        inside = problem.hits(plain.images[0], labels)
        forbidden = np.flatnonzero(inside)[: count // 2]
        others = np.flatnonzero(~inside)[: count - len(forbidden)]
        chosen = np.concatenate([forbidden, others])
        said = _said(len(forbidden), len(chosen), problem)
    specs = {name: rule_specs.parse(name) for name in shown}
    # The reference comes in turn over the classes: its first ones show them all.
    rows = [
        g.images[0, chosen if specs[name].shares_noise else np.arange(len(chosen))]
        for name, g in shown.items()
    ]
    others_noise = dict.fromkeys(s.name for s in specs.values() if not s.shares_noise)
    if others_noise:
        said += f"{';' if said else ':'} {', '.join(others_noise)}: noise of their own"
    return np.stack(rows), said


def _said(few: int, count: int, problem: Problem) -> str:
    what = problem.forbidden_names
    if few == 0:
        return f": no noise of these leads to {what} unguided"
    return f": noise that leads to {what} unguided (left {few} of {count}), and other noise"
