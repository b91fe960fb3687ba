"""The claims about exactly solvable models, as one table: what theory says and what is measured.

    python -m eval.exact                      all of it, about 10 minutes on 2 CPU cores
    python -m eval.exact --samples 512        a quick look

On scikit-learn's digits as a Gaussian mixture (scale .15, linear betas), digit 0 forbidden,
lambda_0 = tau = 1, delta = 0: guidance with the exact posterior against sampling the exact
complement on the same noise; trackers and baselines at several step counts. On three Gaussians in
the plane, 10% of the mass forbidden: deterministic DDIM with and without the divergence term.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import tyro

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
from dng_jax.jobs import cli, runs
from dng_jax.jobs.tables import Table, publish
from dng_jax.metrics import class_counts, class_report
from dng_jax.mixtures import Mixture
from dng_jax.schedules import linear

DNG = guidance.dynamic_negative
PLANE_WEIGHTS = (0.1, 0.45, 0.45)


@dataclass(frozen=True)
class Config:
    """Measures the exactly solvable models."""

    samples: int = 4096
    """Images for each figure on the digits mixture; twice as many points in the plane."""
    seed: int = 0
    out: str | None = None
    """Folder of the results; default: a new one, runs/exact, runs/exact-2, ..."""
    overwrite: bool = False


@dataclass(frozen=True)
class Measured:
    """One row: leak with its Wilson interval, KL less its bias, error of the tracked posterior.

    error: mean |p - exact| at the last noise level, with standard error; error_chain: mean over
    all levels.
    """

    what: str
    steps: int
    samples: int
    leak: float
    leak_low: float
    leak_high: float
    kl: float
    kl_low: float
    kl_high: float
    error: float | None
    error_se: float | None
    error_chain: float | None


def main(config: Config) -> dict[str, Any]:
    """Runs everything, prints two tables, writes results.json."""
    if config.samples < 2:
        raise InputError(f"--samples must be at least 2, got {config.samples}")
    folder = runs.new_run_folder(config.out, config, job="exact", overwrite=config.overwrite)
    problem = problems.make("digits", ("0",), problems.Source("exact"))
    rows = [*digits(problem, config.samples, config.seed)]
    identity = exact_identity(problem, config.samples, config.seed)
    plane = [*in_the_plane(2 * config.samples, config.seed)]
    publish(
        folder,
        table_of(f"digits mixture, digit 0 forbidden, n = {config.samples}", rows),
        table_of(f"three Gaussians in the plane, 10% forbidden, n = {2 * config.samples}", plane),
    )
    print(
        f"exact posterior against exact complement, same noise, {identity['steps']} steps:"
        f" largest pixel difference {identity['largest_difference']:.2e},"
        f" share of pixels beyond 1e-3: {identity['share_beyond']:.2e}"
    )
    results = {
        "config": config,
        "provenance": runs.provenance(),
        "digits": rows,
        "plane": plane,
        "identity": identity,
    }
    runs.write_json(folder / "results.json", results)
    return results


def digits(problem: problems.Problem, n: int, seed: int):
    """Trackers and baselines on the digits mixture."""
    mixture = problem.mixture
    assert mixture is not None
    trackers = {
        "pair": DNG(posterior.pair(0.1)),
        "odds": DNG(posterior.odds(0.1)),
        "classes": DNG(posterior.classes(10, (0,))),
    }
    baselines = {
        "NP lambda = 1": guidance.negative_prompt(1.0),
        "NP lambda = 0.2": guidance.negative_prompt(0.2),
    }
    plan: list[tuple[str, Any, int]] = [
        ("exact posterior", DNG(posterior.oracle(mixture, (0,))), 100)
    ]
    plan += [(name, rule, count) for count in (25, 50, 100) for name, rule in trackers.items()]
    plan += [("pair", trackers["pair"], 1000)]
    plan += [(name, rule, 1000) for name, rule in baselines.items()]
    plan += [("unguided", guidance.unguided(), 100)]
    denoise = mixtures.mixture_denoiser(mixture, {"negative": (0,)})
    for what, rule, count in plan:
        table = steps.ddpm(linear(), count)
        yield measure(what, mixture, denoise, table, rule, problem.info.shape, n, seed)


def three_gaussians(scale: float = 0.35) -> Mixture:
    """Means on the unit circle, weights .1, .45, .45; class 0 is the one to forbid."""
    angle = np.pi / 2 + 2 * np.pi * np.arange(3) / 3
    means = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return mixtures.gaussians(means, scale, weights=PLANE_WEIGHTS)


def in_the_plane(n: int, seed: int):
    """DDIM(0) with plain and corrected trackers, beside the ancestral sampler."""
    mixture = three_gaussians()
    denoise = mixtures.mixture_denoiser(mixture, {"negative": (0,)})
    for count in (50, 250):
        tables = {"DDIM": steps.ddim(linear(), count), "DDPM": steps.ddpm(linear(), count)}
        for sampler, table in tables.items():
            for what, rule in _plane_rules(mixture, probed=sampler == "DDIM").items():
                with warnings.catch_warnings():
                    # The plain tracker on DDIM is the point of the comparison.
                    warnings.simplefilter("ignore", UserWarning)
                    yield measure(
                        f"{sampler}, {what}", mixture, denoise, table, rule, (2,), n, seed
                    )


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
    what: str, mixture: Mixture, denoise, table, rule, shape, n: int, seed: int
) -> Measured:
    """Samples one rule and compares classes and tracked posterior with the closed form."""

    def exact(state, step: Step):
        log_p = mixture.log_posterior(step.x, step.row.alpha, step.row.sigma)
        return {"exact": jnp.exp(log_p[:, 0])}

    keys = sample_keys(seed, n)
    result = sample(denoise, table, rule, keys, initial_noise(keys, shape, table), observe=exact)
    check_finite(result, len(table.index))
    labels = np.asarray(mixture.log_posterior(result.x, 1.0, 0.0)).argmax(axis=1)
    allowed = np.arange(mixture.num_classes) > 0
    target = np.where(allowed, np.asarray(mixture.prior, np.float64), 0)
    report = class_report(class_counts(labels, mixture.num_classes), allowed, target / target.sum())
    gap = None
    if "posterior" in result.trace:
        gap = np.abs(np.asarray(result.trace["posterior"] - result.trace["exact"]))
    return Measured(
        what,
        len(table.index),
        n,
        report.leak.value,
        report.leak.low,
        report.leak.high,
        report.forward.corrected,
        report.forward.low,
        report.forward.high,
        None if gap is None else float(gap[-1].mean()),
        None if gap is None else float(gap[-1].std() / np.sqrt(n)),
        None if gap is None else float(gap.mean()),
    )


def exact_identity(
    problem: problems.Problem, n: int, seed: int, count: int = 100
) -> dict[str, Any]:
    """Exact-posterior guidance against unguided sampling of the complement, on one noise."""
    mixture = problem.mixture
    assert mixture is not None
    table = steps.ddpm(linear(), count)
    keys = sample_keys(seed, n)
    x = initial_noise(keys, problem.info.shape, table)
    guided = sample(
        mixtures.mixture_denoiser(mixture, {"negative": (0,)}),
        table,
        DNG(posterior.oracle(mixture, (0,))),
        keys,
        x,
    )
    complement = mixtures.mixture_denoiser(mixture.restrict(range(1, 10)))
    target = sample(complement, table, guidance.unguided(), keys, x)
    difference = np.abs(np.asarray(guided.x - target.x))
    return {
        "steps": count,
        "samples": n,
        "largest_difference": float(difference.max()),
        "share_beyond": float((difference > 1e-3).mean()),
    }


def table_of(title: str, rows: list[Measured]) -> Table:
    """One table."""
    table = Table(
        title,
        (
            "rule",
            "steps",
            "leak % [95%]",
            "KL [95%]",
            "final |dp| (s.e.)",
            "mean |dp| over the chain",
        ),
    )
    for r in rows:
        table.add(
            r.what,
            r.steps,
            f"{100 * r.leak:.2f} [{100 * r.leak_low:.2f}, {100 * r.leak_high:.2f}]",
            f"{r.kl:.4f} [{r.kl_low:.4f}, {r.kl_high:.4f}]",
            None if r.error is None else f"{r.error:.1e} ({r.error_se:.0e})",
            None if r.error_chain is None else f"{r.error_chain:.1e}",
        )
    return table


if __name__ == "__main__":
    cli.main(lambda: main(tyro.cli(Config, description=__doc__)))
