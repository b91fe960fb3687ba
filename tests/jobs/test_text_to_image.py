"""The job of text-to-image models on a tiny one, and what it says to bad input."""

from __future__ import annotations

import csv
import dataclasses
import functools
import inspect
import json
import re
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from dng_jax import steps
from dng_jax.denoisers.branches import VARIANTS, branches
from dng_jax.errors import InputError, NonFiniteError
from dng_jax.experiments import prompt_rules
from dng_jax.experiments.paper_prompts import PROMPTS
from dng_jax.experiments.prompted import Cost, Draw, Drawn
from dng_jax.experiments.rule_specs import TrackerOptions
from dng_jax.jobs import cli
from dng_jax.jobs.options import RunOptions
from dng_jax.schedules import linear
from dng_jax.stable_diffusion import pipeline
from dng_jax.stable_diffusion.prompt_network import MODES
from eval.text_to_image import announcing, job, options, study, writing
from eval.text_to_image.options import Config, checked, sides
from tests import pipeline_reference as reference

pytestmark = pytest.mark.usefixtures("quick_compilation")

PAIR = "dng:pair=1,tau=2e-4,delta=.01,prior=.3"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    pytest.importorskip("tokenizers")
    return reference.write(tmp_path_factory.mktemp("models") / "tiny")


once = functools.cache(pipeline.load)


@pytest.fixture
def read_once(monkeypatch):
    """Tracing the networks of a model takes a second."""
    monkeypatch.setattr(pipeline, "load", once)


def config(folder, out, **changes):
    usual = {"model": str(folder), "prompt": reference.PROMPT, "negative": (reference.NEGATIVE,),
             "rule": ("unguided", PAIR), "steps": 4, "seeds": 3, "batch": 2, "size": "8x12",
             "run": RunOptions(str(out))}  # fmt: skip
    return Config(**(usual | changes))


def drawn(model, denoise, table, rule, which, advance, keep):
    """Noise, in the place of what would take seconds to compile."""
    rng = np.random.RandomState(len(rule.roles))
    latents, images = rng.randn(which.count, 4, 6, 4), rng.randn(which.count, 8, 12, 3)
    keep(latents)
    traced = ("lambda", "posterior") if hasattr(rule, "tracker") else ()
    return Drawn(latents, images, {name: rng.uniform(0, 0.6, (4, which.count)) for name in traced})


def cost(*given):
    return Cost(0.1, 1 << 20, 1 << 20, 3, 0.5)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_grey_and_coloured_images_become_pictures(tmp_path, channels, mode):
    found = Drawn(np.zeros((1, 4, 6, 4)), np.zeros((1, 8, 12, channels), np.float32), {})
    writing.write_images(tmp_path, "unguided", found)
    writing.write_overview(tmp_path, {"unguided": found}, steps.ddpm(linear(), 2), "nothing")
    with Image.open(tmp_path / "images" / "unguided" / "00000.png") as image:
        assert (image.size, image.mode) == ((12, 8), mode)


@pytest.fixture(params=["noise", pytest.param("drawn", marks=pytest.mark.slow)])
def how(request, monkeypatch):
    if request.param == "noise":
        monkeypatch.setattr(job, "draw", drawn)
        monkeypatch.setattr(job, "cost", cost)
    return request.param


