"""Folders that diffusers wrote, where jobs take a model file: --network, --negatives and --init."""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import train.diffusion.job
from dng_jax import data, nets, training, weights
from dng_jax.errors import InputError
from dng_jax.experiments import models, problems
from dng_jax.experiments.source import BUNDLED, Source
from dng_jax.jobs.options import RunOptions, command
from eval.class_removal import job as class_removal
from tests import diffusers_reference as reference
from train import options, start

pytestmark = pytest.mark.usefixtures("quick_compilation")

# The small network on digits.
DIGITS = reference.SMALL | {"in_channels": 1, "out_channels": 1, "sample_size": 8}
ENDS = {"conv_in.weight": (6, 1, 3, 3), "conv_out.weight": (1, 6, 3, 3), "conv_out.bias": (1,)}
TENSORS = reference.weights(reference.shapes("small") | ENDS)
WORDS = [
    "--preset", "digits", "--conditioning", "none", "--steps", "2", "--batch-size", "8",
    "--sample-every", "0", "--network.channels", "6", "--network.multipliers", "1", "1",
    "--network.attention-levels", "1", "--network.middle-blocks", "2", "--network.patch", "1",
    "--network.embed-channels", "24", "--network.resample", "conv", "--network.no-scale-shift",
    "--network.parameterisation", "eps",
]  # fmt: skip
TIMESTEP = ("--network.embedding", "timestep")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return reference.write(tmp_path_factory.mktemp("networks") / "heads", TENSORS, DIGITS)


def test_a_folder_is_a_network_of_a_job(folder, monkeypatch):
    # Its name is that of a bundled network too, which comes first; a slash makes it a path.
    monkeypatch.chdir(folder.parent)
    module, params = models.load(data.describe("digits"), "./heads", nets.UNet)
    assert (module.config.embedding, module.config.num_classes) == ("timestep", 10)
    jax.tree.map(np.testing.assert_array_equal, params, weights.diffusers.load_folder(folder)[1])
    assert models.full_name("digits", "./heads") == "./heads"
    assert models.full_name("digits", "heads") == "digits-heads"
    (folder.parent / "other").mkdir()
    assert models.full_name("digits", "other") == "other"


@pytest.mark.parametrize(
    ("dataset", "own"),
    [("digits", "digits-heads"), ("mnist", "mnist-heads"), ("cifar10", "cifar10-label")],
)
def test_where_no_network_is_named_it_is_the_one_the_library_has(
    dataset, own, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    Path(BUNDLED).mkdir()  # a folder of that name is ./bundled
    assert models.full_name(dataset, Source().network) == own
    with pytest.raises(InputError, match="no bundled network for fashion_mnist"):
        models.load(data.describe("fashion_mnist"), BUNDLED, nets.UNet)


def test_the_fingerprint_of_a_folder_is_that_of_weights_and_configuration(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")

    def fingerprint(path):
        return models.fingerprint("digits", Source(network=str(path)))[str(path)]

    assert fingerprint(other) == fingerprint(folder)
    for name in (weights.diffusers.WEIGHTS, "config.json"):
        with open(other / name, "ab") as file:
            file.write(b" ")
        assert fingerprint(other) != fingerprint(folder)
        shutil.copyfile(folder / name, other / name)


def test_a_command_names_the_folder_without_the_path():
    source = Source(network="/somewhere/ddpm-cifar10-32/", negatives=(".",))
    words = command("job", source, Source())
    assert words == "job --network ddpm-cifar10-32 --negatives ."


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            Source(network="{}/none"),
            "none does not exist: name a model file, a folder of diffusers",
        ),
        (Source(network="{}"), "has no diffusion_pytorch_model.safetensors: name a model file"),
        (Source(network="{}/heads", negatives=("{}/pickle",)), "is a pickle, which can run any"),
        (Source(classifier="{}/heads"), "holds a UNet, not a Classifier"),
        (Source(network="{}/wide", negatives=("{}/heads",)), "made for 10 classes of images 16x16"),
    ],
)
def test_folders_that_do_not_fit_are_named(source, said, folder):
    root = folder.parent
    (root / "pickle").mkdir(exist_ok=True)
    (root / "pickle" / "diffusion_pytorch_model.bin").touch()
    reference.write(root / "wide", TENSORS, DIGITS | {"sample_size": 16})
    here = str(root).join
    chosen = Source(
        network=here(source.network.split("{}")),
        negatives=tuple(here(name.split("{}")) for name in source.negatives),
        classifier=source.classifier and here(source.classifier.split("{}")),
    )
    with pytest.raises(InputError, match=re.escape(said)):
        problems.make("digits", ("3",), chosen)


def test_training_starts_from_a_folder_whose_embedding_it_has(folder, tmp_path, monkeypatch):
    job = options.parse_diffusion([*WORDS, *TIMESTEP]).job
    module, optimiser = nets.UNet(job.network), training.make_optimiser(2, 1e-3, 1)
    fresh = functools.partial(training.init_state, module, optimiser, jax.random.key(0))
    init = start.read_init(folder, fresh, job.network)
    stored = weights.diffusers.load_folder(folder)[1]
    jax.tree.map(np.testing.assert_array_equal, init.params, stored)
    _, taken, total = weights.overlay(jax.eval_shape(fresh).params, stored)
    assert taken == total
    digest = hashlib.sha256((folder / weights.diffusers.WEIGHTS).read_bytes()).hexdigest()
    assert init.facts == {"file": "heads", "sha256": digest}
    monkeypatch.chdir(folder)
    assert start.read_init(Path("."), fresh, job.network).facts == init.facts

    other = options.parse_diffusion([*WORDS, "--init", str(folder), "--out", str(tmp_path / "run")])
    with pytest.raises(InputError, match=r"this network logsnr: add --network\.embedding timestep"):
        train.diffusion.job.run(other)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_experiment_of_the_paper_from_a_folder(folder, tmp_path):
    words = [*WORDS, *TIMESTEP, "--only-class", "3", "--init", str(folder), "--dtype", "float32"]
    expert = train.diffusion.job.run(
        options.parse_diffusion([*words, "--out", str(tmp_path / "expert")])
    )
    assert "| started from | heads: sha256 " in expert.with_suffix(".md").read_text()
    config = class_removal.Config(
        forbid=("3",),
        rules=("unguided", "np=0.3", "dng:pair"),
        samples=8,
        steps=2,
        source=Source(network=str(folder), negatives=(str(expert),)),
        run=RunOptions(str(tmp_path / "removal")),
    )
    assert [r["network_calls_per_image"] for r in class_removal.main(config)] == [2, 4, 4]
