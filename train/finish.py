"""The end of a run: model.safetensors with its facts, and model.md, the card that tells them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dng_jax import nets, weights
from dng_jax.errors import InputError
from dng_jax.jobs import runs
from dng_jax.training import TrainState
from train import logs
from train.options import Options
from train.presets import DiffusionJob, Job


def facts(
    name: str,
    job: Job,
    options: Options,
    state: TrainState,
    seconds: float,
    folder: Path,
    used: int,
    extra: Mapping[str, str],
) -> dict[str, str]:
    """What a model file says of its origin; name: of the job, for the command.

    used: how many images of the split it was trained on. What it ran on is what run.json noted
    when each sitting began: by the end the checkout may be another.
    """
    if int(state.step) != job.steps:
        extra = {**extra, "exported_step": str(int(state.step))}
    record = runs.read_run(folder)
    if record is None:
        raise InputError(f"{folder / 'run.json'} cannot be read any more: put it back, --resume")
    if record.get("init"):
        extra = {**extra, "started_from": _origin(record["init"])}
        # A resumed run may leave the option out.
        options = dataclasses.replace(options, init=Path(record["init"]["file"]))
    sittings = record["sittings"]
    commits = _distinct([_commit(sittings[0]), _commit(sittings[-1])])
    losses, lines = logs.average_of_last(folder)
    batches = "1 logged batch" if lines == 1 else f"{lines} logged batches"
    only = job.only_class if isinstance(job, DiffusionJob) else None
    which = "all" if job.examples is None or used < job.examples else "the first"
    return {
        "dataset": job.dataset,
        "split": job.split,
        "used": f"{which} {used:,} images" + ("" if only is None else f" of class {only}"),
        "steps": str(job.steps),
        "images": str(job.steps * job.batch_size),
        "seconds": f"{seconds:.0f}",
        "final": ", ".join(
            f"{n} {losses[n]:.4f}" for n in losses if n not in ("grad_norm", "images_per_second")
        ),
        "final_mean_of": f"{batches} in the last 5% of the steps",
        "command": options.command(name),
        "commit": " (start), ".join(commits) + (" (end)" if len(commits) > 1 else ""),
        "hardware": ", then ".join(_distinct([_hardware(known) for known in sittings])),
        "software": ", then ".join(_distinct([_software(known) for known in sittings])),
        **extra,
    }


def _distinct(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _commit(known: Mapping[str, Any]) -> str:
    git = known["git"] or {"commit": "unknown", "dirty": False}
    return git["commit"] + (" with changes" if git["dirty"] else "")


def _hardware(known: Mapping[str, Any]) -> str:
    devices = f"{known['device_count']} x {known['device']}"
    return f"{devices}, {known['cpu']}, {known['cpu_count']} CPU cores"


def _software(known: Mapping[str, Any]) -> str:
    return f"jax {known['packages']['jax']}, flax {known['packages']['flax']}"


def _origin(init: Mapping[str, str]) -> str:
    known = ", ".join(f"{n} {v}" for n, v in init.items() if n != "file")
    # Text of a foreign file, in a cell of a Markdown table.
    return " ".join(f"{init['file']}: {known}".replace("|", "/").split())


def write(
    folder: Path, params: Any, module: Any, text: Mapping[str, str], dtype: str, grid: str | None
) -> Path:
    """Writes the weights with the facts in their metadata, and the card; returns the former."""
    path = folder / "model.safetensors"
    params = jax.device_get(params)
    weights.save(path, params, nets.describe(module), text, dtype)
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(params))
    size = path.stat().st_size
    told = card(folder.resolve().name, module, count, text, dtype, size, grid)
    runs.write_text(folder / "model.md", told)
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
        "data": f"{text['dataset']}, split {text['split']}: {text['used']}, {shape} in [-1, 1]",
        "command": f"`{text['command']}`",
        "commit": text["commit"],
        "hardware": f"{text['hardware']}; {text['software']}",
        "time": f"{time}; {int(text['steps']):,} steps, {int(text['images']):,} images seen",
        f"final, mean of the {text['final_mean_of']}": text["final"],
        "stored as": f"averaged weights, {dtype}, {size / 2**20:.1f} MiB",
    }
    told = {"dataset", "split", "steps", "images", "seconds", "final", "command", "commit"}
    told |= {"used", "final_mean_of", "hardware", "software"}
    rows |= {n.replace("_", " "): v for n, v in text.items() if n not in told}
    table = "".join(f"| {n} | {v} |\n" for n, v in rows.items())
    picture = f"\n![Samples of the averaged weights]({grid})\n" if grid else ""
    return f"# {name}\n\n{what}{form}.\n\n| | |\n|---|---|\n{table}{picture}"
