"""How the processes of a job find each other and share work; two remove a class together."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from dng_jax.errors import InputError, NonFiniteError
from dng_jax.jobs import processes
from dng_jax.jobs.processes import Processes
from tests.house import ROOT
from tests.jobs.kill_resume import environment

# ------------------------------------------------------------------------------- joining


def test_processes_are_named_by_options_or_by_slurm():
    slurm = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "0"}
    slurm |= {"SLURM_LOCALID": "0", "SLURM_NTASKS": "2"}
    assert Processes().arguments({}) is None
    assert Processes().arguments(slurm) == {}
    assert Processes().arguments(slurm | {"SLURM_NTASKS": "1"}) is None
    assert Processes("host:1234", 2, 1).arguments(slurm) == {
        "coordinator_address": "host:1234", "num_processes": 2, "process_id": 1,
    }  # fmt: skip
    for wrong in (("host", 2, 0), ("host:12", 2, 2), ("host:12", 2, None)):
        with pytest.raises(InputError):
            Processes(*wrong).arguments({})


def joined(monkeypatch, arguments):
    """What jax is asked for; its settings stay as they were."""
    asked = {}
    monkeypatch.setattr(jax.config, "update", lambda *a: None)
    monkeypatch.setattr(jax.distributed, "initialize", lambda **a: asked.update(a))
    processes.join(arguments)
    return asked


def test_process_0_listens_on_the_address_that_was_given(monkeypatch):
    three = {"coordinator_address": "127.0.0.1:0", "num_processes": 2, "process_id": 0}
    asked = joined(monkeypatch, three)
    assert asked["coordinator_bind_address"] == "127.0.0.1:0"
    assert asked["initialization_timeout"] <= 120
    assert joined(monkeypatch, {}) == {}  # SLURM says it all
    with pytest.raises(InputError, match=r"cannot listen on 192\.0\.2\.1:80 .* free port"):
        joined(monkeypatch, three | {"coordinator_address": "192.0.2.1:80"})


@pytest.mark.parametrize("host", ["[::1]", "localhost", "service.invalid"])
def test_process_0_of_a_name_listens_on_every_network_and_says_so(monkeypatch, capsys, host):
    monkeypatch.setattr(socket.socket, "bind", lambda *a: None)  # there may be no IPv6 here
    given = {"coordinator_address": f"{host}:0", "num_processes": 2, "process_id": 0}
    named = host == "service.invalid"
    asked = joined(monkeypatch, given)
    assert asked["coordinator_bind_address"] == ("[::]:0" if named else f"{host}:0")
    assert ("service.invalid is a name" in capsys.readouterr().err) == named


def test_a_coordinator_that_does_not_answer_is_named_in_seconds(monkeypatch, capsys):
    monkeypatch.setattr(processes, "PATIENCE", 0.1)
    monkeypatch.setattr(processes, "TIMEOUT", 0.5)
    other = {"coordinator_address": "127.0.0.1:1", "num_processes": 2, "process_id": 1}
    began = time.monotonic()
    with pytest.raises(InputError, match=r"nobody answers at 127\.0\.0\.1:1 "):
        joined(monkeypatch, other)
    assert time.monotonic() - began < 10
    assert "waiting for process 0 at 127.0.0.1:1" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"--coordinator nowhere\.invalid:1 is no address"):
        joined(monkeypatch, other | {"coordinator_address": "nowhere.invalid:1"})


# ------------------------------------------------------------------------------- sharing


@pytest.fixture
def three(monkeypatch):
    """Runs a function as each of three processes, which hear what the others sent: by replaying
    what everybody has sent so far until nobody waits any longer."""

    class WaitsError(Exception):
        pass

    def run(function):
        sent = [[], [], []]
        while True:
            results, waiting = [], False
            for me in range(3):
                turn = iter(range(10**6))

                def gather(array, me=me, turn=turn):
                    number = next(turn)
                    if number == len(sent[me]):
                        sent[me].append(np.array(array))
                    if any(len(other) <= number for other in sent):
                        raise WaitsError
                    return np.stack([other[number] for other in sent])

                monkeypatch.setattr(jax, "process_index", lambda me=me: me)
                monkeypatch.setattr(jax, "process_count", lambda: 3)
                monkeypatch.setattr(multihost_utils, "process_allgather", gather)
                monkeypatch.setattr(
                    multihost_utils, "broadcast_one_to_all", lambda x, gather=gather: gather(x)[0]
                )
                try:
                    results.append(function(me))
                except WaitsError:
                    waiting = True
                except (InputError, NonFiniteError) as error:
                    results.append(error)
            if not waiting:
                return results

    return run


def arrays_of(i):
    """Of dtypes and shapes that jax would not hand on as they are."""
    rng = np.random.default_rng(i)
    return {
        "labels": rng.integers(0, 2**62, (2, i)),
        "trace/posterior": rng.random((1, 3, i + 1)),
        "images": rng.random((i, 2), np.float32),
        "none": np.zeros((0, 4), np.uint8),
    }


@pytest.mark.parametrize("number", [0, 1, 2, 3, 7])
def test_work_is_shared_in_turn_and_everybody_has_all_of_it_bit_for_bit(three, number):
    done = []

    def one(me):
        def work(i):
            done.append((me, i))
            return arrays_of(i)

        return processes.in_turn(number, work)

    for found in three(one):
        assert len(found) == number
        for i, arrays in enumerate(found):
            wanted = arrays_of(i)
            assert sorted(arrays) == sorted(wanted)
            for name, array in arrays.items():
                assert array.dtype == wanted[name].dtype
                np.testing.assert_array_equal(array, wanted[name])
    assert {i for _, i in done} == set(range(number))
    assert all(i % 3 == me for me, i in done)


def test_alone_nothing_is_copied():
    given = arrays_of(3)
    (found,) = processes.in_turn(1, lambda i: given)
    assert found is given


@pytest.mark.parametrize("error", [InputError("no such class"), NonFiniteError("NaN at step 3")])
def test_what_fails_in_one_process_ends_all(three, error):
    def work(i):
        if i == 4:
            raise error
        return arrays_of(i)

    first, second, third = three(lambda me: processes.in_turn(6, work))
    assert second is error
    for other in (first, third):
        assert "process 1 could not do its part: see its message" in str(other)


def test_the_first_alone_opens_a_folder_and_all_hear_that_it_could_not(three):
    assert three(lambda me: processes.by_the_first(lambda: f"by {me}")) == ["by 0", None, None]

    def refuse():
        raise InputError("the folder is taken")

    first, *others = three(lambda me: processes.by_the_first(refuse))
    assert str(first) == "the folder is taken"
    assert {str(error) for error in others} == {"process 0 cannot go on: see its message"}


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
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = (*words, "--coordinator", f"localhost:{port}", "--num-processes", "2", "--process-id")
    return ended([removal(folder, *shared, str(i)) for i in range(2)])


def two_tasks(folder, *words):
    """Two tasks as srun starts them; jax takes the port from the job's number."""
    lowest = 2**16 - 2**12
    for port in range(lowest, 2**16):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("localhost", port))
            break
    step = {"SLURM_JOB_ID": str(port - lowest), "SLURM_STEP_NODELIST": "localhost"}
    step |= {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "1"}
    return ended(
        [
            removal(folder, *words, **step, SLURM_PROCID=str(i), SLURM_LOCALID=str(i))
            for i in range(2)
        ]
    )


