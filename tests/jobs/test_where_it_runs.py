"""Full disks, folders in odd bytes, no home, seeds and sizes out of range: one sentence."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import json
import os
import pwd
import resource
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from dng_jax import data, plots, weights
from dng_jax.errors import InputError, MissingDataError
from dng_jax.experiments import calibrations, rule_specs
from dng_jax.experiments.generating import Generated
from dng_jax.jobs import cli, options, runs
from dng_jax.jobs.tables import Table
from dng_jax.metrics import Reference
from dng_jax.weights import pretrained
from eval.calibration import job as calibration
from eval.class_removal import job as class_removal
from eval.exact import job as exact
from eval.hopfield import __main__ as hopfield
from eval.hopfield import attention
from eval.study import cells, report, summary
from eval.study import job as study_job
from eval.study import options as study
from hopfield_jax.attention import HeadReport
from train import options as train


@contextlib.contextmanager
def small_files(size: int):
    """The kernel refuses every byte of a file beyond so many, whoever writes it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_whatever_is_written_when_the_disk_refuses_is_one_sentence(tmp_path):
    cell = cells.Cell("curves", (0,), "np", (cells.Setting(0.1),), 5, "ddpm", 0, 3)
    noise = np.random.default_rng(0).normal(size=(1, 300, 64))
    _, params, config = pretrained.load("digits-classifier")
    labels = np.arange(300) % 2
    write = {
        "npz": lambda: cells.save(tmp_path, cell, cells.Found(noise[..., 0], noise, 5)),
        "png": lambda: plots.image_grid(noise.reshape(1, 4, 60, 80, 1), tmp_path / "a.png", ["a"]),
        "json": lambda: runs.write_json(tmp_path / "a.json", noise),
        "model": lambda: weights.save(tmp_path / "a.safetensors", params, config),
        "reference": lambda: Reference.of(noise[0], labels, 2, extractor="x").save(
            tmp_path / "r.safetensors"
        ),
    }
    for name, call in write.items():
        with small_files(4096), pytest.raises(InputError) as caught:
            call()
        assert "(file too large): see to the folder and its disk" in str(caught.value), name
        assert "\n" not in str(caught.value)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_full_disk_that_nobody_expected_is_one_sentence_too(tmp_path, capsys):
    def job():
        with open(tmp_path / "x", "wb") as file:
            file.write(bytes(10000))

    with small_files(4096), pytest.raises(SystemExit) as left:
        cli.main(job)
    assert left.value.code == 2
    assert capsys.readouterr().err == (
        "error: cannot write the results (file too large): see to the folder and its disk\n"
    )


