"""The command `dng`: the jobs by name.

    dng                         the jobs, a line each
    dng train                   those of a name in two words
    dng class-removal --help    the options of one
    dng --version
    dng completion SHELL        a script that completes jobs and options (dng_jax.jobs.completion)

A job is the same program as `python -m eval.class_removal` in a checkout: modules `train` and
`eval` there, dng_jax.train and dng_jax.eval where a wheel was installed. Nothing of a job is
imported before it is named.
"""

from __future__ import annotations

import importlib
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dng_jax.errors import InputError, choose
from dng_jax.jobs import cli, completion
from dng_jax.version import __version__


class Job(NamedTuple):
    """The module whose `start` is the program, and what it does."""

    module: str
    about: str


JOBS = {
    "class-removal": Job("eval.class_removal.__main__", "forbid classes: rules compared, pictures"),
    "study": Job("eval.study.__main__", "every class forbidden in turn, grids of scales, seeds"),
    "study report": Job("eval.study.report", "a study as one HTML page"),
    "tune": Job("eval.tune.__main__", "search a rule's numbers: a front, judged on fresh seeds"),
    "calibration": Job("eval.calibration.__main__", "how far tracked posteriors can be trusted"),
    "exact": Job("eval.exact.__main__", "the claims about exactly solvable models"),
    "scenes": Job("eval.scenes.__main__", "negatives of text-to-image: a study of known truth"),
    "hopfield": Job("eval.hopfield.__main__", "modern Hopfield networks over beta: 11 subcommands"),
    "text-to-image": Job(
        "eval.text_to_image.__main__", "pictures of a prompt, away from negative prompts"
    ),
    "bench": Job("eval.bench.__main__", "speed, as ratios measured in one run"),
    "train diffusion": Job("train.diffusion.__main__", "train a diffusion U-Net from a preset"),
    "train classifier": Job("train.classifier.__main__", "train a classifier of images"),
    "train text-to-image": Job("train.text_to_image.__main__", "train a small text-to-image model"),
    "train tune": Job("train.tune.__main__", "search a training's numbers, all members as one"),
}
INSTALLED = Path(__file__).resolve().parent


def main(words: list[str] | None = None) -> None:
    """Runs the job that the words (default: the command line) name, as the process's program."""
    cli.patient_streams()
    cli.main(partial(run, sys.argv[1:] if words is None else words))


def run(words: list[str]) -> None:
    """As `main`, with the errors as they are."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
    elif words[0] == "--version":
        print(f"dng_jax {__version__}")
    elif words == ["train"] or (words[0] == "train" and words[1] in ("-h", "--help")):
        print("\n".join(lines("train ")))
    elif words[0] == "completion":
        print(completion.script(" ".join(words[1:]), JOBS, main), end="")
    else:
        name = named(words)
        sys.argv = [f"dng {name}", *words[len(name.split()) :]]
        importlib.import_module(home() + JOBS[name].module).start()


def named(words: list[str]) -> str:
    """The job that the first words name; InputError, with a suggestion, where they name none."""
    for count in (2, 1):
        if (name := " ".join(words[:count])) in JOBS:
            return name
    first = words[0].replace("_", "-")
    if first in JOBS:
        raise InputError(f"unknown job '{words[0]}': did you mean '{first}'?")
    halves = [name for name in JOBS if name.startswith(f"{words[0]} ")]
    if halves:
        choose(" ".join(words[:2]), halves, "job")
    return choose(words[0], JOBS, "job")


def home() -> str:
    """What stands before `train` and `eval`: nothing in a checkout, dng_jax. in a wheel."""
    return "dng_jax." if (INSTALLED / "eval").is_dir() else ""


def lines(prefix: str = "") -> list[str]:
    """The jobs whose names begin so, a line each."""
    found = {name: job for name, job in JOBS.items() if name.startswith(prefix)}
    return [f"  dng {name:<21}{job.about}" for name, job in found.items()]


def overview() -> str:
    """The jobs, a line each."""
    return "\n".join(
        [
            "Guided diffusion sampling in pure JAX. The jobs:",
            "",
            *lines(),
            "",
            "dng JOB --help shows the options of one, dng --version the version;",
            "dng completion bash (zsh, fish) prints a script that completes both in the shell.",
        ]
    )


if __name__ == "__main__":
    main()
