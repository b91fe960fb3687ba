"""Jobs end to end on little data, and what they say to bad input."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tyro

from dng_jax import data, disk, guidance, nets, posterior, training
from dng_jax.errors import InputError, NonFiniteError
from dng_jax.experiments import calibrations, models, problems, rule_specs
from dng_jax.experiments.generating import Draw, generate
from dng_jax.experiments.source import Source
from dng_jax.jobs import cli, devices
from dng_jax.jobs.options import RunOptions
from dng_jax.metrics import Moments, features
from dng_jax.steps import StepRow
from dng_jax.weights import files
from eval.bench import job as bench
from eval.calibration import job as calibration
from eval.class_removal import job as class_removal
from eval.exact import job as exact
from eval.study import cells as study_cells
from eval.study import job as study
from eval.study import options as study_options
from eval.study import plan, report

pytestmark = pytest.mark.usefixtures("quick_compilation")

ROOT = Path(__file__).resolve().parents[2]
RULES = ("unguided", "reference", "np=0.3", "sld=0.5", "dng:pair", "dng:odds=2", "dng")


def removal(out: Path, **changes) -> class_removal.Config:
    """A little run of class_removal into the folder `out`."""
    options = {"samples": 48, "steps": 10, "run": RunOptions(str(out)), "rules": RULES}
    return class_removal.Config(**(options | changes))


@pytest.fixture(scope="module", params=["network", pytest.param("exact", marks=pytest.mark.slow)])
def removed(request, quick_compilation, tmp_path_factory):
    """A run over two seeds with two classes forbidden: its records, files and printed lines."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    rules = RULES if request.param == "exact" else ("reference", "dng:pair", "dng")
    printed = io.StringIO()
    config = removal(
        folder, source=Source(request.param), forbid=("3", "8"), seeds=(0, 1), rules=rules
    )
    with contextlib.redirect_stdout(printed):
        records = class_removal.main(config)
    stored = json.loads((folder / "results.json").read_text())
    return SimpleNamespace(
        denoiser=request.param,
        rules=rules,
        records=records,
        folder=folder,
        stored=stored,
        printed=printed.getvalue(),
    )


def test_class_removal_writes_one_record_per_rule(removed):
    names = [str(rule_specs.parse(rule)) for rule in removed.rules]
    assert [r["rule"] for r in removed.stored["records"]] == names
    assert "dng:classes=1" in removed.printed


def test_counts_are_pooled_over_seeds(removed):
    for r in removed.stored["records"]:
        # The reference rounds samples up to a multiple of the eight allowed classes: 48 is one.
        assert sum(r["counts"]) == 2 * 48
        assert np.sum(list(r["counts_by_seed"].values()), axis=0).tolist() == r["counts"]


def test_the_reported_leak_is_that_of_the_counts(removed):
    for r in removed.stored["records"]:
        forbidden = r["counts"][3] + r["counts"][8]
        assert r["report"]["leak"]["value"] == pytest.approx(forbidden / 96)


def test_a_class_that_was_asked_for_is_compared_with_what_came(removed):
    found = {r["rule"]: r["of_their_class"] for r in removed.stored["records"]}
    assert [name for name, share in found.items() if share is not None] == ["reference"]
    assert found["reference"]["total"] == 96
    counts = next(r["counts"] for r in removed.stored["records"] if r["rule"] == "reference")
    assert found["reference"]["count"] <= sum(min(n, 12) for n in counts)  # 12 of each were asked
    assert found["reference"]["value"] > 0.5  # by chance it would be .1
    assert "of their class % [95%]" in removed.printed


def test_class_removal_writes_pictures_tables_and_provenance(removed):
    assert {p.name for p in removed.folder.iterdir()} == {
        ".lock",
        "run.json", "results.json", "tables.md", "samples.png", "trade_off.png", "posterior.png",
    }  # fmt: skip
    assert removed.stored["provenance"]["packages"]["jax"]
    assert removed.stored["classifier"] in ("digits-classifier", "closed form")


def test_network_calls_are_counted_where_there_is_a_network(removed):
    calls = [r["network_calls_per_image"] for r in removed.records]
    assert calls == ([10 if removed.denoiser == "network" else None] * len(removed.rules))


@pytest.mark.slow
def test_samples_do_not_depend_on_the_batch(tmp_path):
    rules = ("dng:pair",)
    a = class_removal.main(removal(tmp_path / "a", rules=rules, batch=48))
    b = class_removal.main(removal(tmp_path / "b", rules=rules, batch=20))
    assert a[0]["counts"].tolist() == b[0]["counts"].tolist()


@pytest.mark.slow
def test_the_label_network_calls_once_per_role(tmp_path):
    config = removal(
        tmp_path / "run",
        source=Source(network="label"),
        rules=("unguided", "np=0.3", "dng:classes", "dng:pair,skip=.2,every=2"),
        samples=8,
        steps=2,
        forbid=("1",),
    )
    records = class_removal.main(config)
    assert [r["network_calls_per_image"] for r in records] == [2, 4, 20, 3]
    assert [r["negatives_asked_per_image"] for r in records] == [None, None, None, 1]


@pytest.mark.slow
def test_the_bundled_network_removes_a_digit_better_than_chance(tmp_path):
    records = class_removal.main(
        removal(tmp_path / "run", samples=128, steps=25, rules=("unguided", "dng:classes"))
    )
    unguided, guided = (r["report"].leak.value for r in records)
    assert unguided > 0.05
    assert guided < 0.02


