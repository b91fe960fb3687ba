"""class_removal --forbid-images: what is read, what is refused, what the exact model says."""

from __future__ import annotations

import contextlib
import json
import weakref

import numpy as np
import pytest
import tyro
from PIL import Image
from scipy import stats

from dng_jax import data, disk, steps
from dng_jax.errors import InputError
from dng_jax.experiments import (
    generating,
    image_rules,
    image_sets,
    problems,
    rule_builders,
    rule_specs,
)
from dng_jax.experiments.source import Source
from dng_jax.jobs import cli
from dng_jax.jobs.options import RunOptions
from dng_jax.metrics import nearest_distances
from dng_jax.schedules import linear
from eval.class_removal import job as class_removal
from eval.class_removal import of_images

SHAPE = (8, 8, 1)
OPTIONS = rule_specs.TrackerOptions()


@pytest.fixture(scope="module")
def threes(tmp_path_factory):
    """A folder of the first 30 threes of digits, and their pixels."""
    pixels, labels, _ = data.load("digits")
    chosen, folder = pixels[labels == 3][:30], tmp_path_factory.mktemp("sets") / "threes"
    folder.mkdir()
    for i, image in enumerate(chosen):
        Image.fromarray(image[..., 0]).save(folder / f"{i:02d}.png")
    return folder, chosen


def written(folder, name="a.png", shape=(8, 8), mode="L"):
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.zeros(shape, np.uint8)).convert(mode).save(folder / name)
    return folder


def test_a_folder_is_read_as_it_is_with_the_radius_of_a_pattern(threes):
    folder, pixels = threes
    (folder / "notes.txt").write_text("no image")
    found = image_sets.read(str(folder), SHAPE)
    np.testing.assert_array_equal(data.to_pixels(found.images), pixels)
    assert found.title == "30 images of threes"
    draws = 0.15 * np.random.default_rng(0).normal(size=(4000, 64))
    assert np.mean(np.linalg.norm(draws, axis=1) <= found.radius) == pytest.approx(0.95, abs=0.01)
    assert image_sets.usual_radius(784) == pytest.approx(0.15 * stats.chi.ppf(0.95, 784))
    assert image_sets.read(str(folder), SHAPE, 0.6).radius == found.radius


def test_what_is_not_taken_as_it_stands_is_said(tmp_path, capsys):
    folder = written(tmp_path / "set", "b.png")
    for name in ("a.png", "c.PNG"):
        written(folder, name)
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(folder / "d.png")
    (folder / "e.bmp").write_text("")
    (folder / "old.png").mkdir()
    (folder / ".hidden").write_text("")
    config = class_removal.Config(forbid_images=str(folder), source=Source("exact"))
    assert len(of_images.made(config).images.images) == 2
    assert capsys.readouterr().out.splitlines() == [
        "2 other names in the folder passed over (.bmp, .png)",
        "2 files left out, the same as another",
        "2 of 2 are no patterns of the exact model: prior 0.01",
    ]


def test_a_fingerprint_follows_the_pixels_and_not_the_names(tmp_path):
    def written_as(folder, **grey):
        folder.mkdir()
        for name, value in grey.items():
            Image.fromarray(np.full((8, 8), value, np.uint8)).save(folder / f"{name}.png")
        return image_sets.read(str(folder), SHAPE).sha256

    first = written_as(tmp_path / "1", a=3, b=9)
    assert written_as(tmp_path / "2", a=9, b=3, c=3) == first
    assert written_as(tmp_path / "3", a=3, b=10) != first
    assert len(first) == 64


def test_distances_to_the_nearest_image():
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(5, 3, 2)), rng.normal(size=(4, 3, 2))
    expected = [min(np.sqrt(np.sum((a - b) ** 2)) for b in z) for a in x]
    np.testing.assert_allclose(nearest_distances(x, z), expected)
    assert nearest_distances(z[2:3], z) == 0
    with pytest.raises(InputError, match="one shape"):
        nearest_distances(x, z[:, :2])


