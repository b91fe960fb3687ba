"""Two jobs at once: each has a folder of its own, and a folder has one job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest

from dng_jax.errors import InputError
from dng_jax.jobs import runs

# As the other job would: another process, without the seconds that jax takes to import.
HOLDER = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(file, getattr(fcntl, sys.argv[2]))
os.write(file, f"{os.getpid()}\\n".encode())
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other_job():
    """Starts a process that holds a folder until it is killed."""
    started = []

    def start(folder, how="LOCK_EX"):
        words = [sys.executable, "-c", HOLDER, str(folder / ".lock"), how]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(subprocess.Popen(words, **pipes))
        assert started[-1].stdout.readline() == b"held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_jobs_that_start_at_one_moment_get_a_folder_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    interval, together = sys.getswitchinterval(), threading.Barrier(8, timeout=20)
    sys.setswitchinterval(1e-6)
    made: list = []

    def job(number):
        for _ in range(4):
            together.wait()  # broken, not waiting for ever, where one of them has failed
            made.append((runs.new_run_folder(None, {"lr": number}, job="sweep"), number))

    try:
        threads = [threading.Thread(target=job, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len({folder for folder, _ in made}) == 32
    for folder, number in made:
        assert json.loads((folder / "run.json").read_text())["config"] == {"lr": number}


@pytest.mark.skipif(sys.platform == "win32", reason="the other process locks by flock")
def test_a_folder_in_use_is_refused_until_its_job_ends_in_whatever_way(tmp_path, other_job):
    folder = runs.new_run_folder(tmp_path / "run", {"steps": 1})
    before = (folder / "run.json").read_bytes()
    (folder / ".lock").unlink()  # this process's own, so that the other can have one
    job = other_job(folder)
    said = rf"{folder} is in use by another job \(process {job.pid}\): wait for it, or choose"
    with pytest.raises(InputError, match=said):
        runs.new_run_folder(folder, {"steps": 1}, overwrite=True, option="--resume")
    assert (folder / "run.json").read_bytes() == before
    part = folder / f".model.safetensors.{job.pid}-0a1b2c.safetensors"
    part.write_bytes(b"half")
    job.kill()
    job.wait()
    runs.new_run_folder(folder, {"steps": 1}, overwrite=True)
    assert not part.exists()
    runs.new_run_folder(folder, {"steps": 1}, overwrite=True)  # its own job may go on in it
    assert len(json.loads((folder / "run.json").read_text())["sessions"]) == 3


def test_a_fresh_folder_that_another_job_has_begun_is_refused(tmp_path, other_job):
    (tmp_path / "run").mkdir()
    other_job(tmp_path / "run")
    with pytest.raises(InputError, match="in use by another job"):
        runs.new_run_folder(tmp_path / "run", {"steps": 1})
    assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_folder_of_somebody_else_gets_no_lock(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="files of no run at all"):
        runs.new_run_folder(tmp_path, {"steps": 1})
    assert os.listdir(tmp_path) == ["thesis.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="the other process locks by flock")
def test_processes_that_share_a_folder_refuse_only_who_wants_it_alone(tmp_path, other_job):
    for name in ("a", "b"):
        (tmp_path / name / "submitit").mkdir(parents=True)
    other_job(tmp_path / "a", "LOCK_SH")
    other_job(tmp_path / "b", "LOCK_EX")
    config = {"space": "np"}
    with pytest.raises(InputError, match="files of no run at all"):
        runs.new_run_folder(tmp_path / "a", config, shared=True)
    runs.new_run_folder(tmp_path / "a", config, shared=True, besides=("submitit",))
    with pytest.raises(InputError, match="in use by another job"):
        runs.new_run_folder(tmp_path / "b", config, shared=True, besides=("submitit",))
    # In another process: this one has the folder by now.
    script = f"from dng_jax.jobs import locks; locks.hold({str(tmp_path / 'a')!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "in use by another job" in done.stderr
