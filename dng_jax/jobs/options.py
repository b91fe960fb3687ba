"""Options that jobs share, the bounds of numbers, and the command that repeats a run.

    @dataclass(frozen=True)
    class Config:
        samples: int = 1024
        run: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)

gives a job --samples, --out and --overwrite.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import sys
import typing
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from dng_jax.errors import InputError
from dng_jax.experiments.source import CLASS
from dng_jax.jobs.own_images import shown

INSTALLED = (Path(__file__).parents[1] / "eval").is_dir()
WHERE = ("run", "out", "overwrite", "resume", "data", "processes")
# Options that may name a file, though they are words: of all others a slash is part of the word.
FILES = (
    "network", "negatives", "classifier", "inception_weights", "calibration", "file", "inputs_file",
    "forbid_images", "retrained", "model",
)  # fmt: skip


@dataclass(frozen=True)
class RunOptions:
    """Where a run goes; does not count when two runs are compared (a field named `run`)."""

    out: str | None = None
    """Folder of the results; default: a new one below runs/, named after the job."""
    overwrite: bool = False
    """Write the same run into its folder --out again."""


@dataclass(frozen=True)
class DataOptions:
    """Where this machine keeps its data sets; does not count either (a field named `data`)."""

    data_dir: str | None = None
    """Folder of raw data sets, or of those that TensorFlow Datasets prepared; default: the folder
    that the environment variable DNG_JAX_DATA names."""

    def use(self) -> None:
        """Lets this process look there (dng_jax.data.search)."""
        if self.data_dir is not None:
            if not os.path.isdir(self.data_dir):
                raise InputError(f"--data-dir names {self.data_dir}, which is no folder")
            os.environ["DNG_JAX_DATA"] = self.data_dir


def option(name: str) -> str:
    """The option of a field: some_name as --some-name, above.some_name as --above.some-name."""
    return f"--{name.replace('_', '-')}"


def at_least(low: float, **numbers: float | None) -> None:
    """InputError for a number below low (or NaN), named as its option; None passes."""
    for name, value in numbers.items():
        if value is not None and not value >= low:  # so that NaN is refused as well
            raise InputError(f"{option(name)} must be at least {low:g}, got {value:g}")


def at_most(high: float, **numbers: float | None) -> None:
    """InputError for a number above high (or NaN), named as its option; None passes."""
    for name, value in numbers.items():
        if value is not None and not value <= high:
            raise InputError(f"{option(name)} must be at most {high:g}, got {value:g}")


def seed(bits: int = 64, **seeds: int | Collection[int]) -> None:
    """InputError for a seed outside 0 .. 2^bits - 1, named as its option: one beyond would name the
    run of another."""
    for name, given in seeds.items():
        for value in given if isinstance(given, Collection) else (given,):
            if not 0 <= value < 2**bits:
                raise InputError(
                    f"{option(name)} must be at least 0 and below 2^{bits}, got {value}"
                )


def distinct(**values: Collection[Any]) -> None:
    """InputError for an option that names nothing, or something twice."""
    for name, chosen in values.items():
        if not chosen:
            raise InputError(f"name at least one of {option(name)}")
        if len(set(chosen)) < len(chosen):
            words = " ".join(map(str, chosen))
            raise InputError(f"{option(name)} {words} names something twice: leave it out")


def program(module: str) -> str:
    """How the job of a module is started here: as one of `dng`, or as a module."""
    return as_typed(f"python -m {module.removeprefix('dng_jax.')}")


def as_typed(text: str) -> str:
    """The text with its commands as they are typed here: `python -m eval.study` in a checkout, dng
    study where that is how this process was started, python -m dng_jax.eval.study in a wheel."""
    if sys.argv and sys.argv[0].startswith("dng "):
        names = re.compile(r"python -m (?:eval\.)?([a-z_]+(?:\.[a-z_]+)*)")
        return names.sub(lambda m: f"dng {m[1].replace('.', ' ').replace('_', '-')}", text)
    return text if not INSTALLED else text.replace("python -m ", "python -m dng_jax.")


def command(words: str, config: Any, default: Any) -> str:
    """The command that repeats a run: `words`, then every option that differs from the default.

    config, default: dataclasses of one type; a dataclass in a field stands for its own fields,
    named above.some_name unless tyro.conf.arg(name="") leaves "above" out. Of paths the last part
    alone is given, and nothing of where the run goes (WHERE).
    """
    usual = {name: value for name, value, _ in _fields(default)}
    given = [field for field in _fields(config) if field[1] != usual[field[0]]]
    # In front, because an option of several values would take them for its own.
    given.sort(key=lambda field: tyro.conf.Positional not in field[2])
    return " ".join([words, *(_words(*field) for field in given)])


def _fields(config: Any, above: str = "") -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """(name, value, marks of tyro) of every option."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        name, value = above + field.name, getattr(config, field.name)
        if field.name in WHERE:
            continue
        marks = getattr(hints[field.name], "__metadata__", ())
        if dataclasses.is_dataclass(value):
            bare = any(getattr(mark, "name", None) == "" for mark in marks)
            yield from _fields(value, above if bare else f"{name}.")
        else:
            yield name, value, marks


def _words(name: str, value: Any, marks: tuple[Any, ...]) -> str:
    above, dot, last = name.rpartition(".")
    if isinstance(value, bool):
        return option(name if value else f"{above}{dot}no-{last}")
    values = value if isinstance(value, tuple) else (value,)
    words = [shlex.quote(_without_folders(last, v)) for v in values]
    if tyro.conf.UseAppendAction in marks:
        return " ".join(f"{option(name)} {w}" for w in words)
    return " ".join(words if tyro.conf.Positional in marks else [option(name), *words])


def _without_folders(name: str, value: Any) -> str:
    text = shown(str(value))
    # A model may also be a repository, OWNER/NAME.
    folder = name == "model" and os.path.isdir(text)
    if name in FILES or folder or isinstance(value, os.PathLike) or text.endswith(".npy"):
        parts = Path(text).parts
        first = next((i for i, part in enumerate(parts) if CLASS in part), len(parts) - 1)
        return str(Path(*parts[max(first, 0) :])) if parts else text
    return re.sub(r"(?<=,calibration=)[^,()]+", lambda found: Path(found[0]).name, text)