def test_the_table_is_there_before_anything_is_drawn(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise InputError("cannot write samples.png (no space left on device): make room")

    noise = np.random.default_rng(0).normal(size=(1, 2, 64))
    found = Generated(np.arange(2)[None], (noise,), 1, noise.reshape(1, 2, 8, 8, 1), {}, None)
    monkeypatch.setattr(class_removal, "generate_together", lambda *_, **__: found)
    table, tables_seen = tmp_path / "r" / "tables.md", []
    monkeypatch.setattr(plots, "image_grid", full)
    monkeypatch.setattr(
        class_removal.saving, "save", lambda *_: tables_seen.append(table.read_text())
    )
    small = class_removal.Config(
        save_images="npz",
        rules=("unguided", "np=0.3"),
        steps=2,
        samples=2,
        run=options.RunOptions(str(tmp_path / "r")),
    )
    with pytest.raises(InputError, match="samples"):
        class_removal.main(small)
    assert "unguided" in capsys.readouterr().out
    assert len(tables_seen) == 2
    assert all("unguided" in text for text in tables_seen)


def test_the_numbers_of_hopfield_are_there_before_anything_is_drawn(tmp_path, monkeypatch, capsys):
    numbers = {f.name: 2 for f in dataclasses.fields(HeadReport)} | {"phase": "centroid"}
    heads = [HeadReport(**(numbers | {"head": i})) for i in range(3)]
    monkeypatch.setattr(attention, "prepare", lambda _: ("random keys", heads))
    with small_files(8000), pytest.raises(InputError) as caught:
        hopfield.main(["attention", "--out", str(tmp_path / "r")])
    assert str(caught.value) == (
        f"cannot write to {tmp_path / 'r'} (file too large): see to the folder and its disk,"
        " or choose another --out"
    )
    assert "beta_eff" in (tmp_path / "r" / "tables.md").read_text()
    assert json.loads((tmp_path / "r" / "results.json").read_text())["heads"]
    assert "beta_eff" in capsys.readouterr().out


def test_a_study_is_there_before_it_is_drawn_and_its_families_are_recorded_as_typed(
    tmp_path, monkeypatch
):
    correction = calibrations.Correction((0.0, 1.0), (1.0, 1.0), (0.0, 0.0))
    made = calibrations.Calibration("digits", "0", "ddpm", 4, {"pair": correction})
    path, folder = calibrations.save(tmp_path / "c.json", made), tmp_path / "s"
    table = Table("curves", ["rule"])
    table.add("np")
    noise = np.random.default_rng(0).normal(size=(2, 9, 40, 40, 1))
    large = functools.partial(plots.image_grid, noise, folder / "a.png", "ab")
    drawn = summary.Summary({}, [table], [summary.Picture("a.png", "of curves", large)])
    info = SimpleNamespace(key="digits", num_classes=2, class_names=("0", "1"), facts=None)
    model = SimpleNamespace(info=info, knows_classes=True, classifier=SimpleNamespace(name="c"))
    monkeypatch.setattr(study_job.problems, "load", lambda *_: model)
    monkeypatch.setattr(study_job, "compute", lambda *_: collections.defaultdict(int))
    monkeypatch.setitem(summary.PARTS, "curves", lambda *_: drawn)
    asked = study.Config(
        parts=("curves",), families=("np", "dng:pair"), calibration=str(path), out=str(folder)
    )
    with small_files(8000), pytest.raises(InputError, match=r"cannot write to .* another --out$"):
        study_job.main(asked)
    stored = report.read(folder)
    assert (len(stored["tables"]), stored["pictures"]) == (1, [])
    assert "curves" in (folder / "tables.md").read_text()
    words = "--parts curves --families np dng:pair --calibration c.json"
    assert stored["command"] == f"{options.program('eval.study')} {words}"
    assert report.main(report.Config(folder)).exists()
    study_job.main(dataclasses.replace(asked, resume=True))
    assert [p["file"] for p in report.read(folder)["pictures"]] == ["a.png"]
    with small_files(1000), pytest.raises(InputError, match=r"or copy the study to another disk$"):
        report.main(report.Config(folder))


FAR = (f"interval(0.1,5,dng:pair,calibration={'deep/' * 60}c.json)", f"own:{'x' * 300}")


@pytest.mark.parametrize("family", FAR)
def test_a_cell_of_a_rule_with_a_long_name_can_be_written(tmp_path, family):
    where = ("ddpm", 2**64 - 1, 3)
    cell = cells.Cell("several", tuple(range(995, 1000)), family, (cells.Setting(1.0),), 5, *where)
    cells.save(
        tmp_path, cell, cells.Found(np.zeros((1, 3), int), np.zeros((1, 3, 2)), np.array([5.5]))
    )
    assert cells.load(tmp_path, cell).calls.tolist() == [5.5]


def test_a_picture_that_the_disk_refuses_is_not_blamed_on_its_name(tmp_path):
    with small_files(1000), pytest.raises(InputError) as caught:
        plots.image_grid(np.zeros((1, 9, 8, 8, 1)), tmp_path / "a.png", ["a"])
    assert str(caught.value).startswith(f"cannot write {tmp_path / 'a.png'} (file too large)")
    assert "suffix" not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes")
def test_a_folder_whose_name_is_no_utf8_is_refused_before_it_is_made(tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")
    with pytest.raises(InputError, match=r"xff.* is not named in UTF-8: choose another --out"):
        runs.new_run_folder(name, {"steps": 1})
    assert not list(tmp_path.iterdir())


def test_names_that_are_no_utf8_are_kept_in_records(tmp_path):
    path = runs.write_json(tmp_path / "a.json", {"network": os.fsdecode(b"\xff.safetensors")})
    assert json.loads(path.read_text())["network"] == os.fsdecode(b"\xff.safetensors")


def test_no_home_is_no_reason_to_fail(monkeypatch):
    def unknown(_):
        raise KeyError("uid not found")

    for name in ("HOME", "TFDS_DATA_DIR", "DNG_JAX_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    # Not there, and where to put it is said before anything is asked of the network.
    with pytest.raises(MissingDataError, match="by TFDS_DATA_DIR: no home folder is known"):
        data.load("cifar10")
    with pytest.raises(InputError, match="which is no folder"):
        data.load("mnist", data_dir="~/nothing")


BAD_SEEDS = (-1, 2**64)


@pytest.mark.parametrize("seed", BAD_SEEDS)
def test_every_job_refuses_a_seed_that_would_stand_for_another(seed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = f"at least 0 and below 2\\^(64|32), got {seed}"
    job = dataclasses.replace(train.parse_diffusion([]).job, seed=seed)
    calls = [
        lambda: class_removal.main(class_removal.Config(seeds=(0, seed))),
        lambda: calibration.check(calibration.Config(seed=seed)),
        lambda: exact.main(exact.Config(seed=seed)),
        lambda: study.check(study.Config(seeds=(seed,))),
        lambda: hopfield.main(["basins", "--seed", str(seed)]),
        lambda: hopfield.main(["attention", "--seed", str(seed)]),
        lambda: job.check(),
    ]
    for call in calls:
        with pytest.raises(InputError, match=said):
            call()
    assert not list(tmp_path.iterdir())


def test_provenance_says_what_random_numbers_depend_on():
    found = runs.provenance()
    assert found["prng"] == {"implementation": "threefry2x32", "threefry_partitionable": True}
    assert found["x64"] is False


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"samples": 0}, "--samples must be at least 2, got 0"),
        ({"batch": 0}, "--batch must be at least 1, got 0"),
        ({"steps": 0}, "steps"),
        ({"steps": -3}, "steps"),
        (
            {"options": rule_specs.TrackerOptions(probes=1_000_000)},
            "--probes must be at most 64",
        ),
        ({"options": rule_specs.TrackerOptions(probes=-1)}, "--probes must be at least 0"),
    ],
)
def test_sizes_that_make_no_sense_are_refused_before_a_folder_is_made(
    changes, said, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        class_removal.main(class_removal.Config(**changes))
    assert not list(tmp_path.iterdir())
