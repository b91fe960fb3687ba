"""Every subcommand of eval.hopfield end to end on little data, and what it says to bad input."""

from __future__ import annotations

import csv
import json
import math
import re

import numpy as np
import pytest

from dng_jax.errors import InputError
from eval import hopfield, hopfield_patterns, hopfield_transition, runs
from hopfield_jax import theory

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIX = ("--count", "6")


def work(tmp_path, *words: str):
    """Runs a subcommand; returns its results and the columns of its CSV file."""
    out = tmp_path / "run"
    results = hopfield.main([*words, "--out", str(out)])
    stored = json.loads((out / "results.json").read_text())
    assert stored["provenance"]["packages"]["jax"]
    assert stored["config"]["command"] == words[0]
    assert (out / "tables.md").read_text().count("|") > 10
    assert all(p.stat().st_size > 5000 for p in out.glob("*.png"))
    assert any(out.glob("*.png"))
    columns: dict[str, list[str]] = {}
    for path in sorted(out.glob("*.csv")):
        with path.open() as file:
            rows = list(csv.DictReader(file))
        columns |= {name: [row[name] for row in rows] for name in rows[0]}
    return results, columns


def numbers(column) -> np.ndarray:
    return np.array(list(map(float, column)))


def test_bifurcation_shows_the_transition(tmp_path, capsys):
    words = ("--betas", "6", "--low", "3", "--high", "7")
    results, columns = work(tmp_path, "bifurcation", *SIX, *words)
    at, up, down = (numbers(columns[k]) for k in ("beta_eff", "overlap_up", "overlap_down"))
    k_s, k_c, k_n = theory.characteristic(6)
    np.testing.assert_allclose(up[at < k_n], 0, atol=1e-4)
    np.testing.assert_allclose(down[at < k_s], 0, atol=1e-4)
    assert (up[at > k_n] > 0.9).all()
    assert (down[at > k_s] > 0.6).all()
    minima = numbers(columns["minima"])
    expected = np.where(at < k_s, 1, np.where(at < k_n, 7, 6))
    np.testing.assert_array_equal(minima, expected)
    gap = numbers(columns["energy_gap"])
    both = (at > k_s) & (at < k_n)
    assert np.isnan(gap[~both]).all()
    assert ((gap[both] < 0) == (at[both] > k_c)).all()
    measured = results["measured"]
    assert measured.patterns * results["scale"] == pytest.approx(k_s, rel=1e-5)
    assert "started at the centroid (N)" in capsys.readouterr().out


def test_phase_diagram_and_collapse_lie_on_the_exact_curves(tmp_path, monkeypatch):
    results, _ = work(tmp_path / "a", "phase-diagram", "--counts", "4", "6")
    assert all(row["error"] < 1e-5 for row in results["rows"])
    shapes = ((2.0, 60.0, 1), (0.5, None, 1))
    monkeypatch.setattr(hopfield_transition, "SHAPES", shapes)
    results, columns = work(tmp_path / "b", "collapse", "--counts", "6", "--betas", "6")
    assert len(results["rows"]) == 2
    assert all(row["error"] < 1e-6 for row in results["rows"])
    assert len(columns["p1"]) == 12
    first, second = (numbers(columns[k]).reshape(2, 6) for k in ("beta", "beta_eff"))
    assert not np.allclose(first[0], first[1])
    np.testing.assert_allclose(second[0], second[1])


def test_basins_and_landscape(tmp_path):
    results, columns = work(
        tmp_path / "a",
        "basins",
        *SIX,
        "--betas",
        "4",
        "--starts",
        "32",
        "--low",
        "3",
        "--high",
        "8",
    )
    shares = [numbers(columns[k]) for k in list(columns)[2:5]]
    np.testing.assert_allclose(sum(shares), 1)
    edge, exact = numbers(columns["watershed"]), results["exact_watershed"]
    np.testing.assert_allclose(edge, exact, atol=2e-4)
    results, _ = work(
        tmp_path / "b", "landscape", *SIX, "--resolution", "12", "--at", "3", "5", "8"
    )
    assert results["minima"] == [1, 7, 6]


def test_retrieval_and_spectrum_of_random_patterns(tmp_path):
    made = ("--patterns", "random", "--dimension", "6", *SIX)
    results, columns = work(
        tmp_path / "a", "retrieval", *made, "--noise", "0.3", "--mask", "0.2", "--betas", "3"
    )
    assert [r["corruption"] for r in results["records"]] == ["noise", "mask"]
    assert set(columns["corruption"]) == {"noise", "mask"}
    assert numbers(columns["found"]).max() == 1
    results, columns = work(tmp_path / "b", "spectrum", *made)
    assert results["report"]["N"] == 6
    assert len(columns["onset_beta_eff"]) == 6


def test_capacity_and_metastable(tmp_path, monkeypatch):
    results, columns = work(
        tmp_path / "a", "capacity", "--sizes", "6x6", "--patterns", "none", "--repeats", "2"
    )
    (record,) = results["records"]
    assert len(record["onset"]) == len(columns["onset"]) == 12
    assert record["predicted"] == pytest.approx(theory.spinodal(6).K)
    monkeypatch.setattr(hopfield_patterns, "WINDOWS", ((4, 2, 1.0, 0.8, 0.0),))
    results, _ = work(
        tmp_path / "b", "metastable", "--patterns", "ultrametric", "--count", "8", "--betas", "8"
    )
    (window,) = results["windows"]
    np.testing.assert_allclose(window["low"], window["exact"][0], rtol=1e-4)
    np.testing.assert_allclose(window["high"], window["exact"][1], rtol=1e-4)
    assert results["trees"][0]["minima"][[0, -1]].tolist() == [8, 1]


