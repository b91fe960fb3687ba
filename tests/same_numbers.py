"""Records the numbers that this project computes, and compares two records.

    python tests/same_numbers.py record OUT [--only NAME ...] [--no-library]
                                            [--jobs JOB ...] [--no-jobs]
    python tests/same_numbers.py compare A B [--only NAME ...] [--jobs JOB ...]
    python tests/same_numbers.py list

For changes of the code that must change no number: record before, record after, compare.

record   part 1: every item of the library (the functions under "# ---- library") into
         OUT/library.npz, an array under "item/path" each; --only names items, or their beginnings
         ("guidance"), and leaves the others of an existing OUT as they are. Part 2: the commands of
         JOBS, each with its output in OUT/jobs/NAME; --jobs names some of them.
compare  the items of both records bit for bit; of the jobs the numbers in results.json, CSV files,
         tables, arrays, weights and metrics.jsonl, without clocks, configurations and provenance.
         Numbers are matched by their names first and by themselves after that, so that names may
         change. Exit code 1 where a number differs, or is there in one record only.

A record is made on one kind of machine, with one set of packages and the same number of cores: the
compiler's code, and with it the last digits, depends on all three. Two records of one commit on one
machine are equal bit for bit, clocks apart. The data sets mnist and cifar10 must be there
(DNG_JAX_DATA). The library takes some 6 minutes of one core, the jobs about an hour of two.

It is not called numbers.py: Python puts a script's folder first on its path, and every script here
that imports NumPy would find it in the place of the standard library's module `numbers`.

After modules were renamed, change the imports under "# ---- library" and the words of JOBS. The
names of items and jobs stay, since they are what two records are matched by; what was renamed
inside of an item keeps its older name in the record by FORMER_NAMES.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

os.environ.setdefault("JAX_PLATFORMS", "cpu")

ROOT = Path(__file__).resolve().parents[1]
LIBRARY: dict[str, Callable[[], Any]] = {}


def item(function: Callable[[], Any]) -> Callable[[], Any]:
    """Registers a part of the library under the function's name; what it returns is recorded."""
    LIBRARY[function.__name__] = function
    return function


# ---- jobs ---------------------------------------------------------------------------------------


class Job(NamedTuple):
    """words: the module and its arguments, {out} the job's own folder and {jobs} that of all jobs.
    Jobs run in the order of the table. copy: the job whose folder this one begins with."""

    words: str
    copy: str | None = None


TINY_UNET = "--network.channels 16 --network.head-channels 16 --network.embed-channels 16"
JOBS = {
    "train-heads": Job("train.diffusion --preset digits --steps 60 --log-every 10 --out {out}"),
    "train-label": Job(
        f"train.diffusion --preset digits --conditioning label --steps 40 --log-every 5 {TINY_UNET}"
        " --out {out}"
    ),
    "train-plain": Job(
        f"train.diffusion --preset digits --steps 40 --log-every 5 {TINY_UNET}"
        " --conditioning none --out {out}"
    ),
    "train-only": Job(
        f"train.diffusion --preset digits --steps 40 --log-every 5 {TINY_UNET}"
        " --conditioning none --only-class 0 --out {out}"
    ),
    "train-references": Job(
        f"train.diffusion --preset digits --steps 40 --log-every 5 {TINY_UNET}"
        " --references 20 --save-every 10 --export best --dtype float16 --out {out}"
    ),
    "train-mnist": Job(
        "train.diffusion --preset mnist-small --steps 6 --log-every 1 --batch-size 16"
        " --examples 2000 --sample-every 0 --out {out}"
    ),
    "train-classifier": Job("train.classifier --preset digits --steps 150 --out {out}"),
    "class_removal": Job("eval.class_removal --out {out}"),
    "class_removal-exact": Job(
        "eval.class_removal --denoiser exact --samples 128 --forbid 3 --forbid 8"
        " --rules unguided np=0.3 sld=0.5 dng:pair dng:odds=2 dng dng:exact --out {out}"
    ),
    "class_removal-label": Job(
        "eval.class_removal --network label --samples 64 --steps 25 --sampler ddpm-paper"
        " --rules unguided reference np=0.3 dng:pair=3 dng:classes --seeds 0 1 --out {out}"
    ),
    "class_removal-two": Job(
        "eval.class_removal --network {jobs}/train-plain/model.safetensors"
        " --negatives {jobs}/train-only/model.safetensors --samples 64"
        " --rules unguided np=0.5 dng:pair=3 --out {out}"
    ),
    "class_removal-mnist": Job(
        "eval.class_removal --dataset mnist --samples 48 --cpu-devices 2 --out {out}"
    ),
    "calibration": Job("eval.calibration --out {out}"),
    "calibration-exact": Job(
        "eval.calibration --denoiser exact --samples 256 --base mixture --steps 25 --out {out}"
    ),
    "study": Job(
        "eval.study --forbid 0 --forbid 8 --samples 60 --part-samples 30 --seeds 0 --out {out}"
    ),
    "report": Job("eval.study.report {out}", copy="study"),
    "attention": Job("eval.hopfield attention --out {out}"),
    **{
        f"hopfield-{name}": Job(f"eval.hopfield {name} --out {{out}}")
        for name in (
            "bifurcation",
            "phase-diagram",
            "collapse",
            "basins",
            "landscape",
            "retrieval",
            "capacity",
            "metastable",
            "spectrum",
            "diffusion",
        )
    },
    # A thousand steps of 4096 images, its default, take 20 minutes of one core.
    "exact": Job("eval.exact --samples 512 --out {out}"),
}


def run_jobs(out: Path, names: Sequence[str]) -> list[str]:
    """Runs the jobs named, one after the other; returns those that failed."""
    failed = []
    for name, job in JOBS.items():
        if name not in names:
            continue
        folder = out / "jobs" / name
        if folder.exists():
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if job.copy is not None:
            shutil.copytree(out / "jobs" / job.copy, folder)
        places = {"out": str(folder), "jobs": str(folder.parent)}
        words = [word.format(**places) for word in job.words.split()]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        seconds = time.monotonic() - began
        ended = "" if done.returncode == 0 else f"  FAILED with exit code {done.returncode}"
        print(f"{name:28} {seconds:7.1f} s{ended}", flush=True)
        if done.returncode:
            failed.append(name)
            print(done.stderr[-3000:], flush=True)
        log = out / "logs" / f"{name}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"{' '.join(words)}\n{seconds:.1f} s\n{done.stdout}\n{done.stderr}")
    return failed


# ---- library ------------------------------------------------------------------------------------

# This checkout, whichever one the environment has installed.
sys.path.insert(0, str(ROOT))

# The block to edit when modules are renamed.
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

from dng_jax import (  # noqa: E402
    data,
    denoisers,
    guidance,
    metrics,
    mixtures,
    nets,
    posterior,
    schedules,
    steps,
    sweeps,
    training,
    weights,
)
from dng_jax import sampling as chains  # noqa: E402
from dng_jax.metrics import forecasts, window  # noqa: E402
from dng_jax.training import presets, stable_targets  # noqa: E402
from dng_jax.training.checkpoints import Checkpoints  # noqa: E402
from dng_jax.weights import pretrained  # noqa: E402
from hopfield_jax import (  # noqa: E402
    attention,
    diffusion,
    distances,
    energy,
    equidistant,
    patterns,
    projections,
    spectrum,
    theory,
)
from hopfield_jax.analyses import (  # noqa: E402
    basins,
    capacity,
    landscape,
    metastable,
    retrieval,
    transition,
)
from hopfield_jax.analyses import sweeps as beta_sweeps  # noqa: E402
from hopfield_jax.solvers import (  # noqa: E402
    certificates,
    fixed_points,
    implicit,
    iterations,
    spaces,
    weight_space,
)

# Pattern of a part's path -> what older records call it.
FORMER_NAMES = {
    r"(?<=/)lambda(?=$|:)": "scale",
    r"^(metrics_shares/.*)/leak/": r"\1/forbidden/",
}

SHAPE = (2, 2)
DIGITS_SHAPE = (8, 8, 1)
MNIST_SHAPE = (28, 28, 1)
TINY = nets.UNetConfig(
    DIGITS_SHAPE, 10, "heads", "v", channels=8, multipliers=(1,), blocks=0, middle_blocks=1,
    patch=2, head_channels=8, embed_channels=16, resample="shuffle", scale_shift=True, dropout=0.1,
)  # fmt: skip


def toy(dtype: Any = np.float32) -> tuple[Any, Any]:
    """A mixture of three classes in four dimensions, and its denoiser."""
    rng = np.random.default_rng(5)
    mixture = mixtures.gaussians(
        rng.uniform(-1, 1, (5, 4)),
        np.array([0.1, 0.3, 0.2, 0.25, 0.15]),
        np.array([0, 2, 1, 0, 2]),
        np.array([1.0, 2.0, 0.5, 1.5, 1.0]),
        dtype=dtype,
    )
    roles = {"negative": [0], "positive": [1], "allowed": [1, 2], "second": [2]}
    return mixture, mixtures.mixture_denoiser(mixture, roles)


def normals(seed: int, *shape: int) -> np.ndarray:
    """Normal numbers from a fixed seed, float64."""
    return np.random.default_rng(seed).normal(size=shape)


