"""The end of a run: model.safetensors with its facts, and model.md, the card that tells them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dng_jax import checkpoints, nets
from dng_jax.training import TrainState
from eval import runs
from train import logs
from train.options import Options
from train.presets import Job


def facts(
    name: str,
    job: Job,
    options: Options,
    state: TrainState,
    seconds: float,
    folder: Path,
    extra: Mapping[str, str],
) -> dict[str, str]:
    """What a model file says of its origin; name: of the job, for the command."""
    if int(state.step) != job.steps:
        extra = {**extra, "exported_step": str(int(state.step))}
    known = runs.provenance()
    git = known["git"] or {"commit": "unknown", "dirty": False}
    losses = logs.average_of_last(folder)
    return {
        "dataset": job.dataset,
        "split": job.split,
        "steps": str(job.steps),
        "images": str(job.steps * job.batch_size),
        "seconds": f"{seconds:.0f}",
        "final": ", ".join(
            f"{n} {losses[n]:.4f}" for n in losses if n not in ("grad_norm", "images_per_second")
        ),
        "command": options.command(name),
        "commit": git["commit"] + (" with changes" if git["dirty"] else ""),
        "hardware": f"{known['device_count']} x {known['device']}, {known['cpu']},"
        f" {known['cpu_count']} CPU cores",
        "software": f"jax {known['packages']['jax']}, flax {known['packages']['flax']}",
        **extra,
    }


def write(
    folder: Path, params: Any, module: Any, text: Mapping[str, str], dtype: str, grid: str | None
) -> Path:
    """Writes the weights with the facts in their metadata, and the card; returns the former."""
    path = folder / "model.safetensors"
    params = jax.device_get(params)
    checkpoints.save_model(path, params, nets.describe(module), text, dtype)
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(params))
    (folder / "model.md").write_text(
        card(folder.resolve().name, module, count, text, dtype, path.stat().st_size, grid)
    )
    return path


def card(
    name: str,
    module: Any,
    count: int,
    text: Mapping[str, str],
    dtype: str,
    size: int,
    grid: str | None,
) -> str:
    """The model card, Markdown."""
    config = nets.describe(module)
    kind = config.pop("kind")
    shape = "x".join(map(str, config["image_shape"]))
    what = {"unet": "Diffusion U-Net", "classifier": "Classifier"}[kind]
    form = f", conditioning {config['conditioning']}" if kind == "unet" else ""
    seconds = float(text["seconds"])
    time = f"{seconds / 60:.1f} minutes" if seconds >= 120 else f"{seconds:.0f} s"
    rows = {
        "network": f"{count:,} parameters; "
        + ", ".join(f"{n} {v}" for n, v in config.items() if n != "image_shape"),
        "data": f"{text['dataset']}, split {text['split']}, images {shape} in [-1, 1]",
        "command": f"`{text['command']}`",
        "commit": text["commit"],
        "hardware": f"{text['hardware']}; {text['software']}",
        "time": f"{time}; {int(text['steps']):,} steps, {int(text['images']):,} images seen",
        "final, mean over the last 5% of the steps": text["final"],
        "stored as": f"averaged weights, {dtype}, {size / 2**20:.1f} MiB",
    }
    told = {"dataset", "split", "steps", "images", "seconds", "final", "command", "commit"}
    told |= {"hardware", "software"}
    rows |= {n.replace("_", " "): v for n, v in text.items() if n not in told}
    table = "".join(f"| {n} | {v} |\n" for n, v in rows.items())
    picture = f"\n![Samples of the averaged weights]({grid})\n" if grid else ""
    return f"# {name}\n\n{what}{form}.\n\n| | |\n|---|---|\n{table}{picture}"