@pytest.fixture(scope="module")
def digits():
    """Digits as a mixture, without 0 and 7."""
    return problems.make("digits", (0, "7"), Source("exact"))


def test_the_reference_draws_each_allowed_class_in_turn(digits):
    table, rule = digits.table("ddpm", 4), guidance.unguided("positive")
    found = generate(digits, table, rule, Draw(20, 3, first=100, keep=10))
    assert found.labels.shape == (1, 24)  # whole rounds of the 8 allowed classes
    allowed = [1, 2, 3, 4, 5, 6, 8, 9]
    assert (found.labels[0].reshape(3, 8) == allowed).mean() > 0.9
    # Class 2 is the second part of three samples each, from sample 103 on.
    part = generate(digits, table, guidance.unguided("class:2"), Draw(3, 3, first=103))
    np.testing.assert_allclose(found.features[0, 1::8], part.features[0], atol=1e-5)
    np.testing.assert_allclose(found.images[0, 1::8], part.images[0, :2], atol=1e-5)
    assert found.images.shape[1] == 10


@pytest.mark.slow
def test_a_sweep_is_its_rules_one_by_one_and_batches_are_parts_of_it(digits):
    table = digits.table("ddpm", 4)
    rules = [guidance.negative_prompt(s, negatives=digits.negatives) for s in (0.2, 1.0)]
    both = generate(digits, table, rules, Draw(6, 0))
    cut = generate(digits, table, rules, Draw(6, 0, batch=4, keep=5))
    for i, rule in enumerate(rules):
        single = generate(digits, table, rule, Draw(6, 0, pieces=2))
        np.testing.assert_allclose(both.images[i], single.images[0], atol=1e-4)
    np.testing.assert_allclose(cut.images, both.images[:, :5], atol=1e-4)
    assert [b.shape[1] for b in cut.batches] == [3, 3]
    whole = Moments.zero(64).update(cut.features[1])
    np.testing.assert_allclose(cut.moments(1).covariance, whole.covariance, atol=1e-12)


@pytest.mark.slow
def test_images_are_saved_and_a_calibration_reaches_every_tracker(tmp_path):
    problem = problems.make("digits", ("3",), Source("exact"))
    knots = (-5.0, 3.0)
    pair = calibrations.Correction(knots, (0.5, 0.25), (0.0, 0.5))
    made = calibrations.Calibration(
        "digits", calibrations.fingerprint(problem), "ddpm", 4, {"pair": pair}
    )
    path = calibrations.save(tmp_path / "c.json", made)
    config = removal(
        tmp_path / "run", source=Source("exact"), forbid=("3",), steps=4, samples=9, seeds=(0, 2),
        rules=("reject:pair=1.2", "reject:pair=1.2,calibration=none", "reference"),
        calibration=str(path), save_images="npz",
    )  # fmt: skip
    records = class_removal.main(config)
    names = [f"reject:pair=1.2,calibration={path}", "reject:pair=1.2,calibration=none"]
    assert [r["rule"] for r in records] == [*names, "reference"]
    with np.load(tmp_path / "run" / "images" / "reference.npz") as stored:
        assert len(stored["images"]) == len(stored["labels"]) == 18
    records = records[:2]
    offsets = [r["parameters"]["detector"]["tracker"]["offset"]["values"] for r in records]
    assert [np.asarray(o).tolist() for o in offsets] == [[0.0, 0.5], [0.0]]
    files = sorted((tmp_path / "run" / "images").glob("reject*"))
    assert len(files) == 2
    for file, record in zip(files, records, strict=True):
        with np.load(file) as stored:
            assert stored["images"].shape == (18, 8, 8, 1)
            assert stored["seeds"].tolist() == [0] * 9 + [2] * 9
            found = np.bincount(stored["labels"], minlength=10)
        assert found.tolist() == record["counts"].tolist()


@pytest.mark.slow
def test_inception_features_take_the_place_of_the_classifiers_own(tmp_path, monkeypatch):
    def brightness(weights):
        assert weights == "weights.pth"
        return lambda x: np.asarray(x, np.float32).mean(axis=(2, 3))  # one number per row

    monkeypatch.setattr(features, "inception", brightness)
    source = Source("exact", features="inception", inception_weights="weights.pth")
    config = removal(tmp_path / "run", source=source, rules=("unguided",), samples=24)
    (found,) = class_removal.main(config)
    (plain,) = class_removal.main(
        removal(tmp_path / "p", source=Source("exact"), rules=("unguided",), samples=24)
    )
    assert (found["frechet_features"], plain["frechet_features"]) == ("inception", "pixels")
    assert found["counts"].tolist() == plain["counts"].tolist()
    problem = problems.make("digits", ("0",), source)
    rule, table = guidance.unguided(), problem.table("ddpm", 10)
    pixels = generate(problem, table, rule, Draw(24, 0)).images[0]
    moments = Moments.zero(8).update(pixels.mean(axis=(2, 3)))
    assert found["frechet_distance"] == pytest.approx(problem.real.distance(moments))
    assert problem.real_features.shape == (1797 - 178, 8)  # all images but the zeros


