"""The prompts of the DNG paper, each with a related and an unrelated negative.

A prompt leaves a folder prompt-N with its pictures, and record.json, the last thing that is
written of it: what --resume goes by.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dng_jax.denoisers.branches import Branches
from dng_jax.errors import InputError
from dng_jax.experiments import prompt_rules
from dng_jax.experiments.paper_prompts import ABRIDGED, NP_SCALES, PROMPTS, PaperPrompt
from dng_jax.experiments.prompted import Cost, Draw, Drawn, cost, draw, roles_of
from dng_jax.jobs import cli, runs
from dng_jax.jobs.options import command
from dng_jax.jobs.tables import publish
from dng_jax.stable_diffusion.pipeline import Pipeline
from dng_jax.steps import StepTable
from dng_jax.weights.diffusers_files import read_json

from .announcing import announce
from .options import Config
from .writing import record_of, table_of, write_pictures

RECORD = "record.json"


def run(
    config: Config, words: str, model: Pipeline, table: StepTable, which: Draw
) -> list[dict[str, Any]]:
    """Runs the study and returns its records, a list for every prompt, negative and rule."""
    print(ABRIDGED)
    folder = runs.new_run_folder(
        config.run.out,
        config,
        job="text_to_image-paper",
        overwrite=config.run.overwrite or config.resume,
        option="--resume",
        facts={"command": command(words, config, Config())},
    )
    places = [folder / f"prompt-{n}" for n in range(1, len(PROMPTS) + 1)]
    found = [finished(place) if config.resume else None for place in places]
    left = [i for i, records in enumerate(found) if records is None]
    if left:
        calls, expected = expect(config, model, table, which)
        announce(config, expected, calls * len(left), which)
    with cli.progress_bar() as bar:
        for i in left:
            task = bar.add_task(f"prompt {i + 1}", total=which.count * len(calls))
            advance = functools.partial(bar.advance, task)
            found[i] = one_prompt(config, model, table, which, PROMPTS[i], places[i], advance)
            bar.update(task, completed=which.count * len(calls))
    records = [{"number": i + 1} | record for i, held in enumerate(found) for record in held or ()]
    facts = {"config": config, "provenance": runs.provenance(), "abridged": ABRIDGED}
    runs.write_json(folder / "results.json", facts | {"records": records})
    columns = {"prompt": "number", "negative": "kind"}
    publish(folder, table_of("means over images", records, **columns))
    print(f"written to {folder}: results.json, tables.md, and a folder for each prompt")
    return records


def rules_of(config: Config, prompt: PaperPrompt) -> dict[str, prompt_rules.PromptRule]:
    """The rules of a prompt by their words, unguided first; lambda without a cap, as in the paper
    (dng_jax.experiments.prompt_rules)."""
    texts = ("unguided", *(f"np={scale:g}" for scale in NP_SCALES), prompt.dng)
    where = (("negative",), config.variant, config.guidance_scale)
    specs = prompt_rules.parse_all(texts)
    return {str(s): prompt_rules.build(s, *where, scale_max=None) for s in specs}


def expect(
    config: Config, model: Pipeline, table: StepTable, which: Draw
) -> tuple[list[int], Cost]:
    """Predictions per image and step of the runs of one prompt, and what they cost."""
    denoise = roles(config, model, PROMPTS[0], PROMPTS[0].related)
    rules = [rule for rule, _ in rules_of(config, PROMPTS[0]).values()]
    calls = [denoise.calls(rule.roles) or 0 for rule in rules]
    return [*calls, *calls[1:]], cost(model, denoise, table, rules[-1].roles, which)


def roles(config: Config, model: Pipeline, prompt: PaperPrompt, negative: str) -> Branches:
    """The denoiser of a prompt and one negative."""
    w, mode = config.guidance_scale, config.branches
    return roles_of(model, prompt.prompt, (negative,), config.variant, w, mode)


def one_prompt(
    config: Config,
    model: Pipeline,
    table: StepTable,
    which: Draw,
    prompt: PaperPrompt,
    place: Path,
    advance: Callable[[float], object],
) -> list[dict[str, Any]]:
    """Samples, draws and writes all of one prompt."""
    (plain, base), *rules = rules_of(config, prompt).items()
    records: list[dict[str, Any]] = []
    unguided: Drawn | None = None
    for kind, negative in prompt.negatives.items():
        denoise = roles(config, model, prompt, negative)
        if unguided is None:  # whatever the negative is
            unguided = draw(model, denoise, table, base.rule, which, advance)
        drawn = {plain: unguided}
        for name, (rule, _) in rules:
            drawn[name] = draw(model, denoise, table, rule, which, advance)
        said = {"prompt": prompt.prompt, "kind": kind, "negative": negative}
        records += [said | record_of(name, d, unguided) for name, d in drawn.items()]
        with runs.writing(place):
            title = f'"{prompt.prompt}" without "{negative}"'
            write_pictures(place / kind, drawn, table, title)
    runs.write_json(place / RECORD, {"records": records})
    return finished(place) or []


def finished(place: Path) -> list[dict[str, Any]] | None:
    """The records of a prompt that was finished; InputError where they were altered."""
    path = place / RECORD
    if not path.exists():
        return None
    found = read_json(path).get("records")
    if not isinstance(found, list) or not all(isinstance(r, dict) for r in found):
        raise InputError(f"{path} was altered: remove it, and its prompt is made again")
    return found
