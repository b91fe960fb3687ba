"""Removes classes, measures, writes; see eval.class_removal."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax import plots
from dng_jax.errors import InputError
from dng_jax.experiments import (
    calibrations,
    models,
    problems,
    rule_builders,
    rule_specs,
    saving,
    settings,
)
from dng_jax.experiments.generating import (
    Draw,
    Generated,
    asked_classes,
    generate_together,
)
from dng_jax.experiments.nearness import nearness, rest
from dng_jax.experiments.problems import Problem
from dng_jax.experiments.rule_specs import Spec
from dng_jax.experiments.telling import telling_images
from dng_jax.jobs import cli, runs
from dng_jax.jobs.cells import interval, milliseconds, number, titled
from dng_jax.jobs.opening import identity, open_run
from dng_jax.jobs.options import at_least, at_most, distinct, program, seed, shown
from dng_jax.jobs.tables import Table, publish
from dng_jax.jobs.team import Team
from dng_jax.metrics import Moments, class_counts, class_report
from dng_jax.metrics.shares import Share, share
from dng_jax.steps import StepTable

from . import of_images
from .options import DEFAULT_RULES, IMAGE_RULES, Config

SHOWN = 64  # samples whose images and posteriors are drawn
PROBES = 64  # more of them compile for hours, and no longer make the estimate better
CLASS_LABEL = "samples of the forbidden class (%)"
PIECES = 5  # of a chain, for its progress and timing


def main(config: Config) -> list[dict[str, Any]]:
    """Runs the job and returns its records."""
    # ---- parse
    config = with_settings(config)
    at_least(2, samples=config.samples)
    at_least(1, batch=config.batch)
    distinct(seeds=config.seeds, rules=config.rules)
    seed(seeds=config.seeds)
    at_least(0, probes=config.options.probes)
    at_most(PROBES, probes=config.options.probes)
    by_images = config.forbid_images is not None
    check_images(config)
    texts = IMAGE_RULES if by_images and config.rules == DEFAULT_RULES else config.rules
    retrained = config.source.retrained is not None and not by_images
    if retrained and texts == DEFAULT_RULES:
        texts = (*texts, rule_specs.RETRAINED)
    specs = rule_specs.parse_all(texts, config.tracker)
    if retrained and all(spec.name != rule_specs.RETRAINED for spec in specs):
        raise InputError("--retrained is for the rule retrained: add it to --rules")
    rule_specs.check_taken(specs, "--rules", config.calibration, config.options)
    specs = [spec.with_calibration(config.calibration) for spec in specs]
    distinct(rules=[str(spec) for spec in specs])

    # ---- alone, or with other processes
    with config.processes.team() as team, cli.speaking(team.is_first):
        return removed(config, specs, team)


def removed(config: Config, specs: Sequence[Spec], team: Team) -> list[dict[str, Any]]:
    """Samples by the rules, measures, writes; the records, in process 0 alone."""
    # ---- build
    config.data.use()
    config.devices.select()
    by_images = config.forbid_images is not None
    if by_images:
        problem = of_images.made(config)
    else:
        problem = problems.make(config.dataset, config.forbid or ("0",), config.source)
    table = problem.table(config.sampler, config.steps)
    saving.check(config.save_images, problem.info.shape[-1])
    where = (problem, config.options, config.sampler, config.steps)
    rules = [rule_builders.build(spec, *where) for spec in specs]
    folder = team.meet(
        lambda: identity(config, files_of(config, problem, specs)),
        lambda: open_run(program(__package__), config, "class_removal", [problem.info]),
    )

    # ---- sample and classify; measure, in one process alone
    records: list[dict[str, Any]] = []
    results: list[list[Generated]] = []
    with cli.progress_bar(shown=team.is_first) as bar:
        for spec, rule in zip(specs, rules, strict=True):
            task = bar.add_task(str(spec), total=config.samples * len(config.seeds))
            draw = functools.partial(
                generate_together,
                team,
                problem,
                table,
                rule,
                advance=functools.partial(bar.advance, task),
            )
            keep = None if config.save_images or by_images else SHOWN
            how = Draw(config.samples, 0, batch=config.batch, keep=keep, pieces=PIECES)
            draws = (dataclasses.replace(how, seed=seed) for seed in config.seeds)
            by_seed = [found for found in map(draw, draws) if found is not None]
            if not team.is_first:
                continue
            records.append(record(problem, spec, rule, config, by_seed))
            # One rule's features and images may be a gigabyte; seven need not be held at once.
            kept = None if config.save_images else SHOWN
            by_seed = [found.without_features(kept) for found in by_seed]
            results.append(by_seed)
            bar.update(task, completed=config.samples * len(config.seeds))
    if folder is None:
        return records

    # ---- write
    title = f"{shown(config.dataset)} without {problem.forbidden_names}"
    facts = {"config": config, "provenance": runs.provenance(), "processes": team.count}
    facts |= {"network": problem.network, "classifier": problem.classifier_name}
    facts |= {"records": records}
    if by_images:
        facts["forbidden_images"] = of_images.facts_of(problem)
    runs.write_json(folder / "results.json", facts)
    heading = title if team.count == 1 else f"{title}, by {team.count} processes"
    report = (
        of_images.table_of(heading, problem, records) if by_images else table_of(heading, records)
    )
    publish(folder, report)
    if config.save_images:
        for spec, by_seed in zip(specs, results, strict=True):
            parts = [
                saving.Labelled(g.images[0], g.labels[0, : g.images.shape[1]], n)
                for n, g in zip(config.seeds, by_seed, strict=True)
            ]
            with runs.writing(folder):
                saving.save(folder / "images", str(spec), parts, config.save_images)
    with runs.writing(folder):
        pictures(folder, title, problem, records, [by_seed[0] for by_seed in results], table)
    print(f"written to {folder}: results.json, tables.md and pictures")
    return records


def files_of(config: Config, problem: Problem, specs: Sequence[Spec]) -> dict[str, str | None]:
    """SHA-256, by name, of the weights, calibrations and images that the run rests on."""
    fitted = {spec.calibration for spec in specs} - {None}
    found: dict[str, str | None] = {
        **models.fingerprint(config.dataset, config.source, problem.forbidden),
        **{n: calibrations.digest(n, config.dataset, config.source.network) for n in fitted if n},
        problem.info.name: problem.info.sha256,
    }
    if problem.images is not None:
        found["forbidden images"] = problem.images.sha256
    return found


def with_settings(config: Config) -> Config:
    """The options with what a search found in --settings; they then say all of it themselves."""
    if config.settings is None:
        return config
    found = settings.read(config.settings)
    rules = ("unguided",) if config.rules == DEFAULT_RULES else config.rules
    rules += (found["rule"],) if found["rule"] not in rules else ()
    config = settings.applied(config, found, config.settings)
    return dataclasses.replace(config, settings=None, rules=rules)


def check_images(config: Config) -> None:
    """InputError for options of forbidden images that make no sense together."""
    if config.forbid_images is None:
        for name in ("bandwidth", "radius"):
            if getattr(config, name) is not None:
                raise InputError(f"--{name} belongs to --forbid-images: leave it out")
    elif config.forbid:
        raise InputError("--forbid and --forbid-images cannot be combined: leave one out")


def record(
    problem: Problem, spec: Spec, rule: Any, config: Config, by_seed: list[Generated]
) -> dict[str, Any]:
    """Everything one rule and setting showed."""
    near: dict[str, Any] = {}
    if problem.images is not None:
        near = {"nearness": nearness(problem.images, by_seed), "radius": problem.images.radius}
        near |= {"bandwidth": problem.images.bandwidth, "prior": problem.images.prior}
        by_seed = [rest(problem.images, g) for g in by_seed]
    by_seed_counts = [class_counts(g.labels, problem.info.num_classes) for g in by_seed]
    counts = np.sum(by_seed_counts, axis=0)
    seconds = [g.seconds_per_image for g in by_seed if g.seconds_per_image is not None]
    asked, ran = (
        [often.item() for g in by_seed if (often := getattr(g, name)) is not None]
        for name in ("asked", "ran")
    )
    calls = problem.network_calls(rule, config.steps, float(np.mean(ran)) if ran else None)
    features = functools.reduce(Moments.merge, [g.moments() for g in by_seed])
    return {
        "rule": str(spec),
        "family": spec.family,
        "scale": spec.scale,
        "parameters": rule_builders.parameters(rule),
        "counts": counts,
        "counts_by_seed": dict(zip(map(str, config.seeds), by_seed_counts, strict=True)),
        "report": class_report(counts, problem.allowed) if counts.any() else None,
        "frechet_distance": problem.real.distance(features) if counts.sum() > 1 else np.nan,
        "frechet_features": problem.classifier.features_name,
        "of_their_class": None if near else of_their_class(problem, rule, by_seed),
        "seconds_per_image": float(np.median(seconds)) if seconds else None,
        "network_calls_per_image": None if calls is None else calls * spec.cost,
        "negatives_asked_per_image": float(np.mean(asked)) if asked else None,
        **near,
    }


def of_their_class(problem: Problem, rule: Any, by_seed: list[Generated]) -> Share | None:
    """How many samples the classifier calls what they were asked to be; None of other rules."""
    right = []
    for labels in (g.labels[0] for g in by_seed):
        asked = asked_classes(problem, rule, len(labels))
        if asked is None:
            return None
        right.append(labels == asked)
    return share(int(np.concatenate(right).sum()), sum(map(len, right)))


def table_of(title: str, records: Sequence[dict[str, Any]]) -> Table:
    """The table a person reads."""
    n = records[0]["report"].samples

    def among(form: str) -> Callable[[dict[str, Any]], str]:
        def cell(r: dict[str, Any]) -> str:
            found = getattr(r["report"], form)
            return number(found.corrected, sparse=found.sparse)

        return cell

    def with_bounds(r: dict[str, Any]) -> str:
        kl = r["report"].forward
        return interval(kl.corrected, kl.low, kl.high, sparse=kl.sparse)

    def right(r: dict[str, Any]) -> str | None:
        found = r["of_their_class"]
        return None if found is None else percent(found)

    columns: dict[str, Any] = {
        "rule": "rule",
        "leak % [95%]": lambda r: percent(r["report"].leak),
        "KL [95%]": with_bounds,
        "KL among allowed": among("renormalised"),
        "reversed KL": among("reversed"),
        "Frechet": lambda r: f"{r['frechet_distance']:.2f}",
        "of their class % [95%]": right,
        "ms per image": lambda r: milliseconds(r["seconds_per_image"]),
        "calls per kept image": "network_calls_per_image",
        "negatives asked": "negatives_asked_per_image",
    }
    if all(r["negatives_asked_per_image"] is None for r in records):
        del columns["negatives asked"]
    if all(r["of_their_class"] is None for r in records):
        del columns["of their class % [95%]"]
    sparse = (r["report"].forward.sparse for r in records)
    return Table.of(titled(f"{title}, n = {n} per rule", sparse), records, columns)


def percent(found: Share) -> str:
    """A share and its interval, in per cent."""
    return f"{100 * found.value:.2f} [{100 * found.low:.2f}, {100 * found.high:.2f}]"


def point(r: dict[str, Any]) -> tuple[float, ...]:
    """Share of what is forbidden in per cent and KL in nats, each (value, low, high)."""
    leak = r["nearness"].inside if "nearness" in r else r["report"].leak
    kl = r["report"].forward
    return 100 * leak.value, 100 * leak.low, 100 * leak.high, kl.corrected, kl.low, kl.high


def pictures(
    folder: Path,
    title: str,
    problem: Problem,
    records: list[dict[str, Any]],
    shown: list[Generated],
    table: StepTable,
) -> None:
    """Samples, trade-off and, where there is one, the posterior over time."""
    names = [r["rule"] for r in records]
    grid, caption = telling_images(dict(zip(names, shown, strict=True)), problem)
    plots.image_grid(grid, folder / "samples.png", names, title=f"{title}{caption}")

    families: dict[str, list[dict[str, Any]]] = {}
    counted = [r for r in records if r["report"] is not None]
    for r in sorted(counted, key=lambda r: (r["family"], r["scale"] or 0)):
        families.setdefault(r["family"], []).append(r)
    curves = {name: tuple(np.transpose([point(r) for r in rs])) for name, rs in families.items()}
    apart = (rule_specs.REFERENCE, rule_specs.RETRAINED)
    references = {name: curves.pop(name) for name in apart if name in curves}
    if curves:
        plots.trade_off(
            curves,
            folder / "trade_off.png",
            references=references,
            scales={
                name: [f"{r['scale']:g}" for r in rs if r["scale"] is not None]
                for name, rs in families.items()
            },
            sparse={n: [r["report"].forward.sparse for r in rs] for n, rs in families.items()},
            x_label=of_images.X_LABEL if problem.images is not None else CLASS_LABEL,
            title=title,
        )

    tracked = {
        name: g.trace["posterior"][0][:, :SHOWN]
        for name, g in zip(names, shown, strict=True)
        if "posterior" in g.trace
    }
    if tracked:
        plots.posterior_over_time(
            tracked, folder / "posterior.png", logsnr=np.asarray(table.logsnr), title=title
        )
