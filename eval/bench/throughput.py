"""Images per second of training and sampling, and how close that comes to a matrix product's speed.

    share = (program's operations / seconds) / (2 m^3 devices / seconds of the products)

Operations and products (float32, m = 2048, one on every device at once): eval.bench.roofline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from dng_jax import (
    denoisers,
    guidance,
    initial_noise,
    nets,
    sample,
    sample_keys,
    schedules,
    steps,
    sweeps,
    training,
)
from dng_jax.jobs import devices
from dng_jax.jobs.tables import Table
from dng_jax.training import presets

from . import roofline, timing
from .options import Config

NETWORKS, SAMPLES = ("mnist-small",), 512
SAMPLING_STEPS = 5


def measure(config: Config) -> Iterator[tuple[str, dict[str, Any], Table]]:
    """One part per network: {"training": ..., "sampling": ...}, medians over the pairs."""
    for name in config.networks or NETWORKS:
        found = _network(name, config)
        yield name, found, table_of(name, found)


def _network(name: str, config: Config) -> dict[str, Any]:
    module = nets.UNet(presets.diffusion(*name.split(":", 1)).network)
    training, operations = _training(module, config.batch)
    samples = config.samples or SAMPLES
    sampling, per_call = _sampling(module, samples)
    return {
        "parameters": sum(int(np.prod(x.shape)) for x in jax.tree.leaves(_params(module))),
        "training": _figure(training, operations, config.batch, config.pairs),
        "sampling": _figure(sampling, per_call, samples * SAMPLING_STEPS, config.pairs),
    }


def _figure(run: Callable, operations: float, images: int, pairs: int) -> dict[str, float]:
    product, peak = roofline.product()
    ratio = timing.ratio_of_pairs(run, product, pairs)
    share = operations / peak / np.array([ratio.median, ratio.high, ratio.low])
    return {
        "images_per_second": images / ratio.a,
        "operations_per_image": operations / images,
        "peak_operations_per_second": peak / ratio.b,
        "share_of_peak": float(share[0]),
        "share_low": float(share[1]),
        "share_high": float(share[2]),
    }


def _training(module, batch: int) -> tuple[Callable, float]:
    mesh = sweeps.mesh()
    whole, split = (jax.NamedSharding(mesh, jax.P(*axes)) for axes in ((), ("batch",)))
    optimiser = training.make_optimiser(1000, 1e-4, 10)
    state = training.init_state(module, optimiser, jax.random.key(0))
    rng = np.random.default_rng(0)
    shape = module.config.image_shape
    images = rng.integers(0, 256, (4 * batch, *shape), dtype=np.uint8)
    labels = rng.integers(0, module.config.num_classes, 4 * batch).astype(np.int32)
    state, images, labels = jax.device_put((state, images, labels), whole)
    step: Any = training.make_diffusion_step(
        module, optimiser, schedules.linear(), batch, 0.999, split
    )
    return lambda: step(state, images, labels), roofline.counted(step.lower(state, images, labels))


def _sampling(module, count: int) -> tuple[Callable, float]:
    shape, denoise = module.config.image_shape, denoisers.from_module(module, _params(module))
    table, rule = steps.ddpm(schedules.linear(), SAMPLING_STEPS), guidance.unguided()
    keys = sample_keys(0, count)
    keys, x = devices.spread((keys, initial_noise(keys, shape, table)))
    per_call = roofline.of_a_step(denoise, table, x, rule.roles)
    return lambda: sample(denoise, table, rule, keys, x).x, per_call * SAMPLING_STEPS


def _params(module):
    optimiser = training.make_optimiser(2, 1e-4, 1)
    return training.init_state(module, optimiser, jax.random.key(0)).params


def table_of(name: str, found: dict[str, Any]) -> Table:
    """The table a person reads."""

    def share(r: dict[str, Any]) -> str:
        values = (100 * r["share_of_peak"], 100 * r["share_low"], 100 * r["share_high"])
        return "{:.0f} [{:.0f}, {:.0f}]".format(*values)

    return Table.of(
        f"{name} ({found['parameters']:,} parameters), {jax.device_count()} x"
        f" {jax.devices()[0].device_kind}",
        [
            {"what": "training step"} | found["training"],
            {"what": "sampling (one call)"} | found["sampling"],
        ],
        {
            "what": "what",
            "images or calls per second": lambda r: f"{r['images_per_second']:.0f}",
            "Mflop per image or call": lambda r: f"{r['operations_per_image'] / 1e6:.0f}",
            "product peak Gflop/s": lambda r: f"{r['peak_operations_per_second'] / 1e9:.0f}",
            "share of it % [quartiles]": share,
        },
    )