def test_inception_features_without_their_extra_are_refused_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    config = removal(tmp_path / "run", source=Source(features="inception"))
    with pytest.raises(
        InputError, match=r"need the optional extra 'fid'.*dng-jax\[fid\]"
    ) as caught:
        class_removal.main(config)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


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
        (("--calibration", "c.json", "--rules", "np"), "no rule of --rules takes --calibration"),
        (("--calibration", "a,b.json"), "'a,b.json' has no place in a rule: rename the file"),
        (("--samples", "1"), "--samples must be at least 2, got 1"),
        (("--features", "clip"), "unknown kind of features 'clip'"),
        (("--denoiser", "neural"), "unknown denoiser 'neural'"),
        (("--rules", "dng:exact"), "the tracker 'exact' needs --denoiser exact"),
        (("--seeds", "1", "1"), "--seeds 1 1 names something twice"),
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


@pytest.mark.parametrize(
    ("dataset", "source", "said"),
    [
        ("digits", Source("exact", patterns=0), "between 1 and the 1,797 images of digits, got 0"),
        ("digits", Source("exact", patterns=1798), "between 1 and the 1,797 images of digits"),
        ("digits", Source("exact", patterns=8), "first 8 images of digits hold none of 8, 9: take"),
        ("digits", Source(patterns=100), "--patterns belongs to --denoiser exact"),
    ],
)
def test_patterns_that_make_no_mixture_are_refused(dataset, source, said):
    with pytest.raises(InputError, match=re.escape(said)):
        problems.load(dataset, source)


def test_a_mixture_that_fits_into_no_memory_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr(disk, "free_memory", lambda: 10**6)
    with pytest.raises(InputError, match=r"exact model of 1,797 images of digits needs .*patterns"):
        problems.load("digits", Source("exact"))


def test_the_mixture_holds_the_first_images():
    model = problems.load("digits", Source("exact", patterns=100))
    assert np.isfinite(model.mixture.log_weights).sum() == 100


def test_forbidding_every_class_is_refused():
    with pytest.raises(InputError, match="all 10 classes of digits are forbidden"):
        problems.make("digits", [str(k) for k in range(10)], Source("exact"))


def test_exit_code_two_without_traceback_and_nothing_overwritten(tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("keep")
    with pytest.raises(SystemExit) as left:
        cli.main(lambda: class_removal.main(removal(tmp_path, samples=8)))
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
        class_removal.main(removal(tmp_path / "run", rules=("unguided",)))


@pytest.mark.slow
def test_the_information_budget_does_not_depend_on_the_batch(tmp_path):
    def records(batch):
        return calibration.main(
            calibration.Config(
                source=Source("exact"),
                information=True,
                samples=64,
                batch=batch,
                steps=8,
                run=RunOptions(str(tmp_path / f"{batch}")),
            )
        )

    whole, parts = records(64), records(24)
    assert [r["class"] for r in whole] == ["all", *map(str, range(10))]
    assert sum(r["images"] for r in whole[1:]) == whole[0]["images"] == 64
    for a, b in zip(whole, parts, strict=True):
        assert a["loss"].value == pytest.approx(b["loss"].value, rel=1e-4)
    stored = json.loads((tmp_path / "24" / "results.json").read_text())
    assert stored["records"][0]["due"] == pytest.approx(np.log(10), rel=0.02)
    assert len(stored["density"]["distance of their predictions"]) == len(stored["logsnr"]) == 8
    assert (tmp_path / "24" / "information.png").stat().st_size > 3000
    assert "by loss / due" in (tmp_path / "24" / "tables.md").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"base": "mixture"}, "--information takes no --base"),
        ({"samplers": ("ddim",)}, "--information takes no --samplers"),
        ({"steps": 1}, "--steps must be at least 2"),
    ],
)
def test_the_information_budget_takes_no_options_of_runs(options, said):
    with pytest.raises(InputError, match=said):
        calibration.main(calibration.Config(information=True, **options))


def test_rules_are_read_back_as_they_are_written():
    for text in ("unguided", "reference", "np=0.25", "sld=2", "dng:pair=5", "dng:classes=1"):
        assert str(rule_specs.parse(text)) == text
    assert str(rule_specs.parse("dng", "odds")) == "dng:odds=1"


@pytest.mark.slow
@pytest.mark.parametrize(("denoiser", "sampler"), [("exact", "ddpm"), ("network", "ddim")])
def test_calibration_tests_raw_and_fitted_trackers(tmp_path, denoiser, sampler):
    records = calibration.main(
        calibration.Config(
            source=Source(denoiser),
            samples=64,
            steps=12,
            knots=3,
            samplers=(sampler,),
            trackers=("odds", "classes"),
            run=RunOptions(str(tmp_path / "run")),
        )
    )
    assert [r["tracker"] for r in records] == ["odds"] * 4 + ["classes"] * 3
    classes = {r["fit"]: r for r in records if r["tracker"] == "classes"}
    assert classes["raw"]["vector"].agreement > 0.8
    assert ("error_over_time" in records[0]) == (denoiser == "exact")
    assert (tmp_path / "run" / f"reliability_{sampler}_classes.png").exists()
    odds = {r["fit"]: r["scores"]["nll"] for r in records if r["tracker"] == "odds"}
    assert all(score.low <= score.value <= score.high for score in odds.values())
    fitted = calibrations.load(tmp_path / "run" / f"calibration_{sampler}.json")
    assert set(fitted.trackers) == {"odds", "classes"}
    problem = problems.make("digits", ("0",), Source(denoiser))
    assert (
        calibrations.find(
            str(tmp_path / "run" / f"calibration_{sampler}.json"), problem, sampler, 12
        )
        == fitted
    )


