"""Jobs end to end on little data, and what they say to bad input."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import jax
import numpy as np
import pytest
import tyro

from dng_jax import nets, training, weights
from dng_jax.errors import InputError, NonFiniteError
from dng_jax.experiments import problems, rule_specs
from dng_jax.experiments.problems import Source
from dng_jax.jobs import cli, devices
from eval import calibration, class_removal, exact
from eval.bench import __main__ as bench
from eval.study import __main__ as study
from eval.study import cells as study_cells
from eval.study import report

pytestmark = pytest.mark.usefixtures("quick_compilation")

ROOT = Path(__file__).resolve().parents[2]
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
    config = small(tmp_path, source=Source(denoiser), forbid=("3", "8"), seeds=(0, 1), rules=rules)
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


@pytest.mark.slow
def test_samples_do_not_depend_on_the_batch(tmp_path):
    rules = ("dng:pair",)
    a = class_removal.main(small(tmp_path, rules=rules, out=str(tmp_path / "a"), batch=48))
    b = class_removal.main(small(tmp_path, rules=rules, out=str(tmp_path / "b"), batch=20))
    assert a[0]["counts"].tolist() == b[0]["counts"].tolist()


def test_the_label_network_calls_once_a_role(tmp_path):
    rules = ("unguided", "np=0.3", "dng:classes")
    records = class_removal.main(
        small(
            tmp_path, source=Source(network="label"), rules=rules, samples=8, steps=2, forbid=("1",)
        )
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
        problems.make("digits", [str(k) for k in range(10)], Source("exact"))


def test_exit_code_two_without_traceback_and_nothing_overwritten(tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("keep")
    with pytest.raises(SystemExit) as left:
        cli.main(lambda: class_removal.main(class_removal.Config(samples=8, out=str(tmp_path))))
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "holds another run" in said
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]


def test_a_network_that_yields_nan_is_named_and_ends_the_job(tmp_path, monkeypatch):
    made = problems.make("digits", ("0",))
    params = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), made.denoiser.params)
    bad = dataclasses.replace(made, denoiser=dataclasses.replace(made.denoiser, params=params))
    monkeypatch.setattr(problems, "make", lambda *a, **k: bad)
    with pytest.raises(NonFiniteError, match="sample 0 became NaN or infinite at step 0 of"):
        class_removal.main(small(tmp_path, rules=("unguided",)))


def test_rules_are_read_back_as_they_are_written():
    for text in ("unguided", "floor", "np=0.25", "sld=2", "dng:pair=5", "dng:classes=1"):
        assert str(rule_specs.parse(text)) == text
    assert str(rule_specs.parse("dng", "odds")) == "dng:odds=1"


@pytest.mark.parametrize(
    ("denoiser", "sampler"),
    [("exact", "ddpm"), pytest.param("network", "ddim", marks=pytest.mark.slow)],
)
def test_calibration_judges_raw_and_fitted_trackers(tmp_path, denoiser, sampler):
    records = calibration.main(
        calibration.Config(
            source=Source(denoiser),
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


@pytest.mark.slow
def test_exact_posterior_equals_the_complement_and_classes_comes_close():
    problem = problems.make("digits", ("0",), Source("exact"))
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


def small_study(tmp_path, **changes):
    families = ("np", "dng:pair", "dng:classes")
    options = {"forbid": ("0", "7"), "families": families, "samples": 24, "part_samples": 16}
    options |= {"steps": 6, "seeds": (0, 1), "out": str(tmp_path / "s")}
    options |= {"source": Source("exact")}  # compiles in a tenth of a network's time
    return study.Config(**(options | changes))


@pytest.fixture
def small_grids(monkeypatch):
    grids = {"np": (0.1, 1.0), "dng:pair": (1.0,), "dng:classes": (0.5, 1.0)}
    monkeypatch.setattr(study, "GRIDS", grids)
    monkeypatch.setattr(study, "SEVERAL", {"dng:classes": (1.0,)})
    monkeypatch.setattr(study, "SET_SIZES", (2,))
    monkeypatch.setattr(study, "STEP_COUNTS", (4, 6))
    monkeypatch.setattr(study, "KNOBS", {"lambda_0": (2.0,), "tau": (0.5,), "prior": (0.3,)})


@pytest.mark.parametrize(
    ("families", "parts"),
    [
        # Calibration has a test of its own; every family and part compiles programs of its own.
        (("np", "dng:classes"), ("curves", "sensitivity", "steps", "several", "path")),
        pytest.param(("np", "dng:pair", "dng:classes"), study.PARTS, marks=pytest.mark.slow),
    ],
)
def test_study_makes_every_part_and_its_report(tmp_path, small_grids, families, parts):
    results = study.main(small_study(tmp_path, families=families, parts=parts))
    curve = results["curves"]["curves"]["np"]
    assert curve["leak_by_class"].shape == (2, 2)
    assert curve["samples"] == 48  # both seeds
    matched = {(m["reference"], m["rule"]): m for m in results["curves"]["matched"]}
    own = results["curves"]["curves"]["dng:classes"]["kl"][1]  # lambda_0 = 1
    assert matched["dng:classes", "np"]["excess"] == pytest.approx(
        matched["dng:classes", "np"]["kl"] - own
    )
    counts = [r["counts"] for r in results["curves"]["counts"]]
    settings = 1 + 1 + sum(len(study.GRIDS[family]) for family in families)
    assert len(counts) == 2 * 2 * settings  # seeds, classes
    assert all(sum(c) == 24 for c in counts)
    assert set(results["several"]) == {2}
    assert set(results["steps"]) == {4, 6}
    if "dng:pair" in families:
        assert len(results["sensitivity"]["dng:pair"]["leak"]) == 4
    assert len(results["sensitivity"]["dng:classes"]["leak"]) == 3  # it has no prior

    page = report.main(report.Config(tmp_path / "s")).read_text()
    assert page.count("data:image/png;base64,") == len(results["pictures"]) >= 7
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    for part in parts:
        assert report.TITLES[part] in page
    assert f"{100 * curve['leak'][1]:.2f}" in page
    assert "| np=1 |" in (tmp_path / "s" / "readme.md").read_text()


def test_study_goes_on_where_it_stopped(tmp_path, small_grids, monkeypatch):
    config = small_study(tmp_path, parts=("curves",), resume=True)
    made, run = [], study_cells.run

    def stop_after_three(problem, cell):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(cell.name)
        return run(problem, cell)

    monkeypatch.setattr(study_cells, "run", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        study.main(config)
    monkeypatch.setattr(study_cells, "run", lambda p, c: (made.append(c.name), run(p, c))[1])
    first = study.main(config)
    assert len(made) == len(set(made)) == 2 * 2 * 5

    # More seeds are more cells of the same study; nothing finished is made again.
    more = study.main(dataclasses.replace(config, seeds=(0, 1, 2)))
    assert len(made) == len(set(made)) == 3 * 2 * 5
    old, new = (r["curves"]["curves"]["np"]["samples"] for r in (first, more))
    assert (old, new) == (48, 72)

    # Another part is added; the one that was there stays in the results.
    both = study.main(dataclasses.replace(config, parts=("several",)))
    assert {t["part"] for t in both["tables"]} == {"curves", "several"}
    assert "--parts curves several" in both["command"]
    stored = json.loads((tmp_path / "s" / "results.json").read_text())
    assert stored["curves"]["curves"]["np"]["samples"] == 72

    cell = tmp_path / "s" / "cells" / f"{made[0]}.npz"
    cell.write_bytes(cell.read_bytes()[:100])
    with pytest.raises(InputError, match=r"cannot be read.*remove it"):
        study.main(config)
    cell.unlink()
    with pytest.raises(InputError, match="made with other settings"):
        study.main(dataclasses.replace(config, samples=30))


def test_families_of_a_study_may_bring_their_own_scales(small_grids, tmp_path):
    assert study.grids_of(("np", "dng:pair=10,3")) == {"np": (0.1, 1.0), "dng:pair": (3.0, 10.0)}
    config = small_study(tmp_path, families=("np=0.3", "dng:pair=10,3"), parts=("curves",))
    by_family = {cell.family: cell for cell in study.cells(config, (0,), 10)}
    assert [s.scale for s in by_family["np"].settings] == [0.3]
    assert [s.scale for s in by_family["dng:pair"].settings] == [3.0, 10.0]


@pytest.mark.parametrize(
    ("families", "said"),
    [
        (("npp",), "no grid of scales for 'npp': choose from np, dng:pair, dng:classes"),
        (("np", "np=1"), "names 'np' twice"),
        (("np=1,x",), "'np=1,x' has a scale that is no number: write np=0.5,1"),
        (("np=nan",), "the scales of 'np=nan' must be >= 0, finite, none twice"),
    ],
)
def test_families_that_make_no_sense_are_named(small_grids, tmp_path, families, said):
    with pytest.raises(InputError, match=re.escape(said)):
        study.check(small_study(tmp_path, families=families))


def test_cells_share_noise_across_rules_and_nothing_across_classes(small_grids, tmp_path):
    config = small_study(tmp_path)
    cells = list(study.cells(config, (0, 7), 10))
    starts = {}
    for cell in cells:
        starts.setdefault(study_cells.first_sample(cell), set()).add(cell.forbidden)
    assert all(len(sets) == 1 for sets in starts.values())
    assert len(starts) == 2 + len(study.sets_of((0, 7), 10))
    assert len({cell.name for cell in cells}) == len(cells)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (Source(network="haeds"), "unknown network 'haeds': did you mean 'heads'?"),
        (Source(network="no.safetensors"), "no.safetensors does not exist"),
        (Source(negatives=("a.safetensors",)), "--negatives belongs to a network without classes"),
        (Source(network="classifier.safetensors"), "holds a Classifier, not a UNet"),
        (Source(classifier="unet.safetensors"), "holds a UNet, not a Classifier"),
    ],
)
def test_networks_that_do_not_fit_are_named(source, said, tmp_path, monkeypatch):
    for name, bundled in {"classifier": "digits-classifier", "unet": "digits-heads"}.items():
        found = resources.files("dng_jax.weights.pretrained") / f"{bundled}.safetensors"
        (tmp_path / f"{name}.safetensors").write_bytes(found.read_bytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=re.escape(said)):
        problems.make("digits", ("0",), source)


def test_the_two_network_setup_of_the_paper(tmp_path):
    config = nets.UNetConfig((8, 8, 1), channels=8, multipliers=(1,), blocks=0, patch=2)
    names = []
    for i in range(2):
        module = nets.UNet(config)
        state = training.init_state(module, training.make_optimiser(2, 1e-3, 1), jax.random.key(i))
        names.append(str(tmp_path / f"{i}.safetensors"))
        weights.save(names[-1], state.params, nets.describe(module))
    source = Source(network=names[0], negatives=(names[1],))
    options = {"samples": 8, "steps": 2, "source": source}
    records = class_removal.main(
        small(tmp_path, rules=("unguided", "np=0.3", "dng:pair"), **options)
    )
    assert [r["network_calls_per_image"] for r in records] == [2, 4, 4]
    with pytest.raises(InputError, match=r"knows no classes.*1 needed, got 0"):
        problems.make("digits", ("0",), Source(network=names[0]))
    with pytest.raises(InputError, match="network of one class: name it with --forbid, got 10"):
        study.main(study.Config(source=source, out=str(tmp_path / "s")))
    known = study.without_classes(study.Config(source=source), (0,))
    asked = study.cells(known, (0,), 10, knows_classes=False)
    assert {c.family for c in asked} == {"unguided", "np", "sld", "dng:pair", "dng:odds"}
    old = problems.fingerprint("digits", source)
    assert len(set(old.values())) == 3  # base, negative, classifier
    weights.save(names[0], state.params, nets.describe(module))
    assert problems.fingerprint("digits", source)[names[0]] != old[names[0]]
    for rule in ("dng:classes", "floor"):
        with pytest.raises(InputError, match="asks for every class"):
            class_removal.main(small(tmp_path, rules=(rule,), out=str(tmp_path / "r"), **options))


def test_devices_that_are_not_there_are_named():
    done = run("eval.class_removal", "--platform", "tpu", "--samples", "8")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no tpu device here" in done.stderr
    with pytest.raises(InputError, match="must be at least 1, got 0"):
        devices.select(cpu_devices=0)


@pytest.mark.slow
def test_throughput_counts_operations(tmp_path):
    config = bench.Config(
        "throughput", networks=("digits",), batch=8, samples=8, pairs=1, out=str(tmp_path / "b")
    )
    (found,) = bench.main(config)["results"].values()
    # 3x3 convolutions and dense layers of the digits network, at 4x4 and 2x2 positions
    assert 10e6 < found["sampling"]["operations_per_image"] < 60e6
    ratio = found["training"]["operations_per_image"] / found["sampling"]["operations_per_image"]
    assert 2.5 < ratio < 3.5  # forward, and backward by inputs and by weights


@pytest.mark.slow
def test_bench_reports_ratios_and_compiles_nothing_anew(tmp_path):
    results = bench.main(bench.Config(samples=8, steps=2, pairs=2, out=str(tmp_path / "b")))
    assert results["results"]["programs a second sweep compiles"] == 0
    assert all(r.median > 0 for r in results["results"].values() if hasattr(r, "median"))
