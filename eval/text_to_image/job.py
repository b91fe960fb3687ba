"""Loads a model, samples the rules, writes pictures; see eval.text_to_image."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from dng_jax.denoisers.branches import negative_roles
from dng_jax.denoisers.compaction import evaluations
from dng_jax.errors import NonFiniteError
from dng_jax.experiments import prompt_rules, rule_specs
from dng_jax.experiments.prompted import Drawn, cost, draw, roles_of
from dng_jax.jobs import cli, runs
from dng_jax.jobs.opening import open_run
from dng_jax.jobs.options import distinct, program

from . import reaching, study
from .announcing import announce
from .loading import load
from .options import Config, checked
from .writing import (
    keep_latents,
    published,
    record_of,
    warn_of_clamps,
    write_images,
    write_overview,
)

REMEDY = "take a smaller --tau, such as the .2 of the paper, or another --delta or --prior"


def main(config: Config) -> list[dict[str, Any]]:
    """Runs the job and returns its records."""
    # ---- parse
    config = checked(config)
    if config.study is not None:
        config.devices.select()
        return study.run(config, program(__package__))
    specs = prompt_rules.parse_all(config.rule)
    names = [str(spec) for spec in specs]
    distinct(rule=names)
    rule_specs.check_taken(specs, "--rule", None, config.options)
    roles = negative_roles(len(config.negative)) if config.negative else ()
    where = (roles, config.variant, config.guidance_scale, config.options)
    reaching.check(config, [prompt_rules.build(spec, *where) for spec in specs])

    # ---- build
    config.devices.select()
    model, table, which = load(config)
    rules = [prompt_rules.build(spec, *where, table=table) for spec in specs]
    words = (config.prompt, config.negative)
    networks = {
        variant: roles_of(model, *words, variant, config.guidance_scale, config.branches)
        for variant in dict.fromkeys(rule.variant for rule in rules)
    }
    everything = tuple(dict.fromkeys(role for rule in rules for role in rule.rule.roles))
    expected = cost(model, next(iter(networks.values())), table, everything, which)
    calls = [networks[rule.variant].calls(rule.rule.roles) or 0 for rule in rules]
    folder = open_run(program(__package__), config, "text_to_image")
    announce(config, expected, calls, which)

    # ---- sample
    drawn: dict[str, Drawn] = {}
    failed: list[str] = []
    with cli.progress_bar() as bar:
        for name, (rule, variant, _) in zip(names, rules, strict=True):
            task = bar.add_task(name, total=which.count)
            advance = functools.partial(bar.advance, task)
            keep = functools.partial(keep_latents, folder, name)
            try:
                found = draw(model, networks[variant], table, rule, which, advance, keep)
            except NonFiniteError as error:  # the other rules are none the worse for it
                failed.append(f"{name}: {error}")
                continue
            drawn[name] = found
            write_images(folder, name, found)
            bar.update(task, completed=which.count)

    # ---- write
    records = []
    for name, rule in zip(names, rules, strict=True):
        if name in drawn:
            ran = drawn[name].ran
            made = evaluations(networks[rule.variant], rule.rule, config.steps, ran) or 0
            records.append(record_of(name, rule, drawn[name], drawn.get("unguided"), made))
    facts = {"config": config, "provenance": runs.provenance(), "cost": expected, "failed": failed}
    runs.write_json(folder / "results.json", facts | {"records": records})
    if drawn:
        with runs.writing(folder):
            write_overview(folder, drawn, table, title_of(config.prompt, config.negative))
        published(folder, records)
        warn_of_clamps(records, REMEDY)
    if failed:
        raise NonFiniteError(f"{'; '.join(failed)}; what the other rules made is in {folder}")
    print(f"written to {folder}: images, contact_sheet.png, results.json, tables.md")
    return records


def title_of(prompt: str, negatives: Sequence[str]) -> str:
    """Of a contact sheet."""
    without = " / ".join(negatives)
    return f'"{prompt}"' + (f' without "{without}"' if negatives else "")