@pytest.mark.slow
def test_exact_posterior_equals_the_complement_and_classes_comes_close():
    problem = problems.make("digits", ("0",), Source("exact"))
    shape, mixture = problem.info.shape, problem.mixture
    identity = exact.exact_identity(mixture, shape, 64, seed=0, count=50)
    assert identity["largest_difference"] < 1e-3
    rules = {"unguided": guidance.unguided(), "classes": exact.DNG(posterior.classes(10, (0,)))}
    rows = {
        name: exact.measure(
            exact.Plan(name, rule, problem.table("ddpm", 50)), mixture, shape, 256, 0
        )
        for name, rule in rules.items()
    }
    assert rows["unguided"]["leak"] > 0.05
    assert rows["classes"]["leak"] <= 0.004  # at most one image of 256
    assert rows["classes"]["error"] <= 1e-3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": (5,)}, "--steps belongs to --datasets"),
        ({"patterns": 100}, "--patterns belongs to --datasets"),
        ({"datasets": ("digits", "digits")}, "names something twice"),
        ({"datasets": ("digits",), "steps": ()}, "name at least one of --steps"),
        ({"datasets": ("digits",), "steps": (5, 1001)}, "1001 steps lie outside the schedule"),
        ({"datasets": ("digits",), "patterns": 5}, "first 5 images of digits hold none of 5"),
    ],
)
def test_what_the_exact_job_cannot_do_is_refused_and_nothing_is_written(tmp_path, changes, said):
    out = tmp_path / "run"
    with pytest.raises(InputError, match=said):
        exact.main(exact.Config(**changes, run=RunOptions(str(out))))
    assert not out.exists()


@pytest.mark.slow
def test_the_error_of_trackers_falls_with_more_steps_and_classes_is_best(tmp_path):
    asked = exact.Config(
        datasets=("digits",), steps=(10, 50), samples=128, run=RunOptions(str(tmp_path / "e"))
    )
    found = exact.main(asked)["records"]
    rows = {(r["tracker"], r["steps"]): r["log_odds"].error.value for r in found}
    for steps in asked.steps:
        assert rows["classes", steps] < min(rows["pair", steps], rows["odds", steps])
    for tracker in ("pair", "odds", "classes"):
        assert 0 < rows[tracker, 50] < rows[tracker, 10]
    saved = json.loads((tmp_path / "e" / "results.json").read_text())["records"]
    assert len(saved) == len(found) == 6


@pytest.mark.slow
def test_guidance_with_the_exact_posterior_removes_the_class_in_3072_dimensions(tmp_path):
    source = Source("exact", patterns=500)
    asked = {"dataset": "cifar10", "source": source, "forbid": ("3",), "samples": 32}
    found = class_removal.main(
        removal(tmp_path / "r", rules=("unguided", "dng:exact"), seeds=(0,), **asked)
    )
    assert found[0]["report"].leak.value > 0
    assert found[1]["report"].leak.value == 0


@pytest.fixture(scope="module")
def exact_results(quick_compilation, tmp_path_factory):
    """The figures the exact job is asked for, at their full size."""
    out = tmp_path_factory.mktemp("exact") / "e"
    return exact.main(exact.Config(samples=4096, run=RunOptions(str(out))))


@pytest.mark.slow
def test_exact_claims_on_digits(exact_results):
    rows = {(r["what"], r["steps"]): r for r in exact_results["digits"]}
    # Where p comes close to 1, guidance amplifies float32's rounding by 1/(1-p): a few chains.
    assert exact_results["identity"]["share_beyond"] < 1e-3
    assert rows["exact posterior", 100]["leak"] == 0
    assert rows["pair", 1000]["leak"] <= 0.01
    assert rows["pair", 1000]["kl"] <= 0.03
    assert rows["NP lambda = 1", 1000]["kl"] >= 0.2
    assert rows["NP lambda = 0.2", 1000]["leak"] >= 0.02
    assert rows["classes", 100]["leak"] <= 0.002
    assert rows["classes", 25]["leak"] <= 0.012
    assert rows["classes", 100]["error"] <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("steps", [50, 250])
@pytest.mark.parametrize("tracker", ["pair", "odds"])
def test_exact_claims_in_the_plane(exact_results, steps, tracker):
    plane = {(r["what"], r["steps"]): r for r in exact_results["plane"]}
    plain = plane[f"DDIM, {tracker} plain", steps]["leak"]
    corrected = plane[f"DDIM, {tracker} corrected", steps]["leak"]
    assert corrected <= min(plain / 2, 0.02)


def small_study(out: Path, **changes) -> study.Config:
    """A little study into the folder `out`."""
    families = ("np", "dng:pair", "dng:classes")
    options = {"forbid": ("0", "7"), "families": families, "samples": 24, "part_samples": 16}
    options |= {"steps": 6, "seeds": (0, 1), "out": str(out)}
    options |= {"source": Source("exact")}  # compiles in a tenth of a network's time
    return study.Config(**(options | changes))


