"""What jobs read back: cells, results, patterns and projections that are not what they were."""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from dng_jax.data import raw
from dng_jax.errors import InputError
from eval.hopfield import sets
from eval.study import cells, report
from hopfield_jax import projections
from train import logs

CELL = cells.Cell("curves", (0,), "np", (cells.Setting(0.1), cells.Setting(0.3)), 5, "ddpm", 0, 3)
FOUND = cells.Found(np.zeros((2, 3), np.uint8), np.zeros((2, 3, 4), np.float16), np.full(2, 5.0))
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
RESULTS = {
    "tables": [{"part": "curves", "title": "a", "columns": ["a", "b"], "rows": [["np", "1"]]}],
    "pictures": [{"part": "curves", "file": "inner/a.png", "caption": "a < b"}],
    "config": {"dataset": "digits", "seeds": [0], "samples": 4, "steps": 5},
    "command": "python -m eval.study",
    "classifier": "digits-classifier",
    "classes": ["0"],
    "provenance": {
        "git": None, "device_count": 1, "device": "cpu", "cpu": "x", "cpu_count": 2,
        "packages": {"jax": "1", "flax": "1"}, "time_utc": "2026-01-01T00:00:00",
    },
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "study" / "inner").mkdir(parents=True)
    (tmp_path / "study" / "inner" / "a.png").write_bytes(PICTURE)
    return tmp_path / "study"


def reported(folder, results) -> str:
    text = results if isinstance(results, str) else json.dumps(results)
    (folder / "results.json").write_text(text)
    return report.main(report.Config(folder)).read_text()


def test_a_cell_that_was_altered_is_refused(tmp_path):
    cells.save(tmp_path, CELL, FOUND)
    path = tmp_path / "cells" / f"{CELL.name}.npz"
    whole = path.read_bytes()
    assert cells.load(tmp_path, CELL).labels.shape == (2, 3)
    rng, refused = np.random.default_rng(0), 0
    for _ in range(300):
        altered = bytearray(whole)
        for place in rng.integers(len(whole), size=rng.integers(1, 4)):
            altered[place] = rng.integers(256)
        path.write_bytes(altered[: rng.integers(len(whole)) if rng.random() < 0.2 else None])
        try:
            cells.load(tmp_path, CELL)
        except InputError:
            refused += 1
    assert refused > 200


@pytest.mark.parametrize(
    "changed",
    [
        {"labels": np.zeros((2, 2), np.uint8)},
        {"labels": np.zeros((2, 3))},
        {"features": np.zeros((2, 3, 4), np.int8)},
        {"features": np.zeros((2, 3))},
        {"calls": np.array([5.0, np.inf])},
        {"asked": np.array([np.nan, 1.0])},
    ],
)
def test_a_cell_of_other_arrays_is_refused(tmp_path, changed):
    cells.save(tmp_path, CELL, cells.Found(**{**vars(FOUND), **changed}))
    with pytest.raises(InputError, match="does not hold what it says it does"):
        cells.load(tmp_path, CELL)


def test_counts_of_a_cell_come_back_and_one_number_stands_for_all_settings(tmp_path):
    for calls, asked in ((FOUND.calls, np.array([1.5, 0.25])), (np.float64(5), None)):
        cells.save(tmp_path, CELL, dataclasses.replace(FOUND, calls=calls, asked=asked))
        found = cells.load(tmp_path, CELL)
        np.testing.assert_array_equal(found.calls, [5.0, 5.0])
        np.testing.assert_equal(found.asked, asked)


@pytest.mark.parametrize(
    "line", ['{"step": 0}', '{"step": -5}', f'{{"step": {10**400}}}', '{"step": 9, "loss": NaN}']
)
def test_a_line_that_no_training_writes_is_left_out(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(line)
    assert logs.average_of_last(tmp_path) == ({}, 0)
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 8, "loss": 2}}\n{line}\n')
    assert logs.average_of_last(tmp_path) == ({"loss": 2}, 1)


