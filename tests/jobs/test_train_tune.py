"""train.tune end to end: files, resume, both engines, and what it refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from dng_jax.errors import InputError
from dng_jax.training import TrainState, members
from dng_jax.tuning import blocks, journals, numbers, studies
from tests.house import ROOT
from tests.jobs.kill_resume import environment
from tests.jobs.tunes import TINY, run
from train.classifier import job as classifier
from train.options import parse_classifier
from train.tune import compare, job
from train.tune.options import parse


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
    # To Optuna those that halving stopped are PRUNED, with the value of their rung.
    study = loaded(folder)
    for trial, one in zip(study.trials, found["trials"], strict=True):
        assert trial.state.name == ("COMPLETE" if one["steps"] == 8 else "PRUNED")
        assert trial.intermediate_values == dict(one["rungs"])
    assert study.best_value == best["loss"]


def loaded(folder):
    return journals.optuna().load_study(storage=journals.storage(folder), study_name=studies.NAME)


def test_a_device_without_memory_for_a_block_names_members(
    tmp_path, monkeypatch, quick_compilation
):
    real = members.train

    def train(step, engine, numbers, *rest):
        if engine == "vmap":
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
        return real(step, engine, numbers, *rest)

    monkeypatch.setattr(members, "train", train)
    words = "--trials 4 --judge-seeds 0"
    for more in ("", "--compare"):
        said = "a block of --members 4: go on with --resume and --members 2, or --engine single"
        with pytest.raises(InputError, match=said):
            run(tmp_path / f"run{more}", f"{words} --members 4 --engine vmap {more}")
    with pytest.raises(InputError, match="go on with --resume and --engine single"):
        run(tmp_path / "one", f"{words} --members 1 --engine vmap")
    found = run(tmp_path / "run", f"{words} --members 2 --engine single --resume")
    assert len(found["trials"]) == 4
    assert found["taken_over"] == 4
    assert set(finished(tmp_path / "run").values()) == {1}


def finished(folder):
    """How often the journal ends each trial."""
    lines = [json.loads(line) for line in (folder / journals.FILE).read_text().splitlines()]
    ends = [op for op in lines if op["op_code"] == 6 and op["state"] in (1, 2, 3)]
    return Counter(op["trial_id"] for op in ends)


LONGER = (
    "--of classifier --network.widths 4 --network.features 8 --no-warp --steps 160 --batch-size 16"
    " --log-every 10 --save-every 20 --first-steps 40 --trials 6 --members 3 --resume"
)
SPACE = ["--space", "learning_rate=1e-3..3e-2:log smoothing=0,.1"]


def started(folder, cache, words):
    given = [sys.executable, "-m", "train.tune", *words.split(), "--out", str(folder), *SPACE]
    to = subprocess.PIPE
    return subprocess.Popen(
        given, cwd=ROOT, env=environment(cache), stdout=to, stderr=subprocess.STDOUT, text=True
    )


def ended(process):
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said


def saves(folder):
    """Files of members, each with when it was written."""
    found = set()
    for path in (folder / blocks.FOLDER).glob("[!.]*.npz"):
        with contextlib.suppress(FileNotFoundError):  # a process that ends removes them
            found.add((path, path.stat().st_mtime_ns))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("engine", members.ENGINES)
def test_kills_in_the_middle_of_a_block_lose_nothing_and_tell_none_twice(engine, tmp_path):
    words, rng = f"{LONGER} --engine {engine} --judge-seeds 0", random.Random(2)
    ended(started(tmp_path / "straight", tmp_path, words))
    folder, most = tmp_path / "killed", {}
    for _ in range(5):
        before, new = saves(folder), set()
        process = started(folder, tmp_path, words)
        while process.poll() is None and not new:
            time.sleep(0.005)
            new = saves(folder) - before
        assert new or process.returncode == 0
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        # What was saved stays: no member falls back.
        for path, _ in saves(folder):
            facts, _ = blocks._read(path)
            assert facts["at"] >= most.get(path.name, 0)
            most[path.name] = facts["at"]
    assert most
    ended(started(folder, tmp_path, words))
    one, other = (
        json.loads((tmp_path / name / "results.json").read_text())["trials"]
        for name in ("straight", "killed")
    )
    for mine, theirs in zip(other, one, strict=True):
        if engine == "single":
            assert mine == theirs
        # With vmap a kill between two saves leaves members that go on in smaller programs.
        assert (mine["numbers"], mine["steps"]) == (theirs["numbers"], theirs["steps"])
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=0.02)
    assert finished(folder) == Counter(dict.fromkeys(range(6), 1))
    assert not (folder / blocks.FOLDER).exists()


@pytest.mark.slow
def test_two_processes_share_a_study_and_judge_once(tmp_path):
    words = f"{LONGER} --engine single --judge-seeds 2"
    both = [started(tmp_path / "run", tmp_path, words) for _ in range(2)]
    assert all("fresh seeds" in ended(one) for one in both)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert len(results["trials"]) == 6
    assert sum(s["trials"] for s in results["sessions"]) == 6
    assert finished(tmp_path / "run") == Counter(dict.fromkeys(range(6), 1))
    noted = (tmp_path / "run" / journals.FILE).read_text().count('"judged ')
    assert noted == 2 * 2


@pytest.mark.slow
def test_both_engines_find_the_same_and_are_compared(tmp_path):
    words = "--trials 3 --members 3 --judge-seeds 0 --engine"
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
    found = run(
        tmp_path / "run", "--trials 2 --members 2 --engine vmap --log-every 1 --judge-seeds 0"
    )
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
        ("--held-out 1000", "clip=1,2", "at most 898, or add --judge-seeds 0"),
        ("--judge-seeds 1", "clip=1,2", "--judge-seeds must be at least 2"),
        ("--judge-seeds 1000", "clip=1,2", "--judge-seeds must be at most 999"),
        ("--save-every 0", "clip=1,2", "--save-every must be at least 1"),
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
