"""Processes that meet to share work, strangers among them, and the messages between them."""

from __future__ import annotations

import contextlib
import socket
import time
from multiprocessing.connection import Connection

import numpy as np
import pytest

from dng_jax.errors import InputError
from dng_jax.jobs import addresses, channels, coordinator
from dng_jax.jobs.channels import Channel
from dng_jax.jobs.coordinator import Coordinator
from dng_jax.jobs.worker import Worker
from tests.jobs.teams import (
    HOST,
    LIMIT,
    SAME,
    arrays_of,
    assert_all_there,
    at_once,
    free_address,
    meeting,
    processes,
)


@pytest.fixture
def address():
    return free_address()


@pytest.fixture
def quick(monkeypatch):
    """Whoever waits for another process does so for a second."""
    monkeypatch.setattr(addresses, "PATIENCE", 0.6)
    monkeypatch.setattr(addresses, "TIMEOUT", 1.0)


# ------------------------------------------------------------------------------- meeting

OTHERS = {
    "options": {"seeds": [1], "steps": 50},
    "software": {"commit": "b"},
    "devices": {"kind": "gpu"},
    "files": {"net": "f1"},
}
SAID = {
    "options": "was started with other options (seeds [1], not [0]): give all the same, or"
    " --num-processes 1 to run alone",
    "software": 'runs on other software (commit "b", not "a"): install the same everywhere',
    "devices": 'computes on other devices (kind "gpu", not "cpu"): give all the same --platform, or'
    " like machines",
    "files": 'reads other files (net "f1", not "f0"): copy the same to all machines',
}


@pytest.mark.parametrize("part", OTHERS)
def test_all_end_where_one_was_started_otherwise(address, part):
    def job(team):
        meeting(team, SAME | ({part: OTHERS[part]} if team.process == 2 else {}))

    for error in at_once(processes(address), job):
        assert isinstance(error, InputError)
        assert str(error) == f"process 2 ({HOST}) {SAID[part]}"


def test_software_that_one_does_not_know_does_not_differ(address):
    def job(team):
        return meeting(team, SAME | ({"software": {"commit": None}} if team.process else {}))

    assert at_once(processes(address, 2), job) == ["the folder", None]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ((3, 1), f"process 1 ({HOST}) and process 1 ({HOST}) have one number: give each its own"),
        ((2, 1), f"process 1 ({HOST}) was told of 2 processes, process 0 of 3: give all the same"),
        ((3, 3), f"process 3 ({HOST}) was told of 3 processes, process 0 of 3: give all the same"),
    ],
)
def test_numbers_that_do_not_fit_are_said(address, wrong, said, monkeypatch):
    monkeypatch.setattr(coordinator, "GRACE", 0.3)  # nobody else comes
    teams = [Coordinator(address, 3), Worker(address, 3, 1), Worker(address, *wrong)]
    for error in at_once(teams, meeting):
        assert str(error).startswith(said)


def test_who_comes_after_all_has_ended_hears_why(address):
    class Late(Worker):
        def __enter__(self):
            time.sleep(0.5)
            return super().__enter__()

    def job(team):
        meeting(team, SAME | ({"files": OTHERS["files"]} if team.process == 1 else {}))

    teams = [Coordinator(address, 3), Worker(address, 3, 1), Late(address, 3, 2)]
    for error in at_once(teams, job):
        assert str(error) == f"process 1 ({HOST}) {SAID['files']}"


def test_another_version_is_said(address, monkeypatch):
    monkeypatch.setattr("dng_jax.jobs.worker.__version__", "0.0.1")
    for error in at_once(processes(address, 2), meeting):
        assert f"process 1 ({HOST}) has version 0.0.1 of the library" in str(error)


def test_a_process_that_comes_late_is_refused_and_no_other_notices(address, capsys):
    def job(team):
        meeting(team)
        if team.process == 1:
            with pytest.raises(InputError, match=r"has begun without process 1 .* all at once"):
                Worker(address, 2, 1).__enter__()
        return team.share(4, arrays_of)

    found, other = at_once(processes(address, 2), job)
    assert_all_there(found, 4)
    assert other is None
    assert capsys.readouterr().err == ""


def test_who_does_not_come_is_named(address, capsys, quick):
    first, other = at_once([Coordinator(address, 4), Worker(address, 4, 2)], meeting)
    assert "process 1, 3 did not come within 1.0 s" in str(first)
    assert str(other) == "process 0 cannot go on: see its message"
    assert "waiting for process 1, 3 (at most 1.0 s)" in capsys.readouterr().err


