"""The same networks in PyTorch: forward, and the paper's sampling loop with DNG.

    python -m eval.bench pytorch --networks digits-heads mnist-heads --threads 1

forward    one call on a batch, logsnr from -8 to 8
loop       sampling with DNG (pair), class 0 forbidden: `sample` against a Python loop over PyTorch
           (eval.bench.torch_loop). With heads one call for both predictions, with labels one call
           on twice the batch, without classes (cifar10) two networks, as in the paper

PyTorch is eager, and compiled by torch.compile where there is a C++ compiler. Each side is a
process of its own, held to the same cores (eval.bench.workers), and they take turns. Outputs are
compared before anything is timed: `difference` is the largest one over the largest output. The
floor is taken from the faster of both sides' matrix products.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from dng_jax.errors import InputError
from dng_jax.jobs.options import distinct
from dng_jax.jobs.tables import Table

from . import jax_side, timing, workers
from .networks import SIZES, Size
from .options import Config
from .timing import Ratio
from .workers import Run, Worker

NO_COMPILER = "no C++ compiler here (c++, g++ or clang++): torch.compile is left out"
WHAT = ("forward", "loop")
DTYPES = ("float32", "bfloat16")


def measure(config: Config) -> Iterator[tuple[str, dict[str, Any], Table]]:
    """One part per network: parameters, sizes, and a record for each number of cores and program.

    InputError without PyTorch, and for more threads than cores.
    """
    if importlib.util.find_spec("torch") is None:
        raise InputError("the suite pytorch needs torch, which is not installed: pip install torch")
    cores, gpu = len(workers.available()), jax.default_backend() == "gpu"
    threads = config.threads or ((cores,) if gpu else tuple(sorted({1, cores})))
    distinct(threads=threads)
    if max(threads) > cores:
        raise InputError(f"--threads {max(threads)} is more than the {cores} cores there are")
    compiler = any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++")))
    compiling = config.compiled and compiler
    if config.compiled and not compiler:
        print(NO_COMPILER)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two processes on one GPU
    for name in config.networks or tuple(SIZES):
        usual = SIZES[name]
        size = Size(config.samples or usual.images, config.steps or usual.steps)
        found: dict[str, Any] = {"images": size.images, "steps": size.steps, "records": []}
        for count in threads:
            common, records = _measured(name, size, config, count, compiling)
            found |= common | {"records": found["records"] + records}
        yield name, found, table_of(name, found)


def _measured(
    name: str, size: Size, config: Config, cores: int, compiling: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A network on so many cores: what its records have in common, and the records."""
    gpu = jax.default_backend() == "gpu"
    given = (name, size, config.dtype, cores, gpu)
    with (
        Worker("jax", cores, jax_side.programs, *given) as ours,
        Worker("PyTorch", cores, _torch_side, *given, compiling) as theirs,
    ):
        both = {"ours": (ours, ""), "eager": (theirs, "")}
        sides = both | ({"compiled": (theirs, "compiled ")} if compiling else {})
        products, _ = _in_turn(both, "product", config.pairs)
        operations = ours.facts["operations"]
        peak = operations["product"] / np.median(products["ours"])
        peak = max(peak, operations["product_of_one"] / np.median(products["eager"]))
        records = []
        for what in WHAT:
            times, cpu = _in_turn(sides, what, config.pairs)
            record: dict[str, Any] = {
                "cores": cores,
                "program": what,
                "seconds": {side: float(np.median(values)) for side, values in times.items()},
                "cpu_seconds": cpu,
                "times": {
                    side: timing.ratio(times[side], times["ours"])
                    for side in sides
                    if side != "ours"
                },
                "operations": operations[what],
                "peak_operations_per_second": float(peak),
                "first_seconds": {
                    "ours": ours.facts["first_seconds"][what],
                    "compiled": theirs.facts["first_seconds"].get(what),
                },
            }
            records.append(record)
        records[-1]["idle_cpu_seconds"] = {
            "ours": ours.idle_cpu_seconds,
            "PyTorch": theirs.idle_cpu_seconds,
        }
    output = ours.facts["output"]
    common = {
        "device": ours.facts["device"],
        "parameters": ours.facts["parameters"],
        "difference": {
            side: float(np.abs(other - output).max() / np.abs(output).max())
            for side, other in theirs.facts["outputs"].items()
        },
    }
    return common, records


def _in_turn(
    sides: dict[str, tuple[Worker, str]], what: str, rounds: int
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Seconds [rounds] of each side, and median CPU seconds."""
    taken: dict[str, list[Run]] = {side: [] for side in sides}

    def timed(side: str) -> Callable[[], float]:
        worker, kind = sides[side]

        def run() -> float:
            taken[side].append(worker.run(kind + what))
            return taken[side][-1].seconds

        return run

    times = timing.in_turn({side: timed(side) for side in sides}, rounds)
    cpu = {side: [run.cpu_seconds for run in runs[1:]] for side, runs in taken.items()}
    return times, {side: float(np.median(values)) for side, values in cpu.items()}


def _torch_side(*given: Any) -> dict[str, Any]:
    # Imported by the process that needs it: torch's threads stay out of this one.
    from . import torch_side

    return torch_side.programs(*given)


def table_of(name: str, found: dict[str, Any]) -> Table:
    """The table a person reads."""

    def ratio(side: str):
        def cell(record: dict[str, Any]) -> str | None:
            value: Ratio | None = record["times"].get(side)
            return None if value is None else timing.shown(value)

        return cell

    def floor(record: dict[str, Any]) -> float:
        return record["operations"] / record["peak_operations_per_second"]

    def each(record: dict[str, Any], form: str, unit: float = 1.0) -> str:
        return " / ".join(format(s / unit, form) for s in record["seconds"].values())

    differences = ", ".join(f"{side} {d:.0e}" for side, d in found["difference"].items())
    return Table.of(
        f"{name}: {found['parameters']:,} parameters, {found['images']} images,"
        f" {found['steps']} steps, {found['device']}; difference {differences}",
        found["records"],
        {
            "cores": "cores",
            "program": "program",
            "s, ours / eager / compiled": lambda r: each(r, ".3g"),
            "eager / ours": ratio("eager"),
            "compiled / ours": ratio("compiled"),
            "floor s": floor,
            "over it, each": lambda r: each(r, ".1f", floor(r)),
        },
    )
