"""The suites growth, start and memory of eval.bench, at little sizes."""

from __future__ import annotations

import json

import pytest

from dng_jax import InputError
from dng_jax.jobs.options import RunOptions
from eval.bench import convolutions, growth, start, timing
from eval.bench import job as bench


def measured(tmp_path, *given):
    run = RunOptions(str(tmp_path / "b"))
    found = bench.main(bench.Config(*given, pairs=1, run=run))["results"]
    assert (
        found.keys() == json.loads((tmp_path / "b" / "results.json").read_text())["results"].keys()
    )
    return found


@pytest.mark.slow
def test_growth_doubles_one_size_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "OCTAVES", 1)
    found = measured(tmp_path, "growth", 4, 2)
    sizes = {axis: part[axis]["sizes"] for axis, part in found.items()}
    assert sizes == {
        "images": [4, 8],
        "steps": [2, 4],
        "classes": [10, 20],
        "settings": [1, 2],
    }
    assert all(min(part[axis]["seconds"]) > 0 for axis, part in found.items())


@pytest.mark.slow
def test_the_stages_of_a_start_are_parts_of_it(tmp_path):
    found = measured(tmp_path, "start")["start"]
    assert found["help"]["stages"] == {}
    for name in ("image, no cache", "image, empty cache", "image, warm cache"):
        assert found[name]["stages"].keys() == set(start.STAGES)
        assert 0 < sum(found[name]["stages"].values()) < found[name]["seconds"]


@pytest.mark.slow
def test_a_trajectory_that_is_kept_takes_memory_for_every_step(tmp_path):
    found = measured(tmp_path, "memory", 64, 20)["memory"]
    alone, one, two = (record["bytes_per_image"]["planned"] for record in found)
    trajectory = 20 * 8 * 8 * 4
    assert one - alone == pytest.approx(trajectory, rel=0.2)
    assert two - one == pytest.approx(trajectory, rel=0.2)


def test_convolutions_are_timed_against_xlas_and_held_to_float64(tmp_path, monkeypatch):
    cases = tuple(
        convolutions.Case(way, what, (3, 2, 2, 4), 5)
        for way in convolutions.WAYS
        for what in ("forward", "gradient")
    )
    monkeypatch.setattr(convolutions, "CASES", cases)
    (found,) = measured(tmp_path, "convolutions").values()
    assert [(record["way"], record["what"]) for record in found] == [case[:2] for case in cases]
    for record in found:
        assert record["gflops"] > 0
        assert all(0 < error < 1e-5 for error in record["errors"].values())


def test_a_start_that_fails_is_a_sentence():
    with pytest.raises(InputError, match="ended with exit code 1: no such thing"):
        start.started("raise SystemExit('no such thing')", {})


def test_programs_take_turns_and_each_warms_up_once():
    order = []

    def run(name, seconds):
        def answer():
            order.append(name)
            return next(seconds)

        return answer

    runs = {"a": run("a", iter([9.0, 2.0, 3.0, 4.0])), "b": run("b", iter([9.0, 1.0, 1.0, 1.0]))}
    times = timing.in_turn(runs, 3)
    assert order == ["a", "b"] * 4
    ratio = timing.ratio(times["a"], times["b"])
    assert (ratio.low, ratio.median, ratio.high) == (2.5, 3.0, 3.5)
    assert (ratio.a, ratio.b, ratio.pairs) == (3.0, 1.0, 3)
    assert timing.shown(ratio) == "3.00 [2.50, 3.50]"
