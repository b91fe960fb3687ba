"""The study of scenes end to end on little data, and what it says to bad input."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from dng_jax import sampling
from dng_jax.denoisers.branches import VARIANTS
from dng_jax.errors import InputError
from dng_jax.experiments import scene_models
from dng_jax.jobs import runs
from dng_jax.jobs.options import RunOptions
from dng_jax.scenes import images
from dng_jax.stable_diffusion import pipeline
from eval.scenes import curves, job, plan
from eval.scenes.options import CLAIM, GUIDED, PARTS, Config

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = (
    plan.Curve("variants", "np", "a", scales=(0.3, 1.0), steps=4),
    plan.Curve("variants", "dng", "d", scales=(1.0, 4.0), steps=4),
    plan.Curve("variants", "dng", "d", scales=(4.0,), steps=4, calibrated=True),
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A study of two curves, and what it returned when it was made and when it was taken up."""
    config = Config(samples=12, batch=8, run=RunOptions(str(tmp_path_factory.mktemp("s") / "run")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "curves", lambda parts: list(SMALL))
        patch.setattr(plan.Curve, "reference", SMALL[0])
        first = job.main(dataclasses.replace(config, parts=("variants",)))
        again = dataclasses.replace(
            config, parts=("variants",), run=RunOptions(config.run.out, overwrite=True)
        )
        patch.setattr(curves, "measured", None)
        patch.setattr(job, "measured", None)  # nothing is sampled again
        second = job.main(again)
    return config, first, second


@pytest.mark.slow
def test_the_study_writes_a_point_per_scale_and_a_factor_per_level(small):
    config, first, second = small
    folder = config.run.out
    with open(f"{folder}/results.json") as file:
        results = json.load(file)
    assert [(p["curve"], p["scale"]) for p in results["points"]] == [
        ("np-a-w3-steps4", 0.3), ("np-a-w3-steps4", 1.0),
        ("dng-d-w3-steps4", 1.0), ("dng-d-w3-steps4", 4.0), ("dng-d-w3-steps4-calibrated", 4.0),
    ]  # fmt: skip
    assert [r["level"] for r in results["removal"]] == 2 * list(config.levels)
    (fit,) = results["fits"]
    assert fit["after"] < fit["before"]
    assert len(fit["temperature"]) == len(fit["offset"]) == len(fit["knots"]) == 3
    with open(f"{folder}/points.csv") as file:
        assert len(list(csv.DictReader(file))) == 5
    assert runs.to_json(first) == runs.to_json(second)


@pytest.mark.slow
def test_outcomes_are_of_the_scenes_and_bounded(small):
    config, first, _ = small
    found, _ = curves.stored(curves.Path(config.run.out), SMALL[1], 12, "exact")
    assert found.left.shape == (2, 12)
    assert found.left.dtype == bool
    assert set(np.unique(found.changed)) <= {0.0, 0.5, 1.0}
    assert np.all((found.p >= 0) & (found.p <= 0.99))
    assert np.all(found.distance >= 0)
    # no cell changed, and still the picture moved: scales above 0 do something
    assert found.distance.max() > 0
    assert curves.stored(curves.Path(config.run.out), SMALL[1], 13, "exact") is None
    assert curves.stored(curves.Path(config.run.out), SMALL[1], 12, "another model") is None
    assert all(0 <= p["left"] <= p["unguided"] + 0.5 for p in first["points"])


@pytest.mark.slow
def test_a_calibrated_curve_guides_by_its_fit_which_is_of_other_scenes(small):
    config, _, _ = small
    study = curves.Study(config, scene_models.load("exact", 2))
    plain, calibrated = SMALL[1], SMALL[2]
    (rule,) = curves.rules(calibrated, study)
    fit = study.fit(calibrated)
    np.testing.assert_array_equal(rule.tracker.temperature.values, fit.temperature.values)
    np.testing.assert_array_equal(rule.tracker.offset.values, fit.offset.values)
    assert float(jax.numpy.exp(rule.tracker.initial[0])) == pytest.approx(0.19)
    folder = curves.Path(config.run.out)
    one, other = (curves.stored(folder, c, 12, "exact")[0] for c in (plain, calibrated))
    assert not np.array_equal(one.p[list(plain.scales).index(4.0)], other.p[0])
    ours, fitted = (jax.random.key_data(next(study.batches(12, n))) for n in (0, 2**31))
    assert not np.array_equal(ours, fitted)


def test_parts_together_have_the_scales_of_both():
    both = {curve.name: curve for curve in plan.curves(("variants", CLAIM))}
    alone = (plan.curves((part,)) for part in ("variants", CLAIM))
    for curve in itertools.chain(*alone):
        assert set(curve.scales) <= set(both[curve.name].scales)
    assert both["dng-d-w3"].scales == (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


def test_the_claim_is_the_curves_of_the_variants_that_it_needs():
    needed = plan.curves((CLAIM, GUIDED))
    names = ["np-a-w3", "dng-d-w3", "dng-d-w3-calibrated", "np-b-w3"]
    assert [curve.name for curve in needed] == names
    every = {curve.name: curve for curve in plan.curves(PARTS)}
    for curve in needed:
        usual = dataclasses.replace(curve, part="variants", calibrated=False)
        assert usual == dataclasses.replace(every[usual.name], scales=curve.scales)


def test_every_curve_has_a_name_a_variant_and_what_it_is_compared_with():
    every = plan.curves(PARTS)
    names = [curve.name for curve in every]
    assert len(set(names)) == len(names)
    assert {curve.variant for curve in every} <= set(VARIANTS)
    for curve in every:
        assert curve.reference.name in names
        assert names.index(curve.reference.name) <= names.index(curve.name)
        assert curve.variant != "c" or curve.reference.w == 1
    assert {name for name, _ in plan.SEEN} <= set(names)
    by_name = {curve.name: curve for curve in every}
    assert all(scale in by_name[name].scales for name, scale in plan.SEEN)


def test_the_true_prior_is_that_of_what_the_negative_is_scored_against():
    config = Config()
    d, b = (plan.Curve("variants", "dng", variant) for variant in ("d", "b"))
    assert curves.prior(d, config) == pytest.approx(0.19)
    assert curves.prior(b, config) == pytest.approx(0.36)
    assert curves.prior(dataclasses.replace(b, prior=0.01), config) == 0.01


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"parts": ("variant",)}, "did you mean 'variants'"),
        ({"related": "a seven"}, "--related a seven must be in some scenes of 'even digits'"),
        ({"unrelated": "a two"}, "--unrelated a two is in scenes of 'even digits'"),
        ({"prompt": "even cats"}, "unknown phrase 'even cats'"),
        ({"levels": (0.1, 1.0)}, "--levels must lie strictly between 0 and 1"),
        ({"samples": 1}, "--samples must be at least 2"),
        ({"model": "nowhere"}, "--model nowhere is no folder"),
        ({"cells": 9}, "1 to 6 cells, got 9"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_computed(options, said, tmp_path):
    with pytest.raises(InputError, match=said):
        job.main(Config(**options, run=RunOptions(str(tmp_path / "run"))))
    assert not (tmp_path / "run").exists()


def test_scenes_of_a_trained_model_are_read_a_cell_at_a_time(monkeypatch, tmp_path):
    stub = SimpleNamespace(
        latent_shape=lambda height, width: (height // 2, width // 2, 4),
        table=None,
        network=None,
        decode=lambda latents: np.repeat(latents, 3, axis=-1),
    )
    monkeypatch.setattr(pipeline, "load", lambda folder, dtype: stub)
    model = scene_models.load(str(tmp_path), 3)
    assert model.shape == (4, 12, 4)
    x, labels = images.scenes(3, 20, sampling.root_key(0), split="test")
    scenes = model.decode(x)
    np.testing.assert_allclose(scenes, x, atol=1e-6)
    assert np.mean(model.classify(scenes) == labels) > 0.9


def test_the_exact_model_answers_in_raw_roles_and_reads_its_own_scenes():
    model = scene_models.load("exact", 1)
    denoise = model.denoiser({"empty": "", "prompt": "a four", "negative": "a two"})
    answer = jax.jit(lambda denoise, x, row: denoise(x, row, ("empty", "prompt")))
    row = model.table(4)._replace(alpha=np.float32(0.01), sigma=np.float32(1.0))
    x = np.zeros((2, 8, 8, 1), np.float32)
    found = answer(denoise, x, row)
    assert found["prompt"].shape == x.shape
    # at all but pure noise the mean of all fours is what a denoiser sees
    clean = model.decode((x - found["prompt"]) / row.alpha)
    assert model.classify(clean).tolist() == [[4], [4]]
