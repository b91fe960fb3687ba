r"""Modern Hopfield networks as energy landscapes: minima, their stability, and how they bifurcate.

    E(xi) = |xi|^2/2 - (1/beta) log mean_i exp(beta x_i.xi) + M^2/2       energy of N patterns x_i
    xi   <- X^T p,  p = softmax(beta X xi)                                its update
    beta_eff = mean over pairs of beta D_ij^2 / 2                         what beta means for a set

What it is made of; solvers, analyses and plots stand on all that is above them:

    energy       the energy of a set of patterns, its gradient and its update
    patterns     sets of patterns: equidistant, random, in groups; their normalisation
    distances    distances of patterns to each other, and what the logit of each leads by
    theory       equidistant patterns, solved exactly
    equidistant  their exact curves, sampled over K
    spectrum     what any set predicts about its landscape
    diffusion    noise levels as beta: a denoiser of finitely many images is an update
    attention    heads of a transformer as networks: how cold is each
    projections  their keys and queries, from stored weights and inputs
    encoders     the same of every layer of a transformer on disk
    layers       a trainable layer that looks up patterns (Flax), imported by name
    solvers      fixed points of many rows, their certificates and derivatives, all derived there
    analyses     sweeps, transitions, basins, capacity, metastable states, landscapes, retrieval,
                 heads; training, imported by name
    plots        figures, imported by name: they need matplotlib

    from hopfield_jax import find_minima, memory, patterns
    x = patterns.equidistant(64)
    found = find_minima(memory(x), x, beta=8.0)        found.state [64, 64], found.minimum [64]
"""

from dng_jax.errors import InputError
from hopfield_jax import (
    analyses,
    attention,
    diffusion,
    distances,
    encoders,
    energy,
    equidistant,
    patterns,
    projections,
    solvers,
    spectrum,
    theory,
)
from hopfield_jax.analyses.sweeps import Sweep, certify_sweep, hysteresis, sweep
from hopfield_jax.energy import Memory, memory
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
    "analyses",
    "attention",
    "certify",
    "certify_sweep",
    "diffusion",
    "distances",
    "encoders",
    "energy",
    "equidistant",
    "find_fixed_points",
    "find_minima",
    "hysteresis",
    "memory",
    "merge",
    "minimum",
    "patterns",
    "projections",
    "solvers",
    "spectrum",
    "sweep",
    "theory",
]