def filled(module: Any, seed: int, *inputs: Any) -> Any:
    """Parameters of a module, all of them random: at its own start its output is zero."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(seed)

    def drawn(path: Any, v: Any) -> jax.Array:
        numbers = rng.normal(0, 0.1, v.shape)
        return jnp.asarray(abs(numbers) if path[-1].key == "variance" else numbers, v.dtype)

    return jax.tree.map_with_path(drawn, shapes)


def run(denoise: Any, table: Any, rule: Any, shape: Any, count: int = 6, **options: Any) -> Any:
    """Final images, state and trace of a rule."""
    keys = chains.sample_keys(0, count)
    return chains.sample(
        denoise, table, rule, keys, chains.initial_noise(keys, shape, table), **options
    )


def digits(kind: str) -> Any:
    """The bundled digits network, class 3 its negative, 5 its positive, 8 a second negative."""
    module, params, _ = pretrained.load(f"digits-{kind}")
    roles = {"negative": 3, "positive": 5, "second": 8}
    return denoisers.from_module(module, params, roles)


def tracked_rules(classes: int, probes: int = 0) -> dict[str, Any]:
    """Dynamic negative guidance by every tracker, with each of its numbers."""
    make, tau = guidance.dynamic_negative, ([-6.0, 0.0, 5.0], [1.0, 0.7, 0.2])
    both = ("negative", "second")
    some: dict[str, Any] = {"probes": probes}
    return {
        "pair": make(posterior.pair(0.3, **some)),
        "pair-numbers": make(
            posterior.pair(0.1, temperature=0.5, delta=2e-3, p_min=1e-3, p_max=0.9, **some), 3.0
        ),
        "pair-drift": make(posterior.pair(0.2, drift=0.5, temperature=tau, **some), scale_max=2.0),
        "pair-two": make(posterior.pair((0.2, 0.3), negatives=both, drift=0.25, **some), 0.5),
        "odds": make(posterior.odds(0.3, **some)),
        "odds-numbers": make(
            posterior.odds(0.1, temperature=0.5, delta=2e-3, p_min=1e-3, odds_max=9.0, **some), 3.0
        ),
        "odds-drift": make(posterior.odds(0.2, drift=0.5, temperature=tau, **some), scale_max=2.0),
        "odds-two": make(posterior.odds((0.2, 0.3), negatives=both, drift=0.25, **some), 0.5),
        "classes": make(posterior.classes(classes, [0], **some)),
        "classes-numbers": make(
            posterior.classes(
                classes, [0], temperature=0.5, delta=2e-3, drift=0.5, p_min=1e-3, **some
            ),
            2.0,
        ),
        "classes-model": make(
            posterior.classes(classes, [0, 1], temperature=tau, **some), 2.0, base="model"
        ),
        "classes-capped": make(posterior.classes(classes, [1], **some), 3.0, scale_max=1.0),
        "classes-prior": make(
            posterior.classes(
                classes, [0], prior=np.arange(1, classes + 1) / sum(range(classes + 1)), **some
            )
        ),
        "detector": make(posterior.classes(classes, [2], **some), 0.0),
    }


def plain_rules(table: Any) -> dict[str, Any]:
    """Rules without a tracker, feedback, and rules made of rules."""
    np_, both = guidance.negative_prompt, ("negative", "second")
    return {
        "unguided": guidance.unguided(),
        "unguided-positive": guidance.unguided("positive"),
        "classifier-free": guidance.classifier_free(2.5),
        "negative-prompt": np_(0.5),
        "negative-prompts": np_(0.3, negatives=both),
        "in-place": guidance.negative_in_place(2.0),
        "safe-latent": guidance.safe_latent(0.75),
        "safe-latent-numbers": guidance.safe_latent(
            0.5, scale=20.0, threshold=0.1, momentum_scale=0.5, momentum_beta=0.4
        ),
        **{
            f"safe-latent-{preset}": guidance.safe_latent_prompt(2.0, preset=preset)
            for preset in ("medium", "strong", "max")
        },
        "safe-latent-warmup": guidance.safe_latent_prompt(2.0, warmup=2, threshold=0.2),
        "feedback": guidance.feedback(0.9, temperature=0.5, offset=-0.05),
        "feedback-times": guidance.feedback_from_times(table, 0.6, 0.4, pi=0.8),
        "sum": guidance.sum_of(np_(0.3), guidance.classifier_free(1.5)),
        "sum-tracked": guidance.sum_of(
            guidance.dynamic_negative(posterior.pair(0.3)),
            guidance.dynamic_negative(posterior.pair(0.2, negatives=("second",)), 2.0),
        ),
        "interval": guidance.interval(guidance.classifier_free(3.0), sigma_min=0.1, sigma_max=2.0),
        "interval-tracked": guidance.interval(
            guidance.dynamic_negative(posterior.classes(3, [0])), sigma_max=3.0
        ),
    }


# -- schedules, steps


@item
def schedules_levels() -> Any:
    """Every schedule, and every spacing of some."""
    whole = {
        "linear": schedules.linear(),
        "linear-numbers": schedules.linear(60, 1e-3, 0.1),
        "scaled": schedules.scaled_linear(),
        "cosine": schedules.cosine(200),
        "edm": schedules.edm(40),
        "edm-numbers": schedules.edm(12, 0.01, 20.0, 5.0),
        "flow": schedules.flow(100),
        "betas": schedules.from_betas(np.array([0.1, 0.5, 0.02])),
    }
    out = {name: (schedule, schedule.logsnr) for name, schedule in whole.items()}
    for name in ("linear", "cosine", "edm", "flow"):
        for spacing in ("uniform", "trailing", "leading", "logsnr"):
            for count in (1, 7, 12):
                found = schedules.respace(whole[name], count, spacing)
                out[f"{name}-{spacing}-{count}"] = (found, found.logsnr)
    return out


@item
def schedules_conversions() -> Any:
    """Predictions of every kind into each other, in NumPy and JAX."""
    prediction, x = normals(0, 2, 5, 3)
    out: dict[str, Any] = {}
    name: Any
    for name in schedules.PARAMETERISATIONS:
        for alpha, sigma in ((0.8, 0.6), (1.0, 3.0), (0.4, 0.6)):
            key = f"{name}-{alpha}-{sigma}"
            out[f"to-{key}"] = schedules.to_eps(prediction, x, alpha, sigma, name)
            out[f"from-{key}"] = schedules.from_eps(prediction, x, alpha, sigma, name)
        floats = jnp.asarray(prediction), jnp.asarray(x)
        out[f"jax-{name}"] = schedules.to_eps(*floats, jnp.float32(0.8), jnp.float32(0.6), name)
    return out


@item
def steps_tables() -> Any:
    """Every table by name on every schedule; all columns."""
    made = {
        "linear": schedules.linear(),
        "scaled": schedules.scaled_linear(),
        "cosine": schedules.cosine(),
        "edm": schedules.edm(),
        "flow": schedules.flow(),
    }
    out: dict[str, Any] = {}
    for name, table in steps.TABLES.items():
        for kind, schedule in made.items():
            for count in (1, 10, 50):
                found = table(schedule, count)
                out[f"{name}-{kind}-{count}"] = (found, found.logsnr, steps.noise_ratio(found))
        out[f"{name}-all"] = table(schedules.cosine(30))
        for spacing in ("uniform", "trailing", "leading", "logsnr"):
            out[f"{name}-{spacing}"] = table(made["linear"], 13, spacing=spacing)
    return out


@item
def steps_numbers() -> Any:
    """Tables with numbers of their own."""
    out: dict[str, Any] = {}
    for sampling in ("posterior", "beta"):
        for scoring in ("posterior", "beta"):
            out[f"ancestral-{sampling}-{scoring}"] = steps.ancestral(
                schedules.linear(), 20, sampling_variance=sampling, scoring_variance=scoring
            )
    for eta in (0.0, 0.3, 1.0):
        out[f"ddim-{eta}"] = steps.ddim(schedules.edm(), 15, eta=eta, spacing="uniform")
    return out


# -- mixtures, denoisers, networks


@item
def mixtures_closed_form() -> Any:
    """Densities, posteriors, class predictions, draws, restriction, exact denoiser."""
    mixture, denoise = toy()
    x = jnp.asarray(normals(1, 7, *SHAPE), jnp.float32)
    out: dict[str, Any] = {"prior": mixture.prior, "restricted": mixture.restrict([0, 2])}
    for alpha, sigma in ((1.0, 0.0), (0.99, 0.05), (0.7, 0.7), (0.01, 1.0), (1.0, 5.0)):
        out[f"{alpha}-{sigma}"] = (
            mixture.log_class_joint(x, alpha, sigma),
            mixture.log_density(x, alpha, sigma),
            mixture.log_posterior(x, alpha, sigma),
            mixture.class_eps(x, alpha, sigma),
        )
    out["draw"] = mixture.draw(chains.sample_keys(3, 20), SHAPE)
    table = steps.ddpm(schedules.linear(), 5)
    for i in range(5):
        row = jax.tree.map(lambda column, i=i: jnp.asarray(column)[i], table)
        out[f"eps-{i}"] = denoise(x, row, ("base", "class:1", "negative", "allowed"))
    images, labels, _ = data.load("digits")
    few = mixtures.patterns(data.to_unit(images[:60]), labels[:60], 0.15)
    flat = jnp.asarray(normals(2, 3, 64), jnp.float32)
    out["digits"] = few.log_posterior(flat, 0.6, 0.8), few.class_eps(flat, 0.6, 0.8)
    return out


@item
def mixtures_double() -> Any:
    """The same in double precision."""
    with jax.enable_x64(True):
        mixture, _ = toy(np.float64)
        x = jnp.asarray(normals(1, 7, 4))
        return [
            (mixture.log_density(x, a, s), mixture.class_eps(x, a, s))
            for a, s in ((0.99, 0.05), (0.7, 0.7), (0.01, 1.0))
        ]


@item
def denoisers_every_kind() -> Any:
    """Label, heads, plain and separate networks, of every parameterisation, on tables of all
    families."""
    rows = {
        "vp": steps.ddpm(schedules.linear(), 4),
        "ve": steps.euler(schedules.edm(), 4),
        "flow": steps.euler(schedules.flow(), 4),
    }
    x = jnp.asarray(normals(4, 3, *DIGITS_SHAPE), jnp.float32)
    level, label = jnp.zeros(3), jnp.zeros(3, jnp.int32)
    made = {}
    for form, inputs in (("heads", (x, level)), ("label", (x, level, label)), ("none", (x, level))):
        module = nets.UNet(dataclasses.replace(TINY, conditioning=form))
        made[form] = module, filled(module, 7, *inputs)
    plain = denoisers.plain_network(*made["none"])
    found: dict[str, Any] = {"plain": plain}
    kind: Any
    for kind in schedules.PARAMETERISATIONS:
        found[f"heads-{kind}"] = denoisers.heads_network(
            *made["heads"], 10, {"negative": 4}, parameterisation=kind
        )
    found["label"] = denoisers.label_network(*made["label"], 10, {"negative": 4})
    found["moved"] = denoisers.with_conditions(found["label"], {"negative": 6})
    found["moved-heads"] = denoisers.with_conditions(found["heads-v"], {"negative": 6})
    found["separate"] = denoisers.separate_networks({"base": plain, "negative": found["label"]})
    out: dict[str, Any] = {}
    for name, denoise in found.items():
        call = jax.jit(lambda x, row, denoise=denoise: denoise(x, row, ("base", "negative")))
        for family, table in rows.items():
            for i in (0, 3):
                row = jax.tree.map(lambda column, i=i: jnp.asarray(column)[i], table)
                out[f"{name}-{family}-{i}"] = call(x * (1 + row.sigma), row)
        out[f"{name}-calls"] = denoise.calls(("base", "negative"))
    return out


@item
def nets_every_form() -> Any:
    """Every configuration, narrowed, with random weights: outputs, also in bfloat16."""
    networks = {
        f"{preset}{suffix}": presets.diffusion(preset, form).network
        for preset, forms in (
            ("digits", {"": "heads", "-label": "label"}),
            ("mnist-small", {"": "heads", "-label": "label", "-plain": "none"}),
            ("mnist", {"": "none", "-heads": "heads", "-label": "label"}),
            ("cifar10", {"": "none", "-heads": "heads", "-label": "label"}),
        )
        for suffix, form in forms.items()
    }
    classifiers = {name: presets.classifier(name).network for name in presets.CLASSIFIER}
    out: dict[str, Any] = {"sizes": (networks, classifiers)}
    chosen = ("digits", "digits-label", "mnist-small", "mnist-small-plain", "cifar10-heads")
    for name in chosen:
        config = networks[name]
        narrow: dict[str, Any] = {"channels": 8, "embed_channels": 16, "head_channels": 8}
        config = dataclasses.replace(
            config, **narrow, global_channels=min(config.global_channels, 16), blocks=1
        )
        x = jnp.asarray(normals(8, 2, *config.image_shape), jnp.float32)
        inputs = [x, jnp.asarray([-3.0, 2.0])]
        inputs += [jnp.asarray([1, 10])] if config.conditioning == "label" else []
        params = filled(nets.UNet(config), 9, *inputs)
        out[name] = jax.jit(nets.UNet(config).apply)({"params": params}, *inputs)
        if name in ("digits", "cifar10-heads"):
            half = nets.UNet(config, jnp.bfloat16)
            out[f"{name}-bfloat16"] = jax.jit(half.apply)({"params": params}, *inputs)
    for name, small in classifiers.items():
        small = dataclasses.replace(small, widths=tuple(8 for _ in small.widths), features=16)
        x = jnp.asarray(normals(8, 2, *small.image_shape), jnp.float32)
        params = filled(nets.Classifier(small), 9, x)
        look = jax.jit(partial(nets.Classifier(small).apply, features=True))
        out[f"classifier-{name}"] = look({"params": params}, x)
    return out


@item
def nets_start() -> Any:
    """Parameters as a fresh network has them, and configurations through JSON."""
    module = nets.UNet(dataclasses.replace(TINY, blocks=1, global_channels=8, multipliers=(1, 2)))
    again = nets.build(json.loads(json.dumps(nets.describe(module))))
    optimiser = training.make_optimiser(10, 1e-3, 2)
    state = training.init_state(again, optimiser, jax.random.key(3))
    classifier = nets.Classifier(presets.classifier("digits").network)
    return state, training.init_state(classifier, optimiser, jax.random.key(4))


# -- sampling, guidance, trackers


@item
def sampling_keys_and_pieces() -> Any:
    """Keys, initial noise, one scan against pieces and a run that goes on, observers."""
    _, denoise = toy()
    table = steps.ddpm(schedules.linear(), 9)
    rule = guidance.dynamic_negative(posterior.pair(0.2), 2.0)
    keys = chains.sample_keys(5, 6, start=3)
    x = chains.initial_noise(keys, SHAPE, table)

    def observe(state, step):
        return {"state": state[:, 0], "level": 0 * state[:, 0] + step.row.logsnr}

    whole = chains.sample(denoise, table, rule, keys, x, save=("x", "denoised"), observe=observe)
    pieces = list(chains.sample_chunks(denoise, table, rule, keys, x, chunk=4, save=("x",)))
    rest = chains.sample_chunks(denoise, table, rule, keys, carry=pieces[0].carry, chunk=2)
    wide = chains.initial_noise(keys, (3,), steps.euler(schedules.edm(), 5))
    parts = [(p.done, p.total, p.carry, p.trace) for p in pieces]
    return keys, x, wide, whole, parts, chains.run_chunks(rest)


@item
def guidance_plain_on_mixture() -> Any:
    """Rules without a tracker on the exact model, every step kept."""
    _, denoise = toy()
    table = steps.ddpm(schedules.linear(), 8)
    return {
        name: run(denoise, table, rule, SHAPE, save=("x", "denoised"))
        for name, rule in plain_rules(table).items()
    }


@item
def guidance_tracked_on_mixture() -> Any:
    """Every tracker with all its numbers on the exact model, and the exact posterior."""
    mixture, denoise = toy()
    table = steps.ddpm(schedules.linear(), 8)
    rules = tracked_rules(3)
    rules["oracle"] = guidance.dynamic_negative(posterior.oracle(mixture, (0,)))
    rules["oracle-two"] = guidance.dynamic_negative(
        posterior.oracle(mixture, (1, 2), negative="allowed"), 0.5
    )
    return {
        name: run(denoise, table, rule, SHAPE, save=("x", "denoised"))
        for name, rule in rules.items()
    }


@item
def guidance_other_tables() -> Any:
    """Trackers, probed where the table needs it, on every step table and schedule."""
    _, denoise = toy()
    out: dict[str, Any] = {}
    for name, make in steps.TABLES.items():
        for kind, schedule in (("linear", schedules.linear()), ("edm", schedules.edm())):
            table = make(schedule, 7)
            probed = bool(np.median(steps.noise_ratio(table)) < 0.5)
            rules = tracked_rules(3, probes=2 if probed else 0)
            rules["feedback"] = guidance.feedback(0.9, probes=int(probed))
            for rule in ("pair", "odds-drift", "classes", "feedback")[:: 1 + (kind == "edm")]:
                out[f"{name}-{kind}-{rule}"] = run(denoise, table, rules[rule], SHAPE)
    table = steps.ddim(schedules.flow(), 7, eta=0.5)
    for rule in ("pair-two", "odds-two", "classes-numbers", "classes-model"):
        out[f"flow-{rule}"] = run(denoise, table, tracked_rules(3, probes=1)[rule], SHAPE)
    return out


@item
def guidance_digits_heads() -> Any:
    """Every kind of rule on the bundled network with one head a class."""
    denoise, table = digits("heads"), steps.ddpm(schedules.linear(), 8)
    rules = tracked_rules(10) | plain_rules(table)
    chosen = ("pair", "pair-numbers", "pair-two", "odds", "odds-drift", "classes", "classes-model",
              "classes-numbers", "detector", "unguided-positive", "classifier-free", "in-place",
              "negative-prompts", "safe-latent", "safe-latent-max", "feedback",
              "sum-tracked")  # fmt: skip
    return {name: run(denoise, table, rules[name], DIGITS_SHAPE, 4) for name in chosen}


@item
def guidance_digits_label() -> Any:
    """A rule of each kind on the bundled class-conditional network."""
    denoise, table = digits("label"), steps.ddpm_paper(schedules.linear(), 6)
    rules = tracked_rules(10) | plain_rules(table)
    chosen = ("pair", "odds-two", "classes", "classes-model", "safe-latent", "feedback")
    return {name: run(denoise, table, rules[name], DIGITS_SHAPE, 3) for name in chosen}


@item
def guidance_digits_probed() -> Any:
    """The divergence probe through a network."""
    table = steps.ddim(schedules.linear(), 5)
    rules = tracked_rules(10, probes=1)
    return {
        name: run(digits("heads"), table, rules[name], DIGITS_SHAPE, 3)
        for name in ("pair", "classes")
    }


@item
def guidance_mnist_heads() -> Any:
    """A rule of each kind on the bundled MNIST network, and its classifier."""
    module, params, _ = pretrained.load("mnist-heads")
    denoise = denoisers.heads_network(module, params, 10, {"negative": 3, "positive": 5})
    classifier, learned, _ = pretrained.load("mnist-classifier")
    look = metrics.features.classifier(classifier, learned, 16)
    table = steps.ddpm(schedules.linear(), 6)
    rules = tracked_rules(10) | plain_rules(table)
    out: dict[str, Any] = {}
    for name in ("pair", "odds", "classes", "negative-prompt", "safe-latent"):
        found = run(denoise, table, rules[name], MNIST_SHAPE, 3)
        out[name] = found, look(found.x)
    return out


@item
def guidance_separate_networks() -> Any:
    """The paper's set-up: a network for the base, one for the negative."""
    heads, label = digits("heads"), digits("label")
    denoise = denoisers.separate_networks({"base": heads, "negative": label})
    table = steps.ddpm(schedules.linear(), 6)
    rules = {
        "pair": guidance.dynamic_negative(posterior.pair(0.2), 3.0),
        "np": guidance.negative_prompt(0.5),
    }
    return {name: run(denoise, table, rule, DIGITS_SHAPE, 3) for name, rule in rules.items()}


