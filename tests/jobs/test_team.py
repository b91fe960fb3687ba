"""Processes that share work, each a thread of this one, over the loopback interface."""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
import time
from multiprocessing.connection import Connection

import numpy as np
import pytest

from dng_jax import guidance
from dng_jax.errors import InputError, NonFiniteError
from dng_jax.experiments import problems
from dng_jax.experiments.generating import Draw, generate
from dng_jax.experiments.source import Source
from dng_jax.jobs import addresses, channels, coordinator
from dng_jax.jobs.channels import Channel
from dng_jax.jobs.coordinator import Coordinator
from dng_jax.jobs.team import ALONE
from dng_jax.jobs.worker import Worker

HOST = socket.gethostname()
SAME = {"software": {"commit": "a"}, "options": {"seeds": [0], "steps": 50}, "files": {"net": "f0"}}
LIMIT = 30  # seconds after which a test has hung


@pytest.fixture
def address():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def digits():
    return problems.make("digits", ("0",), Source("exact", patterns=200))


@pytest.fixture
def quick(monkeypatch):
    """Whoever waits for another process does so for a second."""
    monkeypatch.setattr(addresses, "PATIENCE", 0.6)
    monkeypatch.setattr(addresses, "TIMEOUT", 1.0)


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


# ------------------------------------------------------------------------------- sharing


def test_alone_nothing_is_copied_and_nobody_asked():
    given = arrays_of(3)
    with ALONE as team:
        assert team.is_first
        assert team.meet(lambda: pytest.fail("needless"), lambda: "the folder") == "the folder"
        (found,) = team.share(1, lambda i: given)
    assert found is given


def test_everybody_has_all_of_the_work_bit_for_bit_and_each_item_is_done_once(address, capsys):
    counts, done = (7, 0, 1, 2, 12), []

    def job(team):
        folder = meeting(team)
        found = []
        for call, count in enumerate(counts):

            def work(i, call=call):
                done.append((call, i))
                time.sleep(0.01 * (call == team.process))  # others are ahead, or behind
                return arrays_of(i)

            found.append(team.share(count, work))
        return folder, found

    first, *others = at_once(processes(address), job)
    assert [folder for folder, _ in (first, *others)] == ["the folder", None, None]
    for _, found in (first, *others):
        for arrays, count in zip(found, counts, strict=True):
            assert_all_there(arrays, count)
    assert sorted(done) == [(call, i) for call, count in enumerate(counts) for i in range(count)]
    assert capsys.readouterr() == ("", "")


def test_whoever_is_free_takes_the_next_item_and_progress_counts_the_others(address):
    """One process holds one item until the two others have done all else."""
    others_done, by, elsewhere = threading.Semaphore(0), {}, []

    def job(team):
        meeting(team)

        def work(i):
            by[i] = team.process
            if team.process == 1:
                for _ in range(8):
                    assert others_done.acquire(timeout=LIMIT)
            else:
                others_done.release()
                time.sleep(0.02)
            return arrays_of(i)

        def others_wait(i):  # or they may have taken all before it came
            deadline = time.monotonic() + LIMIT
            while team.process != 1 and 1 not in by.values() and time.monotonic() < deadline:
                time.sleep(0.005)
            return work(i)

        return team.share(9, others_wait, elsewhere.append)

    for found in at_once(processes(address), job):
        assert_all_there(found, 9)
    assert list(by.values()).count(1) == 1
    assert sorted(elsewhere) == sorted(i for i, process in by.items() if process != 0)


def test_results_that_all_have_are_let_go_of(address):
    first = Coordinator(address, 2)

    def job(team):
        meeting(team)
        for _ in range(4):
            team.share(3, arrays_of)

    assert at_once([first, Worker(address, 2, 1)], job) == [None, None]
    assert [call for call in first._calls if call is not None] == []


@pytest.mark.slow
def test_samples_of_several_processes_are_those_of_one(address, digits):
    table, rule = digits.table("ddpm", 2), guidance.unguided()
    drawn = functools.partial(generate, digits, table, rule, Draw(20, 5, batch=7, keep=9))
    alone, progress = drawn(), []

    def job(team):
        meeting(team)
        return drawn(team=team, advance=progress.append if team.is_first else lambda images: None)

    for found in at_once(processes(address), job):
        np.testing.assert_array_equal(found.labels, alone.labels)
        np.testing.assert_allclose(found.images, alone.images, atol=1e-4)
        np.testing.assert_allclose(found.features, alone.features, atol=1e-4)
        assert found.images.shape[1] == 9
    assert sum(progress) == pytest.approx(20)


# ------------------------------------------------------------------------------- leaving


