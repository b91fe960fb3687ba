"""What a run will take, said before its first step."""

from __future__ import annotations

from collections.abc import Sequence

from dng_jax.experiments.prompted import Cost, Draw

from .options import DEMO, Config


def announce(config: Config, expected: Cost, calls: Sequence[int], which: Draw) -> None:
    """Says what the run will take, before its first step."""
    if config.cpu_demo:
        print(
            f"--cpu-demo: {DEMO['size']} pixels, {DEMO['steps']} steps, {DEMO['seeds']} image per"
            " rule; what a CPU does in minutes, not what the model can do"
        )
    seconds = expected.of(calls, config.steps, which)
    beside = "" if expected.memory is None else f"{in_bytes(expected.memory)} of memory beside "
    print(
        f"one step of {min(which.batch, which.count)} images with {expected.calls} predictions each"
        f" takes {expected.seconds:.2g} s, decoding an image {expected.decoding:.2g} s, in"
        f" {beside}{in_bytes(expected.weights)} of weights; all {len(calls)} runs about"
        f" {in_time(seconds)}, without compiling and writing"
    )


def in_bytes(count: int) -> str:
    """A number of bytes in words."""
    return f"{count / 2**30:.1f} GiB" if count > 2**28 else f"{count / 2**20:.1f} MiB"


def in_time(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