@contextlib.contextmanager
def little_grids():
    """Every part of a study with a few settings only."""
    with pytest.MonkeyPatch.context() as patch:
        grids = {"np": (0.1, 1.0), "dng:pair": (1.0,), "dng:classes": (0.5, 1.0)}
        patch.setattr(plan, "GRIDS", grids)
        patch.setattr(plan, "SEVERAL", {"dng:classes": (1.0,)})
        patch.setattr(plan, "SET_SIZES", (2,))
        patch.setattr(plan, "STEP_COUNTS", (4, 6))
        patch.setattr(plan, "KNOBS", {"lambda_0": (2.0,), "tau": (0.5,), "prior": (0.3,)})
        yield grids


@pytest.fixture
def small_grids():
    with little_grids() as grids:
        yield grids


@pytest.fixture(
    scope="module",
    params=[
        # Calibration has a test of its own; every family and part compiles programs of its own.
        (("np", "dng:classes"), ("curves", "steps")),
        pytest.param(
            (("np", "dng:pair", "dng:classes"), plan.PARTS), marks=pytest.mark.slow, id="all"
        ),
    ],
)
def studied(request, quick_compilation, tmp_path_factory):
    """A study of two classes and two seeds: its families, parts, folder and results."""
    families, parts = request.param
    folder = tmp_path_factory.mktemp("study") / "s"
    with little_grids() as grids:
        results = study.main(small_study(folder, families=families, parts=parts))
    scales = {family: grids[family] for family in families}
    return SimpleNamespace(scales=scales, parts=parts, folder=folder, results=results)


def test_curves_of_a_study_hold_every_class_and_both_seeds(studied):
    curve = studied.results["curves"]["curves"]["np"]
    assert curve["leak_by_class"].shape == (2, 2)
    assert curve["samples"] == 48  # both seeds


def test_excess_at_equal_leak_is_over_the_trackers_own_kl(studied):
    curves = studied.results["curves"]
    matched = {(m["tracker"], m["rule"]): m for m in curves["matched"]}
    own = curves["curves"]["dng:classes"]["kl"][1]  # lambda_0 = 1
    assert matched["dng:classes", "np"]["excess"] == pytest.approx(
        matched["dng:classes", "np"]["kl"] - own
    )


def test_a_study_counts_every_setting_class_and_seed(studied):
    counts = [r["counts"] for r in studied.results["curves"]["counts"]]
    settings = 1 + 1 + sum(map(len, studied.scales.values()))
    assert len(counts) == 2 * 2 * settings  # seeds, classes
    assert all(sum(c) == 24 for c in counts)


def test_harm_is_what_the_least_drawn_allowed_class_keeps(studied):
    curves = studied.results["curves"]
    pooled: dict[tuple[str, tuple[int, ...]], np.ndarray] = {}
    for r in curves["counts"]:
        key = (r["rule"], tuple(r["forbidden"]))
        pooled[key] = pooled.get(key, 0) + np.asarray(r["counts"])
    for r in curves["harm"]:
        kept = []
        for (rule, forbidden), counts in pooled.items():
            if rule == r["rule"]:
                allowed = np.delete(counts, forbidden)
                kept.append(allowed.min() / (allowed.sum() / len(allowed)))
        assert r["least"] == pytest.approx(np.mean(kept))
        assert r["hardest"]["share"] == pytest.approx(min(kept))
    # 48 samples of nine allowed classes: Poisson counts of 5.3, the least of nine about 2.
    assert 0.3 < curves["harm_by_chance"]["least"] < 0.5
    assert curves["harm_by_chance"]["hardest"] < curves["harm_by_chance"]["least"]
    assert "hardest hit" in (studied.folder / "tables.md").read_text()


def test_a_study_makes_its_other_parts(studied):
    results = studied.results
    assert set(results["steps"]) == {4, 6}
    if "several" not in studied.parts:
        return
    assert set(results["several"]) == {2}
    if "dng:pair" in studied.scales:
        assert len(results["sensitivity"]["dng:pair"]["leak"]) == 4
    assert len(results["sensitivity"]["dng:classes"]["leak"]) == 3  # it has no prior


def test_the_report_of_a_study_is_one_page_that_needs_nothing_else(studied):
    page = report.main(report.Config(studied.folder)).read_text()
    pictures = studied.results["pictures"]
    assert page.count("data:image/png;base64,") == len(pictures) >= 2
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    for part in studied.parts:
        assert report.TITLES[part] in page
    curve = studied.results["curves"]["curves"]["np"]
    assert f"{100 * curve['leak'][1]:.2f}" in page
    assert "| np=1 |" in (studied.folder / "readme.md").read_text()


@pytest.fixture(scope="module")
def resumed(quick_compilation, tmp_path_factory):
    """A study that was stopped after three cells, and gone on with: names of the cells made."""
    folder = tmp_path_factory.mktemp("resumed") / "s"
    config = small_study(folder, parts=("curves",), resume=True)
    made, run = [], study_cells.run

    def stop_after_three(problem, cell):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(cell.name)
        return run(problem, cell)

    with little_grids(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_cells, "run", stop_after_three)
        with pytest.raises(KeyboardInterrupt):
            study.main(config)
        patch.setattr(study_cells, "run", lambda p, c: (made.append(c.name), run(p, c))[1])
        results = study.main(config)
    return SimpleNamespace(folder=folder, made=made, results=results)


