"""Process 0 of a team (dng_jax.jobs.team): hands out the items, and works itself."""

from __future__ import annotations

import collections
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

from dng_jax.errors import InputError, difference, printable
from dng_jax.jobs import addresses
from dng_jax.jobs.channels import Arrays, Channel, Header, plain
from dng_jax.jobs.team import PARTS, Identity, Team
from dng_jax.version import __version__

T = TypeVar("T")

# What is said of a process that differs in a part of the identity, and the remedy.
_DIFFERS = {
    "software": ("runs on other software", "install the same everywhere"),
    "devices": ("computes on other devices", "give all the same --platform, or like machines"),
    "options": (
        "was started with other options",
        "give all the same, or --num-processes 1 to run alone",
    ),
    "files": ("reads other files", "copy the same to all machines"),
}
_HELLO = 1 << 16  # bytes that anybody may send
GRACE = 5.0  # seconds in which those that wait, or are yet to come, hear why process 0 ends
LATE = 3  # times what the slowest item took: whoever has one for longer may be at a stand


@dataclass(eq=False)
class _Call:
    """A call of `share`: the items that somebody is to take, what came of others, and the seconds
    of the one that took longest."""

    count: int
    elsewhere: Callable[[int], object]
    waiting: collections.deque[int]
    results: dict[int, Arrays] = field(default_factory=dict)
    longest: float = 0.0

    @property
    def is_done(self) -> bool:
        return len(self.results) == self.count


@dataclass(eq=False)
class _Member:
    """Another process: its number and host, the item in its hands, since when, and whether that is
    so long ago that others may take it too."""

    channel: Channel
    process: int
    host: str
    is_ready: bool = False
    item: tuple[_Call, int] | None = None
    since: float = 0.0
    is_late: bool = False

    @property
    def name(self) -> str:
        return f"process {self.process} ({self.host})"


class _LeftError(Exception):
    """A process that said why it leaves."""


