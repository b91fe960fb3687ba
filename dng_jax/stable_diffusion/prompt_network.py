r"""A text-conditional U-Net as a denoiser: one raw role for each prompt.

    network = prompt_network(unet, params, {"empty": e, "prompt": a, "negative": b}, schedule)
    network(x, row, ("empty", "prompt"))        {role: eps [B, h, w, C]}

The texts [S, D] are data: other prompts never recompile. All roles that are asked for go through
the U-Net as one batch of R B images, or one role after the other, in a third of the memory of
three. A U-Net in float32 computes its products in float32 on a GPU too, one in bfloat16 as it is.
dng_jax.denoisers.branches makes of them the roles that rules ask for.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dng_jax.denoisers.compaction import answer_some
from dng_jax.denoisers.networks import LabelNetwork
from dng_jax.errors import InputError, choose, find
from dng_jax.rules import Predictions, pytree, static
from dng_jax.stable_diffusion.schedule import ModelSchedule
from dng_jax.steps import StepRow

MODES = ("batch", "map")


@dataclasses.dataclass(frozen=True)
class _Prompted:
    """The U-Net as a network of labels, the numbers of its texts [J, S, D]."""

    unet: nn.Module

    def __call__(self, params: Any, x: jax.Array, t: jax.Array, label: jax.Array) -> jax.Array:
        # Else a GPU rounds float32 to TF32, which the tracker's small differences do not survive.
        whole = jnp.dtype(getattr(self.unet, "dtype", None) or jnp.float32) == jnp.float32
        with jax.default_matmul_precision("highest") if whole else contextlib.nullcontext():
            found: Any = self.unet.apply({"params": params["unet"]}, x, t, params["texts"][label])
        return found


@pytree
class PromptNetwork:
    """network: of a label for each raw role. Make it with `prompt_network`."""

    network: LabelNetwork
    mode: str = static(default="batch")

    def calls(self, roles: Sequence[str]) -> int:
        """Network evaluations per image and step."""
        return len(roles)

    def some(self, x: jax.Array, row: StepRow, roles: Sequence[str], wanted):
        """Predictions of some roles for some images: see `answer_some`."""
        return answer_some(self, x, row, roles, wanted)

    def __call__(self, x: jax.Array, row: StepRow, roles: Sequence[str]) -> Predictions:
        if self.mode == "batch":
            return self.network(x, row, roles)
        numbers = jnp.stack([find(self.network.labels, role) for role in roles])

        def one(number):
            alone = dataclasses.replace(self.network, labels={"this": number})
            return alone(x, row, ("this",))["this"]

        return dict(zip(roles, jax.lax.map(one, numbers), strict=True))


def prompt_network(
    unet: nn.Module,
    params: Any,
    texts: Mapping[str, jax.Array],
    schedule: ModelSchedule,
    mode: str = "batch",
) -> PromptNetwork:
    """The denoiser of a U-Net called as (x, t, text).

    texts: raw role -> the text encoder's output, float [S, D], of one shape; schedule: what the
    U-Net was trained on; mode: "batch" or "map", which takes less memory. InputError for no texts,
    or texts of several shapes.
    """
    choose(mode, MODES, "way to ask for branches")
    shapes = {role: jnp.shape(text) for role, text in texts.items()}
    if len(set(shapes.values())) != 1:
        raise InputError(f"the texts of a network must have one shape [S, D], got {shapes}")
    stacked = jnp.stack([jnp.asarray(text, jnp.float32) for text in texts.values()])
    labels = {role: jnp.asarray(j, jnp.int32) for j, role in enumerate(texts)}
    held = {"unet": params, "texts": stacked}
    network = LabelNetwork(held, labels, _Prompted(unet), schedule.parameterisation, schedule.level)
    return PromptNetwork(network, mode)
