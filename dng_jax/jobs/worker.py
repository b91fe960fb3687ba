"""A process other than the first of a team (dng_jax.jobs.team): asks process 0 what to do."""

from __future__ import annotations

import contextlib
import functools
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from dng_jax.errors import InputError, NonFiniteError, printable
from dng_jax.jobs import addresses
from dng_jax.jobs.channels import FAULTS, KEY, Arrays, Channel, Header, plain
from dng_jax.jobs.team import Identity, Team
from dng_jax.version import __version__

T = TypeVar("T")


class Worker(Team):
    """Process number `process` of `count`, which connects to process 0 at the address."""

    def __init__(self, address: str, count: int, process: int) -> None:
        self.address, self.count, self.process = address, count, process
        self._calls = 0
        self._was_stopped = False

    def __enter__(self) -> Worker:
        self._channel = Channel(addresses.reach(self.address))
        hello: dict[str, Any] = {"process": self.process, "count": self.count}
        hello |= {"host": socket.gethostname(), "version": __version__}
        try:
            self._channel.prove(addresses.TIMEOUT)
            self._channel.send("hello", **hello)
            if not self._channel.answers_within(addresses.TIMEOUT):
                raise TimeoutError
            self._heard()
        except FAULTS as error:
            self._channel.close()
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"no process 0 of this job answers at {self.address}, or it has ended: check"
                f" --coordinator and {KEY}, which must be the same for all, and see its message"
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Says why it leaves, where process 0 does not know."""
        with contextlib.suppress(*FAULTS):
            if error is None:
                self._channel.send("done")
            elif not isinstance(error, InputError | NonFiniteError):
                said = f"{type(error).__name__}: {error}".strip(": ").splitlines()[0]
                self._channel.send("left", why=printable(said))
            elif not self._was_stopped:
                self._channel.send("failed", why=str(error))
        self._channel.close()

    def meet(self, identity: Callable[[], Identity], do: Callable[[], T]) -> None:
        self._asked("ready", identity=plain(identity()))

    def share(
        self,
        count: int,
        work: Callable[[int], Arrays],
        elsewhere: Callable[[int], object] = lambda item: None,
    ) -> None:
        asked = functools.partial(self._asked, "next", call=self._calls, count=count)
        header = asked()
        while header["say"] == "do":
            item = header["item"]
            header = asked(work(item), item=item)
        self._calls += 1

    def _asked(self, say: str, arrays: Arrays | None = None, **header: Any) -> Header:
        """What process 0 answers; InputError where it says stop, or is gone."""
        try:
            self._channel.send(say, arrays, **header)
            return self._heard()
        except InputError:
            raise
        except FAULTS as error:
            self._was_stopped = True
            raise InputError(f"process 0 at {self.address} has ended: see its message") from error

    def _heard(self) -> Header:
        header, _ = self._channel.receive()
        if header["say"] == "stop":
            self._was_stopped = True
            raise InputError(str(header["why"]))
        return header
