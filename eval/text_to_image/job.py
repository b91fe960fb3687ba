"""Loads a model, samples the rules, writes pictures; see eval.text_to_image."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from dng_jax.denoisers.branches import negative_roles
from dng_jax.experiments import prompt_rules, rule_builders, rule_specs
from dng_jax.experiments.prompted import Draw, Drawn, cost, draw, roles_of
from dng_jax.jobs import cli, runs
from dng_jax.jobs.opening import open_run
from dng_jax.jobs.options import distinct, program
from dng_jax.stable_diffusion import pipeline

from . import study
from .announcing import announce
from .options import Config, checked, sides
from .writing import published, record_of, write_pictures


def main(config: Config) -> list[dict[str, Any]]:
    """Runs the job and returns its records."""
    # ---- parse
    config = checked(config)
    specs = prompt_rules.parse_all(config.rule)
    if config.study is None:
        distinct(rule=[str(spec) for spec in specs])
        rule_specs.check_taken(specs, "--rule", None, config.options)
    roles = negative_roles(len(config.negative)) if config.negative else ()
    where = (roles, config.variant, config.guidance_scale, config.options)
    rules = [prompt_rules.build(spec, *where) for spec in specs]

    # ---- build
    config.devices.select()
    model = pipeline.load(config.model, config.weights, config.dtype)
    which = Draw(
        config.seeds, config.seed, model.latent_shape(*sides(config, model.size)), config.batch
    )
    table = model.table(config.steps)
    if config.study is not None:
        return study.run(config, program(__package__), model, table, which)
    words = (config.prompt, config.negative)
    networks = {
        variant: roles_of(model, *words, variant, config.guidance_scale, config.branches)
        for variant in dict.fromkeys(rule.variant for rule in rules)
    }
    folder = open_run(program(__package__), config, "text_to_image")
    everything = tuple(dict.fromkeys(role for rule in rules for role in rule.rule.roles))
    first = next(iter(networks.values()))
    expected = cost(model, first, table, everything, which)
    calls = [networks[rule.variant].calls(rule.rule.roles) or 0 for rule in rules]
    announce(config, expected, calls, which)

    # ---- sample
    drawn: dict[str, Drawn] = {}
    with cli.progress_bar() as bar:
        for spec, (rule, variant) in zip(specs, rules, strict=True):
            task = bar.add_task(str(spec), total=which.count)
            advance = functools.partial(bar.advance, task)
            drawn[str(spec)] = draw(model, networks[variant], table, rule, which, advance)
            bar.update(task, completed=which.count)

    # ---- write
    unguided = next((drawn[str(s)] for s in specs if str(s) == "unguided"), None)
    records = [
        record_of(name, found, unguided)
        | {"variant": rule.variant, "parameters": rule_builders.parameters(rule.rule)}
        | {"network_calls_per_image": made * config.steps}
        for (name, found), rule, made in zip(drawn.items(), rules, calls, strict=True)
    ]
    facts = {"config": config, "provenance": runs.provenance(), "cost": expected}
    runs.write_json(folder / "results.json", facts | {"records": records})
    with runs.writing(folder):
        write_pictures(folder, drawn, table, title_of(config.prompt, config.negative))
    published(folder, records)
    print(f"written to {folder}: images, contact_sheet.png, results.json, tables.md")
    return records


def title_of(prompt: str, negatives: Sequence[str]) -> str:
    """Of a contact sheet."""
    without = " / ".join(negatives)
    return f'"{prompt}"' + (f' without "{without}"' if negatives else "")
