"""Is the tracked posterior right? Trackers as detectors on unguided runs.

    python -m eval.calibration                        the bundled network, judged by its classifier
    python -m eval.calibration --denoiser exact       against the closed-form posterior

Unguided chains are sampled once for each step table, recording what each step says about every
class; then every tracker is replayed on the record. Each class in turn plays the forbidden one: the
figures for one class are averages over these K events a run (which exclude one another, so the bars
of the reliability curves are a little wide). Together they are a vector, normalised for pair and
odds, and judged as a forecast of the class.
Temperatures are fitted twice: on labelled data noised along the forward chain (nothing generated),
and on the first half of the runs; all figures are of the second half.
"""

from __future__ import annotations

import dataclasses
import operator
from dataclasses import dataclass, field
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from dng_jax import (
    Step,
    check_finite,
    data,
    guidance,
    initial_noise,
    plots,
    posterior,
    sample,
    sample_keys,
)
from dng_jax.errors import InputError, MissingDataError, choose
from dng_jax.experiments import problems
from dng_jax.experiments.problems import Source
from dng_jax.jobs import cli, runs
from dng_jax.jobs.devices import Devices
from dng_jax.jobs.tables import Table, publish
from dng_jax.metrics import calibration, reliability
from dng_jax.steps import StepTable, noise_ratio

TRACKERS = ("pair", "odds", "classes")
FITS = ("raw", "fitted on data", "fitted on runs")


@dataclass(frozen=True)
class Config:
    """Calibration of the tracked posterior."""

    dataset: str = "digits"
    source: Annotated[Source, tyro.conf.arg(name="")] = field(default_factory=Source)
    base: str = "model"
    """What the unguided runs follow: model, the base prediction; mixture, the classes' own,
    weighted by the `classes` tracker (what that tracker guides from by default)."""
    samplers: tuple[str, ...] = ("ddpm", "ddpm-paper", "ddim")
    """Step tables; deterministic ones are tracked with the divergence probe."""
    trackers: tuple[str, ...] = TRACKERS
    steps: int = 50
    samples: int = 2048
    """Unguided runs; half of them fit, half of them judge."""
    batch: int = 512
    knots: int = 8
    """Knots of the temperature over log-SNR."""
    seed: int = 0
    devices: Annotated[Devices, tyro.conf.arg(name="")] = field(default_factory=Devices)
    out: str | None = None
    """Folder of the results; default: a new one, runs/calibration, runs/calibration-2, ..."""
    overwrite: bool = False


def main(config: Config) -> list[dict[str, Any]]:
    """Runs the job and returns its records."""
    for name in config.trackers:
        choose(name, TRACKERS, "tracker")
    choose(config.base, ("model", "mixture"), "base")
    if config.samples < 4 or config.samples % 2:
        raise InputError(f"--samples must be even and at least 4, got {config.samples}")
    if config.batch < 1:
        raise InputError(f"--batch must be at least 1, got {config.batch}")
    if not 2 <= config.knots < config.steps:
        raise InputError(f"--knots must lie between 2 and --steps - 1, got {config.knots}")
    config.devices.select()
    problem = problems.make(config.dataset, ("0",), config.source)
    tables = {name: problem.table(name, config.steps) for name in config.samplers}
    folder = runs.new_run_folder(config.out, config, job="calibration", overwrite=config.overwrite)

    labelled = labelled_images(config)
    fits: tuple[str, ...] = FITS
    if isinstance(labelled, MissingDataError):
        print(f"nothing is fitted on data: {labelled}")
        fits = tuple(fit for fit in FITS if fit != "fitted on data")
    records: list[dict[str, Any]] = []
    for sampler, table in tables.items():
        evidence, labels, exact = record(problem, table, config)
        if not isinstance(labelled, MissingDataError):
            on_data, labels_of_data = forward(problem, table, config, *labelled)
        half = config.samples // 2
        halves = [
            jax.tree.map(operator.itemgetter((slice(None), part)), evidence)
            for part in (slice(half), slice(half, None))
        ]
        for name in config.trackers:
            for fit in fits:
                tracker = build(name, problem.info.num_classes, probes_of(table))
                if fit == "fitted on data":
                    tracker = fitted(tracker, on_data, labels_of_data, table, config.knots, 0)
                elif fit == "fitted on runs":
                    tracker = fitted(tracker, halves[0], labels[:half], table, config.knots)
                judged, truth = labels[half:], None if exact is None else exact[:, half:]
                records.append(
                    {"sampler": sampler, "tracker": name, "fit": fit}
                    | judge(tracker, halves[1], judged, truth, table)
                )

    results = {"config": config, "provenance": runs.provenance(), "judge": problem.judge_name}
    runs.write_json(folder / "results.json", results | {"records": records})
    draw(folder, records, tables)
    publish(folder, table_of(config, records))
    print(f"written to {folder}")
    return records


