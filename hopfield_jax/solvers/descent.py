r"""Whether an accelerated step goes down: by energies, or by gradients where energies agree.

A step is accelerated if it is not the update itself, which never raises the energy. Where two
energies agree to rounding their difference says nothing, but f = T(xi) - xi = -grad E still does:

    E(b) - E(a) = -<f(a) + f(b), b - a> / 2 + O(|b - a|^3)

Accelerated steps are tried once the residual is below NEAR: the first steps choose the basin, and
an accelerated one there could leave it. Energies come from one sum (energy.partition with exact =
False), whose rounding, of the order of eps (M^2 + (log N) / beta), is counted as agreement; so an
energy can rise by that much.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hopfield_jax.solvers.rows import difference

NEAR = 1e-2  # residual below which accelerated steps are tried


def change(new, old, slope, rounding) -> jax.Array:
    """E(b) - E(a) [R] from the energies new and old, or the slope where these agree."""
    return jnp.where(jnp.abs(new - old) > rounding, new - old, slope)


def rounding(space, beta, energy, scale) -> jax.Array:
    """A difference of energies [R] that is no more than rounding."""
    largest = jnp.maximum(scale, space.memory.scale)
    size = jnp.abs(energy) + largest**2 + jnp.log(space.memory.num_patterns) / beta
    return 32 * jnp.finfo(energy.dtype).eps * size


def falls(space, rows, trial, step, new_step, energy, beta, scale) -> jax.Array:
    """Whether rows at point, with step f there, gain |f|^2 / 4 at a trial, bool [R].

    new_step and energy are those of the trial; rows has point, energy and residual |f|.
    """
    both = jax.tree.map(jnp.add, step, new_step)
    slope = -space.inner(both, difference(trial, rows.point)) / 2
    near = rounding(space, beta, rows.energy, scale)
    return change(energy, rows.energy, slope, near) <= -(rows.residual**2) / 4
