"""The training jobs end to end on little data: what they write, how they stop, what they refuse."""

import dataclasses
import functools
import hashlib
import json
import signal
import struct
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open

import train.classifier.job
import train.diffusion.job
from dng_jax import data, nets, training, weights
from dng_jax.errors import InputError
from dng_jax.jobs import cli, runs
from dng_jax.metrics.reference import Reference
from dng_jax.training import presets
from dng_jax.training.checkpoints import Checkpoints
from dng_jax.weights import pretrained
from tests.jobs.kill_resume import TINY, equal, newest, numbers, state_like
from train import finish, images, logs, loop, options, start

PACE = ("--steps", "10", "--log-every", "5", "--save-every", "5", "--sample-every", "0")
SMALL = options.parse_diffusion([*TINY, *PACE])
CLASSIFIER = Path(pretrained.__file__).parent / "digits-classifier.safetensors"


def small(out, **changes):
    return dataclasses.replace(SMALL, out=out, **changes)


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_compilation):
    """All jobs here."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was never disturbed, with sample grids."""
    out = tmp_path_factory.mktemp("finished") / "run"
    train.diffusion.job.run(small(out, sample_every=5, dtype="bfloat16"))
    return out


def test_diffusion_job_writes_what_it_says(finished):
    assert {p.name for p in finished.iterdir()} == {
        ".lock",
        "run.json", "metrics.jsonl", "tensorboard", "states", "samples", "model.safetensors",
        "model.md",
    }  # fmt: skip
    lines = logs.read(finished)
    assert [line["step"] for line in lines] == [5, 10]
    for before, line in zip([{"step": 0, "seconds": 0}, *lines], lines, strict=False):
        rate = 32 * (line["step"] - before["step"]) / (line["seconds"] - before["seconds"])
        assert line["images_per_second"] == pytest.approx(rate, rel=0.05, abs=1)
    assert {p.name for p in (finished / "samples").iterdir()} == {
        "step-000005.png",
        "step-000010.png",
    }
    module, params, _ = weights.load(finished / "model.safetensors")
    state = newest(finished, *state_like(10))
    assert int(state.step) == 10
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8), params, state.ema)
    assert module == state_like(10)[0]

    with safe_open(finished / "model.safetensors", framework="numpy") as file:
        told = file.metadata()
    assert (told["dataset"], told["schedule"], told["images"]) == ("digits", "linear", "320")
    assert abs(float(told["seconds"]) - lines[-1]["seconds"]) < 30
    assert told["command"].startswith("python -m train.diffusion --preset digits --steps 10 ")
    card = (finished / "model.md").read_text()
    for fact in (
        "10 steps, 320 images seen", "digits, split all: all 1,797 images, 8x8x1", "bfloat16",
        "| final, mean of the 1 logged batch in the last 5% of the steps |",
        "--network.channels 8",
        f"loss {lines[-1]['loss']:.4f}", "samples/step-000010.png", "| schedule | linear |",
    ):  # fmt: skip
        assert fact in card


