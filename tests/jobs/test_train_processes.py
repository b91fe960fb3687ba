"""One run on 1 and 8 devices and on 2 processes of 2; killed with SIGKILL."""

import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from dng_jax import nets
from dng_jax.training.checkpoints import Checkpoints
from tests.jobs.kill_resume import ROOT, check, command, environment, equal, newest, state_like
from train import logs

PACE = ("--steps", "6", "--log-every", "1", "--save-every", "3", "--sample-every", "0")

# The job itself, on the first 1 and 8 of 8 devices.
ON_SOME_DEVICES = """
import sys, tempfile
from pathlib import Path
import jax, numpy as np
import train.diffusion.job
from dng_jax.jobs import devices
from tests.jobs.kill_resume import TINY
from train import logs, options
jax.config.update("jax_num_cpu_devices", 8)
every, curves = jax.devices(), {}
for count in (1, 8):
    devices.select = lambda *_: every[:count]
    out = Path(tempfile.mkdtemp()) / "run"
    pace = "--steps 6 --log-every 1 --save-every 6 --sample-every 0".split()
    train.diffusion.job.run(options.parse_diffusion([*TINY, *pace, "--out", str(out)]))
    curves[f"devices_{count}"] = [line["loss"] for line in logs.read(out)]
np.savez(sys.argv[1], **curves)
"""


def begin(words, folder):
    return subprocess.Popen(
        words, cwd=ROOT, env=environment(folder), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def two_processes(folder, out, *more):
    """Two processes of two simulated devices each, over the loopback interface."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = ["--cpu-devices", "2", "--coordinator", f"localhost:{port}", "--num-processes", "2"]
    words = command(out, *shared, *more)
    return [begin([*words, "--process-id", str(i)], folder) for i in range(2)]


def ended(processes):
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said


@pytest.fixture(scope="module")
def on_some_devices(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    env = environment(folder)
    words = [sys.executable, "-c", ON_SOME_DEVICES, str(folder / "out.npz")]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(folder / "out.npz") as arrays:
        return dict(arrays)


@pytest.mark.slow
def test_the_loss_curve_does_not_depend_on_the_number_of_devices(on_some_devices):
    one = on_some_devices["devices_1"]
    assert len(one) == 6
    assert one[-1] < one[0]
    np.testing.assert_allclose(on_some_devices["devices_8"], one, rtol=1e-5)


@pytest.mark.slow
def test_two_processes_train_alike_and_their_state_is_anybodys(on_some_devices, tmp_path):
    out = tmp_path / "run"
    said = ended(two_processes(tmp_path, out, *PACE))
    assert "model.safetensors" in said[0]
    assert "step" not in said[1]  # process 0 alone speaks and writes
    lines = logs.read(out)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    losses = [line["loss"] for line in lines]
    np.testing.assert_allclose(losses, on_some_devices["devices_1"], rtol=1e-5)
    # Saved by four devices of two processes, read by one.
    module, like = state_like(6)
    state = newest(out, module, like)
    assert int(state.step) == 6
    assert state.key == like.key
    assert all(leaf.devices() == {jax.devices()[0]} for leaf in jax.tree.leaves(state))


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_at_one_step(tmp_path):
    pace = ("--steps", "400", "--log-every", "5", "--save-every", "400", "--sample-every", "0")
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    ended(two_processes(tmp_path, straight, *pace))
    processes = two_processes(tmp_path, stopped, *pace)
    while not logs.read(stopped):
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    said = ended(processes)
    assert "stopped by a signal to another process: step" in said[0]
    module, like = state_like(400)
    with Checkpoints(stopped / "states", nets.describe(module)) as states:
        (step,) = states.steps()
    assert 0 < step < 400
    assert step % 5 == 0
    ended(two_processes(tmp_path, stopped, *pace, "--resume"))
    assert equal(newest(straight, module, like), newest(stopped, module, like))


@pytest.mark.slow
def test_killed_twice_the_run_ends_as_if_it_never_was(tmp_path):
    seen = check(tmp_path, kills=2, steps=60)
    assert seen["kills"] == 2


@pytest.mark.slow
def test_killed_twenty_times_the_run_ends_as_if_it_never_was(tmp_path):
    assert check(tmp_path, kills=20)["kills"] == 20
