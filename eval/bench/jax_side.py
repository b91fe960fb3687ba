"""What the suite pytorch compares, by this library: forward, sampling loop with DNG, product.

On a CPU the batch is split over as many simulated devices as there are cores, as the README advises
(`--cpu-devices`). `facts` hold the output of forward, the operations that XLA counts before it
optimises, and seconds to the first result of each.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax import (
    denoisers,
    guidance,
    initial_noise,
    nets,
    posterior,
    sample,
    sample_keys,
    schedules,
    steps,
    sweeps,
)
from dng_jax.jobs import devices
from dng_jax.steps import StepTable
from dng_jax.weights import files

from . import networks, roofline
from .networks import Size

PRIOR = 0.1  # of the forbidden class, which is class 0


def inputs(config: nets.UNetConfig, count: int) -> tuple[np.ndarray, ...]:
    """x [B, H, W, C], logsnr [B] and, where the network takes them, labels [B]."""
    x = np.random.default_rng(0).standard_normal((count, *config.image_shape), np.float32)
    level = np.linspace(-8, 8, count).astype(np.float32)
    labels = (np.arange(count) % (config.num_classes + 1)).astype(np.int32)
    return (x, level, labels) if config.conditioning == "label" else (x, level)


def table_of(count: int) -> StepTable:
    """DDPM's ancestral steps on the linear schedule."""
    return steps.ddpm(schedules.linear(), count)


def denoiser(name: str, dtype: Any = None) -> Any:
    """That of a network; a network without classes stands for two of them, as in the paper."""
    module, params = _network(name, dtype, 0)
    if module.config.conditioning != "none":
        return denoisers.from_module(module, params, {"negative": 0})
    other = _network(name, dtype, 1)
    return denoisers.separate_networks(
        {
            "base": denoisers.from_module(module, params),
            "negative": denoisers.from_module(*other),
        }
    )


def programs(name: str, size: Size, dtype: str, cores: int, gpu: bool) -> dict[str, Any]:
    """ "forward", "loop" and "product" of a network, and "facts"."""
    devices.select(*(("gpu", None) if gpu else ("cpu", cores)))
    kind = None if dtype == "float32" else jnp.dtype(dtype)
    module, params = _network(name, kind, 0)
    given = devices.spread(inputs(module.config, size.images))
    apply = jax.jit(lambda params, *given: module.apply({"params": params}, *given))
    began = time.perf_counter()
    lowered = apply.lower(params, *given)
    compiled = lowered.compile()
    output = np.asarray(compiled(params, *given))
    first = {"forward": time.perf_counter() - began}

    table, denoise = table_of(size.steps), denoiser(name, kind)
    rule = guidance.dynamic_negative(posterior.pair(PRIOR))
    keys = sample_keys(0, size.images)
    keys, x = devices.spread((keys, initial_noise(keys, module.config.image_shape, table)))

    def loop() -> Any:
        return jax.block_until_ready(sample(denoise, table, rule, keys, x).x)

    began = time.perf_counter()
    loop()
    first["loop"] = time.perf_counter() - began
    product, operations = roofline.product(dtype)
    return {
        "forward": lambda: jax.block_until_ready(compiled(params, *given)),
        "loop": loop,
        "product": lambda: jax.block_until_ready(product()),
        "facts": {
            "output": output,
            "device": jax.devices()[0].device_kind,
            "parameters": sum(value.size for value in jax.tree.leaves(params)),
            "first_seconds": first,
            "operations": {
                "forward": roofline.counted(lowered),
                "loop": size.steps * roofline.of_a_step(denoise, table, x, rule.roles),
                "product": operations,
                "product_of_one": operations / jax.device_count(),
            },
        },
    }


def _network(name: str, dtype: Any, seed: int) -> tuple[Any, Any]:
    module, params = networks.load(name, seed)
    whole = jax.NamedSharding(sweeps.mesh(), jax.P())
    return nets.UNet(module.config, dtype), jax.device_put(files.nested(params), whole)
