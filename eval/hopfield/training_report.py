"""What `eval.hopfield training` shows: tables and pictures of its records; see training.py.

Units: accuracy and what is lost of it are shares of the test images, 0 to 1; entropy is in units of
log N, 0 to 1; logarithms are to base 10; U is a share, 0 one curve, 1 nothing in common.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax.jobs.cells import interval
from dng_jax.jobs.tables import Table
from hopfield_jax import theory
from hopfield_jax.analyses import data_collapse
from hopfield_jax.plots import curves, grids, optima
from hopfield_jax.plots.curves import COLOURS, LINES, MARKERS, Curve, Panel
from hopfield_jax.plots.optima import Optimum

from .options import Training as Config

Line = dict[str, Any]
BEST = "best"
STATES = ("keys", "unit")
TITLES = {"keys": "states of the keys' norm", "unit": "states of unit variance"}
ABSCISSAE = {
    "beta": r"inverse temperature $\beta$",
    "beta_eff": curves.BETA_EFF,
    "logit_spread": "logit spread, start",
    "beta_d": r"$\beta d$, keys scaled to unit variance",
}
HEADINGS = {
    "beta": "beta",
    "beta_eff": "beta_eff",
    "logit_spread": "the logit spread",
    "beta_d": "beta d",
}
OBSERVED = {
    "accuracy": "test accuracy",
    "entropy_start": "entropy / log N, start",
    "log_entropy_start": "log (entropy / log N), start",
    "entropy_end": "entropy / log N, end",
    "log_entropy_end": "log (entropy / log N), end",
    "gradient_mean": "log gradient, mean",
    "key_gradient_start": "log key gradient, start",
    "key_gradient_mean": "log key gradient, mean",
}


def listed(words: Sequence[str]) -> str:
    """Words as a list of prose."""
    return " and ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else words[0]


def flat(fall: dict[str, Any]) -> dict[str, Any]:
    """The record of a collapse as a line of a CSV."""
    record = {name: fall[name] for name in ("states", "over", "observed", "rate")}
    for kind in ("unexplained", "gain"):
        for abscissa, found in fall[kind].items():
            names = (f"{kind}_{abscissa}{end}" for end in ("", "_low", "_high"))
            record |= dict(zip(names, found, strict=True))
    return record | {"noise": fall["noise"], "points": fall["points"]}


def tables(
    config: Config,
    test_images: int,
    *,
    collapse: Sequence[dict[str, Any]],
    best: Sequence[dict[str, Any]],
    best_of_all: Sequence[dict[str, Any]],
    one_for_all: Sequence[dict[str, Any]],
) -> list[Table]:
    """All tables of a run."""
    counts = listed([str(n) for n in config.counts])
    said = f"{config.dataset}, N = {counts}, {config.steps} steps, {config.seeds} seeds,"
    said += f" {test_images} test images"
    return [
        tops_table(said, best_of_all),
        *(collapse_table(said, states, collapse) for states in STATES),
        serving_table(said, config, one_for_all),
        *(peak_table(said, states, best) for states in STATES),
    ]


def bracketed(found: Sequence[float], digits: int) -> str:
    """A number with its interval."""
    value, low, high = found
    return interval(value, low, high, digits)


def significant(found: Sequence[float]) -> str:
    """A number of any size with its interval, to two digits."""
    value, low, high = map(two, found)
    return f"{value} [{low}, {high}]"


def two(value: float) -> str:
    """A number of any size to two digits, written out."""
    return f"{float(f'{value:.2g}'):.7g}"


def of(name: str, show: Callable[[Any], str]) -> Callable[[dict[str, Any]], str]:
    """A cell that shows this field of a record."""
    return lambda record: show(record[name])


def tops_table(said: str, found: Sequence[dict[str, Any]]) -> Table:
    """The best beta_eff of every rate, all curves together."""
    accuracy = partial(bracketed, digits=3)
    return Table.of(
        "where accuracy is highest, all curves together: geometric means of the best beta_eff and"
        f" beta sqrt(d), mean accuracies of 1 ({said})",
        found,
        {
            "states": lambda r: TITLES[r["states"]],
            "rate": "rate",
            "curves": "curves",
            "highest at an end": "edges",
            "best beta_eff": of("at", significant),
            "best beta sqrt(d)": of("beta_root_d", significant),
            "accuracy there": of("value", accuracy),
            "accuracy lost by 1/sqrt(d)": of("shortfall", accuracy),
        },
    )


def collapse_table(said: str, states: str, falls: Sequence[dict[str, Any]]) -> Table:
    """U over each abscissa, on the same points, what beta_eff gains, and U of seeds alone."""

    def share(abscissa: str) -> Callable[[dict[str, Any]], str]:
        return lambda r: bracketed(r["unexplained"][abscissa], 3)

    return Table.of(
        f"{TITLES[states]}: share U left unexplained, 0 one curve, 1 nothing in common, over all"
        f" abscissae on the same points ({said})",
        [fall for fall in falls if fall["states"] == states],
        {
            "curves that differ in": "over",
            "of": lambda r: OBSERVED[r["observed"]],
            "rate": "rate",
            **{f"U over {HEADINGS[a]}": share(a) for a in ABSCISSAE},
            "U over beta less over beta_eff": lambda r: bracketed(r["gain"]["beta_eff"], 3),
            "U of seeds alone": lambda r: f"{r['noise']:.3f}",
        },
    )


def serving_table(said: str, config: Config, serving: Sequence[dict[str, Any]]) -> Table:
    """What it costs to choose one value for all N, d and norms."""
    many = {"norm": config.norms, "N": config.counts, "d": config.dimensions}
    varied = [name for name, values in many.items() if len(values) > 1]
    table = Table(
        f"one value for every {listed(varied or ['curve'])}: accuracy lost, of 1, against each"
        f" curve's own best ({said})",
        ("states", "rate", "one value of", "best", "accuracy lost on average", "at worst"),
    )
    for row in serving:
        for name, heading in {**HEADINGS, "beta_root_d": "beta sqrt(d)"}.items():
            found = row[name]
            lost, worst = bracketed(found.loss, 3), f"{found.worst:.3f}"
            kind = TITLES[row["states"]], row["rate"]
            table.add(*kind, heading, significant(found.at), lost, worst)
    return table


def peak_table(said: str, states: str, best: Sequence[dict[str, Any]]) -> Table:
    """Where accuracy is highest, and what 1/sqrt(d) loses."""

    def where(r: dict[str, Any]) -> str:
        return significant(r["best"]) + (", at an end" if r["edge"] else "")

    accuracy = partial(bracketed, digits=3)
    return Table.of(
        f"{TITLES[states]}: where accuracy is highest, and beta = 1/sqrt(d); accuracies of 1"
        f" ({said})",
        [r for r in best if r["states"] == states],
        {
            "N": "N",
            "d": "d",
            "norm / sqrt(d)": "norm",
            "rate": "rate",
            "best beta_eff": where,
            "accuracy within .01 from, to": lambda r: " to ".join(map(two, r["plateau"])),
            "best beta sqrt(d)": lambda r: two(r["best"].value / r["usual"]),
            "accuracy": of("accuracy", accuracy),
            "beta_eff of 1/sqrt(d)": lambda r: f"{r['usual']:.3g}",
            "accuracy lost there": of("shortfall", accuracy),
            "K_s(N)": lambda r: f"{r['K_s']:.3g}",
            "equidistant keys at the best": "phase",
        },
    )


def pictures(
    folder: Path,
    config: Config,
    lines: Sequence[Line],
    best: Sequence[dict[str, Any]],
    weights: np.ndarray,
) -> list[Callable[[], object]]:
    """What draws accuracy and entropy of the middle N, and the best beta_eff, into the folder."""
    made: list[Callable[[], object]] = [
        partial(draw, folder, config, lines, weights, states, seen)
        for states in STATES
        for seen in ("accuracy", "entropy")
    ]
    return [*made, partial(draw_optima, folder, config, best)]


def middle(config: Config) -> int:
    """The N that is drawn."""
    return config.counts[len(config.counts) // 2]


def look(config: Config, record: dict[str, Any]) -> tuple[str, str, str]:
    """The name of a curve, its colour by the norm and its marker by the dimension."""
    j, k = config.norms.index(record["norm"]), config.dimensions.index(record["d"])
    name = rf"$d = {record['d']}$, $|k| = {record['norm']:g}\sqrt{{d}}$ at the start"
    return name, COLOURS[j % len(COLOURS)], MARKERS[k % len(MARKERS)]


def draw(
    folder: Path,
    config: Config,
    lines: Sequence[Line],
    weights: np.ndarray,
    states: str,
    seen: str,
) -> None:
    """Accuracy, or entropy before and after, at each rate over every abscissa."""
    n = middle(config)
    rates = (*config.rates, BEST)
    rows = [(f"{seen}_end" if seen == "entropy" else seen, rate) for rate in rates]
    if seen == "entropy":
        rows.insert(0, ("entropy_start", config.rates[0]))
    panels = []
    for name, rate in rows:
        wanted = (states, n, rate)
        own = [e for e in lines if (e["states"], e["N"], e["rate"]) == wanted]
        own.sort(key=lambda line: (config.norms.index(line["norm"]), line["d"]))
        row = []
        for abscissa, label in ABSCISSAE.items():
            drawn = []
            for line in own:
                title, colour, marker = look(config, line)
                dashes = LINES[config.dimensions.index(line["d"]) % len(LINES)]
                y, *band = data_collapse.mean(line[name], weights)
                x = line["x"][abscissa]
                drawn.append((title, Curve(x, y, "line", colour, marker, dashes, tuple(band))))
            y_label = OBSERVED[name]
            if not name.endswith("_start"):
                y_label += "\n" + ("best rate" if rate == BEST else f"rate {rate:g}")
            marks = marks_of(config, abscissa, n)
            row.append(Panel(drawn, y_label, label, marks, log_y=name == "entropy_end"))
        panels.append(row)
    title = f"{config.dataset}, N = {n}, {TITLES[states]}, {config.seeds} seeds"
    path = folder / f"{seen}_{states}.png"
    grids.grid(panels, path, columns=len(config.norms), title=title)


def marks_of(config: Config, abscissa: str, n: int) -> dict[str, float]:
    """1/sqrt(d) over beta; K_s and K_c over beta_eff."""
    if abscissa == "beta":
        return {rf"$1/\sqrt{{{d}}}$": 1 / math.sqrt(d) for d in config.dimensions}
    if abscissa == "beta_eff" and n > 2:
        k_s, k_c, _ = theory.characteristic(n)
        return {"$K_s$": k_s, "$K_c$": k_c}
    return {}


def draw_optima(folder: Path, config: Config, best: Sequence[dict[str, Any]]) -> None:
    """The best beta_eff of each curve at each rate; and with the keys scaled to unit variance."""
    n = middle(config)
    k_s = {"$K_s$": theory.spinodal(n).K} if n > 2 else {}
    usual = {rf"$\sqrt{{{d}}}$": math.sqrt(d) for d in config.dimensions}
    rows = []
    for states in STATES:
        as_they_are, scaled = [], []
        for r in best:
            if (r["states"], r["N"]) != (states, n):
                continue
            rate = "best" if r["rate"] == BEST else f"{r['rate']:g}"
            made = Optimum(rate, r["best"], r["edge"], *look(config, r))
            as_they_are.append(made)
            # beta d: the rule 1/sqrt(d) is sqrt(d) there
            unit = np.asarray(r["best"]) * math.sqrt(r["d"]) / r["usual"]
            scaled.append(made._replace(value=tuple(unit)))
        rows.append(
            [
                optima.Panel(as_they_are, r"best $\beta_{\mathrm{eff}}$", TITLES[states], k_s),
                optima.Panel(scaled, r"best $\beta d$", "keys scaled to unit variance", usual),
            ]
        )
    title = f"{config.dataset}, N = {n}, {config.seeds} seeds: where accuracy is highest"
    title += " (hollow: at an end of the grid)"
    optima.draw(rows, folder / "optima.png", x_label="learning rate", title=title)
