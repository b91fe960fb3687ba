"""train.tune end to end: files, resume, both engines, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from dng_jax.errors import InputError
from dng_jax.training import TrainState, members
from dng_jax.tuning import blocks, numbers
from train.classifier import job as classifier
from train.options import parse_classifier
from train.tune import compare, job
from train.tune.options import parse

TINY = (
    "--of classifier --network.widths 4 --network.features 8 --no-warp --steps 8 --batch-size 16"
    " --log-every 4"
)


def run(folder, more="", space="learning_rate=1e-3..3e-2:log smoothing=0,.1", words=TINY):
    given = f"{words} --out {folder} {more}".split()
    return job.run(parse([*given, "--space", space]))


def test_a_search_is_filled_goes_on_and_names_what_is_best(tmp_path, capsys, quick_compilation):
    folder = tmp_path / "run"
    words = "--trials 4 --members 4 --first-steps 4 --engine single"
    found = run(folder, words)
    names = {path.name for path in folder.iterdir()}
    assert names >= {"results.json", "tables.md", "curves.png", "best.json", "journal.log"}
    assert blocks.FOLDER not in names
    assert [len(t["rungs"]) for t in found["trials"]].count(2) == 2
    best = json.loads((folder / "best.json").read_text())
    whole = [t for t in found["trials"] if t["steps"] == 8]
    assert best["loss"] == min(t["loss"] for t in whole)
    assert best["command"] in capsys.readouterr().out
    # The command is one of train.classifier, with these numbers.
    said = best["command"].partition("train.classifier ")[2].split()
    options = parse_classifier(said)
    options.check()
    for name, value in best["numbers"].items():
        assert getattr(options.job, name) == value
    assert options.job.network.widths == (4,)
    assert not options.job.warp

    held = (folder / "results.json").read_bytes()
    for more, space, sentence in (
        ("", "learning_rate=1e-3..3e-2:log smoothing=0,.1", "add --resume"),
        ("--resume", "learning_rate=1e-3..1e-2:log smoothing=0,.1", "space"),
        ("--resume --eta 3", "learning_rate=1e-3..3e-2:log smoothing=0,.1", "eta"),
        ("--resume --learning-rate 1", "learning_rate=1e-3..3e-2:log smoothing=0,.1", "rate"),
    ):
        with pytest.raises(InputError, match=sentence):
            run(folder, f"{words} {more}", space)
    assert (folder / "results.json").read_bytes() == held
    again = run(folder, f"{words} --resume")
    assert again["trials"] == found["trials"]


@pytest.mark.slow
def test_both_engines_find_the_same_and_are_compared(tmp_path):
    words = "--trials 3 --members 3 --engine"
    one, other = (run(tmp_path / e, f"{words} {e}") for e in ("vmap", "single"))
    for mine, theirs in zip(one["trials"], other["trials"], strict=True):
        assert mine["numbers"] == theirs["numbers"]
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
        assert mine["curve"] == pytest.approx(theirs["curve"], rel=1e-3)
    found = run(tmp_path / "both", "--compare --members 3")
    assert max(found["largest_relative_difference_of_losses"].values()) < 1e-3
    assert {e["seconds"] > 0 for e in found["engines"].values()} == {True}


@pytest.mark.parametrize(
    ("until", "every", "warm"),
    [(50, 50, 50), (70, 50, 70), (150, 50, 50), (130, 50, 80), (60, 30, 30), (7, 30, 7)],
)
def test_every_program_of_the_timed_run_is_compiled_before(until, every, warm, monkeypatch):
    used = set()

    def of_size(size):
        def step(numbers, state, images, labels):
            used.add(size)
            return state, {"loss": np.zeros(size)}

        return step

    monkeypatch.setattr(members.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(members, "_several", lambda step, size: of_size(size))

    def programs(steps):
        used.clear()
        state = TrainState(0, None, None, None, None)
        members._run(of_size(1), {}, state, (0, 0), steps, every, lambda n: None)
        return set(used)

    assert compare.warming(until, every) == warm
    assert programs(warm) == programs(until)


def test_seconds_to_compile_are_apart_from_those_of_training(monkeypatch):
    clock, calls = [0.0], []

    def train(step, engine, numbers, state, arrays, until, every):
        clock[0] += until + (not calls) * 1000  # a step takes a second
        calls.append(until)
        return TrainState(0, 0, 0, 0, 0), {"loss": np.zeros((2, until // every))}

    now = SimpleNamespace(perf_counter=lambda: clock[0], process_time=lambda: clock[0])
    monkeypatch.setattr(compare, "time", now)
    monkeypatch.setattr(compare.members, "train", train)
    for name in ("make_step", "population"):
        monkeypatch.setattr(compare.members, name, lambda *_: None)
    settings = [numbers.Numbers((("clip", clip),)) for clip in (1.0, 2.0)]
    for steps, asked in ((130, [80, 80, 130]), (50, [50, 50])):
        calls.clear()
        block = SimpleNamespace(build=None, fresh=None, arrays=(), every=50, rungs=(steps,))
        found, _ = compare._timed(block, "single", settings)
        expected = {"seconds": steps, "cpu_seconds": steps, "compiling_seconds": 1000}
        assert (found, calls) == (expected, asked)


@pytest.mark.slow
def test_a_member_is_the_run_of_train_classifier(tmp_path, monkeypatch):
    # On the same images: what is held out is trained on as well.
    monkeypatch.setattr(job, "split", lambda n, _: (np.arange(n), np.arange(100)))
    found = run(tmp_path / "run", "--trials 2 --members 2 --engine vmap --log-every 1")
    for k, trial in enumerate(found["trials"]):
        values = trial["numbers"]
        numbers = f"--learning-rate {values['learning_rate']} --smoothing {values['smoothing']}"
        words = TINY.removeprefix("--of classifier ").replace("--log-every 4", "--log-every 1")
        given = f"{words} {numbers} --out {tmp_path / str(k)}".split()
        classifier.run(parse_classifier(given))
        lines = (tmp_path / str(k) / "metrics.jsonl").read_text().splitlines()
        losses = [json.loads(line)["loss"] for line in lines]
        assert trial["curve"] == pytest.approx(losses, rel=1e-3)


def test_a_study_is_of_one_precision(monkeypatch):
    config = parse([])
    space = numbers.parse("clip=1,2", config.job)
    found = {}
    for wanted in ("auto", "float32", "bfloat16"):
        for platform in ("cpu", "gpu"):
            monkeypatch.setattr(job.jax, "default_backend", lambda platform=platform: platform)
            one = dataclasses.replace(config.job, precision=wanted)
            plan = job.plan_of(config, one, space, (8,), 2, "key")
            found[wanted, platform] = plan.facts["job"].precision
    assert list(found.values()) == ["float32", "bfloat16", *["float32"] * 2, *["bfloat16"] * 2]


@pytest.mark.parametrize(
    ("words", "space", "said"),
    [
        ("--objective error", "clip=1,2", "--objective error is of a classifier"),
        ("--of clasifier", "clip=1,2", "did you mean 'classifier'"),
        ("--engine wmap", "clip=1,2", "did you mean 'vmap'"),
        ("--of classifier --preset cifar10", "clip=1,2", "cannot be searched"),
        ("--of classifier --conditioning label", "clip=1,2", "--conditioning is of diffusion"),
        ("--held-out 100000", "clip=1,2", "--held-out must be 2 to"),
        (
            "--first-steps 10 --steps 5",
            "clip=1,2",
            "the first rung takes between 1 and all 5 steps, got 10",
        ),
        ("", "warmup=.5,.4", "warmup must be a whole number"),
        ("", "clip=2..1", "swap the ends"),
        ("", "weight_decay=0..1:log", "a lower end above 0"),
        ("", "learning_rats=1", "did you mean 'learning_rate'"),
        ("--members 0", "clip=1,2", "--members"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(words, space, said, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(InputError) as refused:
        run(folder, space=space, words=words)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not folder.exists()


def test_without_optuna_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match="of the extra tune"):
        run(tmp_path / "run")
    assert not (tmp_path / "run").exists()
