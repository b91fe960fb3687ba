"""Seconds from nothing: of --help, and of the first image, each in a process of its own.

    python -m eval.bench start

help     class-removal --help
image    imports, the network of the digits from its file, and one image by 50 steps of DNG
         (classes): without the compilation cache, with an empty one, and with the one that this
         left behind (dng_jax.jobs.compiled); of the whole, seconds of imports, of the file and of
         the image, the rest being Python's own start and end
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from dng_jax.errors import InputError
from dng_jax.jobs.tables import Table

from .options import Config

HELP = "from dng_jax import cli; cli.main(['class-removal', '--help'])"
IMAGE = """
import json, time
began = time.perf_counter()
from dng_jax.jobs import compiled
compiled.keep()
import jax
from dng_jax import denoisers, guidance, initial_noise, posterior, sample, sample_keys
from dng_jax import schedules, steps
from dng_jax.weights import pretrained
imported = time.perf_counter()
module, params, _ = pretrained.load("digits-heads")
denoise = denoisers.from_module(module, params)
loaded = time.perf_counter()
table = steps.ddpm(schedules.linear(), 50)
rule = guidance.dynamic_negative(posterior.classes(10, forbidden=[0]))
keys = sample_keys(0, 1)
x = initial_noise(keys, (8, 8, 1), table)
jax.block_until_ready(sample(denoise, table, rule, keys, x).x)
print(json.dumps([imported - began, loaded - imported, time.perf_counter() - loaded]))
"""
STAGES = ("imports", "file", "image")
NO_CACHE = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
# Those that would keep a child from the cache that is measured, or from any.
OURS = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")


def measure(config: Config) -> Iterator[tuple[str, dict[str, Any], Table]]:
    """One part: seconds of every kind of start, medians over config.pairs, which take turns."""
    times: dict[str, list[list[float]]] = {}
    for _ in range(config.pairs):
        with tempfile.TemporaryDirectory() as cache:
            kept = {"XDG_CACHE_HOME": cache}
            for name, code, variables in (
                ("help", HELP, kept),
                ("image, no cache", IMAGE, NO_CACHE),
                ("image, empty cache", IMAGE, kept),
                ("image, warm cache", IMAGE, kept),
            ):
                times.setdefault(name, []).append(started(code, variables))
    found: dict[str, Any] = {}
    for name, rows in times.items():
        whole = [row[0] for row in rows]
        low, middle, high = (float(q) for q in np.quantile(whole, (0.25, 0.5, 0.75)))
        stages = np.median([row[1:] for row in rows], axis=0).tolist()
        found[name] = {
            "seconds": middle,
            "low": low,
            "high": high,
            "stages": dict(zip(STAGES, stages, strict=False)),
        }
    yield "start", found, table_of(found)


def started(code: str, variables: dict[str, str]) -> list[float]:
    """Wall seconds of a process that runs this code, then those that it printed of itself.

    InputError with the last line of what it said where it failed.
    """
    environment = {name: value for name, value in os.environ.items() if name not in OURS}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | variables
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        last = (done.stderr.splitlines() or ["no message"])[-1]
        raise InputError(f"a process to be timed ended with exit code {done.returncode}: {last}")
    lines = done.stdout.splitlines()
    return [seconds, *(json.loads(lines[-1]) if code == IMAGE else ())]


def table_of(found: dict[str, Any]) -> Table:
    """A line for each kind of start."""

    def stage(name: str):
        return lambda record: record["stages"].get(name)

    return Table.of(
        "Seconds from nothing",
        [{"start": name} | record for name, record in found.items()],
        {
            "start": "start",
            "s [quartiles]": lambda r: "{seconds:.2f} [{low:.2f}, {high:.2f}]".format(**r),
            **{f"{name} s": stage(name) for name in STAGES},
        },
    )
