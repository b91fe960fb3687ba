"""Modern Hopfield networks as energy landscapes: minima, their stability, and how they bifurcate.

energy      E, its gradient and its update   weight_space  the same in the weights p
retrieval   fixed points of many rows        stability     spectra, certificates of minima
sweeps      minima over beta, hysteresis     implicit      minima as differentiable functions
spaces      state and weight space as one    rows          arithmetic of many points
iterations  rows, each until it is done      picard        the update itself
aitken      two updates and a throw          anderson      mixing of the last steps
newton      conjugate gradients              descent       whether a bold step goes down
patterns    sets to store                    distances     of patterns to each other; leads
theory      equidistant patterns, exactly    equidistant   their exact curves over beta_eff
spectrum    beta_eff of any set              transition    onsets, windows, protocols, measured
basins      their volumes                    capacity      patterns with minima of their own
denoising   retrieval from noise             metastable    states of groups, trees of minima
landscape   energies on planes               diffusion     the bridge: noise levels as beta
attention   a transformer's keys

plots and figures draw (import them by name: they need matplotlib).
"""

from dng_jax.errors import InputError
from hopfield_jax import (
    attention,
    diffusion,
    distances,
    energy,
    equidistant,
    patterns,
    spectrum,
    theory,
)
from hopfield_jax.analyses import basins, capacity, landscape, metastable, sweeps, transition
from hopfield_jax.analyses import retrieval as denoising
from hopfield_jax.analyses.sweeps import Sweep, certify_sweep, hysteresis, sweep, sweep_sets
from hopfield_jax.energy import Memory, memory
from hopfield_jax.solvers import certificates as stability
from hopfield_jax.solvers import fixed_points as retrieval
from hopfield_jax.solvers import implicit, iterations, spaces, weight_space
from hopfield_jax.solvers.certificates import Certificate, certify
from hopfield_jax.solvers.fixed_points import (
    FixedPoints,
    Minima,
    find_fixed_points,
    find_minima,
    merge,
)
from hopfield_jax.solvers.implicit import minimum

__all__ = [
    "Certificate",
    "FixedPoints",
    "InputError",
    "Memory",
    "Minima",
    "Sweep",
    "attention",
    "basins",
    "capacity",
    "certify",
    "certify_sweep",
    "denoising",
    "diffusion",
    "distances",
    "energy",
    "equidistant",
    "find_fixed_points",
    "find_minima",
    "hysteresis",
    "implicit",
    "iterations",
    "landscape",
    "memory",
    "merge",
    "metastable",
    "minimum",
    "patterns",
    "retrieval",
    "spaces",
    "spectrum",
    "stability",
    "sweep",
    "sweep_sets",
    "sweeps",
    "theory",
    "transition",
    "weight_space",
]
