"""How the processes of a job find each other; two of them remove a class as one does."""

from __future__ import annotations

import dataclasses
import json
import signal
import socket
import subprocess
import sys
import time
import warnings

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from dng_jax.errors import InputError
from dng_jax.experiments import problems, rule_specs
from dng_jax.experiments.generating import LEAST, batches_per_stream
from dng_jax.jobs import addresses, cli, processes
from dng_jax.jobs.coordinator import Coordinator
from dng_jax.jobs.devices import Devices
from dng_jax.jobs.opening import identity
from dng_jax.jobs.options import DataOptions, RunOptions
from dng_jax.jobs.processes import Place, Processes
from dng_jax.jobs.team import ALONE, PARTS
from dng_jax.jobs.worker import Worker
from eval.class_removal import job as class_removal
from eval.class_removal.options import Config
from tests.house import ROOT
from tests.jobs.kill_resume import environment

# ------------------------------------------------------------------------------- who is who

STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "n[01-2]",
        "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}  # fmt: skip


def test_processes_are_named_by_options_or_by_slurm():
    assert Processes().place({}) is None
    assert Processes().place(STEP) == Place("n01:61447", 2, 1, by_slurm=True)
    assert Processes().place(STEP | {"SLURM_NTASKS": "1"}) is None
    # In an interactive step, of an allocation of two.
    assert Processes().place(STEP | {"SLURM_STEP_NUM_TASKS": "1"}) is None
    assert Processes("host:1234", 2, 1).place(STEP) == Place("host:1234", 2, 1)
    for alone in ((None, 1, None), ("host:1234", 1, 0)):
        assert Processes(*alone).place(STEP) is None
    for wrong in (
        ("host", 2, 0), ("host:12", 2, 2), ("host:12", 2, None), (None, 2, None), ("host:12", 0, 0),
        (":12", 2, 0), ("host:\u0661", 2, 0), ("host:65536", 2, 0), ("host:12", 1, 1),
    ):  # fmt: skip
        with pytest.raises(InputError):
            Processes(*wrong).place({})


def test_a_team_is_of_those_that_were_named(monkeypatch):
    for name in STEP:
        monkeypatch.delenv(name, raising=False)
    assert Processes().team() is ALONE
    first, other = (Processes("10.0.0.1:1234", 3, i).team() for i in (0, 2))
    assert isinstance(first, Coordinator)
    assert isinstance(other, Worker)
    assert [(t.address, t.count, t.process) for t in (first, other)] == [
        ("10.0.0.1:1234", 3, 0),
        ("10.0.0.1:1234", 3, 2),
    ]


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node001", "node001"),
        ("node001,host2", "node001"),
        ("node[001-015],host2", "node001"),
        ("node[001,007-015],host2", "node001"),
        ("gpu[007,012]-ib,login[1-3]", "gpu007-ib"),
        ("r[1-2]n[03-04]", "r1n03"),
        ("login,node[1-2]", "login"),
    ],
)
def test_the_first_host_of_a_list_of_slurm(nodes, first):
    assert addresses.first_host(nodes) == first


def test_steps_and_jobs_of_slurm_listen_on_ports_of_their_own():
    def port(**ids):
        found = addresses.of_step(STEP | {f"SLURM_{name}_ID": str(i) for name, i in ids.items()})
        return addresses.split(found)[1]

    ports = {port(JOB=job, STEP=step) for job in (1, 2, 3, 123456) for step in range(8)}
    assert len(ports) == 32
    assert all(2**16 - 2**12 <= p < 2**16 for p in {*ports, *(port(JOB=j) for j in range(9000))})


def test_a_task_with_gpus_of_its_own_takes_all_of_them():
    def found(**more):
        return processes.devices_of_task(STEP | more)

    assert found(SLURM_GPUS_PER_TASK="1", CUDA_VISIBLE_DEVICES="3") == [0]
    assert found(SLURM_TRES_PER_TASK="cpu=8,gres/gpu:2", CUDA_VISIBLE_DEVICES="0,1") == [0, 1]
    assert found(CUDA_VISIBLE_DEVICES="0,1,2,3") == [1]
    assert found(SLURM_TRES_PER_TASK="cpu=8", CUDA_VISIBLE_DEVICES="0,1") == [1]
    assert found(SLURM_GPUS_PER_TASK="1") == [1]