@item
def sweeps_of_settings() -> Any:
    """Several settings as one program, in each mode."""
    _, denoise = toy()
    table = steps.ddpm(schedules.linear(), 6)
    keys = chains.sample_keys(0, 6)
    x = chains.initial_noise(keys, SHAPE, table)
    rules = [
        guidance.dynamic_negative(posterior.pair(p, temperature=t), s)
        for p, t, s in ((0.1, 1.0, 1.0), (0.2, 0.5, 2.0), (0.3, 0.2, 4.0))
    ]
    out: dict[str, Any] = {"stacked": sweeps.stack(rules)}
    mode: Any
    for mode, chunk in (("map", None), ("map", 2), ("vmap", None)):
        out[f"{mode}-{chunk}"] = sweeps.sweep(
            denoise, table, rules, keys, x, mode=mode, chunk=chunk, save=("denoised",)
        )
    return out


@item
def posterior_recorded() -> Any:
    """Evidence of chains, as it is recorded and replayed; temperatures at every row."""
    _, denoise = toy()
    table = steps.ddpm(schedules.linear(), 8)
    concepts = tuple(f"class:{k}" for k in range(3))
    recorder = guidance.recorder(concepts, guidance.negative_prompt(0.3), probes=1)
    found = run(denoise, table, recorder, SHAPE)
    evidence = guidance.recorded(found.trace)
    tau = posterior.temperature(([-6.0, 0.0, 5.0], [1.0, 0.7, 0.2]))
    rows = [jax.tree.map(lambda c, i=i: jnp.asarray(c)[i], table) for i in range(8)]
    return {
        "evidence": evidence,
        "single": posterior.one_concept_each(evidence),
        "classes": posterior.replay(posterior.classes(3, [0]), evidence, table, found.x),
        "tau": [(tau(row), tau.weights(row)) for row in rows],
        "sampled": found.x,
    }


