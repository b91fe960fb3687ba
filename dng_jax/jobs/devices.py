"""Which devices a job runs on; to be settled before anything else asks jax for one.

A CPU counts as one device that splits every operation over its cores. Small networks gain from
`cpu_devices` = cores instead: the batch is split once, and each part runs on a core of its own.

jax is imported by the functions, so that a command line is parsed without it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dng_jax.errors import InputError, choose
from dng_jax.jobs.options import at_least

if TYPE_CHECKING:
    import jax

PLATFORMS = ("cpu", "gpu", "tpu")


def select(platform: str | None = None, cpu_devices: int | None = None) -> list[jax.Device]:
    """All devices of the kind (None: jax's first choice), which become the default.

    Raises InputError where there is none of that kind, for an unknown kind, or for a number of
    simulated CPU devices that is below 1 or comes after jax has counted them.
    """
    import jax

    if platform is not None:
        choose(platform, PLATFORMS, "platform")
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(platform, platform))
    if cpu_devices is not None:
        at_least(1, cpu_devices=cpu_devices)
        try:
            jax.config.update("jax_num_cpu_devices", cpu_devices)
        except RuntimeError:
            if jax.device_count("cpu") != cpu_devices:
                raise InputError(
                    f"--cpu-devices {cpu_devices} comes too late: this process already runs on "
                    f"{jax.device_count('cpu')}"
                ) from None
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        # jax fails an assertion, with no text, where it was built without the platform.
        named = os.environ.get("JAX_PLATFORMS")
        if platform is not None:
            remedy = "leave out --platform, or choose another"
        elif named:
            remedy = f"the environment variable JAX_PLATFORMS names {named}: unset it, or set cpu"
        else:
            remedy = "set the environment variable JAX_PLATFORMS to cpu"
        raise InputError(f"no {platform or 'usable'} device here: {remedy}") from error


@dataclass(frozen=True)
class Devices:
    """Options of a job; they change how fast it runs, not what comes out."""

    platform: str | None = None
    """cpu, gpu or tpu; default: jax's first choice."""
    cpu_devices: int | None = None
    """Simulated CPU devices, at least 1; on a CPU the number of its cores is fastest."""
    cache: bool = True
    """Keep compiled programs in ~/.cache/dng-jax, so that the next run starts sooner."""

    def select(self) -> list[jax.Device]:
        """See `select`."""
        if not self.cache:
            import jax

            jax.config.update("jax_enable_compilation_cache", False)
        return select(self.platform, self.cpu_devices)


def divisible(count: int) -> int:
    """The next multiple of the number of this process's devices."""
    import jax

    return -(-count // jax.local_device_count()) * jax.local_device_count()


def spread(arrays):
    """The arrays split over all devices of this process along their leading axis, where it divides
    evenly."""
    import jax

    from dng_jax.sweeps import distribute

    devices = jax.local_devices()
    if len(devices) == 1 or any(len(a) % len(devices) for a in jax.tree.leaves(arrays)):
        return arrays
    return distribute(arrays, devices)
