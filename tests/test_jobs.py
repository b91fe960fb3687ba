"""Jobs end to end on little data, and what they say to bad input."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tyro

from dng_jax.errors import InputError, NonFiniteError
from eval import bench, calibration, class_removal, exact, problems, rule_specs, study

ROOT = Path(__file__).resolve().parents[1]
RULES = ("unguided", "floor", "np=0.3", "sld=0.5", "dng:pair", "dng:odds=2", "dng")


def small(tmp_path, **changes):
    options = {"samples": 48, "steps": 10, "out": str(tmp_path / "run"), "rules": RULES}
    return class_removal.Config(**(options | changes))


def run(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("denoiser", ["network", "exact"])
def test_class_removal_writes_one_record_a_rule(tmp_path, denoiser, capsys):
    rules = RULES if denoiser == "exact" else ("floor", "dng:pair", "dng")
    config = small(tmp_path, denoiser=denoiser, forbid=("3", "8"), seeds=(0, 1), rules=rules)
    records = class_removal.main(config)
    folder = tmp_path / "run"
    stored = json.loads((folder / "results.json").read_text())
    assert [r["rule"] for r in stored["records"]] == [str(rule_specs.parse(rule)) for rule in rules]
    for r in stored["records"]:
        # The floor rounds its samples up to a multiple of the eight allowed classes: 48 is one.
        assert sum(r["counts"]) == 2 * 48
        assert np.sum(list(r["counts_by_seed"].values()), axis=0).tolist() == r["counts"]
        forbidden = r["counts"][3] + r["counts"][8]
        assert r["report"]["forbidden"]["value"] == pytest.approx(forbidden / 96)
    assert {p.name for p in folder.iterdir()} == {
        "run.json", "results.json", "tables.md", "samples.png", "trade_off.png", "posterior.png",
    }  # fmt: skip
    assert stored["provenance"]["packages"]["jax"]
    calls = [r["network_calls_per_image"] for r in records]
    assert calls == ([10 if denoiser == "network" else None] * len(rules))
    assert "dng:classes=1" in capsys.readouterr().out


def test_samples_do_not_depend_on_the_batch(tmp_path):
    rules = ("dng:pair",)
    a = class_removal.main(small(tmp_path, rules=rules, out=str(tmp_path / "a"), batch=48))
    b = class_removal.main(small(tmp_path, rules=rules, out=str(tmp_path / "b"), batch=20))
    assert a[0]["counts"].tolist() == b[0]["counts"].tolist()


def test_the_label_network_calls_once_a_role(tmp_path):
    rules = ("unguided", "np=0.3", "dng:classes")
    records = class_removal.main(
        small(tmp_path, network="label", rules=rules, samples=8, steps=2, forbid=("1",))
    )
    assert [r["network_calls_per_image"] for r in records] == [2, 4, 20]


def test_the_bundled_network_removes_a_digit_better_than_chance(tmp_path):
    records = class_removal.main(
        small(tmp_path, samples=256, steps=25, rules=("unguided", "dng:classes"))
    )
    unguided, guided = (r["report"].forbidden.value for r in records)
    assert unguided > 0.05
    assert guided < 0.02


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--dataset", "digit"), "unknown data set 'digit': did you mean 'digits'?"),
        (("--forbid", "ten"), "unknown digits class 'ten'"),
        (("--rules", "dgn"), "unknown rule 'dgn': did you mean 'dng'?"),
        (("--rules", "dng:pairs"), "unknown tracker 'pairs': did you mean 'pair'?"),
        (("--tracker", "klasses"), "unknown tracker 'klasses': did you mean 'classes'?"),
        (("--rules", "np=much"), "'much' is not a number"),
        (("--rules", "np=-1"), "scale must be a finite number >= 0"),
        (("--rules", "unguided=2"), "unguided takes no scale"),
        (("--steps", "1001"), "1001 steps lie outside the schedule"),
        (("--steps", "0"), "0 steps lie outside the schedule"),
        (("--prior", "1.5", "--rules", "dng:pair"), "prior must lie strictly between 0 and 1"),
        (("--prior", "0.1"), "--prior belongs to pair and odds"),
        (("--samples", "1"), "--samples must be at least 2, got 1"),
        (("--denoiser", "neural"), "unknown denoiser 'neural'"),
        (("--rules", "dng:exact"), "the tracker 'exact' needs --denoiser exact"),
        (("--seeds", "1", "1"), "a seed is named twice"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(tmp_path, words, said):
    out = tmp_path / "run"
    rules = () if "--rules" in words else ("--rules", "dng")
    config = tyro.cli(class_removal.Config, args=[*words, *rules, "--out", str(out)])
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        class_removal.main(config)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_forbidding_every_class_is_refused():
    with pytest.raises(InputError, match="all 10 classes of digits are forbidden"):
        problems.make("digits", [str(k) for k in range(10)], "exact")


def test_exit_code_two_without_traceback_and_nothing_overwritten(tmp_path):
    (tmp_path / "precious.txt").write_text("keep")
    done = run("eval.class_removal", "--samples", "8", "--out", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "holds another run" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]


def test_a_network_that_yields_nan_is_named_and_ends_the_job(tmp_path, monkeypatch):
    made = problems.make("digits", ("0",), "network")
    params = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), made.denoiser.params)
    bad = dataclasses.replace(made, denoiser=dataclasses.replace(made.denoiser, params=params))
    monkeypatch.setattr(problems, "make", lambda *a, **k: bad)
    with pytest.raises(NonFiniteError, match="sample 0 became NaN or infinite at step 0 of"):
        class_removal.main(small(tmp_path, rules=("unguided",)))


def test_rules_are_read_back_as_they_are_written():
    for text in ("unguided", "floor", "np=0.25", "sld=2", "dng:pair=5", "dng:classes=1"):
        assert str(rule_specs.parse(text)) == text
    assert str(rule_specs.parse("dng", "odds")) == "dng:odds=1"


@pytest.mark.parametrize(("denoiser", "sampler"), [("exact", "ddpm"), ("network", "ddim")])
def test_calibration_judges_raw_and_fitted_trackers(tmp_path, denoiser, sampler):
    records = calibration.main(
        calibration.Config(
            denoiser=denoiser,
            samples=64,
            steps=12,
            knots=3,
            samplers=(sampler,),
            trackers=("odds", "classes"),
            out=str(tmp_path / "run"),
        )
    )
    assert len(records) == 2 * 3
    classes = {r["fit"]: r for r in records if r["tracker"] == "classes"}
    assert classes["raw"]["vector"].agreement > 0.8
    assert ("error_over_time" in records[0]) == (denoiser == "exact")
    assert (tmp_path / "run" / f"reliability_{sampler}_classes.png").exists()


def test_exact_posterior_equals_the_complement_and_classes_comes_close():
    problem = problems.make("digits", ("0",), "exact")
    identity = exact.exact_identity(problem, 64, seed=0, count=50)
    assert identity["largest_difference"] < 1e-3
    shape, mixture = problem.info.shape, problem.mixture
    denoise, table = problem.denoiser, problem.table("ddpm", 50)
    rules = {
        "unguided": exact.guidance.unguided(),
        "classes": exact.DNG(exact.posterior.classes(10, (0,))),
    }
    rows = {
        name: exact.measure(name, mixture, denoise, table, rule, shape, 256, 0)
        for name, rule in rules.items()
    }
    assert rows["unguided"].leak > 0.05
    assert rows["classes"].leak <= 0.004  # at most one image of 256
    assert rows["classes"].error <= 1e-3


@pytest.mark.slow
def test_exact_claims(tmp_path):
    # The figures the issue asks of the digits mixture and of the plane, at the size it asks for.
    results = exact.main(exact.Config(samples=4096, out=str(tmp_path / "e")))
    rows = {(r.what, r.steps): r for r in results["digits"]}
    # Where p comes close to 1, guidance amplifies float32's rounding by 1/(1-p): a few chains.
    assert results["identity"]["share_beyond"] < 1e-3
    assert rows["exact posterior", 100].leak == 0
    assert rows["pair", 1000].leak <= 0.01
    assert rows["pair", 1000].kl <= 0.03
    assert rows["NP lambda = 1", 1000].kl >= 0.2
    assert rows["NP lambda = 0.2", 1000].leak >= 0.02
    assert rows["classes", 100].leak <= 0.002
    assert rows["classes", 25].leak <= 0.012
    assert rows["classes", 100].error <= 1e-3
    plane = {(r.what, r.steps): r for r in results["plane"]}
    for steps in (50, 250):
        for tracker in ("pair", "odds"):
            plain = plane[f"DDIM, {tracker} plain", steps].leak
            corrected = plane[f"DDIM, {tracker} corrected", steps].leak
            assert corrected <= min(plain / 2, 0.02)


def test_study_resumes_from_its_cells(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "GRIDS", {"np": (0.1, 1.0), "dng:classes": (1.0,)})
    config = study.Config(
        forbid=("0", "7"),
        families=("np", "dng:classes"),
        samples=32,
        steps=8,
        out=str(tmp_path / "s"),
        resume=True,
    )
    first = study.main(config)
    assert first["curves"]["np"].leak_by_class.shape == (2, 2)
    (matched,) = first["matched"]
    assert (matched["reference"], matched["rule"]) == ("dng:classes", "np")
    assert matched["excess"] == pytest.approx(matched["kl"] - first["curves"]["dng:classes"].kl[0])

    def never(*_):
        raise AssertionError("a finished cell was computed again")

    monkeypatch.setattr(study, "cell", never)
    again = study.main(config)
    assert again["curves"]["np"].kl.tolist() == first["curves"]["np"].kl.tolist()


def test_bench_reports_ratios_and_compiles_nothing_anew(tmp_path):
    results = bench.main(bench.Config(samples=8, steps=2, pairs=2, out=str(tmp_path / "b")))
    assert results["results"]["programs a second sweep compiles"] == 0
    assert all(r.median > 0 for r in results["results"].values() if hasattr(r, "median"))