@item
def posterior_fitted() -> Any:
    """Temperatures fitted on the forward chain of labelled data: exact model and network."""
    mixture, denoise = toy()
    table = steps.ddpm(schedules.linear(), 20)
    x, labels = mixture.draw(chains.sample_keys(11, 200), SHAPE)
    out: dict[str, Any] = {}
    for name, tracker, marks in (
        ("classes", posterior.classes(3, [0]), labels),
        ("pair", posterior.pair(0.4), np.where(np.asarray(labels) == 0, 0, 1)),
        ("odds", posterior.odds(0.4, temperature=0.5), np.where(np.asarray(labels) == 0, 0, 1)),
    ):
        evidence = posterior.forward_evidence(
            denoise, table, tracker, x, chains.sample_keys(12, 200)
        )
        fit = posterior.fit_temperature(tracker, evidence, table, marks, knots=4)
        replayed = posterior.replay(tracker, evidence, table, evidence.inner[0])
        out[name] = evidence, fit, replayed
    images, labels, _ = data.load("digits", "test")
    x = jnp.asarray(data.to_unit(images[:24]))
    tracker, table = posterior.classes(10, [0]), steps.ddpm(schedules.linear(), 10)
    evidence = posterior.forward_evidence(
        digits("heads"), table, tracker, x, chains.sample_keys(1, 24)
    )
    out["digits"] = evidence, posterior.fit_temperature(tracker, evidence, table, labels[:24])
    return out


# -- metrics


def shares_of(seed: int, points: int, n: int) -> np.ndarray:
    """Labels [points, n] of ten classes, unevenly drawn."""
    p = np.linspace(1, 3, 10)
    return np.random.default_rng(seed).choice(10, (points, n), p=p / p.sum())


@item
def metrics_shares() -> Any:
    """Counts, intervals, divergences."""
    allowed = np.arange(10) != 3
    target = np.where(allowed, np.linspace(1, 2, 10), 0)
    out: dict[str, Any] = {
        "wilson": metrics.wilson(np.array([0, 3, 50, 100]), 100, 0.9),
        "share": metrics.share(7, 300),
    }
    cases = {
        "even": np.full(10, 50),
        "drawn": metrics.class_counts(shares_of(0, 1, 400)[0], 10),
        "sparse": np.array([3, 0, 1, 9, 2, 0, 7, 1, 1, 4]),
        "leaked": np.where(allowed, 0, 20),
    }
    for name, counts in cases.items():
        for kind, wanted in (("uniform", None), ("target", target)):
            out[f"{name}-{kind}"] = {
                "0": metrics.class_report(counts, allowed, wanted, seed=1),
                "2": metrics.forbidden_share(counts, allowed),
            }
        for form in ("forward", "renormalised", "reversed"):
            out[f"{name}-{form}"] = metrics.kl_divergence(
                counts, allowed, form=form, confidence=0.8, resamples=300
            )
    return out


@item
def metrics_distances() -> Any:
    """Moments, Frechet distance, kernel distance, precision and recall, streaming and whole."""
    x, y = normals(2, 90, 6), normals(3, 80, 6) * 1.2 + 0.3
    zero = metrics.Moments.zero(6)
    parts = zero.update(x[:30]).merge(zero.update(x[30:]).update(x[:0]))
    rows = np.random.default_rng(4).integers(0, 90, (5, 90))
    overlap = metrics.PRDC.zero(y, 3)
    first = metrics.FeatureBuffer(6).update(x[:9])
    halves = overlap.update(x[:50]).merge(overlap.update(x[50:]))
    return {
        "moments": (parts, parts.covariance),
        "frechet": metrics.frechet_from_features(x, y),
        "frechet-float32": metrics.frechet_from_features(x.astype("f4"), y.astype("f4")),
        "resampled": zero.update(y).distances(x, rows),
        "kid": metrics.kid(x, y),
        "kid-reference": metrics.kid(x, metrics.KernelReference.of(y)),
        "manifold": metrics.Manifold.of(y, 4),
        "holds": metrics.Manifold.of(y, 4).holds(x),
        "precision": metrics.precision_and_recall(x, y),
        "precision-5": metrics.precision_and_recall(x, y, k=5, confidence=0.9),
        "halves": halves.result(),
        "without-recall": metrics.PRDC.zero(y, recall=False).update(x).result(),
        "kept": first.merge(metrics.FeatureBuffer(6).update(y[:4])).array(),
    }


@item
def metrics_calibration() -> Any:
    """Scores and reliability of forecasts of classes and of events."""
    logits = normals(5, 300, 4)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    outcome = np.random.default_rng(6).integers(0, 4, 300)
    cases = {"classes": (p, outcome), "event": (p[:, 1], outcome == 1)}
    out: dict[str, Any] = {}
    for name, forecast in cases.items():
        out[name] = (
            metrics.calibration(*forecast),
            metrics.nll(*forecast),
            metrics.brier(*forecast),
            metrics.agreement(*forecast),
            metrics.expected_calibration_error(*forecast, bins=9),
        )
        for binning in ("width", "mass"):
            out[f"{name}-{binning}"] = metrics.reliability(*forecast, 7, binning=binning)
    return out


@item
def metrics_tradeoff() -> Any:
    """Curves, their bootstrap, comparisons at one leak and over a range."""
    tradeoff, forbidden = metrics.tradeoff, [(0,), (3,), (8, 9)]
    labels = {
        "np": [shares_of(10 + f, 4, 250) for f in range(3)],
        "dng": [shares_of(20 + f, 3, 250) for f in range(3)],
        "floor": [shares_of(30 + f, 1, 180) for f in range(3)],
    }
    for i, parts in enumerate(labels["np"]):
        for s in range(4):  # less leak with every scale
            hit = np.isin(parts[s], forbidden[i]) & (np.arange(250) % 4 < s)
            parts[s][hit] = (forbidden[i][0] + 5) % 10
    found = tradeoff.curves(
        labels,
        forbidden,
        10,
        {"np": [0.1, 0.2, 0.5, 1.0], "dng": [1, 2, 3], "floor": [None]},
        frechet={"np": normals(1, 3, 4)},
        frechet_error={"np": normals(2, 3, 4) ** 2},
        independent=("floor",),
        resamples=200,
        seed=2,
    )
    a, b = found["dng"], found["np"]
    levels = [0.05, 0.1, 0.15, 0.2]
    return {
        "curves": found,
        "matched": [tradeoff.matched(a, b, i, m) for i in range(3) for m in ("kl", "reversed")],
        "levels": [tradeoff.at_levels(b, levels), tradeoff.at_levels(b, levels, a, "reversed")],
        "area": [tradeoff.area(a, b), tradeoff.area(a, b, (0.05, 0.2), "reversed", 33)],
    }


@item
def metrics_reference() -> Any:
    """Features of the bundled classifiers, and what real images look like to them, stored."""
    images, labels, _ = data.load("digits")
    module, params, _ = pretrained.load("digits-classifier")
    look = metrics.features.classifier(module, params, 100)
    found, features = look(data.to_unit(images[:250]))
    again = metrics.features.classifier(module, params)(data.to_unit(images[:9]))[1]
    made = metrics.Reference.of(features, labels[:250], 10, extractor="digits", keep=8)
    bundled = metrics.Reference.bundled("mnist-classifier")
    assert bundled is not None
    out = {"made": made, "seen": (found, features, again), "without": made.excluding((3, 8))}
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("float32", "float16"):
            made.save(Path(folder) / dtype, dtype=dtype)
            out[dtype] = metrics.Reference.load(Path(folder) / dtype)
    moments, kept = bundled.excluding((0,))
    out["bundled"] = [(m.count, m.mean, m.scatter.sum()) for m in bundled.moments]
    out["bundled-without"] = moments.mean, moments.covariance, kept.sum(axis=0), bundled.labels
    out["distance"] = moments.distance(bundled.excluding((1,))[0])
    return out


# -- training, stored networks, data


@item
def training_diffusion() -> Any:
    """Some steps of each conditioning, with and without stable targets; everything in the state."""
    images, labels, _ = data.load("digits", "train")
    arrays = jnp.asarray(images), jnp.asarray(labels)
    rows = stable_targets.rows_by_class(labels, 10)
    out: dict[str, Any] = {}
    for form, references in (("heads", 0), ("heads", 7), ("label", 0), ("none", 0)):
        module = nets.UNet(dataclasses.replace(TINY, conditioning=form))
        optimiser = training.make_optimiser(6, 5e-3, 2, weight_decay=1e-2)
        state = training.init_state(module, optimiser, jax.random.key(1))
        step = training.make_diffusion_step(
            module, optimiser, schedules.linear(), 16, 0.9, None, references, rows
        )
        told = []
        for _ in range(4):
            state, seen = step(state, *arrays)
            told.append(seen)
        out[f"{form}-{references}"] = state, told
        if form == "label":
            out["several"] = training.several(step, 2)(state, *arrays)
    return out


