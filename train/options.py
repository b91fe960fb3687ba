"""The command line of all jobs: a preset, and an option for every field of its job and network.

    python -m train.diffusion --preset mnist-small --conditioning label --network.channels 32

What does not exist, or is out of its range, is refused before anything is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from dng_jax.errors import InputError, choose
from dng_jax.jobs.devices import Devices
from dng_jax.jobs.options import DataOptions, as_typed, at_least, command, option, program
from dng_jax.jobs.processes import Processes
from dng_jax.training import presets
from dng_jax.training.jobs import ClassifierJob, DiffusionJob, Job, TextToImageJob

from . import classifier, diffusion, text_to_image


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options of all training jobs; job: what is trained, the preset's with every field given."""

    preset: str = "digits"
    """One of the presets listed above."""
    out: Path | None = None
    """Folder of the run; default: below runs/, named after the preset."""
    init: Path | None = None
    """Model file, or folder of diffusers, of weights to start from, wherever names and shapes
    agree; --resume keeps it."""
    resume: bool = False
    """Continue the run in --out from its newest saved state."""
    dtype: str = "float32"
    """float32, float16 or bfloat16, of the weights written at the end."""
    export: str = "last"
    """last, or best: which saved state's averaged weights are written at the end."""
    keep_best: int = 1
    """States to keep, of the lowest training loss, besides the last two; at least 0."""
    log_every: int = 50
    """Steps between lines of metrics.jsonl, at least 1."""
    save_every: int = 1000
    """Steps between saved states, at least 1."""
    steps_per_call: int | None = None
    """Steps per compiled call, at least 1; default: 1 on CPU, 25 on GPU and TPU."""
    wandb: str | None = None
    """Project of Weights & Biases to log to as well; needs the extra wandb."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=DataOptions
    )
    devices: Annotated[Devices, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Devices)
    processes: Annotated[Processes, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=Processes
    )
    job: Annotated[Job, tyro.conf.arg(name="")]

    @property
    def base(self) -> Job:
        """The preset's job as it stands."""
        raise NotImplementedError

    @property
    def folder(self) -> Path:
        """--out, or its default."""
        raise NotImplementedError

    @property
    def unless_said(self) -> dict[str, Any]:
        """Defaults of a job's own options that change the weights."""
        return {}

    def form(self) -> str:
        """The words of the command line that name the preset."""
        return f"--preset {self.preset}"

    def check(self) -> None:
        """InputError, in one sentence, for what is wrong."""
        from dng_jax.weights.files import DTYPES

        choose(self.dtype, DTYPES, "dtype")
        choose(self.export, ("last", "best"), "state to export")
        at_least(1, log_every=self.log_every, save_every=self.save_every)
        at_least(0, keep_best=self.keep_best)
        at_least(1, steps_per_call=self.steps_per_call)
        self.job.check()

    def command(self, name: str) -> str:
        """The command that repeats the run, without the paths and processes of this machine."""
        job, base = self.job, self.base
        if job.dataset != base.dataset:
            # These follow from the data set, unless the preset's form has no such shape.
            with contextlib.suppress(InputError):
                base = dataclasses.replace(base, network=_fitting(base.network, job.network))
        words = command(f"{program(f'{__package__}.{name}')} {self.form()}", job, base)
        # Of the rest, what changes the weights that are written, or how fast they come.
        devices = dataclasses.replace(self.devices, cpu_devices=None, cache=True)
        usual: dict[str, Any] = {
            "init": None,
            "dtype": "float32",
            "export": "last",
            "devices": devices,
        }
        return command(words, self, dataclasses.replace(self, **usual, **self.unless_said))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionOptions(Options):
    """Trains a diffusion U-Net and writes its averaged weights."""

    conditioning: str | None = None
    """Form of the network: heads, label or none; default: the preset's own."""
    sample_every: int | None = None
    """Steps between sample grids, at least 1; default: a quarter of the steps; 0: none at all."""
    job: Annotated[DiffusionJob, tyro.conf.arg(name="")]

    @property
    def base(self) -> DiffusionJob:
        """As in Options."""
        return presets.diffusion(self.preset, self.conditioning)

    @property
    def folder(self) -> Path:
        """--out, or runs/PRESET[-CONDITIONING][-only-CLASS or -without-CLASS]."""
        only, without = self.job.only_class, self.job.without_class
        words = [self.preset, self.conditioning]
        words += [None if only is None else f"only-{_in_a_path(only)}"]
        words += [None if without is None else f"without-{_in_a_path(without)}"]
        return self.out or Path("runs") / "-".join(word for word in words if word)

    def form(self) -> str:
        """As in Options, with the conditioning."""
        more = "" if self.conditioning is None else f" --conditioning {self.conditioning}"
        return super().form() + more

    def check(self) -> None:
        """As in Options; the network's form is chosen in one way."""
        super().check()
        if self.job.network.conditioning != self.base.network.conditioning:
            raise InputError(
                f"--network.conditioning {self.job.network.conditioning} would keep the other"
                f" numbers of the preset: write --conditioning {self.job.network.conditioning}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierOptions(Options):
    """Trains a classifier and writes its averaged weights, and what real images look like to it."""

    job: Annotated[ClassifierJob, tyro.conf.arg(name="")]

    @property
    def base(self) -> ClassifierJob:
        """As in Options."""
        return presets.classifier(self.preset)

    @property
    def folder(self) -> Path:
        """--out, or runs/PRESET-classifier."""
        return self.out or Path("runs") / f"{self.preset}-classifier"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextToImageOptions(Options):
    """Trains an autoencoder, then a U-Net and a text encoder; writes a folder of diffusers."""

    autoencoder: Path | None = None
    """Folder of a text-to-image model whose autoencoder is taken as it is; none is trained then."""
    sample_every: int | None = None
    """Steps between sample grids, at least 1; default: a quarter of the steps; 0: none at all."""
    job: Annotated[TextToImageJob, tyro.conf.arg(name="")]

    @property
    def base(self) -> TextToImageJob:
        """As in Options."""
        return presets.text_to_image(self.preset)

    @property
    def folder(self) -> Path:
        """--out, or runs/PRESET."""
        return self.out or Path("runs") / self.preset

    @property
    def unless_said(self) -> dict[str, Any]:
        """As in Options."""
        return {"autoencoder": None}

    def check(self) -> None:
        """As in Options; three networks cannot start from the file of one."""
        super().check()
        given = [
            field.name
            for field in dataclasses.fields(self.job)
            if field.name.startswith("autoencoder_")
            and getattr(self.job, field.name) != getattr(self.base, field.name)
        ]
        if self.autoencoder is not None and given:
            names = " and ".join(map(option, given))
            raise InputError(f"--autoencoder takes one that is trained: leave out {names}")
        if self.init is not None:
            raise InputError(
                "--init names one network, and this job trains three: leave it out, or take the"
                " autoencoder of a model with --autoencoder"
            )


def _fitting(network: Any, to: Any) -> Any:
    """The network's configuration with image_shape and num_classes of another.

    InputError where it has no such shape.
    """
    return dataclasses.replace(network, image_shape=to.image_shape, num_classes=to.num_classes)


def _in_a_path(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)


@dataclasses.dataclass(frozen=True)
class _Preset:
    preset: str = "digits"
    conditioning: str | None = None


def parse_diffusion(words: Sequence[str] | None = None) -> DiffusionOptions:
    """The options that the words (default: the command line) spell, unchecked; --help shows the
    values of the preset. InputError for an unknown preset."""
    chosen = _chosen(words)
    job = presets.diffusion(chosen.preset, chosen.conditioning)
    default = DiffusionOptions(preset=chosen.preset, conditioning=chosen.conditioning, job=job)
    about = _about(diffusion.__doc__, presets.DIFFUSION)
    name = program(f"{__package__}.diffusion")
    return tyro.cli(DiffusionOptions, args=words, default=default, prog=name, description=about)


def parse_classifier(words: Sequence[str] | None = None) -> ClassifierOptions:
    """As `parse_diffusion`, of a classifier."""
    preset = _chosen(words).preset
    default = ClassifierOptions(preset=preset, job=presets.classifier(preset))
    about = _about(classifier.__doc__, presets.CLASSIFIER)
    name = program(f"{__package__}.classifier")
    return tyro.cli(ClassifierOptions, args=words, default=default, prog=name, description=about)


def parse_text_to_image(words: Sequence[str] | None = None) -> TextToImageOptions:
    """As `parse_diffusion`, of a text-to-image model."""
    preset = _chosen(words, "digit-scenes").preset
    default = TextToImageOptions(preset=preset, job=presets.text_to_image(preset))
    about = _about(text_to_image.__doc__, presets.TEXT_TO_IMAGE)
    name = program(f"{__package__}.text_to_image")
    return tyro.cli(TextToImageOptions, args=words, default=default, prog=name, description=about)


def _about(sheet: str | None, known: Mapping[str, Callable]) -> str:
    """What --help is headed by: what the job does, and the presets with a line each."""
    lines = {name: (make.__doc__ or "").partition("\n")[0] for name, make in known.items()}
    listed = "".join(f"\n    {name:<15}{line}" for name, line in lines.items())
    return as_typed(f"{sheet}\n\nPresets, whose numbers are the defaults below:\n{listed}")


def _chosen(words: Sequence[str] | None, preset: str = "digits") -> _Preset:
    parse: Callable = tyro.cli
    usual = _Preset(preset)
    return parse(_Preset, args=words, default=usual, return_unknown_args=True, add_help=False)[0]
