"""What theory says and what is measured; see eval.exact."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dng_jax import (
    Step,
    check_finite,
    guidance,
    initial_noise,
    mixtures,
    posterior,
    sample,
    sample_keys,
    steps,
)
from dng_jax.errors import InputError
from dng_jax.experiments import problems
from dng_jax.experiments.source import Source
from dng_jax.jobs import devices, runs
from dng_jax.jobs.cells import interval, titled
from dng_jax.jobs.opening import open_run
from dng_jax.jobs.options import at_least, distinct, program, seed
from dng_jax.jobs.tables import Table, publish
from dng_jax.metrics import class_counts, class_report
from dng_jax.metrics.forecasts import posterior_error
from dng_jax.mixtures import Mixture
from dng_jax.schedules import linear
from dng_jax.steps import StepTable

from . import dimension
from .options import Config

DNG = guidance.dynamic_negative
PLANE_WEIGHTS = (0.1, 0.45, 0.45)
IDENTITY_STEPS = 100
SKIP_BELOW, SKIPPED = 0.2, (4, 8, 16)


class Plan(NamedTuple):
    """One figure to measure: what it is called, the rule and its step table."""

    what: str
    rule: Any
    table: StepTable


def main(config: Config) -> dict[str, Any]:
    """Runs everything, prints two tables, writes results.json."""
    # ---- parse
    at_least(2, samples=config.samples)
    seed(seed=config.seed)
    if config.datasets:
        distinct(datasets=config.datasets, steps=config.steps)
    else:
        only_with_datasets(config)

    # ---- build
    config.data.use()
    devices.select()
    asked = dimension.build(config) if config.datasets else None
    infos = [] if asked is None else [model.info for model in asked.models.values()]
    folder = open_run(program(__package__), config, "exact", infos)
    if asked is not None:
        return dimension.run(config, asked, folder)
    problem = problems.make("digits", ("0",), Source("exact"))
    digits, gaussians, shape = problem.mixture, three_gaussians(), problem.info.shape
    assert digits is not None
    n, points = config.samples, 2 * config.samples

    # ---- sample and classify
    on_digits = [measure(plan, digits, shape, n, config.seed) for plan in digits_plans(digits)]
    identity = exact_identity(digits, shape, n, config.seed)
    plane = [measure(plan, gaussians, (2,), points, config.seed) for plan in plane_plans(gaussians)]

    # ---- write
    publish(
        folder,
        table_of(f"digits mixture, digit 0 forbidden, n = {n}", on_digits),
        table_of(f"three Gaussians in the plane, 10% forbidden, n = {points}", plane),
    )
    print(
        f"exact posterior against exact complement, same noise, {identity['steps']} steps:"
        f" largest pixel difference {identity['largest_difference']:.2e},"
        f" share of pixels beyond 1e-3: {identity['share_beyond']:.2e}"
    )
    results = {
        "config": config,
        "provenance": runs.provenance(),
        "digits": on_digits,
        "plane": plane,
        "identity": identity,
    }
    runs.write_json(folder / "results.json", results)
    return results


def only_with_datasets(config: Config) -> None:
    """InputError for options of --datasets without it."""
    for name in ("steps", "patterns"):
        if getattr(config, name) != getattr(Config(), name):
            raise InputError(f"--{name} belongs to --datasets: name some, or leave it out")


def digits_plans(mixture: Mixture) -> Iterator[Plan]:
    """Trackers and baselines on the digits mixture."""

    def ddpm(what: str, rule: Any, count: int) -> Plan:
        return Plan(what, rule, steps.ddpm(linear(), count))

    pair = DNG(posterior.pair(0.1))
    trackers = {"pair": pair, "odds": DNG(posterior.odds(0.1))}
    trackers["classes"] = DNG(posterior.classes(10, (0,)))
    yield ddpm("exact posterior", DNG(posterior.oracle(mixture, (0,))), 100)
    for count in (25, 50, 100):
        for name, rule in trackers.items():
            yield ddpm(name, rule, count)
    for name, make in (("pair", posterior.pair), ("odds", posterior.odds)):
        for every in SKIPPED:
            rule = DNG(make(0.1), skip_below=SKIP_BELOW, every=every)
            yield ddpm(f"{name}, looking at p >= {SKIP_BELOW} and one step in {every}", rule, 50)
    yield ddpm("pair", pair, 1000)
    yield ddpm("NP lambda = 1", guidance.negative_prompt(1.0), 1000)
    yield ddpm("NP lambda = 0.2", guidance.negative_prompt(0.2), 1000)
    yield ddpm("unguided", guidance.unguided(), 100)


def three_gaussians(scale: float = 0.35) -> Mixture:
    """Means on the unit circle, weights .1, .45, .45; class 0 is the one to forbid."""
    angle = np.pi / 2 + 2 * np.pi * np.arange(3) / 3
    means = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return mixtures.gaussians(means, scale, weights=PLANE_WEIGHTS)


def plane_plans(mixture: Mixture) -> Iterator[Plan]:
    """DDIM(0) with plain and corrected trackers, beside the ancestral sampler."""
    for count in (50, 250):
        for what, rule in _plane_rules(mixture, probed=True).items():
            yield Plan(f"DDIM, {what}", rule, steps.ddim(linear(), count))
        for what, rule in _plane_rules(mixture, probed=False).items():
            yield Plan(f"DDPM, {what}", rule, steps.ddpm(linear(), count))


def _plane_rules(mixture: Mixture, probed: bool) -> dict[str, Any]:
    rules = {
        "unguided": guidance.unguided(),
        "exact posterior": DNG(posterior.oracle(mixture, (0,))),
    }
    for probes in (0, 1) if probed else (0,):
        label = " corrected" if probes else (" plain" if probed else "")
        rules[f"pair{label}"] = DNG(posterior.pair(0.1, probes=probes))
        rules[f"odds{label}"] = DNG(posterior.odds(0.1, probes=probes))
        tracker = posterior.classes(3, (0,), prior=PLANE_WEIGHTS, probes=probes)
        rules[f"classes{label}"] = DNG(tracker)
    return rules


def measure(
    plan: Plan, mixture: Mixture, shape: Sequence[int], n: int, seed: int
) -> dict[str, Any]:
    """Samples one rule and compares classes and tracked posterior with the closed form.

    A record of leak with its Wilson interval, KL less its bias, and mean |p - exact| at the last
    noise level (error, with its standard error) and over all of them (error_chain); asked: share of
    the steps at which a sample asked for the negative, None where the rule always does.
    """

    def exact(state, step: Step):
        log_p = mixture.log_posterior(step.x, step.row.alpha, step.row.sigma)
        return {"exact": jnp.exp(log_p[:, 0])}

    denoise = mixtures.mixture_denoiser(mixture, {"negative": (0,)})
    keys = sample_keys(seed, n)
    x = initial_noise(keys, shape, plan.table)
    with warnings.catch_warnings():
        # The plain tracker on DDIM is the point of the comparison.
        warnings.simplefilter("ignore", UserWarning)
        result = sample(denoise, plan.table, plan.rule, keys, x, observe=exact)
    count = len(plan.table.index)
    check_finite(result, count)

    labels = np.asarray(mixture.log_posterior(result.x, 1.0, 0.0)).argmax(axis=1)
    allowed = np.arange(mixture.num_classes) > 0
    target = np.where(allowed, np.asarray(mixture.prior, np.float64), 0)
    report = class_report(class_counts(labels, mixture.num_classes), allowed, target / target.sum())
    leak, kl, trace = report.leak, report.forward, result.trace
    error = None
    if "posterior" in trace:
        error = posterior_error(np.asarray(trace["posterior"]), np.asarray(trace["exact"]))
    return {
        "what": plan.what,
        "steps": count,
        "samples": n,
        "leak": leak.value,
        "leak_low": leak.low,
        "leak_high": leak.high,
        "kl": kl.corrected,
        "kl_low": kl.low,
        "kl_high": kl.high,
        "sparse": kl.sparse,
        "error": error and error.final,
        "error_se": error and error.final_error,
        "error_chain": error and error.chain,
        "asked": float(np.mean(trace["asked"])) if "asked" in trace else None,
    }


def exact_identity(
    mixture: Mixture, shape: Sequence[int], n: int, seed: int, count: int = IDENTITY_STEPS
) -> dict[str, Any]:
    """Exact-posterior guidance against unguided sampling of the complement, on one noise."""
    table = steps.ddpm(linear(), count)
    keys = sample_keys(seed, n)
    x = initial_noise(keys, shape, table)
    whole = mixtures.mixture_denoiser(mixture, {"negative": (0,)})
    guided = sample(whole, table, DNG(posterior.oracle(mixture, (0,))), keys, x)
    complement = mixtures.mixture_denoiser(mixture.restrict(range(1, mixture.num_classes)))
    target = sample(complement, table, guidance.unguided(), keys, x)
    difference = np.abs(np.asarray(guided.x - target.x))
    return {
        "steps": count,
        "samples": n,
        "largest_difference": float(difference.max()),
        "share_beyond": float((difference > 1e-3).mean()),
    }


def table_of(title: str, records: Sequence[dict[str, Any]]) -> Table:
    """One table."""

    def leak(r: dict[str, Any]) -> str:
        return f"{100 * r['leak']:.2f} [{100 * r['leak_low']:.2f}, {100 * r['leak_high']:.2f}]"

    def error(r: dict[str, Any]) -> str | None:
        return None if r["error"] is None else f"{r['error']:.1e} ({r['error_se']:.0e})"

    def chain(r: dict[str, Any]) -> str | None:
        return None if r["error_chain"] is None else f"{r['error_chain']:.1e}"

    def asked(r: dict[str, Any]) -> str | None:
        return None if r["asked"] is None else f"{100 * r['asked']:.1f}"

    columns: dict[str, Any] = {
        "rule": "what",
        "steps": "steps",
        "leak % [95%]": leak,
        "KL [95%]": lambda r: interval(r["kl"], r["kl_low"], r["kl_high"], sparse=r["sparse"]),
        "final |dp| (s.e.)": error,
        "mean |dp| over the chain": chain,
        "negative asked %": asked,
    }
    if all(r["asked"] is None for r in records):
        del columns["negative asked %"]
    return Table.of(titled(title, (r["sparse"] for r in records)), records, columns)
