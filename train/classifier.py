"""Trains the classifier that judges samples: python -m train.classifier --preset digits"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import train
from dng_jax import checkpoints, data, nets, training
from dng_jax.errors import choose
from eval import runs


@dataclasses.dataclass(frozen=True)
class Job:
    """What is trained, on what, for how long; fields are set by a preset, overridden by options."""

    dataset: str
    steps: int
    batch_size: int = 128
    learning_rate: float = 2e-3
    warmup: int = 200
    weight_decay: float = 1e-2
    ema_decay: float = 0.998
    seed: int = 0


def digits() -> Job:
    """8x8 digits, the 1,442 images of "train", augmented: the network pretrained/digits-classifier.

    Cost: 2 to 3 minutes on 2 CPU cores. Expect a loss of .30 and 99.7% on "test".
        python -m train.classifier --preset digits --dtype float16
    """
    return Job(dataset="digits", steps=6_000)


def mnist() -> Job:
    """MNIST, 60,000 training images, augmented."""
    return Job("mnist", steps=7_000, batch_size=128)


PRESETS: dict[str, Callable[[], Job]] = {"digits": digits, "mnist": mnist}


def run(
    preset: str = "digits",
    out: Path | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int | None = None,
    dtype: str = "float32",
    resume: bool = False,
    log_every: int = 50,
    save_every: int = 1000,
) -> None:
    """Trains a classifier on "train", prints its accuracy on "test", writes its averaged weights.

    Args:
        preset: digits.
        out: folder of the run; runs/<preset>-classifier by default.
        steps: training steps, instead of the preset's.
        batch_size: images a step, instead of the preset's.
        learning_rate: peak learning rate, instead of the preset's.
        seed: seed of everything random.
        dtype: float32 or float16, of the weights written at the end.
        resume: continue the run in `out`.
        log_every: steps between lines of metrics.jsonl.
        save_every: steps between saved states.
    """
    # ---- parse
    choose(dtype, checkpoints.DTYPES, "dtype")
    options = {
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    job = train.with_overrides(PRESETS[choose(preset, PRESETS, "preset")](), options)
    out = out or Path("runs") / f"{preset}-classifier"
    train.check_counts(
        steps=job.steps, batch_size=job.batch_size, log_every=log_every, save_every=save_every
    )
    train.open_run(out, dataclasses.asdict(job), resume)

    # ---- build
    images, labels, _ = data.load(job.dataset, "train")
    mesh = jax.make_mesh(
        (len(jax.devices()),), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    whole, split = (jax.NamedSharding(mesh, jax.P(*axes)) for axes in ((), ("batch",)))
    arrays = jax.device_put((images, labels), whole)
    module = nets.Classifier(nets.CLASSIFIER_CONFIGS[job.dataset])
    optimiser = training.make_optimiser(job.steps, job.learning_rate, job.warmup, job.weight_decay)
    state = training.init_state(module, optimiser, jax.random.key(job.seed))
    state = jax.device_put(state, whole)
    step = training.make_classifier_step(
        module, optimiser, job.batch_size, job.ema_decay, sharding=split
    )

    # ---- train
    began = time.monotonic()
    state = train.fit(step, state, arrays, job.steps, out, log_every, save_every)

    # ---- judge, write
    images, labels, _ = data.load(job.dataset, "test")
    logits = np.concatenate(
        [
            jax.jit(module.apply)({"params": state.ema}, data.to_unit(part))
            for part in np.array_split(images, max(1, len(images) // 500))
        ]
    )
    accuracy = float(jnp.mean(jnp.argmax(logits, -1) == labels))
    text = {
        "dataset": job.dataset,
        "steps": str(job.steps),
        "seconds": f"{time.monotonic() - began:.0f}",
        "test_accuracy": f"{accuracy:.4f}",
        "command": train.command("classifier", preset, options),
    }
    checkpoints.save_model(out / "model.safetensors", state.ema, nets.describe(module), text, dtype)
    print(f"test accuracy {accuracy:.4f}, {out / 'model.safetensors'}")


if __name__ == "__main__":
    runs.main(lambda: tyro.cli(run))
