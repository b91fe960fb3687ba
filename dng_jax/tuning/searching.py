"""The search itself: ask a block of settings, evaluate them together, tell them, until none is
left.

    search(study, evaluate, block=64)

Any number of processes may do so in one folder; the last one to end leaves no trial untold, unless
all of them are killed: then the next one to start takes over what they had.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dng_jax.tuning.studies import Study

Found = Mapping[str, Any] | None
Evaluate = Callable[[Sequence[Any]], Sequence[Found]]
PATIENCE = 0.5  # seconds between two looks at the trials of others


def search(
    study: Study,
    evaluate: Evaluate,
    block: int,
    report: Callable[[int], object] = lambda told: None,
    keep: Callable[[int], object] = lambda evaluated: None,
) -> int:
    """Fills the study; returns how many trials this process evaluated.

    evaluate: settings -> what was measured of each, None where its predictions were not finite.
    report(n): n trials of the study are told, whoever told them. keep(n): this process has
    evaluated n, said before it tells the last of them: with these the study may be full, and
    another process judge it.
    """
    evaluated = 0
    while True:
        asked = study.ask(block)
        done, running = study.counts()
        report(done)
        if asked:
            found = evaluate([one.setting for one in asked])
            evaluated += len(asked)
            keep(evaluated)
            for one, measured in zip(asked, found, strict=True):
                study.tell(one, measured)
        elif running:
            time.sleep(PATIENCE)  # whoever has them may die
        else:
            return evaluated
