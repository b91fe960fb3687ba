"""Images of one's own, through the jobs: networks made to fit, what is recorded, other content."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import train.classifier.job
import train.diffusion.job
from dng_jax import data, nets
from dng_jax.errors import InputError
from dng_jax.experiments import classifiers, models, problems
from dng_jax.experiments.source import Source
from dng_jax.jobs import cli, runs
from dng_jax.jobs.opening import open_run
from dng_jax.jobs.options import RunOptions, shown
from dng_jax.weights import tensors
from eval.calibration import job as calibration
from eval.class_removal import job as class_removal
from eval.exact import job as exact
from eval.hopfield import diffusion as window
from eval.hopfield import job as evaluate
from eval.hopfield import options as hopfield
from eval.hopfield import sets
from eval.study import job as study
from train import images, options

CLASSES = ("7", "größe", "red | one")
QUICK = ("--steps", "2", "--batch-size", "8", "--save-every", "1", "--dtype", "float16")
UNET = (
    "--network.channels", "8", "--network.middle-blocks", "0", "--network.head-channels", "8",
    "--network.global-channels", "0", "--references", "4", "--sample-every", "0",
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder of 12x8 pictures in three classes: the name of the data set."""
    root = tmp_path_factory.mktemp("machine") / "my pets"
    for k, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i in range(16):
            pixels = np.random.default_rng([k, i]).integers(0, 256, (12, 8, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return f"folder:{root}"


def test_classes_of_a_training_are_named_as_they_are_forbidden(own):
    # The class called 7 is the first; a number is a class only where no name says so.
    words = ["--preset", "small", "--dataset", own, "--conditioning", "none"]
    for option, kept in (("only", {0}), ("without", {1, 2})):
        for name in ("7", "0"):
            found = images.load(options.parse_diffusion([*words, f"--{option}-class", name]), 1)
            assert set(found.labels) == kept
            assert getattr(found.options.job, f"{option}_class") == "7"
    with pytest.raises(InputError, match=r"unknown folder:.* class 'cat'"):
        images.load(options.parse_diffusion([*words, "--only-class", "cat"]), 1)


def test_a_classifier_that_is_wanted_is_said_to_be(own):
    with pytest.raises(InputError, match=r"no classifier for folder:.* comes with the library"):
        classifiers.trained(data.describe(own), None)


def parsed(parse, name, own, *words):
    return parse(["--preset", "small", "--dataset", own, *QUICK, *words, "--out", str(name)])


@pytest.fixture(scope="module")
def trained(own, quick_compilation, tmp_path_factory):
    """Options of a classifier's run that has ended."""
    out = tmp_path_factory.mktemp("runs") / "classifier"
    chosen = parsed(options.parse_classifier, out, own, "--network.widths", "8")
    train.classifier.job.run(chosen)
    return chosen


@pytest.fixture(scope="module")
def source(own, trained, tmp_path_factory):
    """Model files of a diffusion network and of the classifier."""
    out = tmp_path_factory.mktemp("runs") / "unet"
    train.diffusion.job.run(parsed(options.parse_diffusion, out, own, *UNET))
    files = [str(folder / "model.safetensors") for folder in (out, trained.out)]
    return Source(network=files[0], classifier=files[1])


def test_a_network_fits_the_images_and_names_no_folder_of_this_machine(own, trained):
    out = trained.out
    record = (out / "run.json").read_text()
    stored, info = json.loads(record), data.describe(own)
    assert stored["config"]["dataset"] == "folder:my pets"
    assert stored["data"] == runs.to_json(info.facts)
    assert info.facts == {"key": info.key, "sha256": info.sha256, "classes": CLASSES}
    text = tensors.read_metadata(out / "model.safetensors")
    assert text["dataset_sha256"] == info.sha256
    assert json.loads(text["dataset_classes"]) == list(CLASSES)
    assert "--preset small --dataset 'folder:my pets'" in text["command"]
    assert "image-shape" not in text["command"]
    card = (out / "model.md").read_text()
    assert "red \\| one" in card
    for written in (record, *text.values(), card):
        assert "machine" not in written
    (module, _) = models.load(info, str(out / "model.safetensors"), object)
    assert (module.config.image_shape, module.config.num_classes) == ((12, 8, 3), 3)


def test_a_run_is_resumed_by_what_its_images_are_not_by_where(own, trained, tmp_path):
    out, moved = tmp_path / "run", tmp_path / "elsewhere"
    shutil.copytree(trained.out, out)
    shutil.copytree(own.removeprefix("folder:"), moved)
    job = dataclasses.replace(trained.job, dataset=f"folder:{moved}")
    again = dataclasses.replace(trained, job=job, out=out, resume=True)
    train.classifier.job.run(again)
    assert json.loads((out / "run.json").read_text())["config"]["dataset"] == "folder:my pets"
    (moved / "7" / "3.png").unlink()
    with pytest.raises(InputError, match="trained on other images"):
        train.classifier.job.run(again)


def test_other_images_than_those_trained_on_are_warned_of(own, trained, capsys):
    info, name = data.describe(own), str(trained.out / "model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models.load(info, name, nets.Classifier)
    for other in ("0" * 64, None):
        with pytest.warns(UserWarning, match="trained on other images"):
            models.load(info._replace(sha256=other), name, nets.Classifier)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        cli.main(lambda: models.load(info._replace(sha256=64 * "0"), name, nets.Classifier))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {name} was trained on other images than those of folder:")
    assert ".py" not in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--preset small", "give --dataset folder:PATH"),
        ("--preset small --dataset {} --network.patch 4 --network.multipliers 1 2", "PATH@8"),
        ("--preset small --dataset {} --network.num-classes 4", "leave out --network.image-shape"),
        ("--preset cifar10 --dataset {}", "PATH@8"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(own, words, said):
    given = options.parse_diffusion([word.format(own) for word in words.split()])

    def start():
        given.check()
        images.load(given, 1)

    with pytest.raises(InputError, match=said):
        start()


def test_a_preset_fits_another_data_set_of_the_library_too():
    given = options.parse_diffusion(["--preset", "mnist-small", "--dataset", "digits"])
    assert images.load(given, 1).options.job.network.image_shape == (8, 8, 1)


def test_a_folder_is_shown_by_its_last_name():
    assert shown("folder:/a/b c@32") == "folder:b c@32"
    assert shown("folder:..") != "folder:.."
    assert shown("mnist:3.0.1") == "mnist:3.0.1"


@pytest.mark.slow
def test_classes_are_removed_and_named(own, source, tmp_path):
    out = tmp_path / "removed"
    config = class_removal.Config(
        dataset=own,
        forbid=("größe",),
        rules=("dng",),
        source=source,
        samples=6,
        steps=3,
        run=RunOptions(str(out)),
    )
    class_removal.main(config)
    assert 'folder:my pets without class 1, "größe"' in (out / "tables.md").read_text()
    command = json.loads((out / "run.json").read_text())["command"]
    assert "--dataset 'folder:my pets'" in command


def test_pattern_sets_are_made_of_a_whole_folder(own, monkeypatch):
    root = Path(own.removeprefix("folder:"))
    monkeypatch.chdir(root.parent)
    found = sets.build(hopfield.Source(f"folder:{root.name}", 48))
    assert found.patterns.shape == (48, 12 * 8 * 3)
    assert found.name.startswith("folder:my pets (")
    assert np.bincount(found.labels).tolist() == [16, 16, 16]


EXACT = Source("exact")
OPENED = {
    "class_removal": lambda own, run: class_removal.main(
        class_removal.Config(dataset=own, source=EXACT, run=run)
    ),
    "calibration": lambda own, run: calibration.main(
        calibration.Config(dataset=own, source=EXACT, run=run)
    ),
    "information": lambda own, run: calibration.main(
        calibration.Config(dataset=own, source=EXACT, run=run, information=True, samples=4)
    ),
    "exact": lambda own, run: exact.main(exact.Config(datasets=(own,), run=run)),
    "study": lambda own, run: study.main(study.Config(dataset=own, source=EXACT, out=run.out)),
    "diffusion": lambda own, run: evaluate.run(hopfield.Diffusion(dataset=own, run=run)),
    "spectrum": lambda own, run: evaluate.run(
        hopfield.Spectrum(source=hopfield.Source(own, 6), run=run)
    ),
    "capacity": lambda own, run: evaluate.run(
        hopfield.Capacity(patterns=own, images=(2, 3), run=run)
    ),
    "metastable": lambda own, run: evaluate.run(
        hopfield.Metastable(patterns=("ultrametric", own), run=run)
    ),
}


@pytest.mark.parametrize(
    "job", [pytest.param(job, marks=[pytest.mark.slow] * (job == "information")) for job in OPENED]
)
def test_every_job_records_which_images_it_took(own, tmp_path, monkeypatch, job):
    class Opened(Exception):
        """The folder is there; what would be computed is not asked for."""

    def stop(*args, **named):
        opened(*args, **named)
        raise Opened

    opened = runs.new_run_folder
    monkeypatch.setattr(runs, "new_run_folder", stop)
    with pytest.raises(Opened):
        OPENED[job](own, RunOptions(str(tmp_path)))
    stored = json.loads((tmp_path / "run.json").read_text())
    assert stored["data"] == runs.to_json(data.describe(own).facts)


def test_of_several_sets_of_images_all_are_recorded_and_of_others_none(tmp_path):
    def opened(name, *infos):
        config = class_removal.Config(run=RunOptions(str(tmp_path / name)))
        folder = open_run("dng class-removal", config, "class_removal", infos)
        return json.loads((folder / "run.json").read_text())["data"]

    digits = data.describe("digits")
    one, two = (digits._replace(sha256=64 * letter) for letter in "ab")
    assert opened("several", two, digits, one, two) == runs.to_json([two.facts, one.facts])
    assert opened("others", digits) is None
    assert opened("none") is None


@pytest.mark.slow
def test_the_other_jobs_take_them_as_well(own, source, tmp_path):
    asked = study.Config(
        dataset=own,
        source=source,
        families=("np=1", "dng=1"),
        parts=("curves",),
        seeds=(0,),
        steps=4,
        samples=24,
        out=str(tmp_path / "study"),
    )
    study.main(asked)
    moved = tmp_path / "elsewhere"
    shutil.copytree(own.removeprefix("folder:"), moved)
    study.main(dataclasses.replace(asked, dataset=f"folder:{moved}", resume=True))
    for name, changes in (
        ("trackers", {"samplers": ("ddpm",), "knots": 3}),
        ("information", {"information": True}),
    ):
        calibration.main(
            calibration.Config(
                dataset=own,
                source=source,
                steps=6,
                samples=8,
                run=RunOptions(str(tmp_path / name)),
                **changes,
            )
        )
    made = str(tmp_path / "trackers" / "calibration_ddpm.json")
    class_removal.main(
        class_removal.Config(
            dataset=f"folder:{moved}",
            rules=("dng:pair",),
            calibration=made,
            source=source,
            samples=6,
            steps=6,
            run=RunOptions(str(tmp_path / "calibrated")),
        )
    )
    asked_window = hopfield.Diffusion(dataset=own, forbid="7", samples=16, steps=5)
    folder = tmp_path / "window"
    folder.mkdir()
    for draw in window.run(asked_window, window.prepare(asked_window), folder).pictures:
        draw()
    assert problems.make(own, ("7",), Source("exact")).info.class_names == CLASSES
