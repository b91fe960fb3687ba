"""The sampler of text-to-image jobs: a rule -> latents, images and traces; what it will cost.

Image i depends on (seed, i) alone, neither on the rule nor on the batch, so that image i of every
rule starts from the same noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax import disk
from dng_jax.denoisers.branches import Branches, branches, negative_roles, prompts_of
from dng_jax.rules import in_dtype
from dng_jax.sampling import initial_noise, run_chunks, sample_chunks, sample_keys
from dng_jax.stable_diffusion import pictures
from dng_jax.stable_diffusion.pipeline import Pipeline
from dng_jax.steps import StepTable


@dataclass(frozen=True)
class Draw:
    """Which images: count of them from number 0 on, of a seed, of a shape of latents; how many at
    once, which does not change them."""

    count: int
    seed: int
    shape: tuple[int, int, int]
    batch: int = 4


@dataclass(frozen=True, eq=False)
class Drawn:
    """latents float32 [B, h, w, C]; images float32 [B, H, W, C], -1 to 1, not clipped; trace
    {name: [T, B]} of what the rule says of itself ("lambda", "posterior")."""

    latents: np.ndarray
    images: np.ndarray
    trace: dict[str, np.ndarray]

    @property
    def ran(self) -> float | None:
        """How often roles on demand were evaluated per image (dng_jax.denoisers.compaction)."""
        run = self.trace.get("run")
        return None if run is None else float(run.sum(axis=0).mean())


class Cost(NamedTuple):
    """What a run takes, of one step and of one image.

    seconds: of one step of a batch with all the roles; memory: bytes that the compiler plans for it
    or for decoding one image, whichever are more, besides weights, None where it does not say
    (kernels may take more); weights: bytes of them; calls: predictions of the step, per image;
    decoding: seconds of decoding one image.
    """

    seconds: float
    memory: int | None
    weights: int
    calls: int
    decoding: float

    def of(self, calls: Sequence[int], steps: int, which: Draw) -> float:
        """Seconds of one run for each of these numbers of predictions per image and step."""
        batches = -(-which.count // which.batch)
        sampling = self.seconds * sum(calls) / self.calls * steps * batches
        return sampling + self.decoding * which.count * len(calls)


def roles_of(
    model: Pipeline,
    prompt: str,
    negatives: Sequence[str],
    variant: str,
    guidance_scale: float,
    mode: str = "batch",
) -> Branches:
    """The denoiser of a variant: `branches` over the network of its prompts."""
    network = model.network(prompts_of(variant, prompt, negatives), mode)
    if not negatives:  # the role is answered by nobody, and nobody asks
        return branches(network, variant, guidance_scale)
    return branches(network, variant, guidance_scale, negatives=negative_roles(len(negatives)))


def draw(
    model: Pipeline,
    denoise: Any,
    table: StepTable,
    rule: Any,
    which: Draw,
    advance: Callable[[float], object] = lambda images: None,
    keep: Callable[[np.ndarray], object] = lambda latents: None,
) -> Drawn:
    """Samples a rule and decodes.

    advance: told of the number of images, in fractions, that a piece of the chain stands for; keep:
    told of all latents before any is decoded, which may fail for lack of memory. NonFiniteError
    where a prediction is not finite.
    """
    batch = min(which.batch, which.count)
    latents, traces = [], []
    for first in range(0, which.count, batch):
        kept = min(batch, which.count - first)
        # The last batch is as large as the others, or it would compile again.
        keys = sample_keys(which.seed, batch, first)
        pieces = sample_chunks(
            denoise,
            table,
            rule,
            keys,
            initial_noise(keys, which.shape, table),
            chunk=_piece(len(table.index)),
            first_sample=first,
        )
        last = [0]

        def told(progress, kept=kept, last=last):
            advance(kept * (progress.done - last[0]) / progress.total)
            last[0] = progress.done

        found = run_chunks(pieces, told)
        latents.append(np.asarray(found.x)[:kept])
        traces.append({name: np.asarray(v)[:, :kept] for name, v in found.trace.items()})
    whole = np.concatenate(latents)
    keep(whole)
    trace = {name: np.concatenate([t[name] for t in traces], axis=1) for name in traces[0]}
    return Drawn(whole, model.decode(whole), trace)


def cost(
    model: Pipeline, denoise: Branches, table: StepTable, roles: Sequence[str], which: Draw
) -> Cost:
    """Compiles one step's predictions and the decoding of one image, asks what memory they need,
    and times them.

    InputError, before anything is computed, where memory does not suffice.
    """
    batch = min(which.batch, which.count)
    x = jnp.zeros((batch, *which.shape), jnp.float32)
    row = jax.tree.map(lambda column: jnp.asarray(column[0]), in_dtype(table, jnp.float32))
    roles = tuple(roles)
    ask = jax.jit(lambda denoise, x, row: denoise(x, row, roles))
    step = ask.lower(denoise, x, row).compile()
    vae = model.params["vae"]
    decode = pictures.decode.lower(model.vae, vae, x[:1]).compile()
    needed = [
        _planned(step, f"one step of {batch} images", "take a smaller --batch, or --branches map"),
        _planned(decode, "decoding one image", "take a smaller --size"),
    ]
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    calls = denoise.calls(roles)
    assert calls is not None  # of networks
    return Cost(
        _seconds(step, denoise, x, row),
        max((n for n in needed if n is not None), default=None),
        weights,
        calls,
        _seconds(decode, vae, x[:1]),
    )


def _planned(program: Any, what: str, remedy: str) -> int | None:
    """Bytes that the compiler plans for a program besides what it is given."""
    said = program.memory_analysis()
    if said is None:
        return None
    memory = int(said.temp_size_in_bytes + said.output_size_in_bytes)
    if jax.default_backend() == "cpu":
        disk.check_memory(what, memory, remedy)
    return memory


def _seconds(program: Any, *given: Any) -> float:
    """Of a run of a compiled program; of the second where that takes no time to wait for."""
    seconds = 0.0
    for _ in range(2):  # the first one finds memory cold
        began = time.monotonic()
        jax.block_until_ready(program(*given))
        seconds = time.monotonic() - began
        if seconds >= 1:
            break
    return seconds


def _piece(steps: int) -> int:
    """Steps of a piece of the chain, all of one length: two lengths would compile twice."""
    return max(n for n in range(1, max(1, steps // 10) + 1) if steps % n == 0)
