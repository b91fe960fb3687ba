"""From the cells of a study to tables and pictures, one function a part.

Each takes the part's finished cells and returns (record for results.json, tables, pictures), a
picture being (file, caption).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dng_jax import initial_noise, plots, sample, sample_keys, sweep
from dng_jax.experiments import rule_specs
from dng_jax.experiments.problems import Problem
from dng_jax.experiments.rule_specs import TrackerOptions
from dng_jax.jobs.tables import Table
from dng_jax.metrics import Moments, kid, precision_and_recall, tradeoff
from eval.study import tables as study_tables
from eval.study.cells import Cell, Found, Setting

FRECHET_RESAMPLES = 30
Cells = Mapping[Cell, Found]
MakeProblem = Callable[[tuple[int, ...]], Problem]


class Summary(NamedTuple):
    """What a part comes to; pictures as (file, caption)."""

    record: Any
    tables: list[Table]
    pictures: list[tuple[str, str]]


def curves(cells: Cells, make: MakeProblem, config: Any, folder: Path) -> Summary:
    """Trade-offs, all settings, KL at equal leak."""
    joined = join(cells)
    found = _curves(joined, make)
    sets = _sets(cells)
    pictures = _trade_offs(found, config, folder, "trade_off", f"{len(sets)} classes in turn")
    samples = next(iter(found.values())).samples
    what = f"{config.dataset}, mean over {len(sets)} forbidden classes, n = {samples} each"
    what += f" ({len(config.seeds)} seeds), {config.steps} steps"
    trackers = [name for name in found if name.startswith("dng")]
    baselines = [name for name in found if name in ("np", "sld")]
    matched = {
        (a, b): tradeoff.matched(found[a], found[b], at=study_tables.at_one(found[a]))
        for a in trackers
        for b in baselines
    }
    levels = {
        (a, b): tradeoff.at_levels(found[b], study_tables.LEVELS, found[a])
        for a in trackers
        for b in baselines
    }
    own = {a: tradeoff.at_levels(found[a], study_tables.LEVELS) for a in trackers}
    areas = {(a, b): tradeoff.area(found[a], found[b]) for a in trackers for b in baselines}
    quality = {name: _quality(joined, make, name) for name in found}
    record: dict[str, Any] = {
        "curves": _stored(found),
        "matched": _rows(matched),
        "levels": _rows(levels),
        "areas": _rows(areas),
        "quality": quality,
        "counts": counts_of(cells, make),
        "own": {a: vars(found) for a, found in own.items()},
        "calls": {family: parts[0][2].calls for family, parts in joined.items()},
    }
    tables = [
        study_tables.settings_table(what, found, quality, record["calls"]),
        study_tables.matched_table(found, matched),
        study_tables.levels_table(own, levels),
        study_tables.areas_table(areas),
    ]
    return Summary(record, [t for t in tables if t.rows], pictures)


def several(cells: Cells, make: MakeProblem, config: Any, folder: Path) -> Summary:
    """Sets of classes forbidden at once, one table for all sizes."""
    table = Table(
        f"{config.dataset}, sets of neighbouring classes forbidden at once, "
        f"n = {config.part_samples} a set, {config.steps} steps",
        (
            "rule",
            "classes",
            "sets",
            "forbidden % [95%]",
            "KL [95%]",
            "reversed KL",
            "Frechet [95%]",
        ),
    )
    record: dict[int, Any] = {}
    for size in sorted({len(cell.forbidden) for cell in cells}):
        mine = {cell: found for cell, found in cells.items() if len(cell.forbidden) == size}
        found = _curves(join(mine), make)
        record[size] = _stored(found)
        for name, c in found.items():
            for i, scale in enumerate(c.scales):
                table.add(
                    study_tables.label(name, scale),
                    str(size),
                    str(len(_sets(mine))),
                    *study_tables.point(c, i),
                )
    return Summary(record, [table], [])


def sensitivity(cells: Cells, make: MakeProblem, config: Any, folder: Path) -> Summary:
    """One number of DNG at a time."""
    found = _curves(join(cells), make)
    table = Table(
        f"{config.dataset}, DNG with one number changed, "
        f"n = {config.part_samples} a forbidden class, {config.steps} steps",
        ("tracker", "changed", "forbidden % [95%]", "KL [95%]", "reversed KL", "Frechet [95%]"),
    )
    panels: dict[str, dict[str, list[tuple]]] = {}
    for name, c in found.items():
        for i, setting in enumerate(c.scales):
            changed = _changed(setting)
            text = ", ".join(f"{k} = {v:g}" for k, v in changed.items()) or "nothing"
            table.add(name, text, *study_tables.point(c, i))
            for knob, value in changed.items():
                panels.setdefault(knob, {}).setdefault(name, []).append((value, i))
        for knob, default in _defaults(make).items():
            if name in panels.get(knob, {}):
                panels[knob][name].append((default, 0))
    file = "sensitivity.png"
    plots.responses(
        {
            knob: {name: _response(found[name], points) for name, points in of.items()}
            for knob, of in panels.items()
        },
        folder / file,
        log_x=("lambda_0", "tau", "prior"),
        title=f"{config.dataset}: DNG, one number at a time, {config.steps} steps",
    )
    return Summary(
        _stored(found), [table], [(file, "Leak and KL against each number of the rule.")]
    )


def steps(cells: Cells, make: MakeProblem, config: Any, folder: Path) -> Summary:
    """The number of sampling steps."""
    table = Table(
        f"{config.dataset}, number of steps, lambda_0 = 1, "
        f"n = {config.part_samples} a forbidden class",
        ("tracker", "steps", "forbidden % [95%]", "KL [95%]", "reversed KL", "Frechet [95%]"),
    )
    record: dict[int, Any] = {}
    lines: dict[str, list[tuple]] = {}
    for count in sorted({cell.steps for cell in cells}):
        mine = {cell: found for cell, found in cells.items() if cell.steps == count}
        found = _curves(join(mine), make)
        record[count] = _stored(found)
        for name, c in found.items():
            table.add(name, str(count), *study_tables.point(c, 0))
            lines.setdefault(name, []).append((count, *_bounds(c, 0)))
    file = "steps.png"
    panel = {name: tuple(np.transpose(points)) for name, points in lines.items()}
    plots.responses({"steps": panel}, folder / file, log_x=("steps",), title=config.dataset)
    return Summary(record, [table], [(file, "Leak and KL against the number of steps.")])


PARTS: dict[str, Callable[[Cells, MakeProblem, Any, Path], Summary]] = {
    "curves": curves,
    "sensitivity": sensitivity,
    "steps": steps,
    "several": several,
}


def path(problem: Problem, config: Any, grids: Mapping[str, tuple], folder: Path) -> Summary:
    """The same noise along each rule's scales: chains that fall into the forbidden class unguided.

    From those among the first 512 chains; where fewer than 12 do, others fill the row.
    """
    table = problem.table(config.sampler, config.steps)
    keys = sample_keys(config.seeds[0], 512)
    x = initial_noise(keys, problem.info.shape, table)
    plain = rule_specs.build(rule_specs.parse("unguided"), problem, TrackerOptions())
    unguided = np.asarray(sample(problem.denoiser, table, plain, keys, x).x)
    labels, _ = problem.judge(unguided)
    order = np.argsort(~np.isin(labels, problem.forbidden), kind="stable")[:12]
    pictures = []
    name = "+".join(problem.info.class_names[k] for k in problem.forbidden)
    for family in (f for f in grids if f in ("np", "sld", "dng:pair", "dng:classes")):
        scales = grids[family]
        spec = rule_specs.parse(family)
        rules = [rule_specs.build(spec.with_scale(s), problem, TrackerOptions()) for s in scales]
        images = np.asarray(sweep(problem.denoiser, table, rules, keys[order], x[order]).x)
        file = f"path_{family.replace(':', '-')}.png"
        labels_of_rows = ["unguided", *(study_tables.label(family, s) for s in scales)]
        grid = np.concatenate([unguided[order][None], images])
        plots.image_grid(grid, folder / file, labels_of_rows, title=f"without {name}: {family}")
        pictures.append((file, f"{family}: one column a noise, scale growing downwards."))
    return Summary(None, [], pictures)


def join(cells: Cells) -> dict[str, list[tuple[tuple[int, ...], tuple[Setting, ...], Found]]]:
    """family -> (forbidden, settings, samples of all seeds together), in the order of the sets."""
    together: dict[tuple[str, tuple[int, ...]], list[tuple[Cell, Found]]] = {}
    for cell, found in cells.items():
        together.setdefault((cell.family, cell.forbidden), []).append((cell, found))
    out: dict[str, list] = {}
    for (family, forbidden), parts in sorted(
        together.items(), key=lambda item: (len(item[0][1]), item[0][1])
    ):
        labels = np.concatenate([found.labels for _, found in parts], axis=1)
        features = np.concatenate([found.features for _, found in parts], axis=1)
        out.setdefault(family, []).append(
            (forbidden, parts[0][0].settings, Found(labels, features, parts[0][1].calls))
        )
    order = list(dict.fromkeys(cell.family for cell in cells))
    return {family: out[family] for family in order}


def counts_of(cells: Cells, make: MakeProblem) -> list[dict[str, Any]]:
    """One record a cell and setting: what was asked for, and counts of the judge's labels."""
    out = []
    for cell, found in cells.items():
        top = make(cell.forbidden).info.num_classes
        for setting, labels in zip(cell.settings, found.labels, strict=True):
            counts = np.bincount(labels, minlength=top)
            facts = {
                "forbidden": cell.forbidden,
                "rule": study_tables.label(cell.family, setting.scale),
            }
            out.append(facts | {"seed": cell.seed, "counts": counts})
    return out


