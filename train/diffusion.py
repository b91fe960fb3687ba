"""Trains a diffusion U-Net: python -m train.diffusion --preset digits --out runs/digits-heads"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import jax
import tyro

import train
from dng_jax import checkpoints, data, nets, schedules, training
from dng_jax.errors import choose
from eval import runs


@dataclasses.dataclass(frozen=True)
class Job:
    """What is trained, on what, for how long; fields are set by a preset, overridden by options."""

    network: str  # a name of nets.CONFIGS
    dataset: str
    steps: int
    batch_size: int = 256
    learning_rate: float = 2e-3
    warmup: int = 200
    weight_decay: float = 1e-3
    ema_decay: float = 0.998
    seed: int = 0
    split: str = "all"
    only_class: int | None = None


def mnist_small() -> Job:
    """One output head a class, MNIST."""
    return Job("mnist-small", "mnist", 14_000, 128, 1.5e-3, 500, ema_decay=0.999, split="train")


def mnist_small_label() -> Job:
    """Class-conditional, MNIST."""
    return dataclasses.replace(mnist_small(), network="mnist-small-label")


def mnist_small_plain() -> Job:
    """The paper's two networks: this one unconditional, --only-class k for the other."""
    return dataclasses.replace(mnist_small(), network="mnist-small-plain")


def digits() -> Job:
    """One output head a class, 8x8 digits, all 1,797 images: the network pretrained/digits-heads.

    Cost: about 10 minutes on 2 CPU cores. Expect loss_class .19, loss_unconditional .28;
    measured leaks and shares are in the model card.
        python -m train.diffusion --preset digits --dtype float16
    """
    return Job(network="digits", dataset="digits", steps=5_000, batch_size=128)


def digits_label() -> Job:
    """Class-conditional with label dropout, 8x8 digits: the network pretrained/digits-label.

    Cost: 4 to 5 minutes on 2 CPU cores. Expect a loss of about .20, 15% of labels dropped.
        python -m train.diffusion --preset digits-label --dtype float16
    """
    return Job(network="digits-label", dataset="digits", steps=4_000, batch_size=128)


PRESETS: dict[str, Callable[[], Job]] = {
    "digits": digits,
    "digits-label": digits_label,
    "mnist-small": mnist_small,
    "mnist-small-label": mnist_small_label,
    "mnist-small-plain": mnist_small_plain,
}


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
    """Trains a diffusion U-Net and writes its averaged weights.

    Args:
        preset: digits (one head a class, the default network) or digits-label.
        out: folder of the run; runs/<preset> by default.
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
    out = out or Path("runs") / preset
    train.check_counts(
        steps=job.steps, batch_size=job.batch_size, log_every=log_every, save_every=save_every
    )
    train.open_run(out, dataclasses.asdict(job), resume)

    # ---- build
    images, labels, _ = data.load(job.dataset, job.split)
    if job.only_class is not None:
        images, labels = images[labels == job.only_class], labels[labels == job.only_class]
    mesh = jax.make_mesh(
        (len(jax.devices()),), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    whole, split = (jax.NamedSharding(mesh, jax.P(*axes)) for axes in ((), ("batch",)))
    arrays = jax.device_put((images, labels), whole)
    module = nets.UNet(nets.CONFIGS[job.network])
    optimiser = training.make_optimiser(job.steps, job.learning_rate, job.warmup, job.weight_decay)
    state = training.init_state(module, optimiser, jax.random.key(job.seed))
    state = jax.device_put(state, whole)
    step = training.make_diffusion_step(
        module, optimiser, schedules.linear(), job.batch_size, job.ema_decay, split
    )

    # ---- train
    began = time.monotonic()
    state = train.fit(step, state, arrays, job.steps, out, log_every, save_every)

    # ---- write
    text = {
        "dataset": job.dataset,
        "schedule": "linear",
        "steps": str(job.steps),
        "seconds": f"{time.monotonic() - began:.0f}",
        "command": train.command("diffusion", preset, options),
    }
    checkpoints.save_model(out / "model.safetensors", state.ema, nets.describe(module), text, dtype)
    print(out / "model.safetensors")


if __name__ == "__main__":
    runs.main(lambda: tyro.cli(run))
