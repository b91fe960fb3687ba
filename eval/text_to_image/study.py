"""The prompts of the DNG paper, each with a related and an unrelated negative.

The paper's numbers belong to one definition of the posterior, p(x|c) / p(x): the negative against
the empty prompt, as in variant d, the usual one. Another --variant is another experiment; records
name theirs.

A prompt leaves a folder prompt-N with its pictures, and record.json, the last thing that is
written of it: what --resume goes by.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dng_jax.denoisers.branches import Branches
from dng_jax.denoisers.compaction import evaluations
from dng_jax.errors import InputError
from dng_jax.experiments import prompt_rules
from dng_jax.experiments.paper_prompts import ABRIDGED, NP_SCALES, PROMPTS, PaperPrompt
from dng_jax.experiments.prompted import Cost, Drawn, cost, draw, roles_of
from dng_jax.jobs import cli, runs
from dng_jax.jobs.options import command
from dng_jax.jobs.tables import publish
from dng_jax.stable_diffusion.pipeline import Pipeline
from dng_jax.weights.diffusers_files import read_json

from .announcing import announce
from .loading import Loaded, load
from .options import Config
from .writing import (
    keep_latents,
    record_of,
    table_of,
    warn_of_clamps,
    write_images,
    write_overview,
)

RECORD = "record.json"


def run(config: Config, words: str) -> list[dict[str, Any]]:
    """Runs the study and returns its records, a list for every prompt, negative and rule.

    The model is loaded where a prompt is left, and the folder made once nothing is refused.
    """
    print(ABRIDGED)
    out = config.run.out
    goes_on = config.resume and out is not None and (Path(out) / "run.json").exists()
    folder = opened(config, words) if goes_on else None
    found = [None if folder is None else finished(config, p, place(folder, p)) for p in PROMPTS]
    left = [i for i, records in enumerate(found) if records is None]
    if left:
        loaded = load(config)
        calls, expected = expect(config, loaded)
        folder = opened(config, words) if folder is None else folder
        announce(config, expected, calls * len(left), loaded.which)
        total = loaded.which.count * len(calls)
        with cli.progress_bar() as bar:
            for i in left:
                task = bar.add_task(f"prompt {i + 1}", total=total)
                advance = functools.partial(bar.advance, task)
                found[i] = one_prompt(
                    config, loaded, PROMPTS[i], place(folder, PROMPTS[i]), advance
                )
                bar.update(task, completed=total)
    assert folder is not None  # there are prompts
    records = [{"number": i + 1} | record for i, held in enumerate(found) for record in held or ()]
    facts = {"config": config, "provenance": runs.provenance(), "abridged": ABRIDGED}
    runs.write_json(folder / "results.json", facts | {"records": records})
    columns = {"prompt": "number", "negative": "kind"}
    publish(folder, table_of("means over images", records, **columns))
    warn_of_clamps(records, "the paper's numbers, made for Stable Diffusion, do not fit this model")
    print(f"written to {folder}: results.json, tables.md, and a folder for each prompt")
    return records


def opened(config: Config, words: str) -> Path:
    """The folder of the run, new or gone on with."""
    return runs.new_run_folder(
        config.run.out,
        config,
        job="text_to_image-paper",
        overwrite=config.run.overwrite or config.resume,
        option="--resume",
        facts={"command": command(words, config, Config())},
    )


def place(folder: Path, prompt: PaperPrompt) -> Path:
    """The folder of a prompt."""
    return folder / f"prompt-{PROMPTS.index(prompt) + 1}"


def rules_of(config: Config, prompt: PaperPrompt) -> dict[str, prompt_rules.PromptRule]:
    """The rules of a prompt by their words, unguided first; lambda without a cap, as in the paper
    (dng_jax.experiments.prompt_rules)."""
    texts = ("unguided", *(f"np={scale:g}" for scale in NP_SCALES), prompt.dng)
    where = (("negative",), config.variant, config.guidance_scale)
    specs = prompt_rules.parse_all(texts)
    return {str(s): prompt_rules.build(s, *where, scale_max=None) for s in specs}


def expect(config: Config, loaded: Loaded) -> tuple[list[int], Cost]:
    """Predictions per image and step of the runs of one prompt, and what they cost."""
    denoise = roles(config, loaded.model, PROMPTS[0], PROMPTS[0].related)
    rules = [made.rule for made in rules_of(config, PROMPTS[0]).values()]
    calls = [denoise.calls(rule.roles) or 0 for rule in rules]
    expected = cost(loaded.model, denoise, loaded.table, rules[-1].roles, loaded.which)
    return [*calls, *calls[1:]], expected


def roles(config: Config, model: Pipeline, prompt: PaperPrompt, negative: str) -> Branches:
    """The denoiser of a prompt and one negative."""
    w, mode = config.guidance_scale, config.branches
    return roles_of(model, prompt.prompt, (negative,), config.variant, w, mode)


def one_prompt(
    config: Config,
    loaded: Loaded,
    prompt: PaperPrompt,
    where: Path,
    advance: Callable[[float], object],
) -> list[dict[str, Any]]:
    """Samples, draws and writes all of one prompt."""
    model, table, which = loaded
    rules = rules_of(config, prompt)
    unguided: Drawn | None = None
    records: list[dict[str, Any]] = []
    for kind, negative in prompt.negatives.items():
        denoise = roles(config, model, prompt, negative)
        drawn: dict[str, Drawn] = {}
        said = {"prompt": prompt.prompt, "kind": kind, "negative": negative}
        for name, made in rules.items():
            found = unguided if made.rule.roles == ("base",) else None
            if found is None:
                keep = functools.partial(keep_latents, where / kind, name)
                found = draw(model, denoise, table, made.rule, which, advance, keep)
            unguided = unguided or found  # the first rule, whatever the negative is
            drawn[name] = found
            write_images(where / kind, name, found)
            calls = evaluations(denoise, made.rule, config.steps, found.ran) or 0
            records.append(said | record_of(name, made, found, unguided, calls))
        with runs.writing(where):
            title = f'"{prompt.prompt}" without "{negative}"'
            write_overview(where / kind, drawn, table, title)
    runs.write_json(where / RECORD, {"records": records})
    return records


def finished(config: Config, prompt: PaperPrompt, where: Path) -> list[dict[str, Any]] | None:
    """The records of a prompt that was finished; InputError where they were altered."""
    path = where / RECORD
    if not path.exists():
        return None
    found = read_json(path).get("records", [])
    wanted = [(kind, rule) for kind in prompt.negatives for rule in rules_of(config, prompt)]
    try:
        table_of("", [{"number": 0} | record for record in found], prompt="number", negative="kind")
        whole = [(record["kind"], record["rule"]) for record in found] == wanted
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise InputError(f"{path} was altered: remove it, and its prompt is made again")
    return found