@item
def training_classifier() -> Any:
    """Some steps of the classifier, augmentation, and how many it gets right."""
    images, labels, _ = data.load("digits", "train")
    arrays = jnp.asarray(images), jnp.asarray(labels)
    module = nets.Classifier(nets.ClassifierConfig(DIGITS_SHAPE, widths=(8, 8), features=8))
    optimiser = training.make_optimiser(20, 2e-3, 4)
    state = training.init_state(module, optimiser, jax.random.key(2))
    step = training.make_classifier_step(module, optimiser, 32, 0.9, 0.1)
    told = []
    for _ in range(4):
        state, seen = step(state, *arrays)
        told.append(seen)
    bent = training.augment(jax.random.key(5), data.to_unit(arrays[0][:6]))
    right = training.count_right(module, state.ema, arrays[0][:200], arrays[1][:200])
    return state, told, bent, right


@item
def training_parts() -> Any:
    """Losses at given levels, stratified levels, the rate, stable targets themselves."""
    images, labels, _ = data.load("digits", "train")
    x0, y = data.to_unit(jnp.asarray(images[:8])), jnp.asarray(labels[:8])
    logsnr = jnp.linspace(-6, 6, 8)
    rows = stable_targets.rows_by_class(labels, 10)
    drawn = stable_targets.draw(jax.random.key(3), jnp.asarray(images), jnp.asarray(rows), 5)
    prior = jnp.log(jnp.bincount(jnp.asarray(labels), length=10) / len(labels))
    few = data.to_unit(drawn), prior
    out: dict[str, Any] = {
        "levels": training.stratified_logsnr(jax.random.key(4), 12, schedules.cosine()),
        "rows": rows,
        "drawn": few,
    }
    for form, references in (("heads", None), ("heads", few), ("label", None), ("none", None)):
        module = nets.UNet(dataclasses.replace(TINY, conditioning=form))
        inputs = (x0, logsnr, y) if form == "label" else (x0, logsnr)
        params, key = filled(module, 6, *inputs), jax.random.key(7)
        out[f"{form}-{references is not None}"] = [
            training.diffusion_loss(module, params, x0, y, logsnr, key, train, references)
            for train in (False, True)
        ]
    a = jnp.sqrt(jax.nn.sigmoid(logsnr))[:, None, None, None]
    s = jnp.sqrt(jax.nn.sigmoid(-logsnr))[:, None, None, None]
    x = a * x0 + s * jnp.asarray(normals(9, *x0.shape), jnp.float32)
    out["targets"] = stable_targets.targets(x, x0, y, a, s, *few)
    optimiser = training.make_optimiser(7, 1e-2, 3, weight_decay=0.1)
    params = {"w": jnp.arange(4.0), "b": jnp.ones(2)}
    state = optimiser.init(params)
    for i in range(7):
        grads = jax.tree.map(lambda p, i=i: jnp.cos(p + i) * 3, params)
        updates, state = optimiser.update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        out[f"optimiser-{i}"] = params
    return out


@item
def stored_networks() -> Any:
    """Model files in each dtype, weights laid over others, saved states: there and back."""
    module = nets.UNet(TINY)
    x = jnp.zeros((1, *DIGITS_SHAPE))
    params = filled(module, 3, x, jnp.zeros(1))
    out: dict[str, Any] = {}
    other = nets.UNet(dataclasses.replace(TINY, head_channels=12))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for dtype in weights.files.DTYPES:
            path = folder / f"{dtype}.safetensors"
            weights.save(path, params, nets.describe(module), {"a": "b"}, dtype)
            again, loaded, _ = weights.load(path)
            out[dtype] = loaded
            assert again == module
        mixed = filled(other, 4, x, jnp.zeros(1))
        out["overlay"] = weights.overlay(mixed, params)
        optimiser = training.make_optimiser(10, 1e-3, 2)
        state = training.init_state(module, optimiser, jax.random.key(1))
        with Checkpoints(folder / "states", nets.describe(module)) as states:
            for i, loss in enumerate((0.3, 0.1, 0.2, 0.4)):
                states.save(state._replace(step=jnp.int32(i)), loss, {"seconds": i})
            states.wait()
            out["kept"] = states.steps()
            out["last"], out["best"] = states.restore(state), states.restore(state, best=True)
    return out


