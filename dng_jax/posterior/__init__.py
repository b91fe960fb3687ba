"""Trackers of a concept's posterior along a sampling chain, and their calibration."""

from dng_jax.guidance.recording import Recorder, one_concept_each, recorded, recorder
from dng_jax.posterior.classes import Classes, classes
from dng_jax.posterior.evidence import Evidence, gather
from dng_jax.posterior.fitting import Fit, fit_temperature, forward_evidence, replay
from dng_jax.posterior.odds import Odds, odds
from dng_jax.posterior.oracle import Oracle, oracle
from dng_jax.posterior.pair import Pair, pair
from dng_jax.posterior.temperature import Temperature, temperature
from dng_jax.posterior.view import Tracker, View

__all__ = [
    "Classes",
    "Evidence",
    "Fit",
    "Odds",
    "Oracle",
    "Pair",
    "Recorder",
    "Temperature",
    "Tracker",
    "View",
    "classes",
    "fit_temperature",
    "forward_evidence",
    "gather",
    "odds",
    "one_concept_each",
    "oracle",
    "pair",
    "recorded",
    "recorder",
    "replay",
    "temperature",
]
