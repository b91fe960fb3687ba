"""3x3 convolutions one by one: this library's (dng_jax.nets.convolution) against XLA's.

    python -m eval.bench convolutions

Each at the shapes that networks have, alone on one core of a CPU (elsewhere on the first device),
in turn. Gflop/s are those of the definition, 2 x 9 products of channels per position, so that fewer
products show as more of them. Errors are the largest against float64, of a gradient those of dx and
dK, as a share of the largest value; inputs are drawn from seed 0. A run calls a convolution so
often that it takes some milliseconds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from dng_jax.jobs import devices
from dng_jax.jobs.tables import Table
from dng_jax.nets import convolution

from . import timing
from .options import Config
from .workers import Worker

FLOPS_PER_RUN = 1e9


class Case(NamedTuple):
    """A convolution of float32: which, forward or gradient, the shape of x (NHWC), its outputs."""

    way: str
    what: str
    shape: tuple[int, int, int, int]
    outputs: int

    @property
    def flops(self) -> float:
        """Of the definition; a gradient is two convolutions (dx and dK)."""
        once = 2 * 9 * math.prod(self.shape) * self.outputs
        return 2 * once if self.what == "gradient" else once


def nn_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """As the layers of Stable Diffusion call it."""
    dims = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    return convolution.conv_general_dilated(x, kernel, (1, 1), [(1, 1), (1, 1)], **dims)


WAYS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "conv3x3": convolution.conv3x3,
    "conv3x3_product_gradient": convolution.conv3x3_product_gradient,
    "conv_general_dilated": nn_conv,
}

CASES = (
    *(
        Case("conv3x3", "forward", (images, side, side, channels), channels)
        for images, side, channels in (
            (64, 2, 128),
            (64, 4, 64),
            (64, 7, 128),
            (64, 8, 32),
            (64, 14, 64),
            (16, 16, 128),
            (8, 32, 64),
            (1, 32, 128),
        )
    ),
    Case("conv3x3", "gradient", (64, 2, 2, 128), 128),
    Case("conv3x3_product_gradient", "gradient", (64, 15, 15, 64), 256),
    Case("conv_general_dilated", "forward", (1, 64, 64, 320), 320),
    Case("conv_general_dilated", "forward", (128, 4, 8, 48), 48),
    Case("conv_general_dilated", "forward", (128, 2, 4, 96), 96),
    Case("conv_general_dilated", "gradient", (128, 2, 4, 96), 96),
)


def measure(config: Config) -> Iterator[tuple[str, list[dict[str, Any]], Table]]:
    """One part, all convolutions; --shrink takes the first few."""
    cases = CASES[: max(1, len(CASES) // config.shrink)]
    records: list[dict[str, Any]] = []
    cores = 1 if jax.default_backend() == "cpu" else None
    with Worker("jax", cores, programs, jax.default_backend(), cases) as worker:
        for case in cases:
            runs = {
                side: functools.partial(_seconds, worker, f"{case} {side}")
                for side in ("xla", "ours")
            }
            seconds = timing.in_turn(runs, config.pairs)
            records.append(
                case._asdict()
                | {"ratio": timing.ratio(seconds["xla"], seconds["ours"])}
                | {"gflops": case.flops * repeats(case) / float(np.median(seconds["xla"])) / 1e9}
                | {"errors": worker.facts[str(case)]}
            )
    yield "convolutions", records, table_of(records)


def _seconds(worker: Worker, name: str) -> float:
    return worker.run(name).seconds


def repeats(case: Case) -> int:
    """How often a run calls it, 1 to 100 times."""
    return min(100, max(1, round(FLOPS_PER_RUN / case.flops)))


def programs(platform: str, cases: tuple[Case, ...]) -> dict[str, Any]:
    """{case and side: program}, and under "facts" the errors {case: {side: float}}."""
    devices.select(platform)
    found: dict[str, Any] = {"facts": {}}
    for case in cases:
        x, kernel, dy = example(case)
        errors = {}
        for side, way in (("xla", convolution.xla_conv), ("ours", WAYS[case.way])):
            program = jax.jit(functools.partial(_run, way, case.what))
            given = jax.device_put((x, kernel, dy))
            found[f"{case} {side}"] = _repeated(functools.partial(program, *given), repeats(case))
            errors[side] = error(case.what, program(*given), x, kernel, dy)
        found["facts"][str(case)] = errors
    return found


def example(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x and dy of variance 1, a kernel that keeps it; float32."""
    rng = np.random.default_rng(0)
    inputs = case.shape[-1]
    x = rng.standard_normal(case.shape, np.float32)
    kernel = rng.standard_normal((3, 3, inputs, case.outputs), np.float32)
    dy = rng.standard_normal((*case.shape[:3], case.outputs), np.float32)
    return x, kernel / np.float32(math.sqrt(9 * inputs)), dy


def _run(way: Callable, what: str, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> Any:
    return jax.vjp(way, x, kernel)[1](dy) if what == "gradient" else way(x, kernel)


def _repeated(program: Callable[[], Any], times: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(times):
            jax.block_until_ready(program())

    return run


def error(what: str, found: Any, x: np.ndarray, kernel: np.ndarray, dy: np.ndarray) -> float:
    """The largest error of y, or of (dx, dK), over the largest value."""
    x, kernel, dy = (a.astype(np.float64) for a in (x, kernel, dy))
    pairs = [(found, exact(x, kernel))]
    if what == "gradient":
        dk = np.array([[np.einsum("bhwi,bhwo->io", s, dy, optimize=True) for s in row] for row in
                       shifts(x)])  # fmt: skip
        pairs = [*zip(found, (exact(dy, kernel[::-1, ::-1].swapaxes(2, 3)), dk), strict=True)]
    return max(float(np.abs(np.asarray(a) - b).max() / np.abs(b).max()) for a, b in pairs)


def exact(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The convolution by its definition."""
    places = [(r, c) for r in range(3) for c in range(3)]
    return np.sum([shifts(x)[r][c] @ kernel[r, c] for r, c in places], axis=0)


def shifts(x: np.ndarray) -> list[list[np.ndarray]]:
    """x_(p+d) for the three rows and columns of d."""
    _, h, w, _ = x.shape
    wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [[wide[:, r : r + h, c : c + w] for c in range(3)] for r in range(3)]


def table_of(records: list[dict[str, Any]]) -> Table:
    """Row by row as they were measured."""
    return Table.of(
        "3x3 convolutions, XLA's and this library's",
        records,
        {
            "convolution": lambda r: r["way"].replace("_", " "),
            "of": "what",
            "shape": lambda r: f"{'x'.join(map(str, r['shape']))} -> {r['outputs']}",
            "XLA Gflop/s": lambda r: f"{r['gflops']:.0f}",
            "XLA / ours [quartiles]": lambda r: timing.shown(r["ratio"]),
            "error of XLA's": lambda r: f"{r['errors']['xla']:.1e}",
            "of ours": lambda r: f"{r['errors']['ours']:.1e}",
        },
    )
