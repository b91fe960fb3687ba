"""A job as several processes, on one machine or many: how they find each other, and share work.

    config.processes.join()              before anything asks jax for a device
    processes.in_turn(count, work)       work(i) of every i below count, each done by one process
    processes.by_the_first(do)           what process 0 alone does, and whether it could

Process 0 listens on the address that --coordinator names and on no other; the others connect to it.
Where that is the name of a host it listens on all of this machine's: a machine may know its own
name as one that only itself can reach, and a service's as none of its own. In a step of SLURM with
several tasks jax finds them by itself.

Whoever waits longer than PATIENCE says for what; after TIMEOUT it gives up. What fails in one
process ends all of them: none waits for one that has left.

jax is imported by the functions, so that a command line is parsed without it.
"""

from __future__ import annotations

import contextlib
import io
import ipaddress
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from dng_jax.errors import InputError, NonFiniteError

T = TypeVar("T")
Arrays = Mapping[str, np.ndarray]

PATIENCE = 3.0
TIMEOUT = 120

_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


@dataclass(frozen=True)
class Processes:
    """Options of a job that several processes may share; they do not change what comes out (a field
    named `processes`)."""

    coordinator: str | None = None
    """HOST:PORT on which process 0 listens, for several processes; under SLURM it is found by
    itself."""
    num_processes: int | None = None
    """How many processes there are, at least 1."""
    process_id: int | None = None
    """Which of them this is, 0 to --num-processes - 1."""

    def join(self) -> None:
        """Joins the others, where there are any; InputError where the options make no sense, or
        the others cannot be joined."""
        arguments = self.arguments(os.environ)
        if arguments is None:
            return
        import jax

        if not jax.distributed.is_initialized():
            join(arguments)

    def arguments(self, environment: Mapping[str, str]) -> dict[str, Any] | None:
        """Arguments of jax.distributed.initialize, none for a SLURM step; None for one process."""
        given = (self.coordinator, self.num_processes, self.process_id)
        if all(value is None for value in given):
            slurm = all(name in environment for name in _SLURM)
            return {} if slurm and int(environment["SLURM_NTASKS"]) > 1 else None
        if self.coordinator is None or self.num_processes is None or self.process_id is None:
            raise InputError(
                "--coordinator, --num-processes and --process-id belong together: give all three"
            )
        host, colon, port = self.coordinator.rpartition(":")
        if not (host and colon and port.isdigit()):
            raise InputError(f"--coordinator must be HOST:PORT, got '{self.coordinator}'")
        if self.num_processes < 1 or not 0 <= self.process_id < self.num_processes:
            raise InputError(
                f"--process-id must be 0 to {self.num_processes - 1} for --num-processes"
                f" {self.num_processes}, got {self.process_id}"
            )
        return {
            "coordinator_address": self.coordinator,
            "num_processes": self.num_processes,
            "process_id": self.process_id,
        }


def count() -> int:
    """How many processes there are."""
    import jax

    return jax.process_count()


def is_first() -> bool:
    """Whether this is the process that writes, and that people read."""
    import jax

    return jax.process_index() == 0


def by_the_first(do: Callable[[], T]) -> T | None:
    """What process 0 gets from `do`; None in the others. InputError in all where it raises one."""
    found, refused = None, None
    if is_first():
        try:
            found = do()
        except InputError as error:
            refused = error
    if count() > 1:
        from jax.experimental import multihost_utils

        # Or the others would wait for a process that has left.
        wrong = multihost_utils.broadcast_one_to_all(np.int32(refused is not None))
        if wrong and refused is None:
            refused = InputError("process 0 cannot go on: see its message")
    if refused is not None:
        raise refused
    return found