@pytest.fixture
def resume(resumed, small_grids, tmp_path, monkeypatch):
    """Goes on with a copy of that study: changes of its options -> results; and cells made."""
    shutil.copytree(resumed.folder, tmp_path / "s")
    made, run = [], study_cells.run
    monkeypatch.setattr(study_cells, "run", lambda p, c: (made.append(c.name), run(p, c))[1])

    def go_on(**changes):
        options = {"parts": ("curves",), "resume": True}
        return study.main(small_study(tmp_path / "s", **(options | changes)))

    return SimpleNamespace(folder=tmp_path / "s", made=made, go_on=go_on)


def test_a_study_goes_on_where_it_stopped(resumed):
    assert len(resumed.made) == len(set(resumed.made)) == 2 * 2 * 5


@pytest.mark.slow
def test_more_seeds_are_more_cells_of_the_same_study(resumed, resume):
    more = resume.go_on(seeds=(0, 1, 2))
    assert len(resume.made) == len({*resumed.made, *resume.made}) - 20 == 2 * 5
    old, new = (r["curves"]["curves"]["np"]["samples"] for r in (resumed.results, more))
    assert (old, new) == (48, 72)


def test_another_part_is_added_to_those_that_are_there(resume):
    both = resume.go_on(parts=("several",))
    assert {t["part"] for t in both["tables"]} == {"curves", "several"}
    assert "--parts curves several" in both["command"]
    stored = json.loads((resume.folder / "results.json").read_text())
    assert stored["curves"]["curves"]["np"]["samples"] == 48


def test_a_damaged_cell_and_one_of_other_settings_are_refused(resumed, resume):
    cell = resume.folder / "cells" / f"{resumed.made[0]}.npz"
    cell.write_bytes(cell.read_bytes()[:100])
    with pytest.raises(InputError, match=r"cannot be read.*remove it"):
        resume.go_on()
    cell.unlink()
    with pytest.raises(InputError, match="made with other settings"):
        resume.go_on(samples=30)


def test_families_of_a_study_may_bring_their_own_scales(small_grids, tmp_path):
    assert plan.grids_of(("np", "dng:pair=10,3")) == {"np": (0.1, 1.0), "dng:pair": (3.0, 10.0)}
    assert plan.grids_of(("dng:pair,tau=.5", "interval(.1,5,np=2,1)", "reject:odds", "cfg=3")) == {
        "dng:pair,tau=0.5": (1.0,), "interval(0.1,5,np)": (1.0, 2.0), "reject:odds": (1.2,),
        "cfg": (3.0,),
    }  # fmt: skip
    config = small_study(tmp_path, families=("np=0.3", "dng:pair=10,3"), parts=("curves",))
    by_family = {cell.family: cell for cell in plan.cells(config, (0,), 10)}
    assert [s.scale for s in by_family["np"].settings] == [0.3]
    assert [s.scale for s in by_family["dng:pair"].settings] == [3.0, 10.0]


@pytest.mark.parametrize(
    ("families", "said"),
    [
        (("npp",), "--families: rule 'npp', character 1: unknown rule 'npp': did you mean 'np'?"),
        (("unguided",), "unguided is part of every study"),
        (("np", "np=1"), "names 'np' twice"),
        (("np=1,x",), "--families: rule 'np=x', character 4: 'x' is not a number"),
        (("np=inf",), "character 4: the scale must be a finite number >= 0"),
        (("np=1,1",), "'np=1,1' names a scale twice"),
        (("dng:pair=1,2,tua=3",), "unknown setting of dng 'tua': did you mean 'tau'?"),
        (
            ("dng:pair,tau=.5",),
            "the part sensitivity is about dng:pair and dng:classes as they are",
        ),
    ],
)
def test_families_that_make_no_sense_are_named(small_grids, tmp_path, families, said):
    with pytest.raises(InputError, match=re.escape(said)):
        study_options.check(small_study(tmp_path, families=families))


def test_a_calibration_is_added_to_the_families_that_track(small_grids):
    words = ("np", "dng:pair=1,3", "interval(1,2,dng=1)", "reject:pair,tau=1", "dng:exact")
    assert plan.calibrated(words, None) == words
    with_it = plan.calibrated(words, "c.json")
    assert with_it == ("np", "dng:pair=1,3,calibration=c.json",
                       "interval(1,2,dng=1,calibration=c.json)", *words[3:])  # fmt: skip
    assert plan.calibrated(with_it, "other.json") == with_it
    config = study_options.Config(families=("np",), calibration="c.json", parts=("curves",))
    with pytest.raises(InputError, match="no rule of --families takes --calibration"):
        study_options.check(config)


@pytest.mark.slow
def test_rejections_of_a_study_share_one_run(tmp_path):
    families = ("reject:pair=1,1.5", "reject:exact=1.2")
    config = small_study(tmp_path / "s", families=families, parts=("curves",), seeds=(0,))
    config = dataclasses.replace(config, forbid=("0",), steps=4)
    results = study.main(config)
    assert results["curves"]["curves"]["reject:pair"]["scales"] == [1.0, 1.5]
    every = [c for c in plan.cells(config, (0,), 10) if c.family.startswith("reject")]
    problem = problems.make("digits", ("0",), Source("exact"))
    for cell in every:  # from the files, and each on its own
        stored = study_cells.load(tmp_path / "s", cell)
        np.testing.assert_array_equal(stored.labels, study_cells.run(problem, cell).labels)


