"""The command line of both jobs, and overrides of any field of a preset by its name.

    --set ema_decay=0.999 --set network.channels=8 --set network.multipliers=1,2

A value is read as the type of its field: int (1_000 allowed), float, bool (true, false), str,
a tuple (1,2,2; empty for none), None where the field allows it. What does not exist, or does not
read, is refused with InputError before anything is written.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from dng_jax.errors import InputError, choose
from dng_jax.weights import files
from train.presets import Job

J = TypeVar("J", bound=Job)
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options of both training jobs; a preset's fields stand where none is given."""

    preset: str = "digits"
    """Name of the preset; train/presets.py lists them with their costs."""
    out: Path | None = None
    """Folder of the run; default: runs/ and the preset's name."""
    init: Path | None = None
    """Model file of weights to start from, wherever names and shapes agree; --resume keeps it."""
    resume: bool = False
    """Continue the run in --out from its newest saved state."""
    steps: int | None = None
    """Training steps."""
    batch_size: int | None = None
    """Images a step, over all devices."""
    learning_rate: float | None = None
    """Peak learning rate."""
    precision: str | None = None
    """auto, float32 or bfloat16: what convolutions compute in; parameters are always float32."""
    examples: int | None = None
    """Train on so many images, from the start of the split."""
    seed: int | None = None
    """Seed of everything random."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Any field of the preset, as name=value; may be repeated. network.NAME for the network's."""
    dtype: str = "float32"
    """float32, float16 or bfloat16, of the weights written at the end."""
    export: str = "last"
    """last, or best: which saved state's averaged weights are written at the end."""
    keep_best: int = 1
    """States to keep, of the lowest training loss, besides the last two."""
    log_every: int = 50
    """Steps between lines of metrics.jsonl."""
    save_every: int = 1000
    """Steps between saved states."""
    steps_per_call: int | None = None
    """Steps a compiled call; default: 1 on CPU, 25 on GPU and TPU."""
    wandb: str | None = None
    """Project of Weights & Biases to log to as well; needs the extra wandb."""
    platform: str | None = None
    """cpu, gpu or tpu; default: jax's first choice."""
    cpu_devices: int | None = None
    """Simulated CPU devices to split batches over, for instance one a core."""
    coordinator: str | None = None
    """HOST:PORT of process 0, for several processes; found by itself under SLURM."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Which of them this is, from 0."""

    def overrides(self) -> dict[str, Any]:
        """The typed options that name a field of the job and were given."""
        names = ("steps", "batch_size", "learning_rate", "precision", "examples", "seed")
        return {n: getattr(self, n) for n in names if getattr(self, n) is not None}

    def job(self, presets: typing.Mapping[str, typing.Callable[[], J]]) -> J:
        """The preset with every override in place, checked; InputError for what is wrong."""
        choose(self.dtype, files.DTYPES, "dtype")
        choose(self.export, ("last", "best"), "state to export")
        at_least(1, log_every=self.log_every, save_every=self.save_every)
        at_least(0, keep_best=self.keep_best)
        at_least(1, steps_per_call=1 if self.steps_per_call is None else self.steps_per_call)
        job = presets[choose(self.preset, presets, "preset")]()
        job = dataclasses.replace(job, **self.overrides())
        for text in self.set:
            job = override(job, text)
        choose(job.precision, PRECISIONS, "precision")
        at_least(1, steps=job.steps, batch_size=job.batch_size)
        at_least(1, examples=1 if job.examples is None else job.examples)
        at_least(0, warmup=job.warmup, weight_decay=job.weight_decay)
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(job, name) < math.inf:
                raise InputError(f"{name} must be positive and finite, got {getattr(job, name)}")
        if not 0 <= job.seed < 2**32:
            # jax drops the bits above: two seeds would name one run.
            raise InputError(f"--seed must be at least 0 and below 2^32, got {job.seed}")
        if not 0 <= job.ema_decay < 1:
            raise InputError(f"ema_decay must be at least 0 and below 1, got {job.ema_decay}")
        return job

    def command(self, job: str) -> str:
        """The command that repeats the run, without the paths and processes of this machine."""
        given = [f"--{n.replace('_', '-')} {v}" for n, v in self.overrides().items()]
        given += [f"--init {self.init.name}"] if self.init else []
        given += [f"--set {text}" for text in self.set]
        given += [f"--dtype {self.dtype}"] if self.dtype != "float32" else []
        given += ["--export best"] if self.export == "best" else []
        given += [f"--cpu-devices {self.cpu_devices}"] if self.cpu_devices else []
        return " ".join([f"python -m train.{job} --preset {self.preset}", *given])


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionOptions(Options):
    """Trains a diffusion U-Net and writes its averaged weights."""

    only_class: int | None = None
    """Train on this class alone: the second network of the paper's set-up."""
    sample_every: int | None = None
    """Steps between sample grids; default: a quarter of the steps; 0: none at all."""

    def overrides(self) -> dict[str, Any]:
        """As in Options, with only_class."""
        only = {} if self.only_class is None else {"only_class": self.only_class}
        return {**super().overrides(), **only}

    def job(self, presets: typing.Mapping[str, typing.Callable[[], J]]) -> J:
        """As in Options; one class alone has no class to tell the network."""
        job = super().job(presets)
        if getattr(job, "only_class", None) is not None:
            form = getattr(job, "network").conditioning  # noqa: B009  of the diffusion job alone
            if form != "none":
                raise InputError(
                    f"--only-class needs a network with conditioning none, {self.preset} has"
                    f" {form}: choose a preset such as mnist-small-plain, or add"
                    " --set network.conditioning=none"
                )
        return job


