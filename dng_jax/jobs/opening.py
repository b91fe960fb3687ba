"""How a job of eval/ opens the folder of its run, and what run.json keeps beside its options:

command    what repeats the run
data       of images of one's own, Info.facts, as a training keeps them; of several sets of them a
           list, in the order of the options; null where there are none

and, for the processes of a job (dng_jax.jobs.team), what must be equal in all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dng_jax.data import Info
from dng_jax.jobs import runs
from dng_jax.jobs.options import command
from dng_jax.jobs.team import Identity


def open_run(
    words: str, config: Any, job: str, data: Iterable[Info] = (), *, asked: Any = None
) -> Path:
    """Makes the folder of a run whose options have a field `run` (options.RunOptions).

    words: how the job is started (options.program); config: its options, a dataclass with a default
    for every field; job: what a new folder below runs/ is named after; data: the sets that the
    options name; asked: recorded in the place of config, where that alone does not say what was
    asked for. InputError as of runs.new_run_folder.
    """
    own = [info.facts for info in dict.fromkeys(data) if info.facts is not None]
    facts = {"command": command(words, config, type(config)())}
    return runs.new_run_folder(
        config.run.out,
        config if asked is None else asked,
        job=job,
        overwrite=config.run.overwrite,
        facts=facts | {"data": own if len(own) > 1 else next(iter(own), None)},
    )


def identity(config: Any, files: Mapping[str, str | None]) -> Identity:
    """What all processes of a job must have in common: the software, the kind of device (any CPU
    counts as one), all options but those that say where it runs, and the SHA-256 of the files that
    it reads, by name."""
    import jax

    known, backend = runs.provenance(), jax.default_backend()
    commit = None if known["git"] is None else runs.in_words(known).commit
    packages = {name: known["packages"][name] for name in ("dng-jax", "jax", "jaxlib")}
    return {
        "software": packages | {"commit": commit, "prng": known["prng"], "x64": known["x64"]},
        "devices": {"kind": backend if backend == "cpu" else jax.devices()[0].device_kind},
        "options": runs.identity(config),
        "files": dict(files),
    }
