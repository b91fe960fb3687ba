"""Subcommand about the guidance window; see eval.hopfield."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dng_jax import check_finite, guidance, initial_noise, posterior, sample, sample_keys
from dng_jax.experiments import problems
from dng_jax.jobs.tables import Table
from eval.hopfield.sets import Common, at_least, write_csv
from eval.hopfield.transition import Results
from hopfield_jax import diffusion
from hopfield_jax.plots import figures


@dataclass(frozen=True)
class Diffusion(Common):
    """Where p(c|x_t) and DNG's scale rise along real chains, against what is predicted."""

    dataset: str = "digits"
    """Data set whose images are the mixture's components."""
    forbid: str = "0"
    """Class c."""
    steps: int = 100
    samples: int = 512
    """Chains of each kind."""
    sampler: str = "ddpm"


def diffusion_problem(config: Diffusion) -> problems.Problem:
    """The exact problem; InputError for what makes none."""
    at_least("samples", config.samples, 16)
    at_least("steps", config.steps, 5)
    problem = problems.make(config.dataset, (config.forbid,), problems.Source("exact"))
    problem.table(config.sampler, config.steps)
    return problem


def diffusion_(config: Diffusion, problem: problems.Problem, folder: Path) -> Results:
    mixture = problem.mixture
    assert mixture is not None
    forbidden = problem.forbidden
    table = problem.table(config.sampler, config.steps)
    prior = diffusion.prior_of(mixture, forbidden)
    logsnr = np.asarray(table.logsnr, np.float64)
    rules: dict[str, Any] = {
        "unguided": guidance.unguided(),
        "classes": guidance.dynamic_negative(
            posterior.classes(problem.info.num_classes, forbidden)
        ),
        "pair": guidance.dynamic_negative(posterior.pair(prior)),
    }
    keys = sample_keys(config.seed, config.samples)
    noise = initial_noise(keys, problem.info.shape, table)
    chains = {}
    for name, rule in rules.items():
        chains[name] = sample(
            problem.denoiser,
            table,
            rule,
            keys,
            noise,
            observe=diffusion.observer(mixture, forbidden),
        )
        check_finite(chains[name], len(logsnr))
    exact = {name: np.asarray(r.trace["exact"], np.float64) for name, r in chains.items()}
    scale = {name: np.asarray(r.trace["lambda"], np.float64)
             for name, r in chains.items() if "lambda" in r.trace}  # fmt: skip
    push = {name: diffusion.push(s, chains[name].trace["gap"]) for name, s in scale.items()}
    inside = diffusion.ends_in(mixture, chains["unguided"].x, forbidden)
    known = diffusion.resolved(exact["unguided"], inside)
    curves = {"share of the label resolved": known}
    foreseen = diffusion.predicted_share(mixture, forbidden, logsnr)
    curves |= {"resolved, predicted": foreseen}
    curves |= {f"guidance applied ({n})": diffusion.accumulated(p) for n, p in push.items()}
    measured = {name: diffusion.window_of(logsnr, curve) for name, curve in curves.items()}
    members = np.median(exact["unguided"][:, inside], axis=1)
    crosses = diffusion.crossing(logsnr, members, 0.5)
    rises = diffusion.scale_doubles(logsnr, scale["classes"], prior)
    predicted = diffusion.markers(mixture, forbidden)
    marks = predicted.logsnr()

    words = {
        "speciation": "speciation, SNR lambda_max(Cov) = 1",
        "class_speciation": "of the classes, SNR lambda_max(Cov_B) = 1",
        "evidence": "posterior of members passes 1/2",
        "collapse": "collapse, beta a = 2 log N",
        "image_collapse": "single images separate (own distances)",
    }
    left = Table(f"{config.dataset} mixture, class {config.forbid}: predicted log SNR",
                      ("marker", "log SNR"))  # fmt: skip
    for name, word in words.items():
        left.add(word, marks.get(name))
    right = Table(
        f"windows, {config.samples} chains of {config.steps} steps: log SNR",
        ("curve", "10%", "50%", "90%"),
    )
    for name, window in measured.items():
        right.add(name, *window)
    right.add("median p(c|x_t) of chains that end in c passes 1/2", None, crosses, None)
    right.add("90% quantile of lambda_t doubles (classes)", None, rises, None)
    errors = Table(
        "tracked against exact posterior (guided chains)",
        ("tracker", "mean |dp| over the chain", "final mean |dp|", "share ending in c"),
    )
    for name in scale:
        error = diffusion.tracking_error(chains[name].trace["posterior"], exact[name])
        share = diffusion.ends_in(mixture, chains[name].x, forbidden).mean()
        errors.add(name, f"{error.chain:.2e}", f"{error.final:.2e}", f"{100 * share:.2f}%")
    write_csv(folder / "window.csv", {
        "logsnr": logsnr, "posterior_mean": exact["unguided"].mean(axis=1),
        "posterior_median_of_members": members,
        **curves,
        **{f"scale_{q}_{name}": np.quantile(s, q, axis=1)
           for name, s in scale.items() for q in (0.5, 0.9, 0.99)},
    })  # fmt: skip
    titles = {"speciation": "speciation", "class_speciation": "of the classes",
              "evidence": "p = 1/2",
              "collapse": "collapse", "image_collapse": "single images"}  # fmt: skip
    figures.window(
        logsnr,
        [
            ("chains that end in c", "1", exact["unguided"][:, inside]),
            ("other chains", "0", exact["unguided"][:, ~inside]),
        ],
        curves,
        scale["classes"],
        folder / "window.png",
        marks={titles[k]: v for k, v in marks.items()},
        measured=measured,
        prior=prior,
        title=f"Guidance window: {config.dataset} mixture, class {config.forbid},"
        f" {config.samples} chains",
    )
    results = {
        "predicted": predicted, "predicted_logsnr": marks, "measured": measured,
        "members_cross": crosses, "scale_doubles": rises, "prior": prior,
        "chains_in_class": int(inside.sum()), "logsnr": logsnr, "curves": curves,
    }  # fmt: skip
    return results, [left, right, errors], []
