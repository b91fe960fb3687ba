"""The end of a run: model.safetensors with its facts, or the folder of a text-to-image model, and
model.md, the card that shows them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dng_jax import weights
from dng_jax.errors import InputError
from dng_jax.jobs import markdown, runs
from dng_jax.jobs.options import shown
from dng_jax.training import TrainState
from dng_jax.training.checkpoints import disk_errors
from dng_jax.training.jobs import DiffusionJob

from . import logs
from .start import Run


def write(
    run: Run,
    state: TrainState,
    seconds: float,
    extra: Mapping[str, str],
    grid: str | None = None,
) -> Path:
    """Writes the averaged weights with the facts in their metadata, and the card; returns the
    former. grid: the picture that the card shows."""
    path, dtype = run.out / "model.safetensors", run.options.dtype
    text = facts(run, state, seconds, extra)
    params = jax.device_get(state.ema)
    with disk_errors("write the model", run.out):
        weights.save(path, params, run.network, text, dtype)
        _write_card(run, _count(params), text, path.stat().st_size, grid)
    return path


def write_folder(
    run: Run,
    state: TrainState,
    seconds: float,
    extra: Mapping[str, str],
    save: Callable[[Path], Any],
    grid: str | None = None,
) -> Path:
    """Writes the folder model/ by `save`, which returns all parameters, and the card; returns the
    former. Everything else as in `write`."""
    folder, text = run.out / "model", facts(run, state, seconds, extra)
    with disk_errors("write the model", run.out):
        params = save(folder)
        size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
        _write_card(run, _count(params), text, size, grid)
    return folder


def _write_card(run: Run, count: int, text: Mapping[str, str], size: int, grid: str | None) -> None:
    name, dtype = run.out.resolve().name, run.options.dtype
    said = card(name, run.network, count, text, dtype, size, grid)
    runs.write_text(run.out / "model.md", said)


def _count(params: Any) -> int:
    return sum(np.size(leaf) for leaf in jax.tree.leaves(params))


def facts(run: Run, state: TrainState, seconds: float, extra: Mapping[str, str]) -> dict[str, str]:
    """What a model file says of its origin.

    What it ran on is what run.json noted when each session began: by the end the checkout may be
    another.
    """
    job, options, used = run.job, run.options, len(run.arrays[0])
    if int(state.step) != job.steps:
        extra = {**extra, "exported_step": str(int(state.step))}
    record = runs.read_run(run.out)
    if record is None:
        raise InputError(f"{run.out / 'run.json'} cannot be read any more: put it back, --resume")
    if record.get("init"):
        extra = {**extra, "started_from": _origin(record["init"])}
        # A resumed run may leave the option out.
        options = dataclasses.replace(options, init=Path(record["init"]["file"]))
    if isinstance(own := record.get("data"), dict):
        names = json.dumps(own["classes"], ensure_ascii=False)
        extra = {**extra, "dataset_sha256": own["sha256"], "dataset_classes": names}
    sessions = [runs.in_words(known) for known in record["sessions"]]
    commits = _distinct([sessions[0].commit, sessions[-1].commit])
    losses, lines = logs.average_of_last(run.out)
    batches = "1 logged batch" if lines == 1 else f"{lines} logged batches"
    classes = ""
    if isinstance(job, DiffusionJob):
        only, without = job.only_class, job.without_class
        for name, value in (("only_class", only), ("without_class", without)):
            extra = extra if value is None else {**extra, name: value}
        for name, number in (("focus", job.focus), ("references", job.references)):
            extra = {**extra, name: f"{number:g}"} if number else extra
        classes = "" if only is None else f" of class {only}"
        classes += "" if without is None else f" without class {without}"
    which = "all" if job.examples is None or used < job.examples else "the first"
    return {
        "dataset": shown(job.dataset),
        "split": job.split,
        "used": f"{which} {used:,} images{classes}",
        "steps": str(job.steps),
        "images": str(job.steps * job.batch_size),
        "seconds": f"{seconds:.0f}",
        "final": ", ".join(
            f"{n} {losses[n]:.4f}" for n in losses if n not in ("grad_norm", "images_per_second")
        ),
        "final_mean_of": f"{batches} in the last 5% of the steps",
        "command": options.command(run.name),
        "commit": " (start), ".join(commits) + (" (end)" if len(commits) > 1 else ""),
        "hardware": ", then ".join(_distinct([words.hardware for words in sessions])),
        "software": ", then ".join(_distinct([words.software for words in sessions])),
        **extra,
    }


def _distinct(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _origin(init: Mapping[str, str]) -> str:
    known = ", ".join(f"{n} {v}" for n, v in init.items() if n != "file")
    return " ".join(f"{init['file']}: {known}".split())  # text of a foreign file, on one line


def card(
    name: str,
    network: Mapping[str, Any],
    count: int,
    text: Mapping[str, str],
    dtype: str,
    size: int,
    grid: str | None,
) -> str:
    """The model card, Markdown. network: its description."""
    config = {n: value for n, value in network.items() if n != "kind"}
    kind, shape = network["kind"], "x".join(map(str, config["image_shape"]))
    what = {
        "unet": "Diffusion U-Net",
        "classifier": "Classifier",
        "text-to-image": "Autoencoder, text encoder and U-Net, a folder of diffusers",
    }[kind]
    form = f", conditioning {config['conditioning']}" if kind == "unet" else ""
    seconds = float(text["seconds"])
    time = f"{seconds / 60:.1f} minutes" if seconds >= 120 else f"{seconds:.0f} s"
    rows = {
        "network": f"{count:,} parameters; "
        + ", ".join(f"{n} {v}" for n, v in config.items() if n != "image_shape"),
        "data": f"{text['dataset']}, split {text['split']}: {text['used']}, {shape} in [-1, 1]",
        "command": text["command"],
        "commit": text["commit"],
        "hardware": f"{text['hardware']}; {text['software']}",
        "time": f"{time}; {int(text['steps']):,} steps, {int(text['images']):,} images seen",
        f"final, mean of the {text['final_mean_of']}": text["final"],
        "stored as": f"averaged weights, {dtype}, {size / 2**20:.1f} MiB",
    }
    shown = {"dataset", "split", "steps", "images", "seconds", "final", "command", "commit"}
    shown |= {"used", "final_mean_of", "hardware", "software"}
    rows |= {n.replace("_", " "): v for n, v in text.items() if n not in shown}
    cells = {markdown.cell(n): markdown.cell(v) for n, v in rows.items()}
    cells["command"] = markdown.code(text["command"])
    table = "".join(f"| {n} | {v} |\n" for n, v in cells.items())
    picture = f"\n![Samples of the averaged weights]({grid})\n" if grid else ""
    return f"# {markdown.text(name)}\n\n{what}{form}.\n\n| | |\n|---|---|\n{table}{picture}"