@pytest.mark.slow
def test_diffusion_compares_markers_with_sampler_traces(tmp_path):
    results, columns = work(tmp_path, "diffusion", "--samples", "24", "--steps", "12")
    assert len(columns["logsnr"]) == 12
    known = numbers(columns["share of the label resolved"])
    assert known[0] < 0.1
    assert known[-1] > 0.9
    window = results["measured"]["share of the label resolved"]
    assert window.opens < window.middle < window.closes
    # 24 chains, two or three of them in the class
    predicted = results["measured"]["resolved, predicted"]
    assert window.middle == pytest.approx(predicted.middle, abs=1.5)
    marks = results["predicted_logsnr"]
    assert marks["speciation"] < marks["class_speciation"] < marks["image_collapse"]


def test_patterns_from_a_file(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "keys.npy", rng.normal(size=(6, 2, 3)))
    source = hopfield.transition.Source(str(tmp_path / "keys.npy"))
    made = hopfield.build(source, count=3)
    assert made.patterns.shape == (6, 6)  # all of it, as it is
    assert made.name.startswith("keys")


def test_images_are_the_same_for_a_seed_and_equally_many_a_class():
    source = hopfield.transition.Source("digits", count=40)
    first, again, other = (hopfield.build(source, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.patterns, again.patterns)
    assert not np.array_equal(first.patterns, other.patterns)
    for made in (first, other):
        assert np.bincount(made.labels).tolist() == [4] * 10


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bifurcation", "--count", "1"), "--count must be at least 2 patterns, got 1"),
        (("bifurcation", "--low", "0"), "from a number > 0 to a larger one, got 0 to"),
        (("bifurcation", "--low", "-2"), "from a number > 0 to a larger one, got -2 to"),
        (("bifurcation", "--betas", "1"), "--betas must be at least 2, got 1"),
        (("bifurcation", "--angle", "170"), "16 patterns can have equal angles"),
        (("bifurcation", "--patterns", "digit"), "did you mean 'digits'?"),
        (("bifurcation", "--patterns", "nan.npy"), "row 1 of the patterns holds NaN or infinity"),
        (
            ("bifurcation", "--patterns", "zero.npy"),
            "row 2 of the patterns holds nothing but zeros",
        ),
        (("bifurcation", "--patterns", "same.npy"), "rows 0 and 2 of the patterns are equal"),
        (("bifurcation", "--patterns", "flat.npy"), "must hold patterns as rows [N, d], got shape"),
        (("bifurcation", "--patterns", "one.npy"), "at least 2 patterns, got N = 1"),
        (("bifurcation", "--patterns", "text.npy"), "as an array of patterns"),
        (("bifurcation", "--patterns", "none.npy"), "cannot read none.npy"),
        (("phase-diagram", "--counts", "2", "6"), "--counts must be at least 3, got 2"),
        (("phase-diagram", "--counts", "6"), "at least two numbers of patterns"),
        (("collapse", "--betas", "2"), "--betas must be at least 6, got 2"),
        (("basins", "--starts", "0"), "--starts must be at least 1, got 0"),
        (("basins", "--concentration", "0"), "--concentration must be a number > 0, got 0"),
        (("landscape", "--at", "-1"), "beta must be finite and > 0, got -1"),
        (("landscape", "--plane", "pca"), "unknown plane 'pca'"),
        (("landscape", "--count", "2"), "a plane needs at least 3 patterns, got 2"),
        (("retrieval", "--noise", "0"), "--noise must be > 0, got 0"),
        (("retrieval", "--mask", "2"), "--mask must be > 0 and at most 1, got 2"),
        (("retrieval", "--count", "9999"), "digits has 1797 images, --count asks for 9999"),
        (("capacity", "--sizes", "64"), "--sizes are written NxD, such as 64x128, got '64'"),
        (("capacity", "--normalise", "units"), "did you mean 'unit'?"),
        (("capacity", "--repeats", "0"), "--repeats must be at least 1, got 0"),
        (("metastable", "--count", "10"), "10 patterns cannot be split into 4 equal groups"),
        (("diffusion", "--forbid", "ten"), "unknown digits class 'ten'"),
        (("diffusion", "--steps", "2000"), "2000 steps lie outside the schedule"),
        (("diffusion", "--samples", "1"), "--samples must be at least 16, got 1"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).normal(size=(4, 3))
    for name, row, value in (("nan", 1, math.nan), ("zero", 2, 0.0), ("same", 2, rows[0])):
        bad = rows.copy()
        bad[row] = value
        np.save(f"{name}.npy", bad)
    np.save("flat.npy", rows[0])
    np.save("one.npy", rows[:1])
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        hopfield.main([*words, "--out", "run"])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_exit_code_two_without_traceback(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        runs.main(lambda: hopfield.main(["basins", "--count", "1", "--out", str(tmp_path / "x")]))
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --count must be at least 2")
    assert said.count("\n") == 1
