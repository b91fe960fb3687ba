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
SAID_AFTER = 3.0  # seconds of waiting


def search(
    study: Study,
    evaluate: Evaluate,
    block: int,
    report: Callable[[int], object] = lambda told: None,
    keep: Callable[[int, float], object] = lambda evaluated, seconds: None,
    waiting: Callable[[str], object] = lambda sentence: None,
) -> int:
    """Fills the study; returns how many trials this process evaluated.

    evaluate: settings -> what was measured of each, None where its predictions were not finite.
    report(n): n trials of the study are told, whoever told them. keep(n, seconds): this process has
    evaluated n, and was at work on them so long; said before it tells the last of them: with these
    the study may be full, and another process judge it. waiting(sentence): what it has been waiting
    for since SAID_AFTER seconds, and what may be done about it; said once a wait.
    """
    evaluated, worked, waited = 0, 0.0, 0.0
    while True:
        asked = study.ask(block)
        done, running = study.counts()
        report(done)
        if asked:
            began, waited = time.monotonic(), 0.0
            found = evaluate([one.setting for one in asked])
            evaluated, worked = evaluated + len(asked), worked + time.monotonic() - began
            keep(evaluated, worked)
            for one, measured in zip(asked, found, strict=True):
                study.tell(one, measured)
        elif running:
            if waited < SAID_AFTER <= waited + PATIENCE:
                waiting(study.awaited())
            time.sleep(PATIENCE)  # whoever has them may die
            waited += PATIENCE
        else:
            return evaluated
