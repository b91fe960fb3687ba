r"""Temperature and offset of a tracker for a model of scenes, fitted on its own unguided scenes.

Unguided scenes of a prompt are drawn, and on the way the evidence of each of the ten digits is
recorded, scored against the tracker's reference: L_i (a digit | x_i), i = T-1, ..., 1. The
classifier then says which digits a scene shows, so that every scene answers ten yes-or-no
questions, and tau(logsnr), omega(logsnr) minimise the mean negative log-likelihood of the answers
(dng_jax.posterior.fitting). One fit is for all ten digits, those that the prompt excludes among
them, with one prior: the reference must show every digit equally often, as the empty prompt of
variant d does. It is of one prompt, guidance scale and step table.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dng_jax.denoisers.branches import negative_roles
from dng_jax.posterior import fit_temperature
from dng_jax.posterior.evidence import Evidence, one_concept_each
from dng_jax.posterior.fitting import Fit
from dng_jax.scenes import prompts
from dng_jax.steps import StepTable

CONCEPTS = {
    role: prompts.mention(digit) for digit, role in enumerate(negative_roles(len(prompts.DIGITS)))
}
"""The roles of the ten digits, and their prompts."""


def shown(labels: np.ndarray) -> np.ndarray:
    """Whether scenes show each digit: labels int [B, M] to bool [B, 10]."""
    return np.any(labels[:, :, None] == np.arange(len(CONCEPTS)), axis=1)


def fitted(
    tracker: Any, evidence: Evidence, table: StepTable, labels: np.ndarray, knots: int = 8
) -> Fit:
    """What fits a tracker of one negative.

    evidence [T-1, B, 10]: of CONCEPTS, in their order, against the tracker's reference; labels int
    [B, M]: the digits of the scenes. InputError for evidence against another reference.
    """
    outcomes = np.where(shown(labels).T.ravel(), 0, 1)  # digit after digit, as the evidence
    alone = one_concept_each(evidence)
    return fit_temperature(tracker, alone, table, outcomes, knots=knots, offset=True)