@item
def pretrained_networks() -> Any:
    """Every tensor of the bundled networks: shape, sums, some values."""
    out: dict[str, Any] = {}
    for name in pretrained.NAMES:
        _, params, _ = pretrained.load(name)
        for path, array in leaves(params):
            flat = np.asarray(array, np.float64).ravel()
            some = flat[:: max(1, len(flat) // 5)]
            out[f"{name}/{path}"] = (array.shape, flat.sum(), (flat**2).sum(), some)
        out[f"{name}/bytes"] = zlib.crc32(pretrained.stored(name))
    return out


@item
def data_sets() -> Any:
    """Checksums of every split, and the scale of pixels."""
    out: dict[str, Any] = {}
    for name, splits in (
        ("digits", ("train", "test", "all")),
        ("mnist", ("train", "test", "all")),
        ("cifar10", ("test", "all")),
    ):
        for split in splits:
            images, labels, info = data.load(name, split)
            out[f"{name}-{split}"] = (
                images.shape,
                zlib.crc32(images.tobytes()),
                zlib.crc32(labels.tobytes()),
                np.bincount(labels),
                labels[:20],
                images[:, 2, 2, 0].astype(np.int64).sum(),
                data.to_unit(images[:2]),
                info.num_classes,
                info.shape,
            )
        out[f"{name}-described"] = data.describe(name)
    return out


# -- Hopfield networks


def keys_of(kind: str = "digits") -> np.ndarray:
    """A small set of patterns."""
    if kind == "digits":
        return patterns.from_images(data.load("digits")[0][:20], "centred-unit")
    if kind == "raw":
        return patterns.from_images(data.load("digits")[0][:14])
    if kind == "equidistant":
        return patterns.equidistant(8, 10, seed=1)
    if kind == "ultrametric":
        return patterns.ultrametric(3, 3)
    return patterns.random(2, 12, 5)


def queries_of(x: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Patterns with noise, rows of a hull, and the mean."""
    noisy = x[:count] + 0.3 * normals(seed, *x[:count].shape) * x.std()
    return np.concatenate([noisy, normals(seed + 1, 3, len(x)) @ x / len(x), x.mean(0)[None]])


@item
def hopfield_patterns() -> Any:
    """Every kind of set, their distances and leads."""
    made = {kind: keys_of(kind) for kind in ("digits", "raw", "ultrametric", "random")}
    made["equidistant"] = keys_of("equidistant")
    made["simplex"] = patterns.equidistant(5, 4, 2.0, np.arccos(-1 / 4))
    made["angle"] = patterns.equidistant(6, None, 1.5, 1.0)
    made["unit"] = patterns.from_images(data.load("digits")[0][:9], "unit")
    made["turned"] = patterns.ultrametric(2, 3, 1.0, 0.7, -0.1, d=9, seed=4)
    return {
        name: (
            x,
            distances.mean_half_squared(x),
            distances.pairs(x),
            distances.pairs(x, -(x**2).sum(1) / 2),
            distances.separation(x),
            distances.nearest(x, [0, 2]),
            list(distances.squares(x, [1])),
        )
        for name, x in made.items()
    }


@item
def hopfield_energy() -> Any:
    """Energies, updates, gradients, weights, fields: both energies, weights, blocks, padding."""
    out: dict[str, Any] = {}
    for kind in ("digits", "random"):
        x = keys_of(kind)
        for form in ("dot", "euclidean"):
            for name, w in (("even", None), ("uneven", np.linspace(1, 2, len(x)))):
                memory = energy.memory(x, form, w)
                q = jnp.asarray(queries_of(x, 4), memory.dtype)
                middle, mean = energy.centred(memory)
                out[f"{kind}-{form}-{name}"] = {
                    "numbers": (memory, memory.scale, memory.spread, memory.diameter, mean),
                    "centred": middle,
                    "fields": energy.fields(memory, q),
                    "padded": energy.pad(memory, 16),
                    **{
                        f"at-{beta}": (
                            energy.update_and_energy(memory, q, beta),
                            energy.update_and_energy(memory, q, beta, block=5),
                            energy.update_and_energy(memory, q, beta, exact=False),
                            energy.gradient(memory, q, beta),
                            energy.weights(memory, q, beta),
                            energy.logits(memory, q, beta),
                        )
                        for beta in (1e-4, 3.0, 40.0, 1e4)
                    },
                }
    return out


@item
def hopfield_energy_double() -> Any:
    """The same in double precision, with derivatives."""
    with jax.enable_x64(True):
        x = keys_of("raw")
        out: dict[str, Any] = {}
        for form in ("dot", "euclidean"):
            memory = energy.memory(x, form)
            q = jnp.asarray(queries_of(x, 3))
            total = jax.grad(lambda q, b, m=memory: energy.energy(m, q, b).sum(), argnums=(0, 1))
            out[form] = [
                (
                    energy.energy(memory, q, b),
                    energy.energy(memory, q, b, block=4),
                    energy.update(memory, q, b),
                    total(q, b),
                )
                for b in (1e-3, 2.0, 100.0)
            ]
        return jax.device_get(out)


@item
def hopfield_weight_space() -> Any:
    """The network in its weights, and both spaces behind one interface."""
    x = keys_of("digits")
    memory = energy.memory(x)
    gram = weight_space.gram(memory)
    p = jax.nn.softmax(jnp.asarray(normals(3, 5, len(x)), jnp.float32))
    beta = jnp.asarray([1.0, 5.0, 20.0, 40.0, 80.0])
    image, value = weight_space.from_inner(gram, p, weight_space.inner(gram, p), beta)
    out: dict[str, Any] = {
        "gram": gram,
        "update": image,
        "energy": value,
        "state": weight_space.to_state(memory, p),
        "cheaper": weight_space.cheaper(memory) == "weights",
    }
    q = jnp.asarray(queries_of(x, 1), memory.dtype)
    for name in ("state", "weights", "auto"):
        form = spaces.space(memory, name)
        point = form.lift(form.begin(form.seen(q), beta))
        moved, value = form.evaluate(point, beta)
        step = jax.tree.map(jnp.subtract, moved, point)
        out[name] = (
            form.size,
            point,
            moved,
            value,
            form.inner(point, moved),
            form.jacobian(point, beta)(step),
            form.state(form.held(moved)),
            spaces.length(form, step),
        )
    return out


@item
def hopfield_fixed_points() -> Any:
    """Fixed points by every method, in each space, single precision."""
    x = keys_of("digits")
    scale = spectrum.beta_eff(x)
    out: dict[str, Any] = {}
    cases: list[Any] = [("aitken", "dot", "auto")]
    cases += [(m, "euclidean", s) for m in iterations.METHODS for s in ("state", "weights")]
    for method, form, space in cases:
        out[f"{method}-{form}-{space}"] = fixed_points.find_fixed_points(
            energy.memory(x, form),
            queries_of(x, 8),
            np.array([[3.0], [9.0], [30.0]]) / scale,
            method=method,
            space=space,
        )
    return out


@item
def hopfield_minima() -> Any:
    """Certified minima by every method, double precision; points merged."""
    x = keys_of("equidistant")
    exact = theory.characteristic(len(x))
    with jax.enable_x64(True):
        memory = energy.memory(x)
        out: dict[str, Any] = {}
        unit = spectrum.beta_eff(x)
        method: Any
        for method in iterations.METHODS:
            betas = np.array([[exact.K_s * 0.999], [exact.K_s * 1.01], [9.0]]) / unit
            with mock.patch.object(fixed_points, "CHUNK", 8):  # so that rows are sorted out
                found = fixed_points.find_minima(
                    memory, queries_of(x, 6), betas, tolerance=1e-10, method=method
                )
            labels = fixed_points.merge(found.state[-10:], distances.separation(x))
            out[method] = found, found.minimum, labels
        few = fixed_points.find_fixed_points(memory, x, 3.0, max_steps=3, method="picard")
        out["short"] = few, few.unconverged
        return jax.device_get(out)


@item
def hopfield_many_patterns() -> Any:
    """More patterns than are taken at once: blocks everywhere."""
    x = normals(4, 17_000, 3)
    memory = energy.memory(x, checked=False)
    q = x[:3] * 0.9
    found = fixed_points.find_fixed_points(memory, q, np.array([[0.5], [4.0]]))
    swept = beta_sweeps.sweep(memory, q, [0.5, 4.0], warm="up", radius_steps=4)
    return {
        "block": energy.block_size(memory),
        "found": found,
        "certificate": certificates.certify(memory, found.state, np.repeat([0.5, 4.0], 3)),
        "radius": certificates.spectral_radius(memory, found.state[:3], 0.5, 8),
        "sweep": swept,
    }


@item
def hopfield_stability() -> Any:
    """Spectra, radii, products with the Jacobian and certificates of any states."""
    out: dict[str, Any] = {}
    for kind, double in (("digits", False), ("ultrametric", True)):
        x = keys_of(kind)
        with jax.enable_x64(double):
            memory = energy.memory(x, "euclidean")
            q = np.asarray(queries_of(x, 4), memory.dtype)
            beta = np.linspace(2, 30, len(q))
            out[kind] = jax.device_get(
                (
                    certificates.spectrum(memory, q, beta),
                    certificates.spectral_radius(memory, q, beta, 20),
                    certificates.jvp(memory, jnp.asarray(q), jnp.asarray(q[::-1]), beta),
                    certificates.certify(memory, q, beta),
                    certificates.certify(memory, x, 40.0, tolerance=1e-2),
                )
            )
    return out


@item
def hopfield_sweeps() -> Any:
    """Sweeps over beta, cold and warm; proofs; order parameters."""
    x = keys_of("digits")[:10]
    unit = spectrum.beta_eff(x)
    betas = np.linspace(1.5, 14, 7) / unit
    out: dict[str, Any] = {}
    memory = energy.memory(x)
    q = queries_of(x, 4)
    for warm in ("none", "up", "down"):
        found = beta_sweeps.sweep(memory, q, betas, warm=warm)
        out[warm] = found, beta_sweeps.certify_sweep(memory, found), found.unconverged
    out["newton"] = beta_sweeps.sweep(
        memory, q, betas, warm="down", method="newton", kick=1e-2, radius_steps=0
    )
    p = jax.nn.softmax(3 * jnp.asarray(normals(6, 5, 11), jnp.float32))
    out["order"] = [beta_sweeps.order_parameters(p)]
    return out


@item
def hopfield_hysteresis() -> Any:
    """The loop of an equidistant set, in double precision."""
    x = keys_of("equidistant")
    with jax.enable_x64(True):
        memory = energy.memory(x)
        betas = np.linspace(3.0, 9.5, 9) / spectrum.beta_eff(x)
        return jax.device_get(
            (
                beta_sweeps.hysteresis(
                    memory, x.mean(0)[None], x[:2], betas, tolerance=1e-9, kick=1e-4
                ),
                transition.loop(memory, x.mean(0)[None], x[:1], betas[::3]),
            )
        )


@item
def hopfield_transitions() -> Any:
    """Settling, edges, onsets, equal energies and the three protocols."""
    out: dict[str, Any] = {}
    with jax.enable_x64(True):
        for kind in ("equidistant", "random"):
            x = keys_of(kind)[:6]
            memory = energy.memory(x, "dot" if kind == "equidistant" else "euclidean")
            settled = transition.settle(memory, queries_of(x, 3), 6.0)
            out[kind] = {
                "margins": transition.margins(memory),
                "settled": settled,
                "overlap": transition.overlap(settled),
                "orders": transition.orders(settled),
                "gap": transition.energy_gap(settled),
                "undecided": transition.undecided(settled),
                "many": transition.many(memory, x[:2], [2.0, 8.0]),
                "edge": transition.edge(
                    memory, x[:2], transition.majority(np.eye(2, 6)), 40.0, 0.5, relative=1e-2
                ),
                "onsets": transition.onsets(memory, relative=1e-2),
                "protocols": transition.protocols(memory, most=3, relative=1e-3),
            }
        biased = energy.memory(keys_of("raw")[:8])
        out["biased"] = transition.onsets(biased, relative=5e-2)
        return jax.device_get(out)


@item
def hopfield_theory() -> Any:
    """Closed forms of equidistant and ultrametric sets over N, k and K."""
    u = np.array([1e-6, 0.3, 1.0, 4.0, 20.0])
    out: dict[str, Any] = {
        "effective": theory.effective(np.array([0.1, 5.0]), 2.0, 1.1),
        "half": theory.half_squared_distance(1.5, np.array([1e-4, 2.0])),
        "limits": [theory.pattern_limits(K) for K in (1.5, 3.0, 8.0, 40.0)],
        "attention": [theory.attention_limits(d) for d in (16, 64, 128)],
        "window": [
            theory.ultrametric_window(4, 5, 1.0, 0.8, 0.0),
            theory.ultrametric_window(3, 2, 2.0, 0.5, -0.3),
        ],
        "scales": theory.ultrametric_scales(5, 1.0, 0.8, 0.1),
    }
    for n in (2, 3, 8, 100, 10**6):
        out[f"{n}"] = (
            theory.characteristic(n),
            theory.critical(n),
            theory.centroid_energy(n),
            [theory.phase(n, K) == "centroid" for K in (1.0, 5.0, 20.0)],
            [theory.barriers(n, K) for K in (1.0, 2.75, 5.0, 20.0, 2.0 * n)],
        )
        for k in {1, 2, n // 2} & set(range(1, n)):
            out[f"{n}-{k}"] = (
                theory.spinodal_u(n, k),
                theory.spinodal(n, k),
                [theory.branch(n, k, K) for K in (0.5, 2.75, 8.0, 1.1 * n)],
                theory.k_of_u(u, k, n),
                theory.m_of_u(u, k, n),
                theory.weights_of_u(u, k, n),
                theory.eigenvalues(u, k, n),
                theory.spectral_radius(u, k, n),
                theory.morse_index(u, k, n),
                theory.energy(u, k, n),
                theory.energy_above_centroid(u, k, n),
            )
    return out


@item
def hopfield_equidistant() -> Any:
    """The exact curves over K."""
    K = np.linspace(1.0, 14.0, 9)
    return {
        f"{n}": (
            equidistant.branches(n, 1.5, 12.0, 40),
            equidistant.number_of_minima(n, K),
            equidistant.weight(n, K),
            equidistant.watershed(n, K),
            equidistant.weight_of(n, np.linspace(0, 1, 5)),
        )
        for n in (2, 3, 8, 50)
    }


@item
def hopfield_spectrum() -> Any:
    """Reports of sets of every kind, with both energies, and the first incertificates."""
    out: dict[str, Any] = {}
    for kind in ("digits", "raw", "equidistant", "ultrametric", "random"):
        x = keys_of(kind)[:12]
        for form in ("dot", "euclidean"):
            out[f"{kind}-{form}"] = spectrum.report(x, form), spectrum.beta_eff(x, [0.5, 2.0])
        out[f"{kind}-short"] = spectrum.report(x, follow=False)
    return out


@item
def hopfield_basins() -> Any:
    """Basin volumes and watersheds."""
    x = keys_of("equidistant")
    with jax.enable_x64(True):
        memory = energy.memory(x)
        out: dict[str, Any] = {}
        for K in (3.5, 5.0, 9.0):
            beta = K / spectrum.beta_eff(x)
            starts = basins.hull_starts(memory, 40, seed=3, concentration=0.3)
            centre = np.broadcast_to(x.mean(0), (2, x.shape[1]))
            out[f"{K}"] = (
                starts,
                basins.basins(memory, starts, beta),
                basins.watershed(memory, centre, x[:2], beta, resolution=1e-2),
            )
        return jax.device_get(out)


@item
def hopfield_capacity() -> Any:
    """Onsets of every pattern's minimum, and the share of patterns with one."""
    out: dict[str, Any] = {}
    with jax.enable_x64(True):
        for form in ("dot", "euclidean"):
            found = capacity.measure(energy.memory(keys_of("random")[:7], form), relative=2e-2)
            at = np.linspace(1, 12, 6)
            out[form] = found, found.quantiles(), capacity.share(found.onset, at)
        return jax.device_get(out)


@item
def hopfield_metastable() -> Any:
    """The tree of minima, and windows of groups."""
    x = keys_of("ultrametric")
    with jax.enable_x64(True):
        memory = energy.memory(x)
        low, high = theory.ultrametric_window(3, 3, 1.0, 0.8, 0.0)
        inside = float(np.sqrt(low * high))
        return jax.device_get(
            (
                metastable.tree(memory, np.geomspace(1.0, 40.0, 6)),
                metastable.group_window(memory, np.repeat([0, 1, 2], 3), inside, relative=1e-2),
            )
        )


@item
def hopfield_landscape() -> Any:
    """Planes, lines and energies on them."""
    x = keys_of("digits")
    memory = energy.memory(x)
    out: dict[str, Any] = {}
    for name, plane in (
        ("through", landscape.through(*x[:3])),
        ("principal", landscape.principal(x)),
    ):
        grid = plane.states(np.linspace(-1, 1, 4), np.linspace(-1, 1, 3))
        out[name] = plane, plane.project(x), grid, landscape.energies(memory, grid, [1.0, 30.0])
    line = landscape.line(x.mean(0), x[0], np.linspace(-0.2, 1.2, 9))
    out["line"] = line, landscape.energies(memory, line, [5.0, 20.0]), landscape.variances(x)
    return out


@item
def hopfield_denoising() -> Any:
    """Corruption and retrieval over beta."""
    x = keys_of("raw")
    which = np.array([0, 3, 5])
    noisy = [retrieval.corrupt(x, which, level, seed=i) for i, level in enumerate((0.2, 0.6))]
    masked = retrieval.corrupt(x, which, 0.5, "mask", seed=2, fill=0.1)
    betas = np.array([2.0, 20.0, 100.0]) / spectrum.beta_eff(x)
    return {
        "norm": retrieval.rms_norm(x),
        "beta": retrieval.posterior_mean_beta(x, 0.3),
        "corrupted": (noisy, masked),
        **{
            form: retrieval.retrieve(energy.memory(x, form), which, [*noisy, masked], betas)
            for form in ("dot", "euclidean")
        },
    }


@item
def hopfield_attention() -> Any:
    """Heads of a layer: projections of every layout, beta_eff, reports."""
    rng = np.random.default_rng(3)
    heads, dim, width, tokens = 3, 6, 10, 12
    w = {n: rng.normal(size=(heads * dim, width)) for n in ("q", "k", "v")}
    b, x = rng.normal(size=heads * dim), rng.normal(size=(tokens, width))
    out: dict[str, Any] = {"random": projections.random_projection((1, 2), width, heads, dim)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.safetensors"
        fused = np.concatenate([w["q"], w["k"], w["v"]])
        save_file(
            {
                **{n: v.copy() for n, v in w.items()},
                "kb": b,
                "fused": np.ascontiguousarray(fused.T),
                "kernel": np.ascontiguousarray(w["k"].T.reshape(width, heads, dim)),
            },
            path,
        )
        plain = projections.project(path, x, heads=heads, key="k", query="q", key_bias="kb")
        out["plain"] = plain
        out["fused"] = projections.project(path, x, heads=heads, fused="fused", layout="in_out")
        out["kernel"] = projections.project(path, x, heads=heads, key="kernel", layout="in_out")
        out["tensor"] = projections.read_tensor(path, "kb")
    keys, queries = plain
    out["split"] = projections.split_heads(x @ w["k"].T, heads)
    out["beta"] = attention.beta_eff(keys), attention.beta_eff(keys, 0.1)
    report = attention.report(keys, queries)
    out["report"] = report, [r.phase == "centroid" for r in report]
    out["report-keys"] = attention.report(keys, None, 1.5, starts=5)
    return out


@item
def hopfield_diffusion() -> Any:
    """The bridge: noise levels as temperatures, predictions and measurements on chains."""
    images, labels, _ = data.load("digits")
    keep = labels[:90] < 4
    x, y = data.to_unit(images[:90][keep]), labels[:90][keep]
    mixture = mixtures.patterns(x, y, 0.2)
    flat = jnp.asarray(normals(3, 5, 64), jnp.float32)
    table = steps.ddpm(schedules.linear(), 12)
    logsnr = np.asarray(table.logsnr, np.float64)
    denoise = mixtures.mixture_denoiser(mixture, {"negative": (0,)})
    rule = guidance.dynamic_negative(posterior.classes(4, (0,)))
    chain = run(denoise, table, rule, DIGITS_SHAPE, 40, observe=diffusion.observer(mixture, (0,)))
    free = run(
        denoise, table, guidance.unguided(), DIGITS_SHAPE, 40,
        observe=diffusion.observer(mixture, (0,)),
    )  # fmt: skip
    exact, scale = np.asarray(free.trace["exact"]), chain.trace["lambda"]
    inside = diffusion.ends_in(mixture, free.x, (0,))
    known = window.resolved(exact, inside)
    push = window.push(scale, chain.trace["gap"])
    grown = window.accumulated(push)
    prior = diffusion.prior_of(mixture, (0,))
    found = diffusion.markers(mixture, (0,))
    error = forecasts.posterior_error(
        *(np.asarray(chain.trace[name], np.float64) for name in ("posterior", "exact"))
    )
    return {
        "snr": [diffusion.snr(0.6, 0.8, s) for s in (0.0, 0.2)],
        "noise": diffusion.noise_of(np.array([0.1, 5.0, 100.0]), 0.2),
        "memory": diffusion.memory_of(mixture),
        "some": diffusion.memory_of(mixture, [1, 2]),
        "each": diffusion.class_memories(mixture),
        "denoised": diffusion.denoised(mixture, flat, 0.6, 0.8),
        "posterior": diffusion.log_posterior(mixture, flat, 0.6, 0.8),
        "markers": (found, found.logsnr(), diffusion.markers(mixture)),
        "evidence": diffusion.evidence(mixture, (0, 1)),
        "predicted": diffusion.predicted_share(mixture, (0,), logsnr),
        "collapse": (diffusion.collapse(x.reshape(len(x), -1)),
                     diffusion.image_collapse(x.reshape(len(x), -1), 10)),
        "measured": (inside, known, grown, push, prior, free.trace, chain.trace),
        "windows": (window.window_of(logsnr, known), window.window_of(logsnr, grown)),
        "crossing": window.crossing(logsnr, grown, 0.3),
        "doubles": window.lambda_doubles(logsnr, scale, prior),
        "error": {"chain": error.chain, "final": error.final},
    }  # fmt: skip


@item
def hopfield_implicit() -> Any:
    """Minima as functions of patterns, weights and beta, by every method."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(6, 4)) * 0.6, rng.uniform(0.5, 2, 6)
    with jax.enable_x64(True):
        out: dict[str, Any] = {}
        probe = jnp.asarray(rng.normal(size=4))

        def value(x, w, beta, method="newton"):
            memory = energy.memory(x, "euclidean", w)
            return jnp.dot(probe, implicit.minimum(memory, x[0], beta, method=method))

        arguments = jnp.asarray(x), jnp.asarray(w), 3.5
        for method in ("picard",):
            out[method] = implicit.minimum(energy.memory(x), x[1], 4.0, method=method)
        out["gradient"] = jax.value_and_grad(value, argnums=(0, 1, 2))(*arguments)
        out["forward"] = jax.jvp(lambda b: value(*arguments[:2], b), (3.5,), (1.0,))
        out["lost"] = implicit.minimum(energy.memory(x), x[0], 0.1)
        return jax.device_get(out)


# ---- recording ----------------------------------------------------------------------------------


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Every number in nested results with its path: mappings, sequences, tuples with names,
    dataclasses, arrays. Text, functions and None are left out."""
    parts: Any
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        parts = value._asdict().items()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    else:
        if value is None or isinstance(value, str | bytes) or callable(value):
            return
        dtype = getattr(value, "dtype", None)
        if dtype is not None and "key<" in str(dtype):
            value = jax.random.key_data(value)
        array = np.asarray(value)
        yield name, array if array.dtype.kind in "biufc" else array.astype(np.float32)
        return
    for key, part in parts:
        yield from leaves(part, f"{name}/{key}" if name else str(key))


def former(path: str) -> str:
    """The name of a part in older records."""
    for pattern, name in FORMER_NAMES.items():
        path = re.sub(pattern, name, path)
    return path


def record_library(out: Path, only: Sequence[str] | None) -> list[str]:
    """Computes the items and writes library.npz; returns those that failed."""
    # Plain code, which compiles in two thirds of the time; the jobs have the compiler's full one.
    jax.config.update("jax_disable_most_optimizations", True)
    path = out / "library.npz"
    names = [n for n in LIBRARY if only is None or any(n.startswith(o) for o in only)]
    kept: dict[str, np.ndarray] = {}
    if path.exists() and only is not None:
        with np.load(path) as stored:
            kept = {k: stored[k] for k in stored.files if k.partition("/")[0] not in names}
    failed, began = [], time.process_time()
    for name in names:
        first = time.process_time()
        try:
            found = {former(f"{name}/{part}"): array for part, array in leaves(LIBRARY[name]())}
        except Exception:
            failed.append(name)
            print(f"{name:28} FAILED\n{traceback.format_exc(limit=-4)}", flush=True)
            continue
        kept |= found
        size = sum(array.size for array in found.values())
        seconds = time.process_time() - first
        print(f"{name:28} {seconds:7.1f} s {len(found):5} arrays {size:9} numbers", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    save: Callable[..., None] = np.savez_compressed  # its stub takes every keyword for an option
    save(path, **kept)
    seconds = time.process_time() - began
    print(f"{len(names)} items in {seconds:.0f} s of one core: {path}", flush=True)
    return failed


# ---- reading what jobs wrote --------------------------------------------------------------------

CLOCK = re.compile(r"second|time_utc|elapsed|^ms$|ms/|ms per|/s$|per_s$", re.IGNORECASE)
SKIPPED = ("config", "provenance", "sessions", "sittings", "command", "commit", "weights_file")
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?", re.IGNORECASE)
BETWEEN = re.compile(r"[\s\[\](),%/±–|]*|of|to", re.IGNORECASE)

Found = list[tuple[str, np.ndarray]]


def read_file(path: Path) -> Found | None:
    """The numbers of one file by name, in the order in which they stand; None for other files."""
    if path.name == "metrics.jsonl":
        return gathered(enumerate(map(json.loads, path.read_text().splitlines())))
    if path.name == "results.json":
        return gathered([("", json.loads(path.read_text()))])
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return columns(list(csv.reader(file)))
    if path.suffix == ".md":
        return tables(path.read_text())
    if path.name == "report.html":
        cells = re.findall(r"<td[^>]*>(.*?)</td>", path.read_text(), re.DOTALL)
        return [("cells", np.array([n for cell in cells for n in cell_numbers(cell)]))]
    if path.suffix == ".npz":
        with np.load(path) as stored:
            return [(n, stored[n]) for n in stored.files if stored[n].dtype.kind in "biufc"]
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return sorted(load_file(path).items())
    return None


def gathered(parts: Any) -> Found:
    """Numbers of JSON values, those of one path together (list places are no part of a path)."""
    found: dict[str, list[float]] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                if key not in SKIPPED and not CLOCK.search(key):
                    walk(part, f"{path}.{key}" if path else key)
        elif isinstance(value, list):
            for part in value:
                walk(part, f"{path}[]")
        elif value is None or isinstance(value, int | float):
            # None stands where a number was not finite.
            found.setdefault(path, []).append(np.nan if value is None else float(value))

    for _, value in parts:
        walk(value, "")
    return [(path, np.array(values)) for path, values in found.items()]


def cell_numbers(text: str) -> list[float]:
    """The numbers of a table's cell that holds numbers and nothing else; [] for other cells."""
    text = re.sub(r"<[^>]*>", "", text).strip()
    if not BETWEEN.fullmatch(NUMBER.sub("", text)):
        return []
    return [float(number) for number in NUMBER.findall(text)]


def columns(rows: list[list[str]], where: str = "") -> Found:
    """The numbers of a table by column; the first row names them."""
    found: Found = []
    for i, name in enumerate(rows[0] if rows else ()):
        if not CLOCK.search(name):
            cells = [cell_numbers(row[i]) for row in rows[1:] if i < len(row)]
            found.append((where + name, np.array([n for cell in cells for n in cell], float)))
    return found


def tables(text: str) -> Found:
    """The numbers of the tables of a Markdown text."""
    found: Found = []
    for n, block in enumerate(re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)):
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
        found += columns([[cell.strip() for cell in row] for row in rows], f"table {n}: ")
    return found


# ---- comparing ----------------------------------------------------------------------------------


def differs(a: np.ndarray, b: np.ndarray) -> str | None:
    """How two arrays differ, in words; None where they are equal bit for bit."""
    if a.shape != b.shape:
        return f"shape {list(a.shape)} against {list(b.shape)}"
    if a.dtype == b.dtype and a.tobytes() == b.tobytes():
        return None
    kinds = "" if a.dtype == b.dtype else f"{a.dtype} against {b.dtype}, "
    x, y = (np.asarray(v, complex if v.dtype.kind == "c" else float).ravel() for v in (a, b))
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    if same.all():
        return f"{kinds}signs of 0 or NaN alone" if not kinds else f"{kinds}equal values"
    both = np.isfinite(x) & np.isfinite(y) & ~same
    gap = np.abs(x[both] - y[both])
    words = f"{kinds}{int((~same).sum())} of {x.size} numbers"
    if gap.size:
        relative = gap / np.maximum(np.abs(x[both]), np.abs(y[both]))
        words += f", by up to {gap.max():.2e}, relative {relative.max():.2e}"
    if odd := int((~same & ~both).sum()):
        words += f"; {odd} finite in one alone"
    return words


def compare_parts(a: Found, b: Found) -> tuple[bool, str, list[str]]:
    """Whether two lists of named arrays hold the same numbers; a summary, and a line for each that
    does not. What has no namesake is matched by its numbers."""
    first, second = dict(a), dict(b)
    lines = []
    for name in first:
        if name in second and (words := differs(first[name], second[name])):
            lines.append(f"{name}: {words}")
    only_a = [name for name in first if name not in second]
    only_b = [name for name in second if name not in first]
    renamed = []
    for name in list(only_a):
        twins = (other for other in only_b if differs(first[name], second[other]) is None)
        if (other := next(twins, None)) is not None:
            only_a.remove(name)
            only_b.remove(other)
            renamed.append(f"{name} is now {other}")
    if not lines and not only_a and not only_b:
        size = sum(v.size for v in first.values())
        changed = f"; {len(renamed)} names changed" if renamed else ""
        return True, f"equal ({size} numbers){changed}", renamed
    flat = [np.concatenate([np.zeros(0), *(v.ravel() for _, v in f)]) for f in (a, b)]
    if not lines and differs(*flat) is None:
        told = [f"only in A: {', '.join(only_a)}", f"only in B: {', '.join(only_b)}"]
        return True, "equal as one sequence; names changed", told
    lines += [f"{name}: only in A" for name in only_a] + [f"{name}: only in B" for name in only_b]
    order = differs(*(np.sort(v) for v in flat)) is None
    words = f"{len(lines)} of {len(set(first) | set(second))} parts differ"
    return False, words + (" (the same numbers in another order)" if order else ""), lines


def compare_library(a: Path, b: Path, only: Sequence[str] | None) -> list[tuple]:
    """(item, equal, summary, lines) of every item of either record."""
    stored: list[dict[str, Found]] = []
    for path in (a / "library.npz", b / "library.npz"):
        with np.load(path) as file:
            found: dict[str, Found] = {}
            for key in file.files:
                name, _, part = key.partition("/")
                found.setdefault(name, []).append((part, file[key]))
        stored.append(found)
    rows = []
    for name in dict.fromkeys([*stored[0], *stored[1]]):
        if only is None or any(name.startswith(o) for o in only):
            rows.append((name, *_either(stored[0].get(name), stored[1].get(name))))
    return rows


def compare_jobs(a: Path, b: Path, names: Sequence[str]) -> list[tuple]:
    """(job and file, equal, summary, lines) of every file with numbers of the jobs."""
    rows: list[tuple] = []
    for name in names:
        found = [_files(folder / "jobs" / name) for folder in (a, b)]
        if not found[0] and not found[1]:
            continue
        pairs = {path: (path, path) for path in found[0] if path in found[1]}
        for path in found[0].keys() - pairs.keys():
            # A file of another name with the same numbers is that file renamed.
            for other in sorted(found[1].keys() - found[0].keys()):
                twin = compare_parts(found[0][path], found[1][other])[0]
                if twin and Path(path).suffix == Path(other).suffix:
                    pairs[path] = (path, other)
        gone = found[0].keys() - pairs.keys()
        new = found[1].keys() - {other for _, other in pairs.values()}
        results = []
        for path, other in sorted(pairs.values()):
            title = path if path == other else f"{path} -> {other}"
            results.append((title, *compare_parts(found[0][path], found[1][other])))
        results += [(path, False, "only in A", []) for path in sorted(gone)]
        results += [(path, False, "only in B", []) for path in sorted(new)]
        if all(equal and words.startswith("equal (") for _, equal, words, _ in results):
            size = sum(v.size for parts in found[0].values() for _, v in parts)
            words = f"equal ({len(results)} files, {size} numbers)"
            rows.append((f"job {name}", True, words, []))
        else:
            rows += [(f"job {name}: {title}", *rest) for title, *rest in results]
    return rows


def _files(folder: Path) -> dict[str, Found]:
    """The files of a job that hold numbers; states and events of a training run do not count."""
    found = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and "states" not in inside.parts:
            parts = read_file(path)
            if parts is not None:
                found[str(inside)] = parts
    return found


def _either(a: Found | None, b: Found | None) -> tuple[bool, str, list[str]]:
    if a is None or b is None:
        return False, f"only in {'B' if a is None else 'A'}", []
    return compare_parts(a, b)


def show(rows: list[tuple], most: int = 12) -> bool:
    """Prints one line an item, the differences under it; returns whether all are equal."""
    for name, equal, words, lines in rows:
        print(f"{'  ' if equal else '! '}{name:44} {words}")
        for line in lines[:most]:
            print(f"      {line}")
        if len(lines) > most:
            print(f"      ... and {len(lines) - most} more")
    wrong = sum(not equal for _, equal, _, _ in rows)
    print(f"\n{len(rows) - wrong} of {len(rows)} equal" + (f", {wrong} differ" if wrong else ""))
    return not wrong


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="items and jobs")
    record = commands.add_parser("record", help="compute and write")
    record.add_argument("out", type=Path)
    compare = commands.add_parser("compare", help="two records; exit code 1 where they differ")
    compare.add_argument("a", type=Path)
    compare.add_argument("b", type=Path)
    for command in (record, compare):
        command.add_argument("--only", nargs="+", help="items, or their beginnings")
        command.add_argument("--jobs", nargs="+", choices=JOBS)
        command.add_argument("--no-library", action="store_true")
        command.add_argument("--no-jobs", action="store_true")
    chosen = parser.parse_args()
    if chosen.command == "list":
        print("\n".join([*LIBRARY, "", *(f"{n:24} {job.words}" for n, job in JOBS.items())]))
        return 0
    # Parts that are named narrow a call down: --only runs no job, --jobs no item.
    library = not chosen.no_library and (chosen.only is not None or chosen.jobs is None)
    jobs = chosen.jobs or ([] if chosen.no_jobs or chosen.only is not None else list(JOBS))
    if chosen.command == "compare":
        rows = compare_library(chosen.a, chosen.b, chosen.only) if library else []
        return 0 if show(rows + compare_jobs(chosen.a, chosen.b, jobs)) else 1
    out = chosen.out.resolve()
    failed = record_library(out, chosen.only) if library else []
    failed += run_jobs(out, jobs)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
