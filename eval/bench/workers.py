"""Programs in processes of their own, held to some of the cores and timed in turn.

    with Worker("PyTorch", 1, make, *args) as worker:       make(*args) -> {name: program}
        worker.facts                                        what it returns under "facts"
        worker.run("forward")                               Run(seconds, cpu_seconds)

A process is held to its cores (None: to none) before it starts, so that every pool of threads in it
has as many threads (jax asks how many cores it may use, PyTorch is told). It runs nothing between
two requests: threads that spin after a run have PAUSE to come to rest before the next program, of
whichever process, is timed; `idle_cpu_seconds` says what they took all the same.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Self

from dng_jax.errors import InputError

PAUSE = 0.05


class Run(NamedTuple):
    """Wall seconds of a program, and CPU seconds of its process meanwhile."""

    seconds: float
    cpu_seconds: float


class Worker:
    """One such process; a context manager that ends it.

    make: a function of a module, called in the process; its programs return when they are done.
    InputError for more cores than there are, where a process cannot be held to cores, and for what
    make refuses by one.
    """

    def __init__(
        self, title: str, cores: int | None, make: Callable[..., Mapping[str, Any]], *args: Any
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.title = title
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, *args))
        if cores is None:
            self.process.start()
        else:
            _start_on(cores, self.process)
        theirs.close()
        self.facts: dict[str, Any] = self._answer()
        self.idle_cpu_seconds = 0.0

    def run(self, name: str) -> Run:
        """Runs the program of that name once."""
        time.sleep(PAUSE)
        self.connection.send(name)
        run, idle = self._answer()
        self.idle_cpu_seconds += idle
        return run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()  # the process ends when nobody can ask it any more
        self.process.join(5)
        self.process.terminate()
        self.process.join()

    def _answer(self) -> Any:
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise InputError(
                f"the process of {self.title} ended before it answered (exit code"
                f" {self.process.exitcode}): take fewer images with --samples, or see above"
            ) from None
        if isinstance(answer, InputError):
            raise answer
        return answer


def _start_on(cores: int, process: Any) -> None:
    mine = available()
    if cores > len(mine):
        raise InputError(f"--threads {cores} is more than the {len(mine)} cores there are")
    os.sched_setaffinity(0, mine[:cores])
    try:
        process.start()
    finally:
        os.sched_setaffinity(0, mine)


def available() -> list[int]:
    """The cores that this process may use; InputError where a process cannot be held to some."""
    if not hasattr(os, "sched_setaffinity"):
        raise InputError("this system cannot hold a process to some of its cores: use Linux")
    return sorted(os.sched_getaffinity(0))


def _serve(connection: Connection, make: Callable[..., Mapping[str, Any]], *args: Any) -> None:
    try:
        programs = dict(make(*args))
    except InputError as error:
        connection.send(error)
        return
    connection.send(programs.pop("facts", {}))
    rested = time.process_time()
    while True:
        try:
            program = programs[connection.recv()]
        except (EOFError, ConnectionResetError):
            return
        idle, began, cpu = time.process_time() - rested, time.perf_counter(), time.process_time()
        program()
        run = Run(time.perf_counter() - began, time.process_time() - cpu)
        rested = time.process_time()
        connection.send((run, idle))