def test_results_of_another_shape_are_refused(folder):
    assert "a &lt; b" in reported(folder, RESULTS)
    for name in RESULTS:
        for value in (None, [5], {"a": 1}, 5, "x"):
            if type(value) is type(RESULTS[name]) and name in ("command", "classifier"):
                continue
            if name == "classifier":  # shown as it is, whatever it is
                continue
            with pytest.raises(InputError, match=r"another version|another job"):
                reported(folder, {**RESULTS, name: value})
    short = copy.deepcopy(RESULTS)
    short["tables"][0]["rows"][0].pop()
    with pytest.raises(InputError, match="a row of 'a' is too short"):
        reported(folder, short)
    for text in ("", "{", "\0\1", "[" * 100_000, '{"tables": NaN}'):
        with pytest.raises(InputError):
            reported(folder, text)


def test_only_pictures_of_the_folder_get_into_the_page(folder, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(PICTURE + b"of somebody else")
    (folder / "link.png").symlink_to(secret)
    (folder / "note.png").write_text("no picture")
    for name in ("/etc/passwd", str(secret), "../secret.png", "link.png", "inner/../inner/a.png",
                 "results.json", "", "none.png", "note.png", "inner"):  # fmt: skip
        changed = copy.deepcopy(RESULTS)
        changed["pictures"][0]["file"] = name
        with pytest.raises(InputError, match=r"no picture|no PNG|does not exist"):
            reported(folder, changed)
    assert not (folder / "report.html").exists()
    page = reported(folder, RESULTS)
    assert base64.b64decode(re.search(r'base64,([^"]+)', page).group(1)) == PICTURE


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (np.ones((4, 3), complex), "must hold real numbers, got complex128"),
        (np.array([["a", "b"]] * 3), "must hold real numbers, got <U1"),
        (np.zeros((4, 3), "M8[s]"), "must hold real numbers"),
        (np.zeros(4, [("a", "f4")]).reshape(2, 2), "must hold real numbers"),
    ],
)
def test_patterns_that_are_no_real_numbers_are_refused(tmp_path, rows, said):
    path = tmp_path / "x.npy"
    np.save(path, rows)
    with pytest.raises(InputError, match=said):
        sets.build(sets.Source(str(path)))


def test_more_patterns_than_there_are_is_said(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.eye(4))
    assert sets.build(sets.Source(str(path), count=3)).count == 3
    with pytest.raises(InputError, match="has 4 rows, --count asks for 9"):
        sets.build(sets.Source(str(path), count=9))


def test_layouts_that_contradict_the_options_are_refused(tmp_path):
    path, rng = tmp_path / "layer.safetensors", np.random.default_rng(0)
    held = {
        "k/kernel": rng.normal(size=(8, 8)),  # square: it would fit both ways
        "k3": rng.normal(size=(8, 2, 4)),
        "q3": rng.normal(size=(8, 4, 2)),
        "fused": rng.normal(size=(8, 6, 4)),
        "bias": rng.normal(size=(4, 2)),
    }
    save_file(held, path)
    x = rng.normal(size=(5, 8))
    for options, said in (
        ({"key": "k/kernel", "heads": 2}, "whose layout is in_out, not out_in"),
        ({"key": "k3", "heads": 4, "layout": "in_out"}, "2 heads and the options say 4"),
        ({"key": "k3", "key_bias": "bias", "heads": 2, "layout": "in_out"}, "'bias' has 4 heads"),
        ({"fused": "fused", "heads": 4, "layout": "in_out"}, "6 heads and the options say 12"),
        ({"key": "k3", "query": "q3", "heads": 4, "kv_heads": 2, "layout": "in_out"},
         "gives 4 numbers per head and 'q3' 2"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            projections.project(path, x, **options)
    keys, queries = projections.project(path, x, fused="fused", heads=2, layout="in_out")
    np.testing.assert_allclose(keys[0], x @ held["fused"][:, 2])
    np.testing.assert_allclose(queries[1], x @ held["fused"][:, 1])


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0\x08", b"\0\0\x08\x01", b"\0\0\x08\x03" + b"\xff" * 12, b"\0\0\x08\x03\0\0"],
)
def test_an_idx_file_that_is_cut_off_is_refused(content):
    with pytest.raises(InputError, match="an idx file"):
        raw.idx(content)
