r"""No guidance: eps = eps_role. The base model by default, or any one role of the denoiser."""

from __future__ import annotations

import jax.numpy as jnp

from dng_jax.rules import Stateless, Step, pytree, static


@pytree
class Unguided(Stateless):
    """Make it with `unguided`."""

    role: str = static(default="base")

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    def apply(self, state, step: Step):
        return self.outside(step), state, {}

    def outside(self, step: Step):
        """The role, as inside."""
        if self.role == "base":
            return jnp.zeros_like(step.x)
        return step.preds[self.role] - step.base


def unguided(role: str = "base") -> Unguided:
    """The plain sampler of one role: "base", or for instance "class:3"."""
    return Unguided(role)