# ------------------------------------------------------------------------------- joining jax


def joined(monkeypatch, place, devices=None):
    """What jax is asked for; its settings stay as they were."""
    asked = {}
    monkeypatch.setattr(jax.config, "update", lambda *a: None)
    monkeypatch.setattr(jax.distributed, "initialize", lambda **a: asked.update(a))
    processes.join(place, devices)
    return asked


def test_process_0_listens_on_the_address_that_was_given(monkeypatch):
    asked = joined(monkeypatch, Place("127.0.0.1:0", 2, 0))
    assert asked == {
        "coordinator_address": "127.0.0.1:0",
        "coordinator_bind_address": "127.0.0.1:0",
        "num_processes": 2,
        "process_id": 0,
        "local_device_ids": None,
        "cluster_detection_method": "deactivate",
        "initialization_timeout": addresses.TIMEOUT,
    }
    with pytest.raises(InputError, match=r"cannot listen on 192\.0\.2\.1:80 .* free port"):
        joined(monkeypatch, Place("192.0.2.1:80", 2, 0))


def test_a_task_of_slurm_says_which_devices_it_takes_and_has_a_sentence_of_its_own(monkeypatch):
    place = Place("localhost:0", 2, 0, by_slurm=True)
    assert joined(monkeypatch, place, [0])["local_device_ids"] == [0]

    def fails(**_):
        raise RuntimeError("DEADLINE_EXCEEDED: Barrier timed out\nand more")

    monkeypatch.setattr(jax.distributed, "initialize", fails)
    for by_slurm in (True, False):
        with pytest.raises(InputError, match=r"cannot join .*DEADLINE_EXCEEDED") as caught:
            processes.join(dataclasses.replace(place, by_slurm=by_slurm), None)
        assert ("--coordinator" in str(caught.value)) is not by_slurm
        assert "and more" not in str(caught.value)


@pytest.mark.parametrize("host", ["[::1]", "localhost", "service.invalid"])
def test_process_0_of_a_name_listens_on_every_network_and_says_so(monkeypatch, capsys, host):
    bound = []
    monkeypatch.setattr(socket.socket, "bind", lambda sock, where: bound.append(where))
    monkeypatch.setattr(socket.socket, "listen", lambda *a: None)  # there may be no IPv6 here
    named = host == "service.invalid"
    asked = joined(monkeypatch, Place(f"{host}:0", 2, 0))
    assert asked["coordinator_bind_address"] == ("[::]:0" if named else f"{host}:0")
    assert (bound[-1][0] in ("", "::")) == named
    assert ("service.invalid is a name" in capsys.readouterr().err) == named


@pytest.mark.parametrize("join", ["team", "jax"])
def test_a_coordinator_that_does_not_answer_is_named_in_seconds(monkeypatch, capsys, join):
    monkeypatch.setattr(addresses, "PATIENCE", 0.1)
    monkeypatch.setattr(addresses, "TIMEOUT", 0.5)

    def joins(address):
        if join == "team":
            Worker(address, 2, 1).__enter__()
        else:
            joined(monkeypatch, Place(address, 2, 1))

    began = time.monotonic()
    with pytest.raises(InputError, match=r"nobody answers at 127\.0\.0\.1:1 "):
        joins("127.0.0.1:1")
    assert time.monotonic() - began < 10
    assert "waiting for process 0 at 127.0.0.1:1" in capsys.readouterr().err
    for nowhere in ("nowhere.invalid:1", f"{'a' * 64}.invalid:1"):
        with pytest.raises(InputError, match=rf"--coordinator {nowhere} is no address"):
            joins(nowhere)


def test_the_first_alone_opens_a_folder_and_all_hear_that_it_could_not(monkeypatch):
    def refuse():
        raise InputError("the folder is taken")

    def told(me, do, wrong=0):
        monkeypatch.setattr(jax, "process_index", lambda: me)
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        heard = []
        monkeypatch.setattr(
            multihost_utils,
            "broadcast_one_to_all",
            lambda x: heard.append(int(x)) or np.int32(wrong or x),
        )
        try:
            return processes.by_the_first(do), heard
        except InputError as error:
            return str(error), heard

    assert told(0, lambda: "folder") == ("folder", [0])
    assert told(1, refuse) == (None, [0])
    assert told(0, refuse) == ("the folder is taken", [1])
    assert told(1, refuse, wrong=1) == ("process 0 cannot go on: see its message", [0])