def leaving(address, leave):
    """Three processes, of which number 1 leaves with an item in its hands; what the first has, what
    the others have, and the items by who began them."""
    begun, has_one = [], threading.Event()

    def job(team):
        meeting(team)

        def work(i):
            begun.append((team.process, i))
            if team.process == 1:
                has_one.set()
                leave(team)
            assert has_one.wait(LIMIT)
            return arrays_of(i)

        return team.share(6, work), team.share(2, arrays_of)

    first, second, third = at_once(processes(address), job)
    return first, second, third, begun


@pytest.mark.parametrize(
    "error", [MemoryError("no room"), OSError("no such disk"), KeyboardInterrupt()]
)
def test_what_a_process_leaves_behind_is_done_by_the_others(address, capsys, error):
    def leave(team):
        raise error

    first, second, third, begun = leaving(address, leave)
    assert second is error
    for whole, more in (first, third):
        assert_all_there(whole, 6)
        assert_all_there(more, 2)
    (lost,) = [i for process, i in begun if process == 1]
    assert [i for _, i in begun].count(lost) == 2
    said = capsys.readouterr().err.splitlines()
    why = f"{type(error).__name__}: {error}".strip(": ")
    assert said == [f"process 1 ({HOST}) has left ({why}): the others do its work"]


def test_a_process_that_dies_without_a_word_is_noticed(address, capsys):
    first, second, third, begun = leaving(address, lambda team: team._channel.hang_up())
    assert isinstance(second, InputError)
    for whole, _ in (first, third):
        assert_all_there(whole, 6)
    assert len(begun) == 7
    assert f"process 1 ({HOST}) has left (" in capsys.readouterr().err


@pytest.mark.parametrize("error", [InputError("no such class"), NonFiniteError("NaN at step 3")])
def test_what_would_come_again_ends_all_with_its_sentence(address, error):
    def leave(team):
        raise error

    first, second, third, _ = leaving(address, leave)
    assert second is error
    for other in (first, third):
        assert isinstance(other, InputError)
        assert str(other) == f"process 1 ({HOST}): {error}"


def test_what_fails_before_all_have_met_ends_all_as_well(address):
    def job(team):
        if team.process == 2:
            raise InputError("net.safetensors does not exist")
        meeting(team, do=lambda: pytest.fail("opened a folder"))

    first, second, third = at_once(processes(address), job)
    for error in (first, second):
        assert str(error) == f"process 2 ({HOST}): net.safetensors does not exist"
    assert str(third) == "net.safetensors does not exist"


def test_a_process_that_leaves_before_all_have_met_is_done_without(address, capsys):
    def job(team):
        if team.process == 2:
            raise MemoryError
        meeting(team)
        return team.share(4, arrays_of)

    first, second, _ = at_once(processes(address), job)
    assert_all_there(first, 4)
    assert_all_there(second, 4)
    assert "process 2" in capsys.readouterr().err


def test_others_hear_that_process_0_refuses(address):
    def refuse():
        raise InputError("the folder is taken")

    first, *others = at_once(processes(address), lambda team: meeting(team, do=refuse))
    assert str(first) == "the folder is taken"
    assert {str(error) for error in others} == {"process 0 cannot go on: see its message"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a fault")])
def test_others_end_where_process_0_does(address, error):
    begun = threading.Barrier(3)

    def job(team):
        meeting(team)

        def work(i):
            begun.wait(LIMIT)
            if team.process == 0:
                raise error
            return arrays_of(i)

        return team.share(3, work)

    first, *others = at_once(processes(address), job)
    assert first is error
    for other in others:
        assert isinstance(other, InputError)
        assert "process 0" in str(other)
        assert "see its message" in str(other)


def test_others_end_where_process_0_is_killed(address):
    begun = threading.Barrier(2)
    first = Coordinator(address, 2)

    def job(team):
        meeting(team)

        def work(i):
            begun.wait(LIMIT)
            if team is first:
                for member in first._members.values():
                    member.channel.hang_up()
                raise RuntimeError
            time.sleep(0.1)
            return arrays_of(i)

        return team.share(2, work)

    _, other = at_once([first, Worker(address, 2, 1)], job)
    assert str(other) == f"process 0 at {address} has ended: see its message"


# ------------------------------------------------------------------------------- meeting

OTHERS = {
    "options": {"seeds": [1], "steps": 50},
    "software": {"commit": "b"},
    "files": {"net": "f1"},
}
SAID = {
    "options": "was started with other options (seeds [1], not [0]): give all the same, or"
    " --num-processes 1 to run alone",
    "software": 'runs on other software (commit "b", not "a"): install the same everywhere',
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

    for found in at_once(processes(address, 2), job):
        assert_all_there(found, 4)
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

    for found in at_once(processes(address), job):
        assert_all_there(found, 5)
    assert capsys.readouterr() == ("", "")
    for stranger in strangers:
        stranger.settimeout(LIMIT)
        with contextlib.suppress(ConnectionError):
            assert stranger.recv(1) == b""
        stranger.close()


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
