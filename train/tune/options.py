"""Options of train.tune: a preset, any field of its job, and what is searched."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from dng_jax.errors import InputError, choose
from dng_jax.jobs.devices import Devices
from dng_jax.jobs.options import DataOptions, as_typed, at_least, at_most, program, seed
from dng_jax.training import presets
from dng_jax.training.jobs import ClassifierJob, DiffusionJob, Job

from .. import tune
from ..options import ClassifierOptions, DiffusionOptions, Options

KINDS = ("diffusion", "classifier")
SEARCHES = ("grid", "random", "tpe", "nsga2")
ENGINES = ("auto", "vmap", "single")
OBJECTIVES = ("loss", "error")
MOST_SEEDS = 999  # of one judgement


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The search of a training's numbers."""

    of: str = "diffusion"
    """What is trained: diffusion or classifier."""
    preset: str = "digits"
    """A preset of that training."""
    conditioning: str | None = None
    """Of diffusion: heads, label or none; default: the preset's own."""
    space: str = "learning_rate=3e-4..1e-2:log weight_decay=1e-4..0.1:log"
    """What is searched, LEAF=LOW..HIGH[:log][:POINTS] or LEAF=A,B,C, leaves apart by spaces."""
    objective: str = "loss"
    """On held-out images: loss, or of a classifier error, 1 - accuracy."""
    search: str = "random"
    """Who proposes numbers: grid, random, tpe or nsga2."""
    trials: int = 16
    """Trainings of the whole study, at least 1; a grid has its own number."""
    points: int = 4
    """Of a grid, points of a range that does not say how many; at least 1."""
    members: int = 16
    """Trainings asked and run together, at least 1."""
    first_steps: int | None = None
    """Successive halving: steps of the first rung, at least 1; the best of it go on to eta times as
    many, and so on up to --steps. Default: none."""
    eta: int = 2
    """Halving lets 1 of so many members go on, at least 2."""
    held_out: int | None = None
    """Images of the split that are held out to compare by, at least 2; default: a fifth, at most
    2,000."""
    search_seed: int = 1
    """Seed of what is proposed and of what is held out, 0 to 2^64 - 1; --seed is the training's."""
    engine: str = "auto"
    """vmap: all members as one program; single: one after the other; auto: vmap on GPU and TPU,
    single on CPU."""
    log_every: int = 50
    """Steps between values of a curve, at least 1."""
    save_every: int = 1000
    """Steps between saves of a member on its way, at least 1, rounded up to a multiple of
    --log-every; it is saved at its rungs as well."""
    judge_seeds: int = 3
    """Fresh seeds on which the best numbers and the preset's own are trained in the end, twice as
    many trainings of all --steps, each seed with other images held out; 2 to 999, or 0: none. To be
    decided on beforehand: the interval is that of one look, and too narrow where seeds are added
    until it shows a difference."""
    compare: bool = False
    """Train one block both ways instead, and say how long each takes and how far curves differ."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=DataOptions
    )
    devices: Annotated[Devices, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Devices)
    out: Path | None = None
    """Folder of the study; default: below runs/, tune-PRESET or tune-PRESET-classifier."""
    resume: bool = False
    """Go on with the study in --out, or join the processes that are at work on it."""
    job: Annotated[Job, tyro.conf.arg(name="")]

    @property
    def folder(self) -> Path:
        """--out, or its default."""
        words = ["tune", self.preset] + [self.of] * (self.of != "diffusion")
        return self.out or Path("runs") / "-".join(words)

    def training(self, job: Job) -> Options:
        """The options of the single training of a job."""
        given: dict[str, Any] = {"preset": self.preset, "data": self.data, "job": job}
        if self.of == "classifier":
            return ClassifierOptions(**given)
        return DiffusionOptions(conditioning=self.conditioning, **given)

    def check(self) -> None:
        """InputError, in one sentence, for what is wrong."""
        choose(self.search, SEARCHES, "search")
        choose(self.engine, ENGINES, "engine")
        choose(self.objective, OBJECTIVES, "objective")
        if self.objective == "error" and self.of == "diffusion":
            raise InputError("--objective error is of a classifier: add --of classifier, or loss")
        at_least(1, trials=self.trials, points=self.points, members=self.members)
        at_least(1, first_steps=self.first_steps, log_every=self.log_every)
        at_least(1, save_every=self.save_every)
        if self.judge_seeds:
            at_least(2, judge_seeds=self.judge_seeds)
            at_most(MOST_SEEDS, judge_seeds=self.judge_seeds)
        at_least(2, eta=self.eta, held_out=self.held_out)
        seed(search_seed=self.search_seed)
        self.training(self.job).check()
        if self.job.network.to_dict().get("norm") == "batch":
            raise InputError(
                "batch normalisation is settled after a training, so its members cannot be compared"
                f" on the way: {self.preset} cannot be searched, choose another --preset"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionConfig(Config):
    """The search of a diffusion training's numbers."""

    job: Annotated[DiffusionJob, tyro.conf.arg(name="")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierConfig(Config):
    """The search of a classifier training's numbers."""

    job: Annotated[ClassifierJob, tyro.conf.arg(name="")]


@dataclasses.dataclass(frozen=True)
class _Chosen:
    of: str = "diffusion"
    preset: str = "digits"
    conditioning: str | None = None


def usual(of: str, preset: str, conditioning: str | None = None) -> Config:
    """The options as they are where nothing else is said; InputError for an unknown preset."""
    choose(of, KINDS, "training")
    if of == "classifier":
        if conditioning is not None:
            raise InputError("--conditioning is of diffusion: leave it out")
        return ClassifierConfig(of=of, preset=preset, job=presets.classifier(preset))
    job = presets.diffusion(preset, conditioning)
    return DiffusionConfig(of=of, preset=preset, conditioning=conditioning, job=job)


def parse(words: Sequence[str] | None = None) -> Config:
    """The options that the words (default: the command line) spell, unchecked."""
    known: Any = tyro.cli(
        _Chosen, args=words, default=_Chosen(), return_unknown_args=True, add_help=False
    )
    chosen: _Chosen = known[0]
    default = usual(chosen.of, chosen.preset, chosen.conditioning)
    about = as_typed(str(tune.__doc__))
    name = program("train.tune")
    return tyro.cli(type(default), args=words, default=default, prog=name, description=about)