class Coordinator(Team):
    """Process 0 of `count`, which listens at the address. A thread serves each of the others; all
    that the threads share is read and changed under one lock, `_changed`."""

    def __init__(self, address: str, count: int) -> None:
        self.address, self.count = address, count
        self._changed = threading.Condition()
        self._channels: set[Channel] = set()
        self._members: dict[int, _Member] = {}
        self._left: set[int] = set()
        self._refused: set[Channel] = set()
        self._identity: Any = None
        self._calls: list[_Call | None] = []  # None: done, and its results taken
        self._has_begun = self._is_closing = self._is_closed = False
        self._ended: str | None = None

    # ---- what the job calls

    def __enter__(self) -> Coordinator:
        self._server = addresses.bound(self.address)
        self._server.settimeout(0.2)  # closing it would not wake the thread that waits there
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Waits for those that are yet to hear that all is done, unless there is an error."""
        ends = time.monotonic() + (addresses.TIMEOUT if error is None else GRACE)
        with self._changed:
            self._is_closing = True
            if error is not None:
                self._end("process 0 cannot go on: see its message")
            self._changed.notify_all()
            while (left := ends - time.monotonic()) > 0 and (
                self._members
                or self._refused
                or (isinstance(error, InputError) and not self._has_begun and self._absent())
            ):
                self._changed.wait(min(left, 1.0))
            self._is_closed = True
        self._accepting.join()
        self._server.close()
        with self._changed:
            for channel in self._channels:
                channel.hang_up()

    def meet(self, identity: Callable[[], Identity], do: Callable[[], T]) -> T:
        made = plain(identity())
        with self._changed:
            self._identity = made
            self._changed.notify_all()
        self._gather()
        found = do()
        with self._changed:
            self._has_begun = True
            self._changed.notify_all()
        return found

    def share(
        self,
        count: int,
        work: Callable[[int], Arrays],
        elsewhere: Callable[[int], object] = lambda item: None,
    ) -> list[Arrays]:
        call = _Call(count, elsewhere, collections.deque(range(count)))
        with self._changed:
            self._calls.append(call)
            self._changed.notify_all()
        while True:
            with self._changed:
                if call.is_done:
                    self._calls[-1] = None
                    return [call.results[item] for item in range(count)]
                self._check()
                if not call.waiting:
                    self._changed.wait(1.0)  # Windows hears of Ctrl-C only in between
                    self._look_for_late(call)
                    continue
                item = call.waiting.popleft()
            began = time.monotonic()
            arrays = work(item)
            with self._changed:
                self._done(call, item, arrays, time.monotonic() - began)

    def _done(self, call: _Call, item: int, arrays: Arrays, seconds: float) -> bool:
        """Keeps the item's results; False where another process was faster."""
        is_new = item not in call.results
        if is_new:
            call.results[item] = arrays
            call.longest = max(call.longest, seconds)
            if item in call.waiting:
                call.waiting.remove(item)
        self._changed.notify_all()
        return is_new

    def _look_for_late(self, call: _Call) -> None:
        """Gives items once more to whoever is free that somebody has had for far too long: it may
        be at a stand, with a connection as good as ever."""
        for member in self._members.values():
            taken = time.monotonic() - member.since
            has_one = member.item is not None and member.item[0] is call and call.results
            if has_one and not member.is_late and taken > LATE * call.longest + GRACE:
                assert member.item is not None
                member.is_late = True
                call.waiting.append(member.item[1])
                _say(
                    f"{member.name} has had a batch for {taken:.0f} s, and others took"
                    f" {call.longest:.0f} s at most: another process does it too"
                )
                self._changed.notify_all()

    def _gather(self) -> None:
        """Returns when all are ready but those that left; InputError where some never came."""
        began, said = time.monotonic(), False
        with self._changed:
            while True:
                self._check()
                absent = self._absent()
                building = [i for i, member in self._members.items() if not member.is_ready]
                if not absent and not building:
                    return
                waited = time.monotonic() - began
                if absent and waited > addresses.TIMEOUT:
                    self._left.update(absent)  # waited for long enough
                    raise InputError(
                        f"{_numbers(absent)} did not come within {addresses.TIMEOUT} s: check that"
                        f" all {self.count} are running, and can reach {self.address}"
                    )
                if waited > addresses.PATIENCE and not said:
                    said = True
                    limit = f" (at most {addresses.TIMEOUT} s)" if absent else ""
                    _say(f"waiting for {_numbers(sorted(absent + building))}{limit}")
                self._changed.wait(0.2)

    def _absent(self) -> list[int]:
        """The numbers of those that never came."""
        known = {*self._members, *self._left}
        return [i for i in range(1, self.count) if i not in known]

    def _check(self) -> None:
        if self._ended is not None:
            raise InputError(self._ended)

    # ---- a thread for each connection

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                sock, _ = self._server.accept()
                sock.settimeout(None)
                channel = Channel(sock)
            except TimeoutError:
                continue
            except OSError:  # a connection that was gone before it was taken
                time.sleep(0.2)
                continue
            with self._changed:
                self._channels.add(channel)
            threading.Thread(target=self._serve, args=(channel,), daemon=True).start()

    def _serve(self, channel: Channel) -> None:
        """Answers one of the others until it leaves."""
        try:
            member = self._admitted(channel)
        except Exception:  # whoever it is may say anything: no process of a job
            member = None
        if member is not None:
            why = None
            try:
                while self._answer(member, *channel.receive()):
                    pass
            except Exception as error:  # whatever it was, the work goes to others, and it is said
                why = str(error) or "its connection ended"
            self._dismiss(member, why)
        with self._changed:
            self._channels.discard(channel)
        channel.close()

    def _admitted(self, channel: Channel) -> _Member | None:
        """Who says hello; None where it is refused."""
        channel.challenge()
        hello, _ = channel.receive(_HELLO)
        if hello["say"] != "hello":
            return None
        member = _Member(channel, int(hello["process"]), printable(str(hello["host"])))
        with self._changed:
            wrong = self._wrong(member, hello)
            if wrong is None:
                self._members[member.process] = member
                self._left.discard(member.process)
            else:
                self._refused.add(channel)
                if not self._has_begun:
                    self._end(wrong)
            self._changed.notify_all()
        if wrong is None:
            channel.send("welcome")
            return member
        try:
            channel.send("stop", why=wrong)
        finally:
            with self._changed:
                self._refused.discard(channel)
                self._left.add(member.process)
                self._changed.notify_all()
        return None

    def _wrong(self, member: _Member, hello: Header) -> str | None:
        if self._ended is not None:
            return self._ended
        if self._has_begun or self._is_closing:
            return f"process 0 at {self.address} has begun without {member.name}: start all at once"
        if hello["version"] != __version__:
            return (
                f"{member.name} has version {hello['version']} of the library, process 0"
                f" {__version__}: install the same everywhere"
            )
        if hello["count"] != self.count or not 0 < member.process < self.count:
            return (
                f"{member.name} was told of {hello['count']} processes, process 0 of {self.count}:"
                " give all the same --num-processes, and each its own --process-id"
            )
        if member.process in self._members:
            return (
                f"{self._members[member.process].name} and {member.name} have one number: give each"
                " its own --process-id"
            )
        return None

    def _answer(self, member: _Member, header: Header, arrays: Arrays) -> bool:
        """Answers a message; False where it was the last."""
        channel = member.channel
        match header["say"]:
            case "ready":
                why = self._welcome(member, header["identity"])
                if why is None:
                    channel.send("go")
                else:
                    channel.send("stop", why=why)
            case "next" if member.is_ready:
                if "item" in header:
                    self._take(member, arrays)
                match self._next(member, header["call"], header["count"]):
                    case int(item):
                        channel.send("do", item=item)
                    case str(why):
                        channel.send("stop", why=why)
                    case None:
                        channel.send("end")
            case "failed":
                with self._changed:
                    self._end(f"{member.name}: {header['why']}")
                return False
            case "left":
                raise _LeftError(header["why"])
            case "done":
                return False
            case other:
                raise ValueError(f"it said {other!r}")
        return True

    def _welcome(self, member: _Member, identity: Identity) -> str | None:
        """Waits until process 0 has begun; why that cannot be."""
        with self._changed:
            while self._identity is None and self._ended is None:
                self._changed.wait()
            if self._ended is None and (wrong := _differs(identity, self._identity)):
                self._end(f"{member.name} {wrong}")
            member.is_ready = True
            self._changed.notify_all()
            while not self._has_begun and self._ended is None:
                self._changed.wait()
            return self._ended

    def _take(self, member: _Member, arrays: Arrays) -> None:
        with self._changed:
            assert member.item is not None  # it was told to do one
            call, item = member.item
            member.item = None
            is_new = self._done(call, item, arrays, time.monotonic() - member.since)
        if is_new:
            call.elsewhere(item)

    def _next(self, member: _Member, number: int, count: int) -> int | str | None:
        """The item to do, None where all of the call is done, or why to stop."""
        with self._changed:
            while True:
                has_begun = number < len(self._calls)
                call = self._calls[number] if has_begun else None
                if call is not None and call.count != count:
                    self._end(f"{member.name} is at other work than process 0: start all alike")
                elif has_begun and (call is None or call.is_done):
                    return None
                if self._ended is not None:
                    return self._ended
                if call is not None and call.waiting:
                    item = call.waiting.popleft()
                    member.item, member.since, member.is_late = (
                        (call, item),
                        time.monotonic(),
                        False,
                    )
                    return item
                if not has_begun and self._is_closing:
                    return "process 0 has done all of its work"
                self._changed.wait()

    def _dismiss(self, member: _Member, why: str | None) -> None:
        """Hands what it had to others, and says why it left, unless it was to."""
        with self._changed:
            del self._members[member.process]
            self._left.add(member.process)
            if member.item is not None:
                call, item = member.item
                if item not in call.results and item not in call.waiting:
                    call.waiting.appendleft(item)
            self._changed.notify_all()
            goes_on = self._ended is None and not self._is_closing
        if why is not None and goes_on:
            _say(f"{member.name} has left ({why}): the others do its work")

    def _end(self, why: str) -> None:
        self._ended = self._ended or why
        self._changed.notify_all()


def _differs(theirs: Identity, ours: Identity) -> str | None:
    """In what a process differs from process 0, and the remedy."""
    for part in PARTS:
        a, b = theirs[part], ours[part]
        if part == "software":
            known = [n for n in b if b[n] is not None and a.get(n) is not None]
            a, b = ({n: each[n] for n in known} for each in (a, b))
        if a != b:
            wrong, remedy = _DIFFERS[part]
            return f"{wrong} ({difference(a, b)}): {remedy}"
    return None


def _numbers(processes: Iterable[int]) -> str:
    return f"process {', '.join(map(str, processes))}"


def _say(sentence: str) -> None:
    print(printable(sentence), file=sys.stderr, flush=True)