# ------------------------------------------------------------------------------- batches


@pytest.mark.parametrize(
    ("batch", "count", "streams", "processes", "pieces"),
    [
        (512, 1024, 1, 1, 2),  # alone: as few as --batch allows
        (512, 1000, 1, 1, 2),
        (512, 1536, 1, 2, 4),  # and not 1024 against 512
        (512, 114, 9, 8, 1),  # one stream each, and not 72 tiny batches
        (512, 114, 9, 1, 1),
        (512, 1024, 1, 4, 8),
        (512, 96, 1, 2, 2),  # too few for two each
        (512, 200, 3, 8, 3),
        (512, 3, 1, 8, 3),
        (40, 96, 1, 2, 4),
    ],
)
def test_batches_are_near_equal_and_one_for_each_process(batch, count, streams, processes, pieces):
    assert batches_per_stream(batch, count, streams, processes) == pieces


def test_no_process_is_without_a_batch_and_none_is_too_large():
    rng = np.random.default_rng(0)
    for batch, count, streams, n in rng.integers(1, [600, 3000, 12, 17], (2000, 4)).tolist():
        pieces = batches_per_stream(batch, count, streams, n)
        assert 1 <= pieces <= count
        assert -(-count // pieces) <= batch
        assert pieces * streams >= min(n, count * streams)
        if streams >= n:
            assert pieces == -(-count // batch)
        elif batch >= count >= 4 * LEAST * n:
            assert count / pieces >= LEAST


# ------------------------------------------------------------------------------- what a job asks


def test_processes_differ_by_what_is_asked_for_and_not_by_where_they_run():
    config = Config(seeds=(3,))
    elsewhere = dataclasses.replace(
        config,
        processes=Processes("10.0.0.1:1", 2, 1),
        devices=Devices(cpu_devices=2),
        data=DataOptions("there"),
        run=RunOptions("runs/there", overwrite=True),
    )
    first = identity(config, {"net": "f0"})
    assert tuple(first) == PARTS
    assert identity(elsewhere, {"net": "f0"}) == first
    other = identity(dataclasses.replace(config, seeds=(4,)), {"net": "f1"})
    assert [part for part in PARTS if other[part] != first[part]] == ["options", "files"]
    assert first["software"]["jax"] == jax.__version__
    assert first["software"]["x64"] == jax.config.values["jax_enable_x64"]


def test_weights_and_calibrations_that_are_used_are_compared_by_what_they_hold():
    problem = problems.make("digits", ("0",))
    specs = rule_specs.parse_all(("unguided", "dng:pair,calibration=bundled"), None)
    found = class_removal.files_of(Config(), problem, specs)
    assert {"digits-heads", "digits-classifier", "bundled"} <= set(found)
    held = {found[name] for name in ("digits-heads", "digits-classifier", "bundled")}
    assert len(held) == 3
    assert all(len(sha256) == 64 for sha256 in held)


def test_who_is_not_to_speak_prints_nothing_and_warns_of_nothing(capsys):
    with cli.speaking(False):
        print("2 files left out")
        warnings.warn("distances may say nothing", UserWarning, stacklevel=1)
    with cli.speaking(True):
        print("results.json")
    assert capsys.readouterr() == ("results.json\n", "")


# ------------------------------------------------------------------------------- a job of two

REMOVAL = (
    "-m", "eval.class_removal", "--samples", "96", "--batch", "40", "--steps", "8", "--seeds", "0",
    "1", "--rules", "unguided", "reference", "dng:pair", "reject:pair=1.5",
)  # fmt: skip


def removal(folder, *words, **variables):
    return subprocess.Popen(
        [sys.executable, *REMOVAL, "--cpu-devices", "2", *words],
        cwd=ROOT, env=environment(folder) | variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(jobs):
    """(stdout, stderr, exit code) of each."""
    return [(*job.communicate(timeout=300), job.returncode) for job in jobs]


def two(folder, *words):
    """Two processes that are told of each other."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    shared = (*words, "--coordinator", f"localhost:{port}", "--num-processes", "2", "--process-id")
    return [removal(folder, *shared, str(i)) for i in range(2)]


def two_tasks(folder, *words):
    """Two tasks as srun starts them, of the job whose port is free."""
    step = {"SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0"}
    for job in range(4000):
        _, port = addresses.split(addresses.of_step(step | {"SLURM_JOB_ID": str(job)}))
        try:
            socket.create_server(("localhost", port)).close()
        except OSError:
            continue
        step["SLURM_JOB_ID"] = str(job)
        break
    return [
        removal(folder, *words, **step, SLURM_PROCID=str(i), SLURM_LOCALID=str(i)) for i in range(2)
    ]


def assert_same(one, other):
    """The folders of two runs hold the same, images to one level."""
    a, b = (json.loads((folder / "results.json").read_text())["records"] for folder in (one, other))
    for mine, theirs in zip(a, b, strict=True):
        assert mine["counts_by_seed"] == theirs["counts_by_seed"]
        np.testing.assert_allclose(mine["frechet_distance"], theirs["frechet_distance"], rtol=1e-4)
        assert mine["network_calls_per_image"] == theirs["network_calls_per_image"]
    images = sorted(path.relative_to(one) for path in one.glob("images/*"))
    assert images
    for path in images:
        with np.load(one / path) as a, np.load(other / path) as b:
            for name in a.files:
                np.testing.assert_allclose(a[name].astype(int), b[name].astype(int), atol=1)


@pytest.mark.slow
def test_two_processes_remove_a_class_as_one_does(tmp_path):
    alone, both, left, step = (tmp_path / name for name in ("alone", "both", "left", "step"))
    as_images = ("--save-images", "npz", "--out")
    ((_, said, code),) = ended([removal(tmp_path, *as_images, str(alone))])
    assert code == 0, said

    (said, heard, code), (other, other_heard, other_code) = ended(
        two(tmp_path, *as_images, str(both))
    )
    assert (code, other_code) == (0, 0), (heard, other_heard)
    assert "results.json" in said
    assert (other, other_heard) == ("", "")  # process 0 alone speaks, and writes
    assert_same(alone, both)
    results = json.loads((both / "results.json").read_text())
    assert results["processes"] == 2
    assert "by 2 processes" in (both / "tables.md").read_text()

    # As tasks of a step.
    (_, heard, code), (_, other_heard, other_code) = ended(
        two_tasks(tmp_path, *as_images, str(step))
    )
    assert (code, other_code) == (0, 0), (heard, other_heard)
    assert_same(alone, step)

    # The folder is taken now: both hear of it, and neither waits.
    began = time.monotonic()
    (_, heard, code), (_, told, other_code) = ended(two(tmp_path, *as_images, str(both)))
    assert (code, other_code) == (2, 2), (heard, told)
    assert "--overwrite" in heard
    assert "process 0 cannot go on" in told
    assert time.monotonic() - began < 60

    # One is killed with a batch in its hands: the run ends as if nothing had been.
    jobs = two(tmp_path, *as_images, str(left))
    while not (left / "run.json").exists():
        assert jobs[0].poll() is None
        time.sleep(0.01)
    time.sleep(0.5)
    jobs[1].send_signal(signal.SIGKILL)
    (_, heard, code), (_, _, killed) = ended(jobs)
    assert (code, killed) == (0, -signal.SIGKILL), heard
    assert "process 1 (" in heard
    assert "has left" in heard
    assert_same(alone, left)


@pytest.mark.slow
def test_eight_runs_by_themselves_are_told_how(tmp_path):
    first, other = two(tmp_path, "--out", str(tmp_path / "run"))
    other.kill()
    other.wait()
    words = [word.replace("1.5", "1.6") for word in other.args[1:]]
    other = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, env=environment(tmp_path), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    for _, heard, code in ended([first, other]):
        assert code == 2
        assert "was started with other options (rules" in heard
        assert "--num-processes 1 to run alone" in heard
    assert not (tmp_path / "run").exists()
