"""From the cells of a study to records, tables and pictures, one function per part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dng_jax import initial_noise, plots, sample, sample_keys, sweep
from dng_jax.experiments import rule_builders, rule_specs
from dng_jax.experiments.problems import Model, Problem
from dng_jax.experiments.rule_specs import REFERENCE, RETRAINED, TrackerOptions
from dng_jax.jobs.options import shown
from dng_jax.jobs.tables import Table
from dng_jax.metrics import Moments, class_counts, kid, precision_and_recall, tradeoff

from . import plan, tables
from .cells import Cell, Found, Setting
from .options import Config

FRECHET_RESAMPLES = 30
CHANCE_DRAWS = 2000
PATH_FAMILIES = ("np", "sld", "dng:pair", "dng:classes")
PATH_POOL, PATH_SHOWN = 512, 12  # chains to choose from, and columns of a picture
MEASURES = {
    "kl": "KL(target || generated) (nats)",
    "reversed": "KL(generated || target) (nats)",
    "frechet": "Frechet distance",
}

Cells = Mapping[Cell, Found]


@dataclass(frozen=True)
class Study:
    """What every part works on: options, the model, the folder; problems are made once."""

    config: Config
    model: Model
    folder: Path
    made: dict[tuple[int, ...], Problem] = field(default_factory=dict)

    def problem(self, forbidden: tuple[int, ...]) -> Problem:
        """The problem of one forbidden set."""
        if forbidden not in self.made:
            self.made[forbidden] = self.model.problem(forbidden)
        return self.made[forbidden]


class Picture(NamedTuple):
    """A file of the folder, its caption, and what draws it (None: it is there)."""

    file: str
    caption: str
    draw: Callable[[], object] | None = None


class Summary(NamedTuple):
    """What a part comes to."""

    record: Any
    tables: list[Table]
    pictures: list[Picture]


class Joined(NamedTuple):
    """One family and forbidden set, the samples of all seeds together."""

    forbidden: tuple[int, ...]
    settings: tuple[Setting, ...]
    found: Found


def curves(study: Study, cells: Cells) -> Summary:
    """Trade-offs, all settings, KL at equal leak."""
    config, joined, sets = study.config, join(cells), sets_of(cells)
    found = curves_of(study, joined)
    trackers = [name for name in found if name.startswith("dng")]
    pairs = [(a, b) for a in trackers for b in found if b in ("np", "sld")]
    matched = compared(
        pairs, lambda a, b: tradeoff.matched(found[a], found[b], at=tables.at_one(found[a]))
    )
    levels = compared(pairs, lambda a, b: tradeoff.at_levels(found[b], tables.LEVELS, found[a]))
    areas = compared(pairs, lambda a, b: tradeoff.area(found[a], found[b]))
    own = {a: tradeoff.at_levels(found[a], tables.LEVELS) for a in trackers}
    quality = {name: quality_of(study, joined[name]) for name in found}
    calls = {family: mean_of([j.found.calls for j in parts]) for family, parts in joined.items()}
    asked = {family: mean_of([j.found.asked for j in parts]) for family, parts in joined.items()}
    record: dict[str, Any] = {
        "curves": stored(found),
        "matched": matched,
        "levels": levels,
        "areas": areas,
        "quality": quality,
        "counts": counts_of(study, cells),
        "harm": harm_of(study, joined),
        "harm_by_chance": harm_by_chance(study, joined),
        "own": {a: vars(found) for a, found in own.items()},
        "calls": calls,
        "asked": asked,
    }
    title = (
        f"{shown(config.dataset)}, mean over {len(sets)} forbidden classes,"
        f" n = {next(iter(found.values())).samples} each ({len(config.seeds)} seeds),"
        f" {config.steps} steps"
    )
    made = [
        tables.settings_table(title, found, quality, calls, asked),
        tables.matched_table(found, matched),
        tables.levels_table(own, levels),
        tables.areas_table(areas),
        tables.harm_table(record["harm"], record["harm_by_chance"]),
    ]
    pictures = trade_offs(study, found, f"{len(sets)} classes in turn")
    return Summary(record, [t for t in made if t.rows], pictures)


def several(study: Study, cells: Cells) -> Summary:
    """Sets of classes forbidden at once, one table for all sizes."""
    config = study.config
    record: dict[int, Any] = {}
    points: list[dict[str, Any]] = []
    for size in sorted({len(cell.forbidden) for cell in cells}):
        mine = {cell: found for cell, found in cells.items() if len(cell.forbidden) == size}
        found = curves_of(study, join(mine))
        record[size] = stored(found)
        points += [
            {"rule": tables.label(name, scale), "classes": size, "sets": len(sets_of(mine))}
            | tables.point(c, i)
            for name, c in found.items()
            for i, scale in enumerate(c.scales)
        ]
    title = (
        f"{shown(config.dataset)}, sets of neighbouring classes forbidden at once,"
        f" n = {config.part_samples} per set, {config.steps} steps"
    )
    return Summary(record, [tables.points_table(title, points, "rule", "classes", "sets")], [])


def sensitivity(study: Study, cells: Cells) -> Summary:
    """One number of DNG at a time."""
    config, found = study.config, curves_of(study, join(cells))
    points: list[dict[str, Any]] = [
        {"tracker": name, "numbers": changed(setting)} | tables.point(c, i)
        for name, c in found.items()
        for i, setting in enumerate(c.scales)
    ]
    for p in points:
        p["changed"] = ", ".join(f"{k} = {v:g}" for k, v in p["numbers"].items()) or "nothing"
    usual = {"lambda_0": 1.0, "tau": 1.0, "drift": 0.0, "delta": 0.0}
    usual["prior"] = 1 / study.model.info.num_classes

    panels: dict[str, dict[str, list[tuple[float, dict]]]] = {}
    for p in points:
        for knob, value in p["numbers"].items():
            panels.setdefault(knob, {}).setdefault(p["tracker"], []).append((value, p))
    for knob, lines in panels.items():
        for name, line in lines.items():
            line.append((usual[knob], next(p for p in points if p["tracker"] == name)))
    file = "sensitivity.png"
    draw = partial(
        plots.responses,
        {
            knob: {name: response(line) for name, line in lines.items()}
            for knob, lines in panels.items()
        },
        study.folder / file,
        log_x=("lambda_0", "tau", "prior"),
        title=f"{shown(config.dataset)}: DNG, one number at a time, {config.steps} steps",
    )
    title = (
        f"{shown(config.dataset)}, DNG with one number changed,"
        f" n = {config.part_samples} per forbidden class, {config.steps} steps"
    )
    table = tables.points_table(title, points, "tracker", "changed")
    caption = "Leak and KL against each number of the rule."
    return Summary(stored(found), [table], [Picture(file, caption, draw)])


def steps(study: Study, cells: Cells) -> Summary:
    """The number of sampling steps."""
    config = study.config
    record: dict[int, Any] = {}
    points: list[dict[str, Any]] = []
    for count in sorted({cell.steps for cell in cells}):
        mine = {cell: found for cell, found in cells.items() if cell.steps == count}
        found = curves_of(study, join(mine))
        record[count] = stored(found)
        points += [
            {"tracker": name, "steps": count} | tables.point(c, 0) for name, c in found.items()
        ]
    lines: dict[str, list[tuple[float, dict]]] = {}
    for p in points:
        lines.setdefault(p["tracker"], []).append((p["steps"], p))
    file = "steps.png"
    panel = {name: response(line) for name, line in lines.items()}
    draw = partial(
        plots.responses,
        {"steps": panel},
        study.folder / file,
        log_x=("steps",),
        title=shown(config.dataset),
    )
    title = (
        f"{shown(config.dataset)}, number of steps, lambda_0 = 1,"
        f" n = {config.part_samples} per forbidden class"
    )
    table = tables.points_table(title, points, "tracker", "steps")
    caption = "Leak and KL against the number of steps."
    return Summary(record, [table], [Picture(file, caption, draw)])


PARTS: dict[str, Callable[[Study, Cells], Summary]] = {
    "curves": curves,
    "sensitivity": sensitivity,
    "steps": steps,
    "several": several,
}


def path(study: Study, problem: Problem) -> Summary:
    """The same noise along each rule's scales: chains that fall into the forbidden class unguided.

    From those among the first 512 chains; where fewer than 12 do, others fill the row.
    """
    config, usual = study.config, TrackerOptions()
    table = problem.table(config.sampler, config.steps)
    keys = sample_keys(config.seeds[0], PATH_POOL)
    x = initial_noise(keys, problem.info.shape, table)
    where = (problem, usual, config.sampler, config.steps)
    plain = rule_builders.build(rule_specs.parse("unguided"), *where)
    unguided = np.asarray(sample(problem.denoiser, table, plain, keys, x).x)
    labels, _ = problem.classify(unguided)
    order = np.argsort(~np.isin(labels, problem.forbidden), kind="stable")[:PATH_SHOWN]
    pictures = []
    grids = plan.grids_of(config.families)
    for family in (f for f in grids if f in PATH_FAMILIES):
        spec = rule_specs.parse(family)
        rules = [rule_builders.build(spec.with_scale(s), *where) for s in grids[family]]
        images = np.asarray(sweep(problem.denoiser, table, rules, keys[order], x[order]).x)
        file = f"path_{family.replace(':', '-')}.png"
        names = ["unguided", *(tables.label(family, s) for s in grids[family])]
        grid = np.concatenate([unguided[order][None], images])
        title = f"without {problem.forbidden_names}: {family}"
        draw = partial(plots.image_grid, grid, study.folder / file, names, title=title)
        caption = f"{family}: one column per noise, scale growing downwards."
        pictures.append(Picture(file, caption, draw))
    return Summary(None, [], pictures)


def join(cells: Cells) -> dict[str, list[Joined]]:
    """family -> its forbidden sets in order, the samples of all seeds of each together."""
    together: dict[str, dict[tuple[int, ...], list[tuple[Cell, Found]]]] = {}
    for cell, found in cells.items():
        sets = together.setdefault(cell.family, {})
        sets.setdefault(cell.forbidden, []).append((cell, found))
    return {
        family: [_joined(sets[f]) for f in sorted(sets, key=lambda f: (len(f), f))]
        for family, sets in together.items()
    }


def _joined(parts: list[tuple[Cell, Found]]) -> Joined:
    first, _ = parts[0]
    labels = np.concatenate([found.labels for _, found in parts], axis=1)
    features = np.concatenate([found.features for _, found in parts], axis=1)
    calls, asked = (
        mean_of([getattr(found, name) for _, found in parts]) for name in ("calls", "asked")
    )
    return Joined(first.forbidden, first.settings, Found(labels, features, calls, asked))


def mean_of(counts: list[np.ndarray | None]) -> np.ndarray | None:
    """Mean of counts at each setting, [S] each, over cells of one size; None where one is not
    counted."""
    known = [c for c in counts if c is not None]
    return np.mean(known, axis=0) if len(known) == len(counts) else None


def sets_of(cells: Cells) -> list[tuple[int, ...]]:
    """The forbidden sets, each once."""
    return sorted({cell.forbidden for cell in cells})


def counts_of(study: Study, cells: Cells) -> list[dict[str, Any]]:
    """One record per cell and setting: what was asked for, and counts of the labels."""
    return [
        {
            "forbidden": cell.forbidden,
            "rule": tables.label(cell.family, setting.scale),
            "seed": cell.seed,
            "counts": class_counts(labels, study.model.info.num_classes),
        }
        for cell, found in cells.items()
        for setting, labels in zip(cell.settings, found.labels, strict=True)
    ]


def harm_of(study: Study, joined: Mapping[str, list[Joined]]) -> list[dict[str, Any]]:
    """One record per rule and setting: what guidance does to the classes that are allowed.

    least: the least drawn of them in parts of an even share among them, mean over the forbidden
    sets. hardest: the least of all, its class and what was forbidden.
    """
    names = study.model.info.class_names

    def least(j: Joined, setting: int) -> tuple[float, str, str]:
        counts = class_counts(j.found.labels[setting], len(names))
        allowed = np.setdiff1d(np.arange(len(names)), j.forbidden)
        due = max(counts[allowed].mean(), 1e-9)  # not one allowed sample: 0 of its due
        a = allowed[np.argmin(counts[allowed])]
        return counts[a] / due, names[a], ", ".join(names[k] for k in j.forbidden)

    records = []
    for family, parts in joined.items():
        for i, setting in enumerate(parts[0].settings):
            of_each = [least(j, i) for j in parts]
            share, name, forbidden = min(of_each)
            hardest = {"share": share, "class": name, "forbidden": forbidden}
            rule = tables.label(family, setting.scale)
            mean = float(np.mean([one[0] for one in of_each]))
            records.append({"rule": rule, "least": mean, "hardest": hardest})
    return records


def harm_by_chance(study: Study, joined: Mapping[str, list[Joined]]) -> dict[str, float]:
    """What `harm_of` finds on average where every allowed class is as likely as another."""
    parts = next(iter(joined.values()))
    allowed = len(study.model.info.class_names) - len(parts[0].forbidden)
    n = parts[0].found.labels.shape[1]
    even = np.full(allowed, 1 / allowed)
    drawn = np.random.default_rng(0).multinomial(n, even, (CHANCE_DRAWS, len(parts)))
    least = drawn.min(axis=2) / (n / allowed)
    return {"least": float(least.mean()), "hardest": float(least.min(axis=1).mean())}


def curves_of(study: Study, joined: Mapping[str, list[Joined]]) -> dict[str, tradeoff.Curve]:
    """Curves over scales (over settings, where a tracker's numbers change as well)."""
    scales: dict[str, list[Any]] = {}
    for family, (first, *_) in joined.items():
        plain = all(s.options == TrackerOptions() for s in first.settings)
        scales[family] = [s.scale for s in first.settings] if plain else list(first.settings)

    def of_each(figure: Callable[[Joined], Any]) -> dict[str, list[Any]]:
        return {family: [figure(j) for j in parts] for family, parts in joined.items()}

    def frechet(j: Joined) -> list[float]:
        real = study.problem(j.forbidden).real
        width = j.found.features.shape[2]
        return [real.distance(Moments.zero(width).update(f)) for f in j.found.features]

    def frechet_error(j: Joined) -> np.ndarray:
        real = study.problem(j.forbidden).real
        return real.distance_errors(j.found.features, FRECHET_RESAMPLES, j.forbidden)

    return tradeoff.curves(
        of_each(lambda j: j.found.labels),
        [j.forbidden for j in next(iter(joined.values()))],
        study.model.info.num_classes,
        scales,
        frechet={family: np.array(v) for family, v in of_each(frechet).items()},
        frechet_error={family: np.array(v) for family, v in of_each(frechet_error).items()},
        independent=[f for f in joined if not rule_specs.parse(f).shares_noise],
    )


def stored(found: Mapping[str, tradeoff.Curve]) -> dict[str, dict[str, Any]]:
    """The curves without their thousands of bootstrap draws."""
    return {name: {k: v for k, v in vars(c).items() if k != "draws"} for name, c in found.items()}


def compared(pairs, figure: Callable[[str, str], Any]) -> list[dict[str, Any]]:
    """One record per pair (tracker, baseline)."""
    return [{"tracker": a, "rule": b} | vars(figure(a, b)) for a, b in pairs]


def quality_of(study: Study, parts: list[Joined]) -> dict[str, np.ndarray]:
    """KID, precision and recall, means over the forbidden sets, [S] each."""
    scores = [
        [_scores(study.problem(j.forbidden).real_features, f) for f in j.found.features]
        for j in parts
    ]
    return {
        name: np.mean([[s[name] for s in row] for row in scores], axis=0)
        for name in ("kid", "precision", "recall")
    }


def _scores(real: np.ndarray, features: np.ndarray) -> dict[str, float]:
    fake = features.astype(np.float64)
    overlap = precision_and_recall(fake, real)
    assert overlap.recall is not None  # both sets are at hand
    return {
        "kid": kid(fake, real).value,
        "precision": overlap.precision.value,
        "recall": overlap.recall.value,
    }


def trade_offs(study: Study, found: Mapping[str, tradeoff.Curve], what: str) -> list[Picture]:
    """A picture per measure: the measure against leak."""
    config, pictures = study.config, []
    for measure, label in MEASURES.items():
        lines = {
            family: (
                *(100 * v for v in (c.leak, c.leak_low, c.leak_high)),
                *(getattr(c, measure + end) for end in ("", "_low", "_high")),
            )
            for family, c in found.items()
        }
        references = {f: lines.pop(f) for f in (REFERENCE, RETRAINED) if f in lines}
        file = f"trade_off_{measure}.png"
        title = f"{shown(config.dataset)}, mean over {what}, {config.steps} steps"
        draw = partial(
            plots.trade_off,
            lines,
            study.folder / file,
            references=references,
            scales={f: [f"{s:g}" for s in c.scales if s is not None] for f, c in found.items()},
            sparse={f: c.sparse for f, c in found.items()} if measure != "frechet" else None,
            y_label=label,
            title=title,
        )
        caption = f"Share of the forbidden class against {label.split(' (')[0]}."
        pictures.append(Picture(file, caption, draw))
    return pictures


def response(line: list[tuple[float, dict[str, float]]]) -> tuple[np.ndarray, ...]:
    """(values of a number, points there) -> the vectors that plots.responses takes."""
    rows = [
        (value, *(100 * p[n] for n in ("leak", "leak_low", "leak_high")),
         *(p[n] for n in ("kl", "kl_low", "kl_high")))
        for value, p in sorted(line, key=lambda entry: entry[0])
    ]  # fmt: skip
    return tuple(np.transpose(rows))


def changed(setting: Setting | float) -> dict[str, float]:
    """The numbers in which a setting differs from the default."""
    if not isinstance(setting, Setting):
        setting = Setting(setting)
    usual = vars(TrackerOptions())
    out = {k: v for k, v in vars(setting.options).items() if v != usual[k]}
    if setting.scale not in (None, 1.0):
        out["lambda_0"] = setting.scale
    return out