def _curves(joined, make: MakeProblem) -> dict[str, tradeoff.Curve]:
    families = list(joined)
    sets = [forbidden for forbidden, _, _ in joined[families[0]]]
    scales = {}
    for family in families:
        settings = joined[family][0][1]
        plain = all(s.options == TrackerOptions() for s in settings)
        scales[family] = [s.scale for s in settings] if plain else list(settings)
    return tradeoff.curves(
        {family: [found.labels for _, _, found in joined[family]] for family in families},
        sets,
        make(sets[0]).info.num_classes,
        scales,
        frechet={family: _frechet(joined[family], make) for family in families},
        frechet_error={family: _frechet_errors(joined[family], make) for family in families},
        independent=[family for family in families if family == "floor"],
    )


def _stored(found: Mapping[str, tradeoff.Curve]) -> dict[str, dict[str, Any]]:
    """The curves without their thousands of bootstrap draws."""
    return {name: {k: v for k, v in vars(c).items() if k != "draws"} for name, c in found.items()}


def _frechet(parts, make: MakeProblem) -> np.ndarray:
    return np.array(
        [[make(forbidden).real.distance(_moments(f)) for f in found.features]
         for forbidden, _, found in parts]
    )  # fmt: skip


def _frechet_errors(parts, make: MakeProblem) -> np.ndarray:
    """[F, S] bootstrap standard errors over the samples of each set and setting."""
    errors = []
    for forbidden, _, found in parts:
        real, rng = make(forbidden).real, np.random.default_rng(forbidden)
        n = found.labels.shape[1]
        rows = rng.integers(n, size=(FRECHET_RESAMPLES, n))
        errors.append([np.std(real.distances(f, rows), ddof=1) for f in found.features])
    return np.array(errors)


