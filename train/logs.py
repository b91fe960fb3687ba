"""Where the numbers of a run go: metrics.jsonl, TensorBoard event files, Weights & Biases.

Steps that ran after the newest saved state run again when the run is resumed, and their lines with
them: `Log` drops those lines first, so that every step has one line.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from dng_jax import disk
from dng_jax.errors import InputError
from dng_jax.jobs import runs

_LARGEST = 1e300  # sums of many of them are still numbers


def read(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl; half a line, left by a killed run, is left out, and so is
    one that was altered into something else."""
    path = folder / "metrics.jsonl"
    lines: list[dict[str, float]] = []
    if not path.exists():
        return lines
    disk.check_memory(path, 3 * disk.check_file(path))
    text = path.read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        numbers = isinstance(found, dict) and all(map(_written, found.values()))
        if numbers and type(found.get("step")) is int and found["step"] > 0:
            lines.append(found)
    return lines


def _written(value: Any) -> bool:
    """Whether `Log` can have written it; JSON has NaN too, and whole numbers beyond any float."""
    return type(value) in (int, float) and abs(value) <= _LARGEST


def average_of_last(folder: Path, share: float = 0.05) -> tuple[dict[str, float], int]:
    """Means over the lines of the last `share` of the steps, and how many lines those are.

    A line holds the values of one batch, not means over the steps since the line before.
    """
    lines = read(folder)
    if not lines:
        return {}, 0
    end = lines[-1]["step"]
    last = [line for line in lines if line["step"] > (1 - share) * end]
    names = [n for n in last[-1] if n not in ("step", "seconds")]
    have = {n: [line[n] for line in last if n in line] for n in names}
    return {n: sum(values) / len(values) for n, values in have.items()}, len(last)


class Log:
    """Writes lines of numbers, as a context. active False: writes nothing (other processes)."""

    def __init__(
        self,
        folder: Path,
        first: int,
        *,
        active: bool = True,
        wandb: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """first: the step that the run goes on from; lines after it are dropped."""
        self.active = active
        self._run: Any = None
        if not active:
            return
        if wandb is not None:
            # Before anything is written: it may not be installed.
            self._run = _wandb(wandb, folder, config)
        kept = [line for line in read(folder) if line["step"] <= first]
        runs.write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
        self._lines = open(folder / "metrics.jsonl", "a")  # noqa: SIM115  closed by __exit__
        from tensorboardX import SummaryWriter  # imported late: takes a second

        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=first + 1)

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.active:
            self._lines.close()
            self._events.close()
            if self._run is not None:
                self._run.finish(exit_code=0 if error is None else 1)

    def write(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """One line. seconds: of training so far, over all resumes."""
        if not self.active:
            return
        rounded = {name: round(value, 6) for name, value in values.items()}
        line = {"step": step, "seconds": round(seconds, 2), **rounded}
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        if self._run is not None:
            self._run.log(dict(values), step=step)

    def flush(self) -> None:
        """Event files are written in the background: now they are whole up to here."""
        if self.active:
            self._events.flush()


def _wandb(project: str, folder: Path, config: Mapping[str, Any] | None) -> Any:
    try:
        import wandb  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise InputError(
            "--wandb needs the package wandb: pip install 'dng-jax[wandb]', or leave it out"
        ) from error
    # Folders of one name are many; a resumed run finds its own id again.
    kept = folder / "wandb-id"
    if not kept.exists():
        runs.write_text(kept, secrets.token_hex(8) + "\n")
    settings = {"dir": str(folder), "config": dict(config or {}), "resume": "allow"}
    name = folder.resolve().name
    return wandb.init(project=project, id=kept.read_text().strip(), name=name, **settings)
