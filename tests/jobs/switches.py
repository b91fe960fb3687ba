"""Runs the smallest case of every job, one after the other, under the settings of JAX that the
environment names; says each job's name and "fine", or its traceback.

    JAX_ENABLE_X64=1 python -m tests.jobs.switches FOLDER
"""

from __future__ import annotations

import contextlib
import io
import sys
import traceback
from pathlib import Path

from dng_jax.jobs.options import RunOptions
from eval.calibration import job as calibration
from eval.class_removal import job as class_removal
from eval.exact import job as exact
from eval.hopfield import __main__ as hopfield
from eval.study import job as study
from eval.text_to_image import job as pictures
from eval.text_to_image.options import Config as Pictures
from tests.jobs.kill_resume import TINY
from train import options
from train.classifier import job as classifier
from train.diffusion import job as diffusion
from train.text_to_image import job as text_to_image

RULES = ("unguided", "reference", "np=0.3", "sld=0.5", "dng:pair", "dng:odds=2", "dng")
PACE = ("--steps", "4", "--log-every", "2", "--save-every", "2", "--sample-every", "2")
DIFFUSION = (*TINY, *PACE, "--examples", "64")
CLASSIFIER = ("--batch-size", "32", *PACE[:6], "--examples", "64")
TEXT_TO_IMAGE = (
    "--steps", "4", "--autoencoder-steps", "2", "--log-every", "2", "--save-every", "2",
    "--examples", "1500", "--batch-size", "8", "--warmup", "1", "--network.channels", "4", "8",
    "--network.groups", "2", "--network.heads", "2", "--network.autoencoder-channels", "4", "4",
    "--network.text-width", "4", "--network.text-layers", "1",
)  # fmt: skip
SIX = ("--count", "6")
RANDOM = ("--patterns", "random", "--dimension", "6", *SIX)
HOPFIELD = {
    "basins": (*SIX, "--betas", "3", "--starts", "8", "--low", "3", "--high", "8"),
    "bifurcation": (*SIX, "--betas", "4", "--low", "3", "--high", "7"),
    "capacity": ("--sizes", "6x6", "--patterns", "none", "--repeats", "1"),
    "collapse": ("--counts", "6", "--betas", "6"),
    "diffusion": ("--samples", "16", "--steps", "8"),
    "landscape": (*SIX, "--resolution", "8", "--at", "3"),
    "metastable": ("--betas", "4"),
    "phase-diagram": ("--counts", "4", "6"),
    "retrieval": (*RANDOM, "--noise", "0.3", "--mask", "0.2", "--betas", "3"),
    "spectrum": RANDOM,
}


def jobs(folder: Path):
    """Every job by name, ready to be called."""

    def out(name: str) -> str:
        return str(folder / name)

    def removal():
        class_removal.main(class_removal.Config(
            samples=16, steps=4, rules=RULES, run=RunOptions(out("removal"))))  # fmt: skip

    def trained(name: str, parse, run, words):
        run(parse([*words, "--out", out(name)]))
        run(parse([*words, "--out", out(name), "--resume"]))

    yield "class_removal", removal
    yield "calibration", lambda: calibration.main(calibration.Config(
        samples=16, steps=6, knots=3, trackers=("classes",),
        run=RunOptions(out("calibration"))))  # fmt: skip
    yield "exact", lambda: exact.main(exact.Config(samples=8, run=RunOptions(out("exact"))))
    yield "study", lambda: study.main(study.Config(
        samples=8, forbid=("3",), seeds=(0,), steps=5, families=("np=0.3", "dng:pair=1"),
        parts=("curves",), out=out("study")))  # fmt: skip
    yield "train.diffusion", lambda: trained(
        "diffusion", options.parse_diffusion, diffusion.run, DIFFUSION)  # fmt: skip
    yield "train.classifier", lambda: trained(
        "classifier", options.parse_classifier, classifier.run, CLASSIFIER)  # fmt: skip
    yield "train.text_to_image", lambda: trained(
        "text-to-image", options.parse_text_to_image, text_to_image.run,
        (*TEXT_TO_IMAGE, "--sample-every", "4"))  # fmt: skip
    yield "text_to_image", lambda: pictures.main(Pictures(
        model=out("text-to-image/model"), prompt="even digits", negative=("a four",), seeds=2,
        steps=4, rule=("unguided", "np=0.3", "sld", "dng:pair=2", "dng:odds"),
        run=RunOptions(out("pictures"))))  # fmt: skip
    for name, words in HOPFIELD.items():
        yield (
            f"hopfield {name}",
            lambda n=name, w=words: hopfield.main([n, *w, "--out", out(f"hopfield-{n}")]),
        )


if __name__ == "__main__":
    for name, job in jobs(Path(sys.argv[1])):
        if len(sys.argv) > 2 and not any(word in name for word in sys.argv[2:]):
            continue
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                job()
            print(f"{name}: fine", flush=True)
        except (Exception, SystemExit):
            print(f"{name}: {traceback.format_exc()}", flush=True)