def test_cells_share_noise_across_rules_and_nothing_across_classes(small_grids, tmp_path):
    config = small_study(tmp_path)
    cells = list(plan.cells(config, (0, 7), 10))
    starts = {}
    for cell in cells:
        starts.setdefault(study_cells.first_sample(cell), set()).add(cell.forbidden)
    assert all(len(sets) == 1 for sets in starts.values())
    assert len(starts) == 2 + len(plan.sets_of((0, 7), 10))
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


@pytest.fixture(scope="module")
def two_networks(tmp_path_factory):
    """The paper's set-up: files of a base network and of class 0's own; the latter's weights."""
    folder = tmp_path_factory.mktemp("networks")
    module = nets.UNet(nets.UNetConfig((8, 8, 1), channels=8, multipliers=(1,), blocks=0, patch=2))
    names = []
    for i in range(2):
        state = training.init_state(module, training.make_optimiser(2, 1e-3, 1), jax.random.key(i))
        names.append(str(folder / f"{i}.safetensors"))
        files.save(names[-1], state.params, nets.describe(module))
    source = Source(network=names[0], negatives=(names[1],))
    return SimpleNamespace(source=source, module=module, params=state.params)


@pytest.mark.slow
def test_the_two_network_setup_of_the_paper(two_networks, tmp_path):
    rules, source = ("unguided", "retrained", "np=0.3", "dng:pair"), two_networks.source
    base, other = source.network, *source.negatives
    source = dataclasses.replace(source, retrained=other)
    kept = {"samples": 8, "steps": 2, "save_images": "npz"}
    config = removal(tmp_path / "run", rules=rules, source=source, **kept)
    assert [r["network_calls_per_image"] for r in class_removal.main(config)] == [2, 2, 4, 4]
    # A network that stands alone is sampled alone, and is what the rule retrained samples.
    for name, rule in ((base, "unguided"), (other, "retrained")):
        alone = removal(tmp_path / rule, rules=("unguided",), source=Source(network=name), **kept)
        class_removal.main(alone)
        a, b = tmp_path / rule / "images/unguided.npz", tmp_path / "run/images" / f"{rule}.npz"
        np.testing.assert_array_equal(np.load(a)["images"], np.load(b)["images"])


@pytest.mark.slow
def test_networks_of_each_class_are_found_by_its_number(two_networks, tmp_path):
    base, template = two_networks.source.network, two_networks.source.network.replace("0.", "{k}.")
    source = Source(network=base, negatives=(template,), retrained=template)
    asked = ("digits", ("1",), source)
    row = StepRow(*(c[0] for c in problems.make(*asked).table("ddpm", 2)))
    x = np.ones((1, 8, 8, 1), np.float32)
    given = problems.make("digits", ("1",), two_networks.source).denoiser(x, row, ("negative:0",))
    problem = problems.make(*asked)
    for answer in (
        problem.denoiser(x, row, ("negative:0",))["negative:0"],
        problem.retrained()(x, row, ("retrained",))["retrained"],
    ):
        np.testing.assert_array_equal(answer, given["negative:0"])
    weights = models.fingerprint("digits", source, (0, 1))
    assert set(weights) == {base, template.replace("{k}", "1"), "digits-classifier"}
    with pytest.raises(InputError, match=r"2\.safetensors does not exist"):
        study.main(study.Config(source=source, forbid=("1", "2"), out=str(tmp_path / "s")))
    assert not (tmp_path / "s").exists()
    with pytest.raises(InputError, match="without one class, but 2 are forbidden"):
        problems.make("digits", ("0", "1"), source).retrained()
    with pytest.raises(InputError, match="all forbidden classes: leave the others out"):
        problems.make("digits", ("1",), dataclasses.replace(source, negatives=(template, base)))


def test_networks_of_other_classes_than_the_forbidden_are_refused(two_networks, tmp_path):
    base = Source(network=two_networks.source.network)
    with pytest.raises(InputError, match=r"knows no classes.*2 needed, got 1"):
        problems.make("digits", ("0", "1"), two_networks.source)
    for source, rule, said in (
        (base, "np=0.3", "np=0.3 asks for the forbidden classes, which .* --negatives"),
        (base, "retrained", "needs a network that never saw .* --retrained"),
        (Source(retrained="heads"), "retrained", "takes a network without classes, heads has them"),
        (Source("exact", retrained="x"), "retrained", "--retrained is a network's"),
        (Source(retrained="heads"), "unguided", "for the rule retrained: add it to --rules"),
    ):
        with pytest.raises(InputError, match=said):
            class_removal.main(removal(tmp_path / "r", rules=(rule,), source=source))
    assert not (tmp_path / "r").exists()
    for source, said in (
        (two_networks.source, "negatives holds the network of one class: name it with --forbid"),
        (Source(retrained="x.safetensors"), "retrained holds the network of one class"),
        (base, "knows no classes: name a model file"),
    ):
        with pytest.raises(InputError, match=said):
            study.main(study.Config(source=source, out=str(tmp_path / "s")))


def test_a_network_says_without_which_class_it_was_trained(two_networks, tmp_path):
    name = str(tmp_path / "without.safetensors")
    text = {"without_class": "3"}
    files.save(name, two_networks.params, nets.describe(two_networks.module), text)
    source = Source(retrained=name)
    assert problems.make("digits", ("3",), source).retrained()
    with pytest.raises(InputError, match=r"without.safetensors was trained without 3, but 4 is"):
        problems.make("digits", ("4",), source).retrained()


