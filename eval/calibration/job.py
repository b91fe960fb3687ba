"""Trackers as detectors on unguided runs; see eval.calibration."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dng_jax import Step, guidance, plots, posterior, sample_keys
from dng_jax.errors import InputError, MissingDataError, choose
from dng_jax.experiments import calibrations, problems
from dng_jax.experiments.calibrations import Calibration, Correction
from dng_jax.experiments.generating import Draw, generate
from dng_jax.experiments.problems import Problem
from dng_jax.jobs import runs
from dng_jax.jobs.cells import interval, number, titled
from dng_jax.jobs.opening import open_run
from dng_jax.jobs.options import at_least, program, seed, shown
from dng_jax.jobs.tables import Table, publish
from dng_jax.metrics.forecasts import class_forecasts
from dng_jax.mixtures import Mixture
from dng_jax.posterior.evidence import Evidence
from dng_jax.rules import class_roles
from dng_jax.steps import StepTable, nearly_deterministic

from . import information
from .labelled import labelled_images
from .options import TRACKERS, Config


def main(config: Config) -> list[dict[str, Any]]:
    """Runs the job and returns its records."""
    # ---- parse
    check(config)
    if config.source.retrained is not None:
        raise InputError("--retrained has no tracker to calibrate: leave it out")

    # ---- build
    config.data.use()
    config.devices.select()
    problem = problems.make(config.dataset, ("0",), config.source)
    if config.information:
        return information.run(config, problem)
    if not problem.knows_classes:
        raise InputError(
            f"a calibration asks for every class, {problem.network} knows none: choose another"
            " --network"
        )
    tables = {name: problem.table(name, config.steps) for name in config.samplers}
    folder = open_run(program(__package__), config, "calibration", [problem.info])
    labelled = labelled_images(config.dataset, config.samples)
    if isinstance(labelled, MissingDataError):
        print(f"nothing is fitted on data: {labelled}")

    # ---- sample, fit and replay
    compared = {s: compare(problem, table, config, labelled) for s, table in tables.items()}
    records = [{"sampler": s} | r for s, (found, _) in compared.items() for r in found]

    # ---- write
    facts = {"config": config, "provenance": runs.provenance()}
    facts |= {"classifier": problem.classifier_name, "records": records}
    runs.write_json(folder / "results.json", facts)
    for sampler, (_, corrections) in compared.items():
        made = calibration_of(problem, config, sampler, corrections)
        with runs.writing(folder):
            calibrations.save(folder / f"calibration_{sampler}.json", made)
    publish(folder, table_of(config, records))
    with runs.writing(folder):
        pictures(folder, records, tables)
    print(f"written to {folder}")
    return records


def check(config: Config) -> None:
    """Refuses what makes no sense before anything is computed."""
    for name in config.trackers:
        choose(name, TRACKERS, "tracker")
    choose(config.base, ("model", "mixture"), "base")
    at_least(1, batch=config.batch)
    seed(seed=(config.seed, config.seed + 1))
    if config.source.features != "classifier":
        raise InputError("--features belongs to distances, here labels alone count: leave it out")
    if config.information:
        usual = Config()
        for name in ("base", "samplers", "trackers", "knots"):
            if getattr(config, name) != getattr(usual, name):
                raise InputError(f"--information takes no --{name}: leave it out")
        at_least(2, steps=config.steps)
        at_least(1, samples=config.samples)
        return
    if config.samples < 4 or config.samples % 2:
        raise InputError(f"--samples must be even and at least 4, got {config.samples}")
    if not 2 <= config.knots < config.steps:
        raise InputError(f"--knots must lie between 2 and --steps - 1, got {config.knots}")


@dataclass(frozen=True, eq=False)
class Runs:
    """Evidence [T-1, B, ...] of B chains, the label [B] each ended with, exact q [T-1, B, K]."""

    evidence: Evidence
    labels: np.ndarray
    exact: np.ndarray | None = None

    def part(self, chosen: slice) -> Runs:
        """Some of the chains."""
        rows = operator.itemgetter((slice(None), chosen))
        exact = None if self.exact is None else rows(self.exact)
        return Runs(jax.tree.map(rows, self.evidence), self.labels[chosen], exact)


def compare(
    problem: Problem,
    table: StepTable,
    config: Config,
    labelled: tuple[np.ndarray, np.ndarray] | MissingDataError,
) -> tuple[list[dict[str, Any]], dict[str, Correction]]:
    """One record per tracker and fit, on the runs of one step table; each tracker's best fit."""
    unguided = sampled(problem, table, config)
    half = config.samples // 2
    fit, test = unguided.part(slice(half)), unguided.part(slice(half, None))
    if not isinstance(labelled, MissingDataError):
        on_data = forward(problem, table, config.seed + 1, *labelled)
    k, probes = problem.info.num_classes, int(nearly_deterministic(table))
    records, corrections = [], {}
    for name in config.trackers:
        raw = build(name, k, probes)
        trackers = {"raw": raw}
        if not isinstance(labelled, MissingDataError):
            trackers["fitted on data"] = fitted(raw, on_data, table, config.knots, probes=0)
        best = trackers["fitted on runs"] = fitted(raw, fit, table, config.knots, probes=probes)
        if name != "classes":  # an offset of all its classes cancels
            best = fitted(raw, fit, table, config.knots, probes=probes, offset=True)
            trackers["fitted on runs, with offset"] = best
        corrections[name] = calibrations.of_tracker(best)
        for how, tracker in trackers.items():
            evidence, _ = tracker.arrange(test.evidence, test.labels)
            log_p = posterior.replay(tracker, evidence, table, evidence.inner[0])
            p = tracker.class_probabilities(log_p, k)
            facts = {"tracker": name, "fit": how, "temperature": tracker.temperature}
            facts |= {"offset": tracker.offset}
            records.append(facts | class_forecasts(p, test.labels, test.exact))
    return records, corrections


