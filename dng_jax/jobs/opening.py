"""How a job of eval/ opens the folder of its run, with the command that repeats it in run.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dng_jax.jobs import runs
from dng_jax.jobs.options import command


def open_run(words: str, config: Any, job: str, *, asked: Any = None) -> Path:
    """Makes the folder of a run whose options have a field `run` (options.RunOptions).

    words: how the job is started (options.program); config: its options, a dataclass with a default
    for every field; job: what a new folder below runs/ is named after; asked: recorded in the place
    of config, where that alone does not say what was asked for. InputError as of
    runs.new_run_folder.
    """
    return runs.new_run_folder(
        config.run.out,
        config if asked is None else asked,
        job=job,
        overwrite=config.run.overwrite,
        facts={"command": command(words, config, type(config)())},
    )