def test_card_names_the_code_that_ran_not_the_one_that_is_there_at_the_end(tmp_path):
    out = tmp_path / "run"
    words = [*TINY, "--conditioning", "none", "--only-class", "3"]
    chosen = options.parse_diffusion(words)
    job = chosen.job
    runs.new_run_folder(out, job, facts={"init": {"file": "a.safetensors", "steps": "7|8\n9"}})
    record = runs.read_run(out)
    known = record["provenance"]
    record["sessions"] = [
        known | {"git": {"commit": c * 40, "dirty": c == "a"}, "device": d}
        for c, d in (("a", "cpu"), ("b", "x"), ("c", "cpu"))
    ]
    runs.write_json(out / "run.json", record)
    lines = [{"step": s, "seconds": s, "loss": s / 100} for s in (50, 96, 98, 100)]
    (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    state = types.SimpleNamespace(step=job.steps)
    run = types.SimpleNamespace(
        name="diffusion", options=chosen, job=job, out=out, arrays=(np.zeros(183),)
    )
    told = finish.facts(run, state, 3.0, {})
    assert told["commit"] == "a" * 40 + " with changes (start), " + "c" * 40 + " (end)"
    assert told["hardware"].count("cpu, ") == told["hardware"].count("x, ") == 1
    assert told["used"] == "all 183 images of class 3"
    assert told["final"] == "loss 0.9800"
    assert told["final_mean_of"] == "3 logged batches in the last 5% of the steps"
    assert told["started_from"] == "a.safetensors: steps 7|8 9"
    assert told["command"].endswith(" --init a.safetensors")


@pytest.mark.parametrize(("option", "kept"), [("only", 183), ("without", 1797 - 183)])
def test_one_class_alone_or_all_but_one(option, kept):
    words = [*TINY, "--conditioning", "none", f"--{option}-class", "3"]
    chosen = options.parse_diffusion(words)
    found = images.load(chosen, 1)
    assert len(found.images) == len(found.labels) == kept
    assert set(found.labels) == ({3} if option == "only" else set(range(10)) - {3})
    assert chosen.folder.name.endswith(f"-none-{option}-3")


def test_a_run_keeps_the_weights_it_was_started_with(finished, tmp_path, capsys):
    out, path, (module, _) = tmp_path / "run", finished / "model.safetensors", state_like(10)
    job, where = SMALL.job, start.place(SMALL)
    optimiser = training.make_optimiser(10, 1e-3, 2)
    fresh = functools.partial(training.init_state, module, optimiser, jax.random.key(0))
    init = start.read_init(path, fresh, job.network)
    start.open_run(out, job, False, where, init)
    facts = runs.read_run(out)["init"]
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (facts["file"], facts["steps"], facts["images"]) == ("model.safetensors", "10", "320")
    assert facts["command"].startswith("python -m train.diffusion ")
    _, stored, _ = weights.load(path)
    state = start.first_state(fresh, init, out, where)
    for tree in (state.params, state.ema):
        jax.tree.map(np.testing.assert_array_equal, tree, stored)
    assert "parameters from" in capsys.readouterr().out

    with pytest.raises(InputError, match="no saved state yet: give --init again"):
        start.open_run(out, job, True, where)
    (out / "states" / "5").mkdir(parents=True)
    start.open_run(out, job, True, where)
    start.open_run(out, job, True, where, init)
    assert runs.read_run(out)["init"] == facts
    assert len(runs.read_run(out)["sessions"]) == 3
    start.first_state(fresh, init, out, where)
    assert "parameters from" not in capsys.readouterr().out

    other = jax.tree.map(lambda leaf: leaf + 1, stored)
    weights.save(tmp_path / "other.safetensors", other, nets.describe(module))
    another = start.read_init(tmp_path / "other.safetensors", fresh, job.network)
    with pytest.raises(InputError, match=r"started from another model.safetensors \(sha256 "):
        start.open_run(out, job, True, where, another)
    with pytest.raises(InputError, match="started without --init"):
        start.open_run(finished, job, True, where, init)

    kept = runs.read_run(out)
    for altered in ("a.safetensors", {"file": "a.safetensors"}, {"file": 3, "sha256": "0"}):
        runs.write_json(out / "run.json", kept | {"init": altered})
        with pytest.raises(InputError, match=r"run\.json does not say what the run started from"):
            start.open_run(out, job, True, where, init)


def test_event_files_hold_the_same_numbers(finished):
    from tensorboardX.proto.event_pb2 import Event

    (path,) = (finished / "tensorboard").iterdir()
    content, found, at = path.read_bytes(), {}, 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)  # length, its checksum, data, checksum
        event = Event.FromString(content[at + 12 : at + 12 + length])
        found |= {(event.step, v.tag): v.simple_value for v in event.summary.value}
        at += length + 16
    for line in logs.read(finished):
        for name in ("loss", "loss_class", "grad_norm"):
            assert found[line["step"], name] == pytest.approx(line[name], abs=1e-6)


def test_sigterm_saves_leaves_with_0_and_resume_ends_the_same(finished, tmp_path, capsys):
    out, make = tmp_path / "run", training.make_diffusion_step

    def signalled(*arguments):
        step = make(*arguments)

        def run(state, *arrays):
            if int(state.step) == 5:
                signal.raise_signal(signal.SIGTERM)
            return step(state, *arrays)

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "make_diffusion_step", signalled)
        assert cli.main(lambda: train.diffusion.job.run(small(out, save_every=100))) is None
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    said = capsys.readouterr().out
    assert "stopped by SIGTERM: step 6 of 10 is saved" in said
    assert "--resume" in said
    assert not (out / "model.safetensors").exists()
    assert json.loads((out / "run.json").read_text())["config"]["network"]["channels"] == 8

    train.diffusion.job.run(small(out, save_every=100, resume=True))
    assert "going on from step 6" in capsys.readouterr().out
    assert equal(newest(finished, *state_like(10)), newest(out, *state_like(10)))
    assert numbers(finished) == numbers(out)