@pytest.mark.slow
def test_two_processes_remove_a_class_as_one_does(tmp_path):
    alone = removal(tmp_path, "--out", str(tmp_path / "one"), "--save-images", "npz")
    assert alone.wait(timeout=300) == 0
    out = ("--out", str(tmp_path / "two"), "--save-images", "npz")
    (said, heard, code), (other, _, other_code) = two(tmp_path, *out)
    assert (code, other_code) == (0, 0), heard
    assert "results.json" in said
    # Process 0 alone speaks and writes; Gloo does too.
    assert all(line.startswith("[Gloo]") for line in other.splitlines())
    one, both = (
        json.loads((tmp_path / name / "results.json").read_text())["records"]
        for name in ("one", "two")
    )
    for a, b in zip(one, both, strict=True):
        assert a["counts_by_seed"] == b["counts_by_seed"]
        np.testing.assert_allclose(a["frechet_distance"], b["frechet_distance"], rtol=1e-4)
        assert a["network_calls_per_image"] == b["network_calls_per_image"]
    images = sorted(path.relative_to(tmp_path / "one") for path in tmp_path.glob("one/images/*"))
    assert images
    for path in images:
        with np.load(tmp_path / "one" / path) as a, np.load(tmp_path / "two" / path) as b:
            for name in a.files:
                np.testing.assert_allclose(a[name].astype(int), b[name].astype(int), atol=1)
    # The folder is taken now: both hear of it, and neither waits. By SLURM's variables this time.
    began = time.monotonic()
    (_, refused, code), (_, told, other_code) = two_tasks(tmp_path, *out)
    assert (code, other_code) == (2, 2), (refused, told)
    assert "--overwrite" in refused
    assert "process 0 cannot go on" in told
    assert time.monotonic() - began < 60