def calibration_of(
    problem: Problem, config: Config, sampler: str, corrections: dict[str, Correction]
) -> Calibration:
    """What the first half of the runs says, for the jobs that take it."""
    return Calibration(
        problem.info.key,
        calibrations.fingerprint(problem),
        sampler,
        config.steps,
        corrections,
        {"network": problem.network, "base": config.base, "classifier": problem.classifier_name}
        | {"seed": config.seed, "runs": config.samples // 2},
    )


def sampled(problem: Problem, table: StepTable, config: Config) -> Runs:
    """Unguided runs with their evidence and, of a mixture, the exact posterior."""
    k, probes, mixture = problem.info.num_classes, int(nearly_deterministic(table)), problem.mixture
    rule: Any = guidance.unguided()
    if config.base == "mixture":
        rule = guidance.dynamic_negative(build("classes", k, probes), 0.0)

    found = generate(
        problem,
        table,
        guidance.recorder(class_roles(problem.info.num_classes), rule, probes),
        Draw(config.samples, config.seed, batch=config.batch),
        observe=None if mixture is None else jax.tree_util.Partial(exact_posterior, mixture),
    )
    trace = {name: jnp.asarray(values[0]) for name, values in found.trace.items()}
    q = None if mixture is None else np.exp(np.asarray(trace["exact"])[1:])
    return Runs(guidance.recorded(trace), found.labels[0], q)


def exact_posterior(mixture: Mixture, state: Any, step: Step) -> dict[str, jax.Array]:
    """log p(k | x_t), [B, K]."""
    return {"exact": mixture.log_posterior(step.x, step.row.alpha, step.row.sigma)}


def forward(
    problem: Problem, table: StepTable, seed: int, x: np.ndarray, labels: np.ndarray
) -> Runs:
    """Evidence along the forward chains of labelled images."""
    rule, keys = guidance.recorder(class_roles(problem.info.num_classes)), sample_keys(seed, len(x))
    return Runs(
        posterior.forward_evidence(problem.denoiser, table, rule, jnp.asarray(x), keys), labels
    )


def build(name: str, num_classes: int, probes: int) -> Any:
    """A tracker with uniform prior: one forbidden class, or all classes."""
    if name == "classes":
        return posterior.classes(num_classes, (0,), probes=probes)
    make: Any = posterior.pair if name == "pair" else posterior.odds
    return make(1 / num_classes, probes=probes)


def fitted(
    tracker: Any, chains: Runs, table: StepTable, knots: int, probes: int, offset: bool = False
) -> Any:
    """The tracker with the temperature (and offset) that fits chains, of so many probes."""
    evidence, outcomes = tracker.arrange(chains.evidence, chains.labels)
    as_seen = dataclasses.replace(tracker, probes=probes)
    fit = posterior.fit_temperature(as_seen, evidence, table, outcomes, knots=knots, offset=offset)
    return dataclasses.replace(tracker, temperature=fit.temperature, offset=fit.offset)


def pictures(folder: Path, records: Sequence[dict[str, Any]], tables: dict[str, StepTable]) -> None:
    """Reliability curves and error over time, one picture per step table."""
    labels = {
        "error_over_time": "mean |p - exact|",
        "brier_over_time": "Brier score of the classifier's label",
    }
    for sampler, table in tables.items():
        mine = [r for r in records if r["sampler"] == sampler]
        for tracker in dict.fromkeys(r["tracker"] for r in mine):
            plots.reliability(
                {r["fit"]: r["reliability"] for r in mine if r["tracker"] == tracker},
                folder / f"reliability_{sampler}_{tracker}.png",
                title=f"tracker {tracker}, {sampler}, end of the chain",
            )
        (kind,) = labels.keys() & mine[0].keys()
        plots.error_over_time(
            {f"{r['tracker']}, {r['fit']}": r[kind] for r in mine if r["fit"] != "fitted on runs"},
            folder / f"{kind}_{sampler}.png",
            logsnr=np.asarray(table.logsnr)[1:],
            y_label=labels[kind],
            title=sampler,
        )


def table_of(config: Config, records: Sequence[dict[str, Any]]) -> Table:
    """The table a person reads."""

    def final_error(r: dict[str, Any]) -> str | None:
        return f"{r['error_over_time'][-1]:.1e}" if "error_over_time" in r else None

    def score(r: dict[str, Any], name: str) -> str:
        figure = r["scores"][name]
        return interval(figure.value, figure.low, figure.high, sparse=r["sparse"])

    def agreement(r: dict[str, Any]) -> str:
        v = r["vector"]
        shares = (100 * v.agreement, 100 * v.agreement_low, 100 * v.agreement_high)
        return "{:.1f} [{:.1f}, {:.1f}]".format(*shares)

    title = (
        f"{shown(config.dataset)}, {config.source.denoiser}, {config.steps} steps,"
        f" {config.samples // 2} held-out runs"
    )
    return Table.of(
        titled(title, (r["sparse"] for r in records)),
        records,
        {
            "step table": "sampler",
            "tracker": "tracker",
            "temperature": "fit",
            "one class: NLL [95%]": lambda r: score(r, "nll"),
            "ECE [95%]": lambda r: score(r, "ece"),
            "AUC [95%]": lambda r: score(r, "auc"),
            "p of true class": lambda r: number(r["p_of_true_class"], 3, r["sparse"]),
            "all classes: NLL (s.e.)": lambda r: (
                f"{r['vector'].nll:.3f} ({r['vector'].nll_error:.3f})"
            ),
            "agreement % [95%]": agreement,
            "final error": final_error,
        },
    )