def test_a_second_interrupt_leaves_at_once():
    # A job in the background may have inherited that Ctrl-C is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        stop = loop.StopSignal()
        with stop.listening():
            with pytest.raises(KeyboardInterrupt):  # there is nothing to save yet
                signal.raise_signal(signal.SIGINT)
            assert not stop.agreed()
        with stop.listening():
            stop.begin()
            signal.raise_signal(signal.SIGINT)
            assert stop.agreed()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stop.name == "SIGINT"


@pytest.mark.slow
def test_nan_and_full_disk_leave_with_2_and_one_sentence(tmp_path, capsys, monkeypatch):
    def main(job):
        with pytest.raises(SystemExit) as caught:
            cli.main(job)
        assert caught.value.code == 2
        message = capsys.readouterr().err
        assert "Traceback" not in message
        assert message.count("\n") == 1
        return message

    make = training.make_diffusion_step

    def spoiled(*arguments):
        step = make(*arguments)

        def run(state, *arrays):
            new, metrics = step(state, *arrays)
            return new, metrics | {"grad_norm": metrics["grad_norm"] / (new.step != 8)}

        return run

    with monkeypatch.context() as patch:
        patch.setattr(training, "make_diffusion_step", spoiled)
        message = main(lambda: train.diffusion.job.run(small(tmp_path / "nan")))
    assert "step 8, where the grad norm inf is not finite" in message
    assert int(newest(tmp_path / "nan", *state_like(10)).step) == 5

    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("orbax.checkpoint.CheckpointManager.save", refuse)
        message = main(lambda: train.diffusion.job.run(small(tmp_path / "full")))
    assert "no space left on device" in message
    # The same folder goes on once there is room.
    train.diffusion.job.run(small(tmp_path / "full", resume=True))
    assert (tmp_path / "full" / "model.safetensors").exists()


