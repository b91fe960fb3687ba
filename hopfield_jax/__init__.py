"""Modern Hopfield networks as energy landscapes: minima, their stability, and how they bifurcate.

energy      E, its gradient and its update   weight_space  the same in the weights p
retrieval   fixed points of many rows        stability     spectra, certificates of minima
sweeps      minima over beta, hysteresis     implicit      minima as differentiable functions
spaces      state and weight space as one    iterations    plain, Anderson and Newton steps
"""

from dng_jax.errors import InputError
from hopfield_jax import (
    energy,
    implicit,
    iterations,
    retrieval,
    spaces,
    stability,
    sweeps,
    weight_space,
)
from hopfield_jax.energy import Memory, memory
from hopfield_jax.implicit import minimum
from hopfield_jax.retrieval import FixedPoints, Minima, find_fixed_points, find_minima, merge
from hopfield_jax.stability import Certificate, certify
from hopfield_jax.sweeps import Sweep, certify_sweep, hysteresis, sweep, sweep_sets

__all__ = [
    "Certificate",
    "FixedPoints",
    "InputError",
    "Memory",
    "Minima",
    "Sweep",
    "certify",
    "certify_sweep",
    "energy",
    "find_fixed_points",
    "find_minima",
    "hysteresis",
    "implicit",
    "iterations",
    "memory",
    "merge",
    "minimum",
    "retrieval",
    "spaces",
    "stability",
    "sweep",
    "sweep_sets",
    "sweeps",
    "weight_space",
]