def bad(folder):
    (folder / "empty").mkdir()
    written(folder / "sizes", "b.png", (8, 9))
    written(folder / "sizes", "c.png")
    written(folder / "modes", "b.png")
    written(folder / "modes", "c.png", mode="RGB")
    written(folder / "rgb", mode="RGB")
    written(folder / "large", shape=(28, 28))
    written(folder / "good")
    written(folder / "cut")
    frames = [Image.fromarray(np.full((8, 8), grey, np.uint8)) for grey in (0, 9)]
    (folder / "moving").mkdir()
    frames[0].save(folder / "moving" / "a.webp", save_all=True, append_images=frames[1:])
    (folder / "deep").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(folder / "deep" / "a.png")
    content = (folder / "cut" / "a.png").read_bytes()
    (folder / "cut" / "a.png").write_bytes(content[:40])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--forbid-images {}/none", "none is no folder"),
        ("--forbid-images {}/good/a.png", "a.png is no folder"),
        ("--forbid-images {}/empty", "has no image (.png"),
        ("--forbid-images {}/sizes", "differ in size: make them of one size"),
        ("--forbid-images {}/modes", "is grey and"),
        ("--forbid-images {}/cut", "a.png is truncated"),
        ("--forbid-images {}/large", "are 28x28x1, those of the model 8x8x1"),
        ("--forbid-images {}/rgb", "are 8x8x3, those of the model 8x8x1"),
        ("--forbid-images {}/good --forbid 3", "--forbid and --forbid-images"),
        ("--forbid-images {}/moving", "a.webp is animated"),
        ("--forbid-images {}/deep", "16 bits per channel"),
        ("--forbid-images=", "--forbid-images names no folder"),
        ("--forbid-images {}/good --bandwidth 0", "--bandwidth must lie between 1e-06 and 1e+06"),
        ("--forbid-images {}/good --bandwidth 1e20", "--bandwidth must lie between"),
        ("--forbid-images {}/good --radius nan", "--radius must lie between 1e-06 and 1e+06"),
        ("--forbid-images {}/good --radius 1e-20", "--radius must lie between"),
        ("--forbid-images {}/good --radius 1e39", "--radius must lie between"),
        ("--forbid-images {}/good --negatives a", "--negatives belongs to forbidden classes"),
        ("--forbid-images {}/good --retrained a", "--retrained belongs to forbidden classes"),
        ("--forbid-images {}/good --rules sgf,critical=1", "critical must be between 0 and 0.999"),
        ("--forbid-images {}/good --rules safe,width=1e7", "width must be between 1e-06 and 1e+06"),
        ("--bandwidth .1", "--bandwidth belongs to --forbid-images"),
        ("--radius 2", "--radius belongs to --forbid-images"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_two(tmp_path, capsys, words, said):
    from eval.class_removal.options import Config

    bad(tmp_path)
    out = tmp_path / "run"
    config = tyro.cli(Config, args=[*words.format(tmp_path).split(), "--out", str(out)])
    with pytest.raises(SystemExit) as left:
        cli.main(lambda: class_removal.main(config))
    assert left.value.code == 2
    found = capsys.readouterr().err
    assert said in found
    assert found.count("\n") == 1
    assert not out.exists()


@pytest.fixture(scope="module")
def problem(threes):
    return problems.make_of_images("digits", str(threes[0]), None, None, Source("exact"))


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("dng:classes", "asks for every class, but images are forbidden"),
        ("reference", "asks for every class"),
        ("dng:pair,calibration=bundled", "calibrations are fitted to classes"),
    ],
)
def test_rules_of_classes_are_refused(problem, rule, said):
    with pytest.raises(InputError, match=said):
        rule_builders.build(rule_specs.parse(rule), problem, OPTIONS)


def test_rules_of_images_need_images():
    class Plain:
        images = None

    with pytest.raises(InputError, match="name a folder with --forbid-images"):
        image_rules.build(rule_specs.parse("sgf=1"), Plain())


def test_images_of_the_data_have_their_share_for_a_prior_and_an_exact_posterior(problem):
    assert problem.prior == pytest.approx(30 / 1797)
    np.testing.assert_allclose(problem.mixture.prior, [30 / 1797, 1767 / 1797], rtol=1e-5)
    rule = rule_builders.build(rule_specs.parse("dng:pair"), problem, OPTIONS)
    assert np.exp(rule.init_state(np.zeros((1, *SHAPE)))) == pytest.approx(30 / 1797)
    own = rule_builders.build(rule_specs.parse("dng:pair,prior=.2"), problem, OPTIONS)
    assert np.exp(own.init_state(np.zeros((1, *SHAPE)))) == pytest.approx(0.2)


def test_other_images_have_no_exact_posterior(tmp_path):
    folder = written(tmp_path / "black")
    other = problems.make_of_images("digits", str(folder), 0.3, 2.0, Source("exact"))
    assert (other.prior, other.mixture, other.images.radius) == (image_sets.PRIOR, None, 2.0)
    with pytest.raises(InputError, match="1 of 1 are no patterns"):
        rule_builders.build(rule_specs.parse("dng:exact"), other, OPTIONS)


def test_the_patterns_are_those_that_the_option_says(threes):
    source = Source("exact", patterns=400)
    some = problems.make_of_images("digits", str(threes[0]), None, None, source)
    labels = data.load("digits")[1][:400]
    assert np.count_nonzero(labels == 3) >= 30  # so that all of the folder are among them
    assert some.prior == pytest.approx(30 / 400)
    assert np.isfinite(np.asarray(some.mixture.log_weights)).sum() == 400
    few = problems.make_of_images(
        "digits", str(threes[0]), None, None, Source("exact", patterns=100)
    )
    there = np.count_nonzero(labels[:100] == 3)
    assert (few.images.absent, few.prior, few.mixture) == (30 - there, image_sets.PRIOR, None)
    said = f"{30 - there} of 30 are no patterns of the exact model: raise --patterns"
    with pytest.raises(InputError, match=said):
        rule_builders.build(rule_specs.parse("dng:exact"), few, OPTIONS)