def in_turn(number: int, work: Callable[[int], Arrays]) -> list[Arrays]:
    """[work(0), work(1), ...] in every process, where item i is the work of process i mod count().

    work: named arrays of any shape and dtype (none of objects); they come back bit for bit. Where
    it raises InputError or NonFiniteError in one process, so do all.
    """
    import jax

    if count() == 1:
        return [work(i) for i in range(number)]
    own: list[Arrays] = []
    failure: Exception | None = None
    try:
        own = [work(i) for i in range(jax.process_index(), number, count())]
    except (InputError, NonFiniteError) as error:
        failure = error
    every = _everyones(b"" if failure else _packed(own))
    if failure is not None:
        raise failure
    missing = [i for i, packed in enumerate(every) if not packed]
    if missing:
        raise InputError(f"process {missing[0]} could not do its part: see its message")
    parts = [_unpacked(packed) for packed in every]
    return [parts[i % count()][i // count()] for i in range(number)]


def _everyones(content: bytes) -> list[bytes]:
    """The bytes of every process, in all of them."""
    from jax.experimental.multihost_utils import process_allgather

    # Bytes, since jax would round numbers of 64 bits.
    sizes = np.asarray(process_allgather(np.array([len(content)], np.int64).view(np.uint8)))
    lengths = sizes.view(np.int64)[:, 0].tolist()
    padded = np.zeros(max(*lengths, 1), np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    rows = np.asarray(process_allgather(padded))
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


def _packed(parts: list[Arrays]) -> bytes:
    named = {f"{i}/{name}": array for i, part in enumerate(parts) for name, array in part.items()}
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **named, parts=len(parts))  # type: ignore[arg-type]
    return file.getvalue()


def _unpacked(content: bytes) -> list[dict[str, np.ndarray]]:
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        parts: list[dict[str, np.ndarray]] = [{} for _ in range(int(stored["parts"]))]
        for key in stored.files:
            number, slash, name = key.partition("/")
            if slash:
                parts[int(number)][name] = stored[key]
    return parts


def join(arguments: dict[str, Any]) -> None:
    """jax.distributed.initialize with these arguments (none: a SLURM step); InputError where the
    others cannot be joined."""
    import jax

    # Signals are the job's to handle, in a training for all processes alike.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    coordinator, first = arguments.get("coordinator_address"), arguments.get("process_id") == 0
    if coordinator is not None:
        arguments = arguments | {"initialization_timeout": TIMEOUT}
        if first:
            arguments["coordinator_bind_address"] = _listening(coordinator)
        else:
            with _telling(f"waiting for process 0 at {coordinator}"):
                _reach(coordinator)
    others = arguments.get("num_processes", 2) - 1
    try:
        with _telling(f"waiting for {others} more" if first else "waiting for all processes"):
            jax.distributed.initialize(**arguments)
    except RuntimeError as error:
        raise InputError(
            f"cannot join the other processes ({str(error).splitlines()[0]}): check"
            " --coordinator, and that all --num-processes are running"
        ) from error


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _listening(address: str) -> str:
    """Where process 0 listens; InputError where no process of this machine can."""
    host, port = _split(address)
    every = not _is_literal(host)
    try:
        flags = socket.AI_PASSIVE if every else 0
        family, kind, *_, where = socket.getaddrinfo(
            None if every else host, port, type=socket.SOCK_STREAM, flags=flags
        )[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(where)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"cannot listen on {address} ({error}): let --coordinator name an address of this"
            " machine and a free port"
        ) from None
    if not every:
        return address
    print(
        f"listening on port {port} of every network here, since {host} is a name: give"
        " --coordinator an IP address to listen there alone",
        file=sys.stderr,
    )
    return f"[::]:{port}"  # of IPv4 too


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


def _reach(address: str) -> None:
    """Returns once somebody listens there; InputError after TIMEOUT, or for an unknown host."""
    ends, host, port = time.monotonic() + TIMEOUT, *_split(address)
    while True:
        try:
            socket.create_connection((host, port), timeout=PATIENCE).close()
            return
        except (socket.gaierror, OverflowError) as error:
            raise InputError(f"--coordinator {address} is no address ({error})") from None
        except OSError as error:
            if time.monotonic() > ends:
                raise InputError(
                    f"nobody answers at {address} ({error}): check --coordinator, and that process"
                    " 0 is running there"
                ) from None
            time.sleep(0.2)


@contextlib.contextmanager
def _telling(what: str) -> Iterator[None]:
    """Says so on stderr where its block takes longer than PATIENCE."""
    said = f"{what} (at most {TIMEOUT} s)"
    timer = threading.Timer(PATIENCE, lambda: print(said, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
