"""Guided diffusion sampling in pure JAX, with tracked posteriors.

schedules   how noise grows                 steps       one row type for every sampler
guidance    rules: (init, apply, update)    posterior   trackers of a concept's probability
sampling    one scan, or the same in chunks sweeps      many settings, one compiled program
denoisers   networks behind one signature   mixtures    the exactly solvable model
"""

from dng_jax import (
    denoisers,
    guidance,
    mixtures,
    posterior,
    sampling,
    schedules,
    steps,
    sweeps,
)
from dng_jax.errors import InputError, NonFiniteError
from dng_jax.rules import Denoise, Move, Rule, Step
from dng_jax.sampling import (
    Result,
    check_finite,
    initial_noise,
    run_chunks,
    sample,
    sample_chunks,
    sample_keys,
)
from dng_jax.sweeps import sweep

__all__ = [
    "Denoise",
    "InputError",
    "Move",
    "NonFiniteError",
    "Result",
    "Rule",
    "Step",
    "check_finite",
    "denoisers",
    "guidance",
    "initial_noise",
    "mixtures",
    "posterior",
    "run_chunks",
    "sample",
    "sample_chunks",
    "sample_keys",
    "sampling",
    "schedules",
    "steps",
    "sweep",
    "sweeps",
]
