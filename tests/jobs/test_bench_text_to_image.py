"""The text-to-image suite of eval.bench on a U-Net of a hundredth of the size."""

from __future__ import annotations

import json
import sys

import pytest

from dng_jax.jobs.options import RunOptions
from eval.bench import job as bench
from eval.bench import text_to_image

pytestmark = pytest.mark.usefixtures("quick_compilation")


def measured(tmp_path, monkeypatch):
    monkeypatch.setattr(text_to_image, "SIDES", (8,))
    monkeypatch.setattr(text_to_image, "PRODUCT", 256)
    config = bench.Config("text-to-image", shrink=10, pairs=1, run=RunOptions(str(tmp_path / "b")))
    found = bench.main(config)["results"]["steps"]
    stored = json.loads((tmp_path / "b" / "results.json").read_text())["results"]["steps"]
    assert stored["parameters"] == found["parameters"] > 5e6
    [record] = found["records"]
    assert record["side"] == 8
    # about 2 operations per parameter and image, more where a layer has many positions
    assert record["operations"] > 2 * 3 * found["parameters"]
    assert record["seconds"] > 0 < record["share_of_peak"]
    return record


@pytest.mark.slow
def test_without_torch_the_step_is_timed_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert measured(tmp_path, monkeypatch)["torch"] == text_to_image.MISSING
    assert "8x8" in capsys.readouterr().out


def test_both_sides_compute_the_same(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    record = measured(tmp_path, monkeypatch)
    assert record["torch"]["largest_difference"] < 1e-5
    assert record["torch"]["times"].median > 0