def record(problem, table, config: Config):
    """Evidence [T-1, B, ...] of unguided runs, the judge's labels [B], exact log-posteriors."""
    rule = guidance.recorder(concepts(problem), unguided(problem, config, table), probes_of(table))
    mixture = problem.mixture

    def exact(state, step: Step):
        return {"exact": mixture.log_posterior(step.x, step.row.alpha, step.row.sigma)}

    parts, labels, truths = [], [], []
    for first in range(0, config.samples, config.batch):
        size = min(config.batch, config.samples - first)
        keys = sample_keys(config.seed, size, first)
        x = initial_noise(keys, problem.info.shape, table)
        observe = None if mixture is None else exact
        result = sample(problem.denoiser, table, rule, keys, x, observe=observe)
        check_finite(result, config.steps, first)
        parts.append(jax.device_get(guidance.recorded(result.trace)))
        labels.append(problem.judge(result.x)[0])
        if mixture is not None:
            truths.append(np.asarray(result.trace["exact"])[1:])
    evidence = jax.tree.map(lambda *a: jnp.concatenate(a, axis=1), *parts)
    return evidence, np.concatenate(labels), np.concatenate(truths, axis=1) if truths else None


def unguided(problem, config: Config, table: StepTable):
    """The rule of unguided runs."""
    if config.base == "model":
        return guidance.unguided()
    tracker = build("classes", problem.info.num_classes, probes_of(table))
    return guidance.dynamic_negative(tracker, 0.0)


def labelled_images(config: Config) -> tuple[np.ndarray, np.ndarray] | MissingDataError:
    """As many labelled images as there are runs; of those the network has not seen, where there
    are any. A bundled network can be judged without them: then what load said about them."""
    try:
        split = "all" if config.dataset == "digits" else "test"
        images, labels, _ = data.load(config.dataset, split)
    except MissingDataError as error:
        return error
    return data.to_unit(images[: config.samples]), labels[: config.samples]


def forward(problem, table, config: Config, x: np.ndarray, labels: np.ndarray):
    """Evidence along the forward chain of labelled images in [-1, 1], and their labels."""
    rule = guidance.recorder(concepts(problem))
    keys = sample_keys(config.seed + 1, len(x))
    return posterior.forward_evidence(problem.denoiser, table, rule, jnp.asarray(x), keys), labels


def concepts(problem) -> tuple[str, ...]:
    """Every class as a role."""
    return tuple(f"class:{k}" for k in range(problem.info.num_classes))


def probes_of(table: StepTable) -> int:
    """Tables with less noise than their kernel need the divergence."""
    return int(np.median(noise_ratio(table)) < 0.5)


def build(name: str, num_classes: int, probes: int) -> Any:
    """A tracker with uniform prior: one forbidden class, or all classes."""
    if name == "classes":
        return posterior.classes(num_classes, (0,), probes=probes)
    make: Any = posterior.pair if name == "pair" else posterior.odds
    return make(1 / num_classes, probes=probes)