def test_a_run_leaves_pictures_curves_and_records(how, model, tmp_path, capsys):
    records = job.main(config(model, tmp_path / "run"))
    said = capsys.readouterr().out
    first = said.partition("\n")[0]
    assert first.startswith("one step of 2 images with 3 predictions each takes")
    command = json.loads((tmp_path / "run" / "run.json").read_text())["command"]
    assert command.startswith("python -m eval.text_to_image --model tiny --prompt 'a photo")
    stored = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [r["rule"] for r in stored["records"]] == [r["rule"] for r in records]
    plain, guided = stored["records"]
    assert plain["invasiveness"] == {"latents": [0.0] * 3, "pixels": [0.0] * 3}
    assert guided["parameters"]["kind"] == "DynamicNegative"
    latents = np.load(tmp_path / "run" / "latents" / "unguided.npy")
    assert latents.shape == (3, 4, 6, 4)
    if how == "drawn":
        assert min(stored["cost"]["seconds"], stored["cost"]["decoding"]) > 0
        assert min(guided["invasiveness"]["latents"]) > 1e-3
        assert guided["posterior"]["mean_over_time"][0] == pytest.approx(0.3)
    assert [r["network_calls_per_image"] for r in stored["records"]] == [8, 12]
    with Image.open(next((tmp_path / "run" / "images" / "unguided").iterdir())) as image:
        assert (image.size, image.mode) == ((12, 8), "RGB")
    assert len(list((tmp_path / "run" / "images").rglob("*.png"))) == 6
    with open(tmp_path / "run" / "over_time.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 3
    assert (rows[1]["image"], rows[1]["step"]) == ("1", "0")
    last = [float(row["posterior"]) for row in rows if row["step"] == "3"]
    np.testing.assert_allclose(last, guided["posterior"]["last"], rtol=1e-5)
    for name in ("contact_sheet", "posterior_over_time", "lambda_over_time"):
        assert (tmp_path / "run" / f"{name}.png").stat().st_size > 5000


@pytest.mark.slow
def test_sld_takes_the_raw_predictions_and_images_do_not_depend_on_the_batch(model, tmp_path):
    rules = ("unguided", "sld=1", "np=.5", "interval(.1,5,dng:odds=1)")
    found = job.main(config(model, tmp_path / "one", rule=rules))
    assert [r["variant"] for r in found] == ["d", "raw", "d", "d"]
    again = job.main(config(model, tmp_path / "two", rule=rules, batch=3, branches="map"))
    for a, b in zip(found, again, strict=True):
        np.testing.assert_allclose(
            a["invasiveness"]["latents"], b["invasiveness"]["latents"], atol=1e-3
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the posterior of dng:UserWarning")  # of weights that are random
def test_the_study_of_the_paper_goes_on_after_each_prompt(model, tmp_path, monkeypatch, capsys):
    few = {"prompt": "", "negative": (), "rule": (), "study": "paper", "steps": 2, "seeds": 1}
    asked = config(model, tmp_path / "run", **few)
    whole, made = study.one_prompt, []

    def stops(config, loaded, prompt, *rest):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(prompt)
        return whole(config, loaded, prompt, *rest)

    monkeypatch.setattr(study, "PROMPTS", PROMPTS[:3])
    monkeypatch.setattr(study, "one_prompt", stops)
    with pytest.raises(KeyboardInterrupt):
        job.main(asked)
    monkeypatch.setattr(study, "one_prompt", whole)
    with pytest.raises(InputError, match=r"already holds this run: .* add --resume"):
        job.main(asked)
    first = (tmp_path / "run" / "prompt-1" / "record.json").stat().st_mtime_ns
    records = job.main(dataclasses.replace(asked, resume=True))
    assert (tmp_path / "run" / "prompt-1" / "record.json").stat().st_mtime_ns == first
    assert len(records) == 3 * 2 * 5
    assert {r["kind"] for r in records} == {"related", "unrelated"}
    assert (tmp_path / "run" / "prompt-3" / "unrelated" / "contact_sheet.png").exists()
    assert "abridged" in capsys.readouterr().out
    stored = json.loads((tmp_path / "run" / "results.json").read_text())
    assert len(stored["records"]) == len(records)


def test_the_papers_rules_are_read_and_built():
    assert len(PROMPTS) == 5
    for prompt in PROMPTS:
        rules = study.rules_of(Config(), prompt)
        assert list(rules)[:4] == ["unguided", "np=1.7", "np=2.55", "np=3.4"]
        dng = list(rules.values())[-1].rule
        assert float(dng.guidance_scale) == prompt.scale
        assert np.isinf(float(dng.scale_max))
        assert float(dng.tracker.delta) == pytest.approx(prompt.delta)
        assert dng.tracker.reference == "reference"


def test_options_offer_what_the_library_knows():
    # Written twice, since options are read before anything that computes is imported.
    assert set(options.VARIANTS) == set(VARIANTS) - {prompt_rules.RAW}
    assert options.MODES == MODES
    assert Config().variant == inspect.signature(branches).parameters["variant"].default


def test_the_demo_of_a_cpu_says_what_it_is(capsys):
    demo = checked(Config("x", cpu_demo=True))
    assert (demo.size, demo.steps, demo.seeds) == ("256", 20, 1)
    assert checked(Config("x")).rule == ("unguided",)
    assert len(checked(Config("x", negative=("y",))).rule) == 3
    expected = Cost(2.0, 3 << 30, 1 << 20, 3, 5.0)
    announcing.announce(demo, expected, [2, 3], Draw(1, 0, (8, 8, 4)))
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("--cpu-demo: 256 pixels, 20 steps, 1 image")
    assert "3.0 GiB of memory beside 1.0 MiB of weights; all 2 runs about 77 s" in said[1]
    assert "decoding an image 5 s" in said[1]
    assert sides(Config(size="64x8"), (1, 1)) == (64, 8)


STUDY = {"study": "paper", "prompt": "", "negative": (), "rule": ()}
BAD = {
    "no model": ({"model": ""}, "there is no folder : name that of a model"),
    "no folder": ({"model": "nowhere"}, "there is no folder nowhere"),
    "no rule": ({"rule": ("nop",)}, "'nop'"),
    "a rule of classes": ({"rule": ("reject",)}, "reject:pair=1.2 is a rule of classes"),
    "a tracker of classes": ({"rule": ("dng:classes",)}, "tracker classes is of classes"),
    "a calibration": ({"rule": ("dng:pair=1,calibration=x",)}, "fitted to classes"),
    "no negative": ({"rule": ("np=1",), "negative": ()}, "give one with --negative"),
    "twice": ({"rule": ("unguided", "unguided")}, "names something twice"),
    "idle number": ({"rule": ("np=1",), "options": TrackerOptions(tau=0.1)}, "takes --tau"),
    "a prior": (
        {"rule": ("dng",), "options": TrackerOptions(prior=2.0)},
        "prior must lie strictly between",
    ),
    "a variant": ({"variant": "raw"}, "unknown variant 'raw'"),
    "no scale": ({"guidance_scale": np.inf}, "--guidance-scale must be finite, got inf"),
    "no seeds": ({"seeds": 0}, "--seeds must be at least 1"),
    "a seed": ({"seed": -1}, "--seed must be at least 0"),
    "steps": ({"steps": 1001}, "--steps must be at most 1000"),
    "all steps": ({"steps": 1000}, "1000 steps of spacing leading with steps_offset 1"),
    "a size": ({"size": "big"}, "--size must be PIXELS or HEIGHTxWIDTH"),
    "a side": ({"size": "10"}, "10 x 10 pixels.* multiples of 4"),
    "a demo": ({"cpu_demo": True}, "--cpu-demo sets --size"),
    "a study": ({"study": "papers"}, "unknown study 'papers'"),
    "claims": ({"study": "claims"}, "the claims are studied on scenes of digits: start .*scenes"),
    "a study's prompt": ({"study": "paper"}, "--study brings its own --prompt and --negative and"),
    "a study's probes": (STUDY | {"options": TrackerOptions(probes=2)}, "its own --probes: leave"),
    "a study's scale": (STUDY | {"variant": "c", "guidance_scale": 2.0}, "--variant c is without"),
    "a scale of c": ({"variant": "c", "guidance_scale": 2.0}, "--guidance-scale 2 .* variant c"),
    "a scale of feedback": (
        {"rule": ("feedback=.9",), "guidance_scale": 2.0},
        "--guidance-scale 2 .* feedback has a scale of its own",
    ),
    "a variant of none": ({"rule": ("unguided",), "variant": "b"}, "--variant b says .* leave it"),
    "a variant of sld": ({"rule": ("sld=1",), "variant": "c"}, "--variant c says .* leave it out"),
    "a variant without negatives": (
        {"rule": (), "negative": (), "variant": "a"},
        "--variant a says .* leave it out",
    ),
    "a negative scale": (
        {"rule": ("sld=1",), "guidance_scale": -1.0},
        "sld=1 needs a --guidance-scale of 0 at least, got -1",
    ),
    "resume": ({"resume": True}, "--resume belongs to --study"),
    "branches": ({"branches": "loop"}, "unknown way to ask for --branches"),
    "a type": ({"dtype": "float16"}, "unknown dtype 'float16'"),
    "weights": ({"weights": "fp16"}, r"has no .*\.fp16\.safetensors"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(what, model, tmp_path, capsys):
    changes, said = BAD[what]
    run = functools.partial(job.main, config(model, tmp_path / "run", **changes))
    with pytest.raises(SystemExit) as left:
        cli.main(run)
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(said, error), error
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("read_once")
def test_a_refusal_for_memory_leaves_no_folder(model, tmp_path, monkeypatch):
    def refused(*given):
        raise InputError("one step of 2 images needs 9 GiB")

    for module in (job, study):
        monkeypatch.setattr(module, "cost", refused)
    for more in ({}, STUDY):
        with pytest.raises(InputError, match="9 GiB"):
            job.main(config(model, tmp_path / "run", **more))
        assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("read_once")
def test_a_rule_that_is_not_finite_loses_no_other(model, tmp_path, monkeypatch):
    def some(model, denoise, table, rule, *rest):
        if not hasattr(rule, "tracker"):
            return drawn(model, denoise, table, rule, *rest)
        # What is finished is on the disk by now.
        assert len(list((tmp_path / "run" / "images" / "unguided").iterdir())) == 3
        raise NonFiniteError("NaN at step 2")

    monkeypatch.setattr(job, "draw", some)
    monkeypatch.setattr(job, "cost", cost)
    asked = config(model, tmp_path / "run", rule=("unguided", "dng", "np=1"))
    with pytest.raises(NonFiniteError, match="dng:pair=1: NaN at step 2; what the other rules"):
        job.main(asked)
    stored = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [r["rule"] for r in stored["records"]] == ["unguided", "np=1"]
    assert stored["failed"] == ["dng:pair=1: NaN at step 2"]
    assert (tmp_path / "run" / "contact_sheet.png").exists()


@pytest.mark.parametrize(
    ("p", "stuck"), [([0.01, 1e-6, 1e-6, 1e-6], 1), ([0.01, 0.2, 0.99, 0.3], 0)]
)
def test_a_posterior_that_never_leaves_its_clamp_is_warned_of(p, stuck):
    (spec,) = prompt_rules.parse_all(["interval(.1,9,dng:pair=1)"])
    made = prompt_rules.build(spec, ("negative",), "d", 3.0)
    trace = np.tile(np.array(p)[:, None], 2)
    found = Drawn(
        np.zeros((2, 1, 1, 1)), np.zeros((2, 1, 1, 3)), {"lambda": trace, "posterior": trace}
    )
    record = writing.record_of(str(spec), made, found, None, 4)
    np.testing.assert_allclose(record["clamped"]["low"], stuck)
    np.testing.assert_allclose(record["clamped"]["high"], 0 if stuck else 1 / 3)
    table = writing.table_of("one", [record])
    assert table.rows[0][table.columns.index("steps at a clamp")] == ("100%" if stuck else "33%")
    said = "dng:pair=1. stood at a clamp at every step but the first.*: take a smaller --tau"
    if stuck:
        with pytest.warns(UserWarning, match=said):
            writing.warn_of_clamps([record], job.REMEDY)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            writing.warn_of_clamps([record], job.REMEDY)


def test_a_contact_sheet_shows_no_more_images_than_a_page_holds(tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(writing.plots, "image_grid", lambda grid, *a, **more: shown.update(
        more, columns=grid.shape[1]))  # fmt: skip
    found = Drawn(np.zeros((40, 1, 1, 1)), np.zeros((40, 1, 1, 3)), {})
    writing.write_overview(tmp_path, {"unguided": found}, steps.ddpm(linear(), 2), "x")
    assert (shown["columns"], shown["title"]) == (16, "x (the first 16 of 40)")


@pytest.mark.usefixtures("read_once")
def test_a_complete_study_is_read_back_without_its_model(model, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "PROMPTS", PROMPTS[:1])
    for name, fake in {"draw": drawn, "cost": cost}.items():
        monkeypatch.setattr(study, name, fake)
    asked = config(model, tmp_path / "run", **STUDY)
    records = job.main(asked)
    assert [r["network_calls_per_image"] for r in records[:5]] == [8, 12, 12, 12, 12]
    assert {r["variant"] for r in records} == {"d"}
    assert {r["parameters"]["kind"] for r in records} == {
        "Unguided", "NegativePrompt", "DynamicNegative"}  # fmt: skip
    assert len(list((tmp_path / "run").rglob("latents/*.npy"))) == 9
    monkeypatch.setattr(study, "load", None)
    again = job.main(dataclasses.replace(asked, resume=True))
    assert [r["rule"] for r in again] == [r["rule"] for r in records]
    place = tmp_path / "run" / "prompt-1" / "record.json"
    whole = json.loads(place.read_text())
    for field in ("rule", "kind"):
        altered = json.loads(place.read_text())
        del altered["records"][0][field]
        place.write_text(json.dumps(altered))
        with pytest.raises(InputError, match=r"record\.json was altered: remove it"):
            job.main(dataclasses.replace(asked, resume=True))
        place.write_text(json.dumps(whole))


def test_a_pipeline_that_is_none_is_one_sentence(model, tmp_path, capsys):
    broken = shutil.copytree(model, tmp_path / "tiny")
    (broken / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(SystemExit) as left:
        cli.main(functools.partial(job.main, config(broken, tmp_path / "run")))
    assert left.value.code == 2
    assert "holds a FluxPipeline" in capsys.readouterr().err


@pytest.mark.filterwarnings("default::UserWarning")
def test_a_prompt_that_is_too_long_is_cut_and_quoted(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(job, "draw", drawn)
    monkeypatch.setattr(job, "cost", cost)
    long = "cat, " * 40
    asked = config(model, tmp_path / "run", prompt=long, negative=(), rule=("unguided",), steps=1)
    cli.main(functools.partial(job.main, asked))
    said = capsys.readouterr().err
    assert said.startswith("warning: 75 tokens of a prompt are read, this one has 80")
    assert "', cat, cat, '" in said
