"""Modern Hopfield networks as energy landscapes: minima, their stability, and how they bifurcate.

energy      E, its gradient and its update
"""

from dng_jax.errors import InputError
from hopfield_jax import energy
from hopfield_jax.energy import Memory, memory

__all__ = ["InputError", "Memory", "energy", "memory"]
