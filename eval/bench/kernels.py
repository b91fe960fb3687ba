"""A network layer by layer, beside PyTorch's eager ones: where the time of a forward goes.

    python -m eval.bench kernels --networks mnist-heads

Every distinct layer (kind, shape of its input, outputs) alone on one core, as it stands in the
network, times how often it occurs; attention is one layer. What is not in the sum of the layers is
between them: on this side XLA writes activations and sums into its loops, and PyTorch's eager mode
passes over memory once for each. A run calls a layer REPEATED times, since one call may take
microseconds; what a call costs by itself is in every line, so for few images the sum says little.
"""

from __future__ import annotations

import functools
import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from dng_jax.errors import InputError
from dng_jax.jobs import devices
from dng_jax.jobs.tables import Table
from dng_jax.nets import blocks
from dng_jax.weights import files

from . import jax_side, networks, timing
from .options import Config
from .workers import Worker

REPEATED = 10
FORWARD = "forward"


class Layer(NamedTuple):
    """A layer of a network: its class in Flax, the shape of its input (NHWC), its outputs."""

    kind: str
    shape: tuple[int, ...]
    outputs: int


# Layer -> the Flax module.
OURS: dict[str, Callable[[int], nn.Module]] = {
    "Conv3": blocks.Conv3,
    "Conv": lambda outputs: nn.Conv(outputs, (3, 3), strides=2, padding=((0, 1), (0, 1))),
    "Dense": nn.Dense,
    "GroupNorm": lambda _: blocks.GroupNorm(),
    "Attention": lambda _: blocks.Attention(),
}


def measure(config: Config) -> Iterator[tuple[str, dict[str, Any], Table]]:
    """One part per network; InputError without PyTorch, and on other devices than CPUs."""
    if importlib.util.find_spec("torch") is None:
        raise InputError("the suite kernels needs torch, which is not installed: pip install torch")
    if jax.default_backend() != "cpu":
        raise InputError("the suite kernels compares layers on one core: give --platform cpu")
    for name in config.networks or ("mnist-heads",):
        images = config.samples or networks.SIZES[name].images
        found = _network(name, images, config.pairs)
        yield name, found, table_of(name, found)


def _network(name: str, images: int, rounds: int) -> dict[str, Any]:
    counts = layers(networks.load(name)[0], images)
    given = name, images, [*counts]
    with (
        Worker("jax", 1, jax_kernels, *given) as ours,
        Worker("PyTorch", 1, _torch, *given) as theirs,
    ):

        def timed(what: str, times: int = 1) -> dict[str, float]:
            runs = {
                "ours": lambda: ours.run(what).seconds,
                "torch": lambda: theirs.run(what).seconds,
            }
            seconds = timing.in_turn(runs, rounds)
            return {side: times * float(np.median(seconds[side])) / REPEATED for side in runs}

        records: list[dict[str, Any]] = [
            {"layer": layer._asdict(), "times": count, "seconds": timed(str(layer), count)}
            for layer, count in counts.items()
        ]
        whole = timed(FORWARD)
    records.sort(key=_lost, reverse=True)
    return {
        "images": images,
        "layers": records,
        "sum": {side: sum(r["seconds"][side] for r in records) for side in whole},
        "forward": whole,
    }


def _lost(record: dict[str, Any]) -> float:
    return record["seconds"]["ours"] - record["seconds"]["torch"]


def layers(module: Any, images: int) -> Counter[Layer]:
    """How often a network has each of its layers, for a batch of so many images."""
    found: Counter[Layer] = Counter()

    def seen(
        call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext
    ) -> Any:
        answer = call(*args, **kwargs)
        layer = context.module
        kind = type(layer).__name__
        inside = any(part.startswith("Attention") for part in layer.path[:-1])
        if context.method_name == "__call__" and kind in OURS and not inside:
            found[Layer(kind, tuple(args[0].shape), answer.shape[-1])] += 1
        return answer

    with nn.intercept_methods(seen):
        jax.eval_shape(module.init, jax.random.key(0), *jax_side.inputs(module.config, images))
    return found


def jax_kernels(name: str, images: int, kinds: list[Layer]) -> dict[str, Any]:
    """Programs of the layers and of the whole, by this library."""
    devices.select("cpu")
    module, params = networks.load(name)
    given = jax.device_put((files.nested(params), *jax_side.inputs(module.config, images)))
    apply = jax.jit(lambda params, *rest: module.apply({"params": params}, *rest))
    found = {FORWARD: _repeated(lambda: apply(*given))}
    for layer in kinds:
        one, x = OURS[layer.kind](layer.outputs), jax.device_put(example(layer))
        variables = one.init(jax.random.key(0), x)
        program = jax.jit(one.apply)
        found[str(layer)] = _repeated(functools.partial(program, variables, x))
    return found


def example(layer: Layer) -> np.ndarray:
    """An input of it, float32."""
    return np.random.default_rng(0).standard_normal(layer.shape, np.float32)


def _repeated(program: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(REPEATED):
            jax.block_until_ready(program())

    return run


def _torch(*given: Any) -> dict[str, Any]:
    # Imported by the process that needs it: torch's threads stay out of this one.
    from . import torch_kernels

    return torch_kernels.programs(*given)


def table_of(name: str, found: dict[str, Any]) -> Table:
    """The layers by what they cost more here than there, and the whole."""

    def words(layer: dict[str, Any]) -> str:
        return f"{layer['kind']} {'x'.join(map(str, layer['shape']))} -> {layer['outputs']}"

    whole, alone = found["forward"], found["sum"]
    between = {side: whole[side] - alone[side] for side in whole}
    sums = {"all layers alone": alone, "between them": between, "forward": whole}
    return Table.of(
        f"{name}, {found['images']} images, one core: ms of a forward, layer by layer",
        [
            *(record | {"layer": words(record["layer"])} for record in found["layers"]),
            *({"layer": n, "times": None, "seconds": seconds} for n, seconds in sums.items()),
        ],
        {
            "layer": "layer",
            "times": "times",
            "ours ms": lambda r: f"{1e3 * r['seconds']['ours']:.2f}",
            "torch ms": lambda r: f"{1e3 * r['seconds']['torch']:.2f}",
            "ours - torch": lambda r: f"{1e3 * _lost(r):.2f}",
        },
    )
