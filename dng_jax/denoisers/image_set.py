r"""A set of images as a negative: its closed-form denoiser beside any other denoiser.

    x_0 | k ~ N(z_k, s^2 I), k uniform over N images;  v = alpha^2 s^2 + sigma^2
    w       = softmax_k( -|x - alpha z_k|^2 / (2 v) )
    E[x_0 | x, set] = sum_k w_k z_k + (alpha s^2 / v) (x - alpha sum_k w_k z_k)

No network and no training: the mixture of dng_jax.mixtures, whose denoiser is at s = 0 the update
of a modern Hopfield network of the images at inverse temperature alpha / sigma^2. It answers one
role; every other role is asked of the denoiser that it stands beside.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax

from dng_jax.denoisers.modules import name_of
from dng_jax.errors import InputError
from dng_jax.mixtures import Mixture, patterns
from dng_jax.rules import Denoise, Predictions, pytree, static
from dng_jax.sampling import as_pytree
from dng_jax.steps import StepRow


@pytree
class ImageSet:
    """denoiser: of all roles but `role`; mixture: the set, of one class. Make it with
    `image_set`."""

    denoiser: Denoise
    mixture: Mixture
    role: str = static(default="negative")

    def calls(self, roles: Sequence[str]) -> int | None:
        """Network evaluations per image and step: those of the denoiser beside it, which may not
        say."""
        others = self._others(roles)
        counted = getattr(self.denoiser, "calls", None)
        return None if counted is None else counted(others) if others else 0

    def __call__(self, x: jax.Array, row: StepRow, roles: Sequence[str]) -> Predictions:
        others = self._others(roles)
        answers = dict(self.denoiser(x, row, others)) if others else {}
        if self.role in roles:
            eps, _ = self.mixture.class_eps(x, row.alpha, row.sigma)
            answers[self.role] = eps[:, 0].astype(x.dtype)
        return answers

    def _others(self, roles: Sequence[str]) -> tuple[str, ...]:
        return tuple(role for role in roles if role != self.role)


def image_set(denoiser, images, bandwidth: float, *, role: str = "negative") -> ImageSet:
    """The closed-form denoiser of images [N, ...] behind `role`, beside a denoiser of other roles.

    images: floats in the units of x, shaped as its images; bandwidth: s >= 0 in the same units.
    InputError for no image, numbers that are not finite, and the role "base".
    """
    if len(images) == 0:
        raise InputError("a set of images needs at least one image")
    if role == "base":
        raise InputError(f"the role 'base' belongs to the {name_of(denoiser)}: name another")
    mixture = patterns(images, [0] * len(images), scale=bandwidth)
    inner = denoiser if hasattr(denoiser, "calls") else as_pytree(denoiser)
    return ImageSet(inner, mixture, role)
