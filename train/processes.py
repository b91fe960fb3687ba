"""Joining the other processes of a run, or saying in seconds why that does not come about.

Process 0 listens on the address that --coordinator names and on no other; the others connect to it.
Where that is the name of a host it listens on all of this machine's: a machine may know its own
name as one that only itself can reach, and a service's as none of its own.

Whoever waits longer than PATIENCE says for what; after TIMEOUT it gives up.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax

from dng_jax.errors import InputError

PATIENCE = 3.0
TIMEOUT = 120


def join(arguments: dict[str, Any]) -> None:
    """jax.distributed.initialize with these arguments (none: a SLURM step); InputError where the
    others cannot be joined."""
    # Signals are this job's to handle, for all processes alike (train.loop).
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