@pytest.mark.slow
def test_a_study_with_networks_of_each_class_finishes_and_goes_on(two_networks, tmp_path):
    template = two_networks.source.network.replace("0.", "{k}.")
    config = study.Config(
        source=Source(retrained=template), families=("np=0.3",), parts=("curves", "several"),
        forbid=("0",), seeds=(0,), samples=4, part_samples=2, steps=1, out=str(tmp_path / "s"),
    )  # fmt: skip
    study.main(config)
    study.main(dataclasses.replace(config, forbid=("0", "1"), parts=("curves",), resume=True))
    # One of before there was the option goes on too.
    plain = dataclasses.replace(config, source=Source(), parts=("curves",), out=str(tmp_path / "t"))
    study.main(plain)
    stored = json.loads((tmp_path / "t/run.json").read_text())
    del stored["config"]["source"]["retrained"]
    (tmp_path / "t/run.json").write_text(json.dumps(stored))
    study.main(dataclasses.replace(plain, resume=True))


def test_a_study_measures_the_network_that_never_saw_the_class(two_networks):
    source = dataclasses.replace(two_networks.source, retrained=two_networks.source.network)
    config = study.Config(source=source, families=("np",), parts=("curves", "several"))
    asked = list(plan.cells(config, (0,), 10, knows_classes=False))
    assert {c.family for c in asked if c.part == "curves"} == {"unguided", "retrained", "np"}
    assert {c.family for c in asked if c.part == "several"} == {"unguided", "np"}


@pytest.mark.parametrize("rule", ["dng:classes", "reference"])
def test_two_networks_refuse_rules_that_ask_for_every_class(two_networks, tmp_path, rule):
    config = removal(tmp_path / "r", rules=(rule,), source=two_networks.source)
    with pytest.raises(InputError, match="asks for every class"):
        class_removal.main(config)


def test_two_networks_are_not_calibrated(two_networks, tmp_path):
    run = RunOptions(str(tmp_path / "c"))
    with pytest.raises(InputError, match=r"asks for every class, .*0\.safetensors knows none"):
        calibration.main(calibration.Config(source=two_networks.source, run=run))
    assert not (tmp_path / "c").exists()


def test_a_study_of_two_networks_asks_for_their_class_alone(two_networks):
    known = study_options.without_classes(study.Config(source=two_networks.source), (0,))
    asked = plan.cells(known, (0,), 10, knows_classes=False)
    assert {c.family for c in asked} == {"unguided", "np", "sld", "dng:pair", "dng:odds"}


def test_the_fingerprint_of_a_problem_changes_with_its_weights(two_networks, tmp_path):
    base = str(tmp_path / "base.safetensors")
    shutil.copy(two_networks.source.network, base)
    source = dataclasses.replace(two_networks.source, network=base)
    old = models.fingerprint("digits", source)
    assert len(set(old.values())) == 3  # base, negative, classifier
    files.save(base, two_networks.params, nets.describe(two_networks.module))
    assert models.fingerprint("digits", source)[base] != old[base]


def test_a_study_is_known_by_the_network_that_draws_and_by_no_name_of_its_folder():
    info = data.describe("digits")
    named = [study.Config(source=Source(network=n)) for n in ("bundled", "heads", "label")]
    bundled, heads, label = (study_options.identity(c, info, (0,)) for c in named)
    assert bundled == heads != label
    exact = study.Config(dataset="folder:somewhere", source=Source("exact"))
    assert "somewhere" not in str(study_options.identity(exact, info, (0,)))


def test_devices_that_are_not_there_are_named():
    words = ("-m", "eval.class_removal", "--platform", "tpu", "--samples", "8")
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no tpu device here" in done.stderr
    with pytest.raises(InputError, match="must be at least 1, got 0"):
        devices.select(cpu_devices=0)


@pytest.mark.slow
def test_throughput_counts_operations(tmp_path):
    config = bench.Config(
        "throughput",
        networks=("digits",),
        batch=8,
        samples=8,
        pairs=1,
        run=RunOptions(str(tmp_path / "b")),
    )
    (found,) = bench.main(config)["results"].values()
    # 3x3 convolutions and dense layers of the digits network, at 4x4 and 2x2 positions
    assert 10e6 < found["sampling"]["operations_per_image"] < 60e6
    ratio = found["training"]["operations_per_image"] / found["sampling"]["operations_per_image"]
    assert 2.5 < ratio < 3.5  # forward, and backward by inputs and by weights


@pytest.mark.slow
def test_bench_reports_ratios_and_a_second_sweep_compiles_nothing(tmp_path):
    run = RunOptions(str(tmp_path / "b"))
    results = bench.main(bench.Config(samples=8, steps=2, pairs=2, run=run))
    found = results["results"]
    assert found["sweep"]["programs_of_a_second_sweep"] == 0
    assert (found["sweep"]["settings"], found["sweep"]["images"]) == (32, 2)
    assert found["sweep"]["sweep_over_runs"].median > 0
    rules = {
        network: [r["rule"] for r in found[network]["rules"]] for network in ("heads", "label")
    }
    assert rules["heads"] == [*rules["label"], "DNG classes"]
    unguided, np, dng = found["label"]["rules"]
    assert unguided["over_unguided"].median == np["over_np"].median == 1
    # Both labels go through the network, for either rule.
    assert np["floor_seconds"] == dng["floor_seconds"]
    assert np["floor_seconds"] == pytest.approx(2 * unguided["floor_seconds"], rel=0.01)
