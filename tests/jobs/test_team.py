"""Processes that share work, and what becomes of it when one leaves."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from dng_jax import guidance
from dng_jax.errors import InputError, NonFiniteError
from dng_jax.experiments import problems
from dng_jax.experiments.generating import Draw, generate, generate_together
from dng_jax.experiments.source import Source
from dng_jax.jobs import coordinator
from dng_jax.jobs.coordinator import Coordinator
from dng_jax.jobs.team import ALONE
from dng_jax.jobs.worker import Worker
from tests.jobs.teams import (
    HOST,
    LIMIT,
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


@pytest.fixture(scope="module")
def digits():
    return problems.make("digits", ("0",), Source("exact", patterns=200))


# ------------------------------------------------------------------------------- sharing


def test_alone_nothing_is_copied_and_nobody_asked():
    given = arrays_of(3)
    with ALONE as team:
        assert team.is_first
        assert team.meet(lambda: pytest.fail("needless"), lambda: "the folder") == "the folder"
        (found,) = team.share(1, lambda i: given)
    assert found is given


def test_the_first_has_all_of_the_work_bit_for_bit_and_each_item_is_done_once(address, capsys):
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
    for arrays, count in zip(first[1], counts, strict=True):
        assert_all_there(arrays, count)
    assert [found for _, found in others] == [[None] * len(counts)] * 2
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

    found, *_ = at_once(processes(address), job)
    assert_all_there(found, 9)
    assert list(by.values()).count(1) == 1
    assert sorted(elsewhere) == sorted(i for i, process in by.items() if process != 0)


def test_results_are_let_go_of(address):
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
    how = (digits, table, rule, Draw(20, 5, batch=7, keep=9))
    alone, progress = generate(*how), []

    def job(team):
        meeting(team)
        advance = progress.append if team.is_first else lambda images: None
        return generate_together(team, *how, advance=advance)

    found, *others = at_once(processes(address), job)
    assert others == [None, None]
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
    assert_all_there(first[0], 6)
    assert_all_there(first[1], 2)
    assert third == (None, None)
    (lost,) = [i for process, i in begun if process == 1]
    assert [i for _, i in begun].count(lost) == 2
    said = capsys.readouterr().err.splitlines()
    why = f"{type(error).__name__}: {error}".strip(": ")
    assert said == [f"process 1 ({HOST}) has left ({why}): the others do its work"]


def test_what_a_process_has_for_far_too_long_another_does_too(address, capsys, monkeypatch):
    monkeypatch.setattr(coordinator, "GRACE", 0.2)
    done, has_one, all_there = [], threading.Event(), threading.Event()

    def job(team):
        meeting(team)

        def work(i):
            done.append((team.process, i))
            if team.process == 1:
                has_one.set()
                assert all_there.wait(LIMIT)
            assert has_one.wait(LIMIT)
            return arrays_of(i)

        found = team.share(6, work)
        if team.is_first:
            all_there.set()
        return found, team.share(4, arrays_of)

    first, *others = at_once(processes(address), job)
    assert_all_there(first[0], 6)
    assert_all_there(first[1], 4)
    assert others == [(None, None)] * 2
    items = [i for _, i in done]
    (late,) = [i for who, i in done if who == 1]
    assert sorted(items) == sorted([*range(6), late])
    said = capsys.readouterr().err
    assert f"process 1 ({HOST}) has had a batch for" in said
    assert "another process does it too" in said


def test_a_process_that_dies_without_a_word_is_noticed(address, capsys):
    first, second, third, begun = leaving(address, lambda team: team._channel.hang_up())
    assert isinstance(second, InputError)
    assert_all_there(first[0], 6)
    assert third == (None, None)
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
    assert second is None
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
