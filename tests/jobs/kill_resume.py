"""Kills a small training run again and again with SIGKILL at random moments, and resumes it.

    python -m tests.jobs.kill_resume --kills 20

Checked after every kill: every saved state is whole, the newest is at least the one that was on the
disk before the kill, and at most two save intervals are lost (a state is written while training
goes on, so a kill may cost the one under way). At the end: parameters, average, optimiser's state,
key and the lines of metrics.jsonl equal, bit for bit, those of a run that was never killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax import nets, training
from dng_jax.training.checkpoints import Checkpoints
from train import logs, options

ROOT = Path(__file__).resolve().parents[2]
# The smallest network that still has every part of a "heads" U-Net.
TINY = (
    "--network.channels", "8", "--network.multipliers", "1", "--network.blocks", "0",
    "--network.head-channels", "8", "--network.embed-channels", "16", "--ema-decay", "0.9",
    "--warmup", "2", "--batch-size", "32",
)  # fmt: skip
STEPS, SAVE_EVERY, LOG_EVERY = 600, 20, 5


def command(out: Path, *more: str) -> list[str]:
    """The command of a small run."""
    return [sys.executable, "-m", "train.diffusion", "--out", str(out), *TINY, *more]


def environment(folder: Path) -> dict[str, str]:
    """One compilation for all runs: what is killed here is training, not the compiler."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": str(ROOT),
    }


def state_like(steps: int) -> tuple[nets.UNet, training.TrainState]:
    """The small run's network, and zeros in the shape of its states."""
    job = options.parse_diffusion([*TINY, "--steps", str(steps)]).job
    module = nets.UNet(job.network)
    optimiser = training.make_optimiser(job.steps, job.learning_rate, job.warmup, job.weight_decay)
    key = jax.random.key(job.seed)
    shapes = jax.eval_shape(lambda key: training.init_state(module, optimiser, key), key)
    return module, jax.tree.map(
        lambda s: key if s.dtype == key.dtype else jnp.zeros(s.shape, s.dtype), shapes
    )


def newest(out: Path, module: nets.UNet, like: training.TrainState) -> training.TrainState | None:
    """The newest state; AssertionError where any state kept cannot be read."""
    complaints: list[str] = []
    with Checkpoints(out / "states", nets.describe(module), report=complaints.append) as states:
        kept = states.steps()
        best = states.restore(like, best=True)
        newest = states.restore(like)
    assert not complaints, complaints
    assert [best is None, newest is None] == [not kept] * 2
    return None if newest is None else newest[0]


def equal(a: training.TrainState, b: training.TrainState) -> bool:
    """Bit for bit, keys included."""
    a, b = (s._replace(key=jax.random.key_data(s.key)) for s in (a, b))
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


def numbers(out: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without the clock's part."""
    clock = ("seconds", "images_per_second")
    return [{n: v for n, v in line.items() if n not in clock} for line in logs.read(out)]


def check(folder: Path, kills: int, seed: int = 0, steps: int = STEPS) -> dict[str, object]:
    """Runs, kills and compares as above; returns what was seen."""
    draw, env = random.Random(seed), environment(folder)
    module, like = state_like(steps)
    pace = ["--steps", str(steps), "--save-every", str(SAVE_EVERY), "--log-every", str(LOG_EVERY)]
    pace += ["--sample-every", "0"]
    straight, killed = folder / "straight", folder / "killed"

    def start(out: Path, resume: bool) -> subprocess.Popen:
        words = command(out, *pace, *(["--resume"] if resume else []))
        return subprocess.Popen(
            words, env=env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def finish(process: subprocess.Popen) -> None:
        _, said = process.communicate(timeout=600)
        assert process.returncode == 0, said[-3000:]

    began = time.monotonic()
    finish(start(straight, False))
    whole = time.monotonic() - began
    lines = logs.read(straight)
    training_time = lines[-1]["seconds"] - lines[0]["seconds"]
    seen: list[dict[str, int]] = []
    done = ended = 0
    while done < kills:
        process = start(killed, (killed / "run.json").exists())
        before = _size(killed)
        # Most kills fall on steps and saves; the others anywhere from the start of Python on.
        if draw.random() < 0.75:
            while process.poll() is None and _size(killed) <= before:
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 1.5 * training_time / (kills + 1)))
        else:
            time.sleep(draw.uniform(0, whole - training_time))
        if process.poll() is not None:
            # It came to its end first: the moments left go to a fresh run.
            finish(process)
            killed.rename(killed.with_name(f"ended-{ended}"))
            ended += 1
            continue
        on_disk = max(_steps(killed), default=0)
        process.kill()
        process.communicate()
        done += 1
        logged = int((logs.read(killed) or [{"step": 0}])[-1]["step"])
        # Looking makes the folder of the states, which a run that never began must not find.
        state = newest(killed, module, like) if (killed / "states").exists() else None
        kept = 0 if state is None else int(state.step)
        assert kept >= max(on_disk, logged - 2 * SAVE_EVERY), (kept, on_disk, logged)
        assert kept == max(_steps(killed), default=0)
        seen.append({"logged": logged, "kept": kept})
    finish(start(killed, (killed / "run.json").exists()))
    a, b = newest(straight, module, like), newest(killed, module, like)
    assert a is not None
    assert b is not None
    assert int(a.step) == steps
    assert equal(a, b)
    assert numbers(straight) == numbers(killed)
    return {"kills": done, "worst": max(s["logged"] - s["kept"] for s in seen), "seen": seen}


def _steps(out: Path) -> list[int]:
    return [int(p.name) for p in (out / "states").glob("*") if p.name.isdigit()]


def _size(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(check(Path(scratch), arguments.kills, arguments.seed)))