def _moments(features) -> Moments:
    return Moments.zero(features.shape[1]).update(features)


def _quality(joined, make: MakeProblem, family: str) -> dict[str, np.ndarray]:
    """KID, precision and recall, means over the forbidden sets, [S] each."""
    out: dict[str, list] = {"kid": [], "precision": [], "recall": []}
    for forbidden, _, found in joined[family]:
        real = make(forbidden).real_features
        scores = [_scores(real, f.astype(np.float64)) for f in found.features]
        for name in out:
            out[name].append([s[name] for s in scores])
    return {name: np.mean(values, axis=0) for name, values in out.items()}


def _scores(real, fake) -> dict[str, float]:
    overlap = precision_and_recall(fake, real)
    assert overlap.recall is not None  # both sets are at hand
    return {
        "kid": kid(fake, real).value,
        "precision": overlap.precision.value,
        "recall": overlap.recall.value,
    }


def _trade_offs(found, config, folder: Path, name: str, what: str) -> list[tuple[str, str]]:
    pictures = []
    for measure, label in (
        ("kl", "KL(target || generated) (nats)"),
        ("reversed", "KL(generated || target) (nats)"),
        ("frechet", "Frechet distance"),
    ):
        shown = {
            family: (
                100 * c.leak,
                100 * c.leak_low,
                100 * c.leak_high,
                getattr(c, measure),
                getattr(c, f"{measure}_low", None),
                getattr(c, f"{measure}_high", None),
            )
            for family, c in found.items()
            if family != "floor"
        }
        marks = {}
        if "floor" in found:
            floor = found["floor"]
            y = max(float(getattr(floor, measure)[0]), 0.0)
            marks = {"floor": (100 * float(floor.leak[0]), y)}
        file = f"{name}_{measure}.png"
        title = f"{config.dataset}, mean over {what}, {config.steps} steps"
        plots.trade_off(shown, folder / file, points=marks, y_label=label, title=title)
        pictures.append((file, f"Share of the forbidden class against {label.split(' (')[0]}."))
    return pictures


def _bounds(c: tradeoff.Curve, i: int) -> tuple[float, ...]:
    leak = (100 * c.leak[i], 100 * c.leak_low[i], 100 * c.leak_high[i])
    return (*leak, c.kl[i], c.kl_low[i], c.kl_high[i])


def _response(c: tradeoff.Curve, points) -> tuple[np.ndarray, ...]:
    rows = [(value, *_bounds(c, i)) for value, i in sorted(points)]
    return tuple(np.transpose(rows))


def _changed(setting: Setting | float) -> dict[str, float]:
    """The numbers in which a setting differs from the default."""
    if not isinstance(setting, Setting):
        setting = Setting(setting)
    default = vars(TrackerOptions())
    out = {k: v for k, v in vars(setting.options).items() if v != default[k]}
    if setting.scale not in (None, 1.0):
        out["lambda_0"] = setting.scale
    return out


def _defaults(make: MakeProblem) -> dict[str, float]:
    return {"lambda_0": 1.0, "tau": 1.0, "drift": 0.0, "delta": 0.0} | {
        "prior": 1 / make((0,)).info.num_classes
    }


def _sets(cells: Cells) -> list[tuple[int, ...]]:
    return sorted({cell.forbidden for cell in cells})


def _rows(pairs: Mapping[tuple[str, str], Any]) -> list[dict[str, Any]]:
    return [{"reference": a, "rule": b} | vars(found) for (a, b), found in pairs.items()]
