"""Processes of a team as threads of this one, over the loopback interface."""

from __future__ import annotations

import socket
import threading
import time

import numpy as np

from dng_jax.jobs.coordinator import Coordinator
from dng_jax.jobs.worker import Worker

HOST = socket.gethostname()
SAME = {
    "software": {"commit": "a"},
    "devices": {"kind": "cpu"},
    "options": {"seeds": [0], "steps": 50},
    "files": {"net": "f0"},
}
LIMIT = 30  # seconds after which a test has hung


def free_address():
    """An address of this machine on whose port nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


def at_once(teams, function):
    """What the function gives for each team, or the error that ended it."""
    found = {}

    def one(team):
        try:
            with team:
                found[team] = function(team)
        except BaseException as error:
            found[team] = error

    threads = [threading.Thread(target=one, args=(team,), daemon=True) for team in teams]
    for thread in threads:
        thread.start()
    ends = time.monotonic() + LIMIT
    for thread in threads:
        thread.join(max(0, ends - time.monotonic()))
    assert len(found) == len(teams), "a process waits without end"
    return [found[team] for team in teams]


def processes(address, count=3):
    return [Coordinator(address, count), *(Worker(address, count, i) for i in range(1, count))]


def meeting(team, identity=SAME, do=lambda: "the folder"):
    return team.meet(lambda: identity, do)


def arrays_of(i):
    """Of dtypes and shapes that jax would not hand on as they are."""
    rng = np.random.default_rng(i)
    return {
        "labels": rng.integers(0, 2**62, (2, i)),
        "trace/posterior": np.asfortranarray(rng.random((1, 3, i + 1))),
        "images": rng.random((i, 2), np.float32),
        "none": np.zeros((0, 4), np.uint8),
        "one": np.array(np.nan),
    }


def assert_all_there(found, count):
    assert len(found) == count
    for i, arrays in enumerate(found):
        wanted = arrays_of(i)
        assert list(arrays) == list(wanted)
        for name, array in arrays.items():
            assert array.dtype == wanted[name].dtype
            np.testing.assert_array_equal(array, wanted[name])
