"""A job as several processes, on one machine or many, that share independent pieces of work.

    with config.processes.team() as team:       process 0 listens, the others connect
        ...                                     what everybody needs is built
        folder = team.meet(identity, open)      all have asked for the same; process 0 opens
        arrays = team.share(count, work)        [work(0), work(1), ...] in process 0, else None

Every process runs the same program. Whoever is free takes the next piece, so that a fast one does
more. jax does not know of the others: each process works on its own devices, however many.

A process that dies, runs out of memory or is interrupted is said on process 0's stderr, and what it
had in hand goes to others; so does what one has had for far longer than anybody took. InputError
and NonFiniteError, which would come again, end all; so does the end of process 0. The others hear
it once they have done what they have in hand. No wait ends by itself but that for processes that
never came (addresses.TIMEOUT) or vanished (channels.VANISHED).

Messages (dng_jax.jobs.channels), of the others to process 0, and its answers:

    hello   version, process, count, host          welcome
    ready   identity                               go, once process 0 has begun
    next    call, count; item and its arrays,      do (item), or end
            where one was done
    done, failed (why), left (why)                 none: it leaves

Any answer may be stop (why) instead. The calls of `share` are numbered, so that none takes the
pieces of another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from dng_jax.jobs.channels import Arrays

T = TypeVar("T")

# What must be equal in all processes, by part, as JSON; of the software None is unknown.
Identity = Mapping[str, Mapping[str, Any]]
PARTS = ("software", "devices", "options", "files")


class Team:
    """The process alone; what is said here holds for several as well (dng_jax.jobs.coordinator,
    dng_jax.jobs.worker). count: how many processes there are, with those that left; process: which
    of them this is."""

    count = 1
    process = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the process that speaks and writes."""
        return self.process == 0

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leaves the others; an error says whether they go on."""

    def meet(self, identity: Callable[[], Identity], do: Callable[[], T]) -> T | None:
        """What process 0 gets from `do`, once all are there; None in the others.

        identity: makes what must be equal in all processes, a mapping for each of PARTS.
        InputError in all where it is not, or where `do` fails.
        """
        return do()

    def share(
        self,
        count: int,
        work: Callable[[int], Arrays],
        elsewhere: Callable[[int], object] = lambda item: None,
    ) -> list[Arrays] | None:
        """[work(0), ..., work(count - 1)], done by all of them, in process 0; None in the others.

        work: named arrays of any shape and of NumPy's own dtypes, none of objects, of i alone; they
        come bit for bit. elsewhere(i): called in process 0, by another thread, when another process
        has done item i. Errors as at the top of this file.
        """
        return [work(item) for item in range(count)]


ALONE = Team()
