"""How many settings the network sees at once: as many as there is memory for.

vmap over all of them, else in chunks, else one after the other, each a program of its own:

    before    XLA's analysis of the compiled program (arguments, results, temporaries) is held
              against what the device has left, where both are told
    after     a program that runs out of memory all the same is run again in chunks of half as many

On a CPU one setting at a time is fastest (dng_jax.sweeps), and nothing is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax

from dng_jax import disk

T = TypeVar("T")


def fitting_chunk(
    width: int,
    lowered: Callable[[int], Any],
    *,
    platform: str | None = None,
    free: int | None = None,
) -> int:
    """The largest of width, width/2, ..., 1 whose program fits.

    lowered: chunk -> the program, before it is compiled. platform, free (bytes): of the first
    device where they are not given.
    """
    if (platform or jax.default_backend()) == "cpu":
        return 1
    free = device_memory() if free is None else free
    chunk = width
    while chunk > 1 and not _fits(lowered, chunk, free):
        chunk = -(-chunk // 2)
    return chunk


def retried(run: Callable[[int], T], chunk: int) -> tuple[T, int]:
    """run(chunk), with half the chunk as often as the device has no memory for it; and the chunk
    that served. At 1 the error passes."""
    while True:
        try:
            return run(chunk), chunk
        except RuntimeError as error:
            if chunk == 1 or not exhausted(error):
                raise
            chunk = -(-chunk // 2)


def exhausted(error: BaseException) -> bool:
    """Whether it is JAX's, of a device without memory."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def needed(compiled: Any) -> int | None:
    """Bytes that a compiled program takes on a device as it runs; None where XLA does not say."""
    found = compiled.memory_analysis()
    if found is None:
        return None
    parts = (found.argument_size_in_bytes, found.output_size_in_bytes, found.temp_size_in_bytes)
    return sum(parts) - found.alias_size_in_bytes


def device_memory() -> int | None:
    """Bytes that the first device has left; of a CPU those of the machine; None where unknown."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    return disk.free_memory() if jax.default_backend() == "cpu" else None


def _fits(lowered: Callable[[int], Any], chunk: int, free: int | None) -> bool:
    try:
        size = needed(lowered(chunk).compile())
    except RuntimeError as error:
        if not exhausted(error):
            raise
        return False
    return size is None or free is None or size <= free