@pytest.mark.parametrize(("largest", "enough"), [(10, True), (91, False)])
def test_the_exact_model_of_unequal_classes_asks_for_its_padding(monkeypatch, largest, enough):
    labels = np.repeat(np.arange(10), [largest, *[10] * 9])
    images = np.zeros((len(labels), *SHAPE), np.uint8)
    info = data.describe("digits")
    monkeypatch.setattr(data, "load", lambda name: (images, labels, info))
    monkeypatch.setattr(disk, "free_memory", lambda: 700_000)
    with contextlib.nullcontext() if enough else pytest.raises(InputError, match="GiB of memory"):
        problems.load("digits", Source("exact"))


def test_no_pattern_beside_the_forbidden_ones_is_refused():
    x = np.zeros((2, *SHAPE), np.float32)
    both = image_sets.ForbiddenImages(x[:1], 0.15, 1.0, 0.01, "all")
    with pytest.raises(InputError, match="hold all 2 patterns"):
        image_sets.divided(both, x)


def test_settings_reach_the_rules(problem):
    def built(words):
        return rule_builders.build(rule_specs.parse(words), problem, OPTIONS)

    assert built("spell,radius=3").radius == 3
    assert built("sgf=2,width=.5").width == 0.5
    assert built("spell").radius == pytest.approx(problem.images.radius)
    schedule = linear()
    level = schedule.sigma[779] / schedule.alpha[779]
    for rule in (built("safe").odds, built("sgf")):
        assert rule.width == pytest.approx(0.15 * 8)  # bandwidth times the root of 64 pixels
        assert rule.sigma_min == pytest.approx(level)
    assert built("safe,critical=0").odds.sigma_min == 0


def test_a_rule_acts_at_its_latest_critical_time(problem):
    rule = rule_builders.build(rule_specs.parse("sgf,critical=.999"), problem, OPTIONS)
    for sampler in steps.TABLES:
        levels = problem.table(sampler, 1000)
        assert np.sum(levels.sigma / levels.alpha > rule.sigma_min) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_the_exact_model_never_draws_what_is_forbidden(threes, tmp_path):
    config = class_removal.Config(
        forbid_images=str(threes[0]),
        source=Source("exact"),
        rules=("unguided", "dng:exact", "spell=1.6", "reject:pair=1.2"),
        samples=512,
        steps=25,
        run=RunOptions(str(tmp_path / "run")),
    )
    found = {r["rule"]: r for r in class_removal.main(config)}
    inside = {rule: r["nearness"].inside for rule, r in found.items()}
    # of the forbidden mass, 30 of 1,797, the radius holds 95%
    assert inside["unguided"].low < 0.95 * 30 / 1797 < inside["unguided"].high
    assert inside["dng:exact=1"].count == 0
    assert inside["spell=1.6"].count <= 1
    assert inside["reject:pair=1.2"].count <= 1
    assert found["dng:exact=1"]["report"].samples == 512
    assert found["unguided"]["report"].samples == 512 - inside["unguided"].count
    facts = json.loads((tmp_path / "run" / "results.json").read_text())["forbidden_images"]
    assert facts["images"] == 30
    assert facts["sha256"] == image_sets.read(str(threes[0]), SHAPE).sha256
    tables = (tmp_path / "run" / "tables.md").read_text()
    assert "digits without 30 images of threes, radius 1.37, bandwidth 0.15" in tables
    command = json.loads((tmp_path / "run" / "run.json").read_text())["command"]
    assert "--forbid-images threes" in command


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_a_network_stands_beside_the_images(threes, tmp_path, monkeypatch):
    features = []

    def generate_together(*given, **named):
        assert not [held for held in features if held() is not None]  # of the rules before
        found = generating.generate_together(*given, **named)
        features.append(weakref.ref(found.batches[0]))
        return found

    monkeypatch.setattr(class_removal, "generate_together", generate_together)
    config = class_removal.Config(
        forbid_images=str(threes[0]),
        radius=20.0,  # holds every image
        samples=8,
        steps=4,
        run=RunOptions(str(tmp_path / "run")),
    )
    found = class_removal.main(config)
    assert [r["rule"].partition("=")[0] for r in found] == [
        "unguided", "np", "dng:pair", "safe", "sgf", "spell", "reject:pair",
    ]  # fmt: skip
    assert found[0]["nearness"].inside.count == 8
    assert found[0]["report"] is None  # there is no rest
    assert found[5]["nearness"].least > 20  # SPELL leaves the balls
    assert [r["network_calls_per_image"] for r in found] == [4, 4, 4, 4, 4, 4, 4.8]