def at_least(low: int, **counts: float) -> None:
    """InputError for a number below low."""
    for name, value in counts.items():
        if not value >= low:  # so that NaN is refused as well
            raise InputError(f"--{name.replace('_', '-')} must be at least {low}, got {value}")


def override(target: Any, text: str) -> Any:
    """The dataclass with the field that text ("name=value", "network.channels=8") names replaced.

    Raises InputError for a name that does not exist, with a suggestion, or an unreadable value.
    """
    path, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text} has no value: write --set name=value")
    return _replace(target, path.strip().split("."), value.strip(), path.strip())


def _replace(target: Any, path: list[str], value: str, whole: str) -> Any:
    name, rest = path[0], path[1:]
    fields = {f.name: getattr(target, f.name) for f in dataclasses.fields(target)}
    choose(name, fields, f"field in --set {whole}" if "." in whole else "field")
    inner = dataclasses.is_dataclass(fields[name])
    if inner and not rest:
        example = dataclasses.fields(fields[name])[0].name
        raise InputError(f"{whole} has fields of its own: set one of them, as {whole}.{example}=")
    if rest and not inner:
        raise InputError(f"{name} has no fields: write --set {name}=value")
    if rest:
        new = _replace(fields[name], rest, value, whole)
    else:
        kind = typing.get_type_hints(type(target))[name]
        try:
            new = _read(value, kind)
        except ValueError:
            wanted = getattr(kind, "__name__", None) if isinstance(kind, type) else str(kind)
            raise InputError(f"{whole} takes {wanted}, got '{value}'") from None
    return dataclasses.replace(target, **{name: new})


def _read(text: str, kind: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if text.lower() == "none":
            return None
        return _read(text, next(a for a in arguments if a is not type(None)))
    if origin is tuple:
        parts = [part for part in text.strip("()[] ").split(",") if part.strip()]
        if arguments[-1] is not Ellipsis and len(parts) != len(arguments):
            raise ValueError
        return tuple(_read(part.strip(), arguments[0]) for part in parts)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError
        return text.lower() == "true"
    return kind(text)
