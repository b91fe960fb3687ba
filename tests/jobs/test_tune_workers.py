"""Several workers of eval.tune: processes, submitit's, Ray's."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.house import ROOT

ARGUMENTS = [
    "--denoiser", "exact", "--patterns", "300", "--steps", "4", "--trials", "12", "--block", "3",
    "--samples", "32", "--batch", "16", "--judge-samples", "64", "--judged", "2",
]  # fmt: skip


def started(folder, *more):
    words = [sys.executable, "-m", "eval.tune", *ARGUMENTS, "--out", str(folder), *more]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        words, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.slow
def test_two_processes_share_a_study_and_one_of_them_judges(tmp_path):
    both = [started(tmp_path / "run", "--resume") for _ in range(2)]
    said = [one.communicate(timeout=600)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert sum("judged already" in text for text in said) == 1
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["trials"]["told"] == 12
    assert sum(s["trials"] for s in results["trials"]["sessions"]) == 12


@pytest.mark.slow
def test_submitit_runs_workers_here(tmp_path):
    pytest.importorskip("submitit")
    one = started(tmp_path / "run", "--engine", "submitit", "--cluster", "local", "--workers", "2")
    said = one.communicate(timeout=900)[0]
    assert one.returncode == 0, said
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["trials"]["told"] == 12
    assert (tmp_path / "run" / "best.json").exists()


@pytest.mark.slow
def test_ray_runs_workers_here_and_one_may_be_killed(tmp_path):
    pytest.importorskip("ray")
    run = tmp_path / "run"
    one = started(run, "--engine", "ray", "--workers", "2", "--trials", "48")
    ends = time.monotonic() + 300
    while one.poll() is None and len(at_work := [*run.glob("workers/*-*")]) < 2:
        assert time.monotonic() < ends
        time.sleep(0.2)
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(at_work[0].name.split("-")[0]), signal.SIGKILL)
    said = one.communicate(timeout=900)[0]
    assert one.returncode == 0, said
    trials = json.loads((run / "results.json").read_text())["trials"]
    assert (trials["told"], trials["complete"], trials["failed"]) == (48, 48, 0)
    assert sum(session["trials"] for session in trials["sessions"]) == 48