def test_who_is_there_is_waited_for_as_long_as_it_takes(address, capsys, quick):
    def job(team):
        time.sleep(1.4 * team.process)  # it loads its network from a slow disk
        return meeting(team)

    assert at_once(processes(address, 2), job) == ["the folder", None]
    assert "waiting for process 1\n" in capsys.readouterr().err


# ------------------------------------------------------------------------------- strangers


def test_strangers_are_hung_up_on_and_nobody_notices(address, capsys):
    host, port = addresses.split(address)
    strangers = []

    def connected():
        strangers.append(socket.create_connection((host, port)))
        return strangers[-1]

    def framed(content):
        Connection(connected().dup().detach()).send_bytes(content)

    def job(team):
        if team.process == 0:
            connected()  # and says nothing
            connected().sendall(b"GET / HTTP/1.1\r\n\r\n")
            connected().sendall(b"\xff\xff\xff\xff" + b"\x7f" * 8)  # of the greatest length
            for content in (b"", b"\x80\x04.", b"[" * 50_000, b"{}\n", b'{"say": "next"}\n'):
                framed(content)
            framed(b'{"say": "hello", "arrays": ["a"]}\n\x93NUMPY')
        meeting(team)
        return team.share(5, arrays_of)

    found, *_ = at_once(processes(address), job)
    assert_all_there(found, 5)
    assert capsys.readouterr() == ("", "")
    for stranger in strangers:
        stranger.settimeout(LIMIT)
        with contextlib.suppress(ConnectionError):
            assert stranger.recv(1) == b""
        stranger.close()


def test_with_a_key_nobody_says_hello_who_does_not_know_it(address, monkeypatch, capsys):
    monkeypatch.setenv(channels.KEY, "secret")
    strangers = []

    def job(team):
        if team.process == 0:
            host, port = address.split(":")
            stranger = Channel(socket.create_connection((host, int(port))))
            strangers.append(stranger)
            stranger.send("hello", process=1, count=9, host="h", version="0")
        meeting(team)
        return team.share(5, arrays_of)

    found, other = at_once(processes(address, 2), job)
    assert_all_there(found, 5)
    assert other is None
    assert capsys.readouterr() == ("", "")
    heard = [strangers[0]._connection.recv_bytes() for _ in range(2)]
    assert b"CHALLENGE" in heard[0]
    assert b"FAILURE" in heard[1]
    with pytest.raises(channels.FAULTS):
        strangers[0]._connection.recv_bytes()
    strangers[0].close()


def test_without_the_key_a_process_hears_of_it(address, quick, monkeypatch):
    def job(team):
        meeting(team)

    keys = iter([b"secret", b"another"])
    monkeypatch.setattr(channels, "_key", lambda: next(keys, b"third"))
    _, other = at_once(processes(address, 2), job)
    assert "DNG_JAX_KEY, which must be the same for all" in str(other)


def test_work_is_given_to_nobody_who_has_not_met(address):
    def job(team):
        if team.process == 1:
            return team.share(2, lambda i: pytest.fail("it was given work"))
        meeting(team)
        return team.share(2, arrays_of)

    first, other = at_once(processes(address, 2), job)
    assert_all_there(first, 2)
    assert "has ended" in str(other)


def test_what_answers_and_is_no_process_0_is_said(quick):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(InputError, match=rf"no process 0 of this job answers at {where}"):
            Worker(where, 2, 1).__enter__()


# ------------------------------------------------------------------------------- channels


def test_a_machine_that_vanishes_is_noticed_in_two_minutes():
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = socket.create_connection(server.getsockname())
        there, _ = server.accept()
        channel = Channel(here)
        assert here.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_KEEPIDLE"):
            idle, interval, probes = (
                here.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_KEEP{name}"))
                for name in ("IDLE", "INTVL", "CNT")
            )
            assert idle + interval * probes == channels.VANISHED == 120
        there.close()
        with pytest.raises(EOFError):
            channel.receive()
        channel.close()


def test_objects_are_neither_sent_nor_taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = Channel(socket.create_connection(server.getsockname()))
        sock, _ = server.accept()
        there = Channel(sock)
        with pytest.raises(ValueError, match="Object arrays"):
            here.send("item", {"a": np.array([{}])})
        header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
        pickled = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\x80\x04N."
        here._connection.send_bytes(b'{"say": "item", "arrays": ["a"]}\n' + pickled)
        with pytest.raises(ValueError, match="Object arrays"):
            there.receive()
        here.close()
        there.close()