@pytest.mark.slow
def test_cifar10_preset_runs_end_to_end_in_little(tmp_path, monkeypatch):
    """Attention, dropout, three channels, class labels, one class alone, best state, bfloat16."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 32, 32, 3)).astype(np.uint8)
    labels = np.arange(64, dtype=np.int32) % 10
    asked = []

    def load(name, split):
        asked.append((name, split))
        names = tuple("abcdefghij")
        return images, labels, data.Info("cifar10", 10, names, (32, 32, 3))

    monkeypatch.setattr(data, "load", load)
    out = tmp_path / "run"
    words = """--preset cifar10 --conditioning label --network.channels 8 --network.multipliers 1 1
        --network.blocks 0 --network.embed-channels 16 --network.patch 4 --network.middle-blocks 1
        --warmup 1 --steps 4 --batch-size 8 --examples 40 --log-every 1 --save-every 2
        --sample-every 4 --precision bfloat16 --export best"""
    chosen = options.parse_diffusion([*words.split(), "--out", str(out)])
    path = train.diffusion.job.run(chosen)
    assert asked == [("cifar10", "train")]
    lines = logs.read(out)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    # The output starts at zero: the first loss is the mean square of the noise, near 1.
    assert lines[0]["loss"] == pytest.approx(1, abs=0.1)
    _, params, config = weights.load(path)
    assert config["conditioning"] == "label"
    assert config["attention_levels"] == [1]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
    assert "cifar10, split train: the first 40 images, 32x32x3" in (out / "model.md").read_text()
    assert (out / "samples" / "step-000004.png").exists()


@pytest.mark.slow
def test_classifier_job_is_measured_on_the_test_split(tmp_path, capsys):
    out = tmp_path / "run"
    words = "--steps 40 --batch-size 32 --log-every 20 --save-every 20 --examples 300"
    small = options.parse_classifier([*words.split(), "--out", str(out)])
    train.classifier.job.run(small)
    said = capsys.readouterr().out
    lines = logs.read(out)
    assert [line["step"] for line in lines] == [20, 40]
    assert set(lines[0]) == {
        "step", "seconds", "loss", "accuracy", "grad_norm", "images_per_second",
    }  # fmt: skip
    module, params, _ = weights.load(out / "model.safetensors")
    images, labels, _ = data.load("digits", "test")
    logits = module.apply({"params": params}, data.to_unit(images))
    accuracy = np.mean(np.argmax(logits, -1) == labels)
    assert f"test accuracy {accuracy:.4f} on 355 images" in said
    assert f"| test accuracy | {accuracy:.4f} |" in (out / "model.md").read_text()
    # What real images look like is asked of all of them, few as the network was trained on.
    whole = np.bincount(data.load("digits", "train")[1])
    reference = Reference.load(Reference.path_beside(out / "model.safetensors"))
    assert [float(m.count) for m in reference.moments] == whole.tolist()
    assert "split train: the first 300 images" in (out / "model.md").read_text()
    with pytest.raises(InputError, match="already holds this run"):
        train.classifier.job.run(small)
    job = dataclasses.replace(small.job, steps=30)
    with pytest.raises(InputError, match=r"holds another run \(steps 40, not 30\)"):
        train.classifier.job.run(dataclasses.replace(small, job=job, resume=True))


def test_classifier_job_refuses_at_the_start_what_would_fail_at_the_end(tmp_path, monkeypatch):
    out = tmp_path / "run"
    fresh = options.parse_classifier(["--out", str(out)])
    with pytest.raises(InputError, match="does not exist: check the path"):
        train.classifier.job.run(dataclasses.replace(fresh, init=tmp_path / "nothing"))
    load = data.load

    def one_seven(name, split):
        images, labels, info = load(name, split)
        kept = (labels != 7) | (np.cumsum(labels == 7) == 1)
        return images[kept], labels[kept], info

    monkeypatch.setattr(data, "load", one_seven)
    with pytest.raises(InputError, match=r"classes \[7\] have fewer than two images in digits"):
        train.classifier.job.run(fresh)
    assert not out.exists()


def test_states_of_another_network_are_refused(finished, tmp_path):
    out, (module, state) = tmp_path / "run", state_like(10)
    runs.new_run_folder(out, SMALL.job)
    other = nets.describe(module) | {"channels": 16}
    with Checkpoints(out / "states", other) as states:
        states.save(state._replace(step=state.step + 5), 1.0)
    with pytest.raises(InputError, match=r"another network \(channels 16, not 8\)"):
        train.diffusion.job.run(small(out, resume=True))
    with Checkpoints(out / "states", other) as states:
        assert states.steps() == [5]


def test_wandb_is_asked_only_when_wanted(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"pip install 'dng-jax\[wandb\]'"):
        logs.Log(tmp_path, 0, wandb="project")
    seen = []
    run = types.SimpleNamespace(
        log=lambda values, step: seen.append((step, values)),
        finish=lambda exit_code: seen.append(exit_code),
    )
    asked = []
    fake = types.SimpleNamespace(init=lambda **options: asked.append(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with logs.Log(tmp_path, 0, wandb="project") as log:
        log.write(5, 1.0, {"loss": 0.5})
    assert seen == [(5, {"loss": 0.5}), 0]
    # A resumed run has its id again; a folder of the same name elsewhere has another.
    (tmp_path / "elsewhere" / tmp_path.name).mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "elsewhere" / tmp_path.name):
        with logs.Log(folder, 0, wandb="project"):
            pass
    first, again, other = (options["id"] for options in asked)
    assert first == again == (tmp_path / "wandb-id").read_text().strip()
    assert first not in (other, tmp_path.name)
    assert {options["project"] for options in asked} == {"project"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--preset digit", "did you mean 'digits'"),
        ("--conditioning head", "unknown conditioning 'head': did you mean 'heads'"),
        ("--network.conditioning label", "write --conditioning label"),
        ("--learning-rate nan", "--learning-rate must be positive"),
        ("--ema-decay 1", "--ema-decay must be at least 0 and below 1, got 1.0"),
        ("--steps 0", "--steps must be at least 1, got 0"),
        ("--log-every 0", "--log-every must be at least 1"),
        ("--precision float16", "unknown precision 'float16'"),
        ("--dtype bf16", "did you mean 'bfloat16'"),
        ("--platform gpus", "unknown platform 'gpus'"),
        ("--conditioning none --only-class 10", "unknown digits class '10'"),
        ("--conditioning none --without-class cat", "unknown digits class 'cat'"),
        ("--without-class 1", "--without-class would leave a head without images"),
        ("--conditioning none --only-class 1 --without-class 2", "exclude each other: give one"),
        ("--focus 1", "--focus must be at least 0 and below 1, got 1.0"),
        ("--focus nan", "--focus must be at least 0 and below 1, got nan"),
        ("--only-class 1", "this one has conditioning heads: add --conditioning none"),
        ("--weight-decay nan", "--weight-decay must be at least 0, got nan"),
        (f"--seed {2**32}", "--seed must be at least 0 and below 2^32"),
        ("--seed -1", "--seed must be at least 0"),
        ("--init nothing.safetensors", "nothing.safetensors does not exist"),
        (f"--init {__file__}", "is not a whole safetensors file"),
        (f"--init {CLASSIFIER}", "has no weights of this network: leave out --init"),
        ("--network.num-classes 11", "made for 11 classes"),
        ("--dataset dogits", "did you mean 'digits'"),
        ("--resume", "holds no run to resume"),
        ("--num-processes 2", "belong together"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, words, message):
    out = tmp_path / "run"
    with pytest.raises(InputError) as caught:
        train.diffusion.job.run(options.parse_diffusion([*PACE, *words.split(), "--out", str(out)]))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--ema-decy 0.9", "--ema-decay"),
        ("--network.chanels 9", "--network.channels"),
        ("--steps ten", "--steps"),
        ("--network.multipliers 1 x", "--network.multipliers"),
        ("--network 3", "--network"),
        ("--network.patch 3", "patch 3"),
        ("--network.channels 0", "channels must be at least 1, got 0"),
        ("--steps", "--steps"),
    ],
)
def test_what_does_not_parse_is_named(words, message, capsys):
    with pytest.raises(SystemExit) as caught:
        options.parse_diffusion(words.split())
    assert caught.value.code == 2
    said = "".join(capsys.readouterr())
    assert message in said
    assert "Traceback" not in said


def test_every_field_of_job_and_network_is_an_option():
    words = """--preset cifar10 --conditioning label --network.multipliers 1 2
        --network.attention-levels --network.scale-shift --network.image-shape 8 8 1 --steps 1_000
        --learning-rate 3e-4 --only-class 4 --dataset digits --examples None"""
    job = options.parse_diffusion(words.split()).job
    network = job.network
    assert (network.multipliers, network.attention_levels) == ((1, 2), ())
    assert (network.scale_shift, network.image_shape) == (True, (8, 8, 1))
    assert (job.steps, job.learning_rate, job.only_class) == (1000, 3e-4, "4")
    assert (job.dataset, job.examples) == ("digits", None)


@pytest.mark.parametrize(
    "words",
    [
        "--preset mnist-small --conditioning none --only-class 3 --clip 2 --seed 4 --steps 7",
        "--preset cifar10 --network.attention-levels --network.scale-shift --learning-rate 1e-5",
        "--network.no-scale-shift --network.multipliers 1 2 2 --examples 100 --references 3",
    ],
)
def test_a_command_repeats_its_run(words):
    parsed = options.parse_diffusion([*words.split(), "--out", "x"])
    again = parsed.command("diffusion")
    assert again == f"python -m train.diffusion {again.split(maxsplit=3)[3]}"
    assert " --out" not in again
    assert options.parse_diffusion(again.split()[3:]).job == parsed.job


def test_help_names_every_option_with_a_sentence(capsys):
    with pytest.raises(SystemExit):
        options.parse_diffusion(["--preset", "mnist-small", "--help"])
    said = capsys.readouterr().out
    for part in ("Images per step", "default: 15000", "--network.channels INT", "none, label or"):
        assert part in said


@pytest.mark.parametrize("kind", ["diffusion", "classifier"])
def test_presets_say_what_they_cost_and_name_their_command(kind):
    for name, make in {"diffusion": presets.DIFFUSION, "classifier": presets.CLASSIFIER}[
        kind
    ].items():
        assert f"python -m train.{kind} --preset {name}" in make.__doc__
        assert "cost" in make.__doc__.lower()
        assert isinstance(nets.describe(nets.UNet(make().network)), dict)


def test_presets_have_the_form_that_is_asked_for():
    own = {name: make().network.conditioning for name, make in presets.DIFFUSION.items()}
    assert own == {
        "digits": "heads", "mnist-small": "heads", "cifar10-small": "label", "mnist": "none",
        "cifar10": "none", "small": "heads",
    }  # fmt: skip
    for name in presets.DIFFUSION:
        for form in ("heads", "label", "none"):
            assert presets.diffusion(name, form).network.conditioning == form
    # Of small images, the class-conditional network is the smaller one.
    assert presets.diffusion("digits", "label").network.channels == 32
    assert presets.diffusion("digits", "none").network.channels == 48


def test_only_photographs_are_mirrored():
    assert {n for n, make in presets.DIFFUSION.items() if make().flip} == {"cifar10-small"}
    small = [presets.diffusion("cifar10-small", form) for form in ("heads", "label", "none")]
    assert all(job.flip for job in small)
    assert [job.references for job in small] == [500, 0, 0]
