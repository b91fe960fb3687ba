"""Where guidance switches on along real chains, beside what is predicted; see eval.hopfield."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dng_jax import check_finite, guidance, initial_noise, posterior, sample, sample_keys
from dng_jax.experiments import problems
from dng_jax.experiments.source import Source
from dng_jax.jobs.options import shown
from dng_jax.jobs.tables import Table, write_csv
from dng_jax.metrics import window
from dng_jax.metrics.forecasts import posterior_error
from hopfield_jax import diffusion
from hopfield_jax.plots import figures

from .common import Outcome, bounded, cell, plain
from .options import Diffusion as Config

MARKERS = {  # of diffusion.Markers: in the table, in the figure
    "speciation": ("speciation, SNR lambda_max(Cov) = 1", "speciation"),
    "class_speciation": ("of the classes, SNR lambda_max(Cov_B) = 1", "class speciation"),
    "evidence": ("posterior of members passes 1/2", "p = 1/2"),
    "collapse": ("collapse, beta a = 2 log N", "collapse"),
    "image_collapse": ("single images separate (own distances)", "single images"),
}


class Chains(NamedTuple):
    """What was seen along B chains of T steps: exact p(c | x_t), |eps_c - eps_base|, lambda_t and
    the tracked posterior, all [T, B], the last two empty without guidance; which end in c, [B]."""

    exact: np.ndarray
    gap: np.ndarray
    lambda_t: np.ndarray
    tracked: np.ndarray
    inside: np.ndarray


def prepare(config: Config) -> problems.Problem:
    """The exact problem; InputError for what makes none."""
    bounded(16, 65_536, samples=config.samples)
    bounded(5, math.inf, steps=config.steps)  # the step table bounds it above
    problem = problems.make(config.dataset, (config.forbid,), Source("exact"))
    problem.table(config.sampler, config.steps)
    return problem


def run(config: Config, problem: problems.Problem, folder: Path) -> Outcome:
    """Predicted markers, measured windows, and the error of the tracked posterior."""
    mixture, forbidden = problem.mixture, problem.forbidden
    assert mixture is not None
    prior = diffusion.prior_of(mixture, forbidden)
    logsnr = np.asarray(problem.table(config.sampler, config.steps).logsnr, np.float64)
    chains = sampled(config, problem, prior)
    free = chains["unguided"]
    guided = {name: c for name, c in chains.items() if c.lambda_t.size}
    members = np.median(free.exact[:, free.inside], axis=1)
    shares = {
        "share of the label resolved": window.resolved(free.exact, free.inside),
        "resolved, predicted": diffusion.predicted_share(mixture, forbidden, logsnr),
    }
    for name, c in guided.items():
        shares[f"guidance applied ({name})"] = window.accumulated(window.push(c.lambda_t, c.gap))
    predicted = diffusion.markers(mixture, forbidden)
    results = {
        "predicted": predicted,
        "predicted_logsnr": predicted.logsnr(),
        "measured": {name: window.window_of(logsnr, curve) for name, curve in shares.items()},
        "members_cross": window.crossing(logsnr, members, 0.5),
        "lambda_doubles": window.lambda_doubles(logsnr, chains["classes"].lambda_t, prior),
        "prior": prior,
        "chains_in_class": int(free.inside.sum()),
        "tracking": [tracking(name, c) for name, c in guided.items()],
        "logsnr": logsnr,
        "curves": shares,
    }
    columns = {
        "logsnr": logsnr,
        "posterior_mean": free.exact.mean(axis=1),
        "posterior_median_of_members": members,
        **shares,
    }
    for name, c in guided.items():
        columns |= {
            f"lambda_{q}_{name}": np.quantile(c.lambda_t, q, axis=1) for q in (0.5, 0.9, 0.99)
        }
    write_csv(folder / "window.csv", [columns])
    pictures = [partial(draw, folder, config, results, chains)]
    return Outcome(results, tables_of(config, results), [], pictures)


def sampled(config: Config, problem: problems.Problem, prior: float) -> dict[str, Chains]:
    """Chains of the same noise, unguided and guided by two trackers."""
    mixture, forbidden = problem.mixture, problem.forbidden
    assert mixture is not None
    table = problem.table(config.sampler, config.steps)
    classes = posterior.classes(problem.info.num_classes, forbidden)
    rules: dict[str, Any] = {
        "unguided": guidance.unguided(),
        "classes": guidance.dynamic_negative(classes),
        "pair": guidance.dynamic_negative(posterior.pair(prior)),
    }
    keys = sample_keys(config.seed, config.samples)
    noise = initial_noise(keys, problem.info.shape, table)
    observe = diffusion.observer(mixture, forbidden)
    chains = {}
    for name, rule in rules.items():
        result = sample(problem.denoiser, table, rule, keys, noise, observe=observe)
        check_finite(result, len(table.index))
        seen = {key: np.asarray(values, np.float64) for key, values in result.trace.items()}
        inside = diffusion.ends_in(mixture, result.x, forbidden)
        lambda_t, tracked = (seen.get(key, np.empty(0)) for key in ("lambda", "posterior"))
        chains[name] = Chains(seen["exact"], seen["gap"], lambda_t, tracked, inside)
    return chains


def tracking(name: str, chains: Chains) -> dict[str, Any]:
    """Tracked against exact posterior along guided chains."""
    error = posterior_error(chains.tracked.astype(np.float64), chains.exact.astype(np.float64))
    return {"tracker": name, **error._asdict(), "share_in_class": float(chains.inside.mean())}


def tables_of(config: Config, results: Mapping[str, Any]) -> list[Table]:
    """Predicted and measured log SNR, and the trackers' errors."""
    predicted = [
        {"marker": words, "log SNR": results["predicted_logsnr"].get(name)}
        for name, (words, _) in MARKERS.items()
    ]
    levels = ("10%", "50%", "90%")
    windows = [
        {"curve": name, **dict(zip(levels, passed, strict=True))}
        for name, passed in results["measured"].items()
    ]
    for curve, at in (
        ("median p(c|x_t) of chains that end in c passes 1/2", results["members_cross"]),
        ("90% quantile of lambda_t doubles (classes)", results["lambda_doubles"]),
    ):
        windows.append({"curve": curve, "10%": None, "50%": at, "90%": None})
    mixture = f"{shown(config.dataset)} mixture, class {config.forbid}"
    counts = f"{config.samples} chains of {config.steps} steps"
    return [
        Table.of(f"{mixture}: predicted log SNR", predicted, {k: k for k in ("marker", "log SNR")}),
        Table.of(f"windows, {counts}: log SNR", windows, {k: k for k in ("curve", *levels)}),
        Table.of(
            "tracked against exact posterior (guided chains)",
            results["tracking"],
            {
                "tracker": "tracker",
                "mean |dp| over the chain": cell("chain", ".2e"),
                "final mean |dp|": cell("final", ".2e"),
                "share ending in c": cell("share_in_class", ".2%"),
            },
        ),
    ]


def draw(
    folder: Path, config: Config, results: Mapping[str, Any], chains: Mapping[str, Chains]
) -> None:
    """Posterior, shares, lambda_t, and the windows as bars."""
    free = chains["unguided"]
    figures.window(
        results["logsnr"],
        [
            ("chains that end in c", 1, free.exact[:, free.inside]),
            ("other chains", 0, free.exact[:, ~free.inside]),
        ],
        results["curves"],
        chains["classes"].lambda_t,
        folder / "window.png",
        marks={MARKERS[name][1]: at for name, at in results["predicted_logsnr"].items()},
        measured=results["measured"],
        prior=results["prior"],
        title=plain(
            f"Guidance window: {shown(config.dataset)} mixture, class {config.forbid},"
            f" {config.samples} chains"
        ),
    )
