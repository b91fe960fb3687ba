"""One denoiser per role, as the paper has it: a base network and one for what is forbidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax

from dng_jax.denoisers.compaction import answer_some
from dng_jax.errors import InputError, find
from dng_jax.rules import Denoise, Predictions, pytree
from dng_jax.sampling import as_pytree
from dng_jax.steps import StepRow


@pytree
class SeparateNetworks:
    """parts {role: denoiser}. Make it with `separate_networks`."""

    parts: dict[str, Denoise]

    def calls(self, roles: Sequence[str]) -> int:
        """Network evaluations per image and step: any part answers one role by one."""
        return len(roles)

    def some(self, x: jax.Array, row: StepRow, roles: Sequence[str], wanted):
        """Predictions of some roles for some images: see `answer_some`."""
        return answer_some(self, x, row, roles, wanted)

    def __call__(self, x: jax.Array, row: StepRow, roles: Sequence[str]) -> Predictions:
        return {role: _of(role, find(self.parts, role)(x, row, (role,))) for role in roles}


def separate_networks(parts: Mapping[str, Denoise]) -> SeparateNetworks:
    """{role: denoiser}: each role is asked of its own denoiser, a pytree or a plain function."""
    if "base" not in parts:
        raise InputError("separate networks need one for the role 'base'")
    return SeparateNetworks({role: as_pytree(part) for role, part in parts.items()})


def _of(role: str, answers: Predictions) -> jax.Array:
    if not isinstance(answers, Mapping) or role not in answers:
        given = ", ".join(answers) if isinstance(answers, Mapping) else type(answers).__name__
        raise InputError(
            f"the denoiser of role '{role}' was asked for it and returned {given}: it must return"
            f" {{'{role}': eps}} for roles ('{role}',)"
        )
    return answers[role]