def fitted(tracker, evidence, labels, table, knots: int, probes: int | None = None):
    """The tracker with the temperature that fits these labelled chains.

    probes: those of the chains, where they differ from the tracker's own (forward chains: 0).
    """
    evidence, outcomes = tracker.arrange(evidence, labels)
    as_seen = tracker if probes is None else dataclasses.replace(tracker, probes=probes)
    fit = posterior.fit_temperature(as_seen, evidence, table, outcomes, knots=knots)
    return dataclasses.replace(tracker, temperature=fit.temperature)


def judge(tracker, evidence, labels, exact, table) -> dict[str, Any]:
    """Metrics of one tracker at the end of the chain, and its error over the chain."""
    k = evidence.inner.shape[2]
    own, _ = tracker.arrange(evidence, labels)
    p = tracker.class_probabilities(posterior.replay(tracker, own, table, own.inner[0]), k)
    event = labels[:, None] == np.arange(k)
    binary = calibration(p[-1].ravel(), event.ravel())
    out = {
        "temperature": tracker.temperature,
        "binary": binary,
        "p_of_true_class": float(p[-1][event].mean()),
        "reliability": reliability(p[-1].ravel(), event.ravel()),
        "vector": calibration(p[-1] / p[-1].sum(axis=1, keepdims=True), labels),
    }
    if exact is not None:
        gap = np.abs(p - np.exp(exact))
        out["error_over_time"] = gap.mean(axis=(1, 2))
    else:
        out["brier_over_time"] = ((p - event) ** 2).mean(axis=(1, 2))
    return out


def draw(folder, records, tables) -> None:
    """Reliability curves and error over time, one picture a step table."""
    for sampler, table in tables.items():
        mine = [r for r in records if r["sampler"] == sampler]
        shown = [r for r in mine if r["fit"] != "fitted on runs"]
        for tracker in dict.fromkeys(r["tracker"] for r in mine):
            curves = {r["fit"]: r["reliability"] for r in mine if r["tracker"] == tracker}
            plots.reliability(
                curves,
                folder / f"reliability_{sampler}_{tracker}.png",
                title=f"tracker {tracker}, {sampler}, end of the chain",
            )
        kind = "error_over_time" if "error_over_time" in mine[0] else "brier_over_time"
        label = (
            "mean |p - exact|" if kind == "error_over_time" else "Brier score of the judge's label"
        )
        plots.error_over_time(
            {f"{r['tracker']}, {r['fit']}": r[kind] for r in shown},
            folder / f"{kind}_{sampler}.png",
            logsnr=np.asarray(table.logsnr)[1:],
            y_label=label,
            title=sampler,
        )


def table_of(config: Config, records) -> Table:
    """The table a person reads."""
    table = Table(
        f"{config.dataset}, {config.source.denoiser}, {config.steps} steps,"
        f" {config.samples // 2} held-out runs",
        (
            "step table",
            "tracker",
            "temperature",
            "one class: NLL",
            "ECE",
            "p of true class",
            "all classes: NLL (s.e.)",
            "agreement % [95%]",
            "final error",
        ),
    )
    for r in records:
        vector = r["vector"]
        error = r.get("error_over_time")
        table.add(
            r["sampler"],
            r["tracker"],
            r["fit"],
            f"{r['binary'].nll:.4f}",
            f"{r['binary'].ece:.4f}",
            f"{r['p_of_true_class']:.3f}",
            f"{vector.nll:.3f} ({vector.nll_error:.3f})",
            f"{100 * vector.agreement:.1f} [{100 * vector.agreement_low:.1f},"
            f" {100 * vector.agreement_high:.1f}]",
            None if error is None else f"{error[-1]:.1e}",
        )
    return table


if __name__ == "__main__":
    cli.main(lambda: main(tyro.cli(Config, description=__doc__)))
