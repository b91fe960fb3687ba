"""Where process 0 listens and the others connect: HOST:PORT, or what a step of SLURM says.

    with addresses.bound("10.0.0.1:5055") as server: ...    process 0
    with addresses.reach("10.0.0.1:5055") as sock: ...      the others, who may start before it
    addresses.of_step(os.environ)                           the same address in every task

Process 0 listens on the address that is named and on no other; where that is the name of a host, on
all of this machine's: a machine may know its own name as one that only itself can reach, and a
service's as none of its own. Whoever waits longer than PATIENCE says for what; after TIMEOUT it
gives up.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping

from dng_jax.errors import InputError

PATIENCE = 3.0
TIMEOUT = 120

_LOWEST, _PORTS = 2**16 - 2**12, 2**12 - 1  # high ones, which few services have for their own


def split(address: str) -> tuple[str, int]:
    """Host and port; InputError for what is none."""
    host, colon, port = address.rpartition(":")
    # As digits of ASCII: int() takes others, and isdigit even such as it does not take.
    if not (host and colon and re.fullmatch("[0-9]{1,5}", port) and int(port) < 2**16):
        raise InputError(f"--coordinator must be HOST:PORT, got '{address}'")
    return host.strip("[]"), int(port)


def is_name(address: str) -> bool:
    """Whether its host is a name, neither an IP address nor localhost."""
    host, _ = split(address)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host != "localhost"
    return False


def bound(address: str) -> socket.socket:
    """The socket that listens there, of every network where the host is a name, which is said on
    stderr; InputError where no process of this machine can."""
    host, port = split(address)
    every = is_name(address)
    try:
        if every:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            server = socket.create_server(("", port), family=family, dualstack_ipv6=both)
        else:
            family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            server = socket.create_server(where[:2], family=family)
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"cannot listen on {address} ({error}): let --coordinator name an address of this"
            " machine and a free port"
        ) from None
    if every:
        print(
            f"listening on port {port} of every network here, since {host} is a name: give"
            " --coordinator an IP address to listen there alone",
            file=sys.stderr,
        )
    return server


def reach(address: str) -> socket.socket:
    """A connection to whoever listens there; InputError after TIMEOUT, or for an unknown host."""
    ends, where = time.monotonic() + TIMEOUT, split(address)
    with telling(f"waiting for process 0 at {address}"):
        while True:
            try:
                found = socket.create_connection(where, timeout=PATIENCE)
            except (socket.gaierror, UnicodeError) as error:
                raise InputError(f"--coordinator {address} is no address ({error})") from None
            except OSError as error:
                if time.monotonic() > ends:
                    raise InputError(
                        f"nobody answers at {address} ({error}): check --coordinator, and that"
                        " process 0 is running there"
                    ) from None
                time.sleep(0.2)
            else:
                found.settimeout(None)
                return found


@contextlib.contextmanager
def telling(what: str) -> Iterator[None]:
    """Says so on stderr where its block takes longer than PATIENCE."""
    said = f"{what} (at most {TIMEOUT} s)"
    timer = threading.Timer(PATIENCE, lambda: print(said, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def of_step(environment: Mapping[str, str]) -> str:
    """Of a step of SLURM: its first host, where task 0 runs, and a port that other jobs and steps
    hardly have."""
    job, step = (int(environment.get(f"SLURM_{name}_ID", 0)) for name in ("JOB", "STEP"))
    port = _LOWEST + (job + 257 * step) % _PORTS
    return f"{first_host(environment['SLURM_STEP_NODELIST'])}:{port}"


def first_host(nodes: str) -> str:
    """The first of a list of SLURM, whose brackets hold numbers and ranges of them with leading
    zeros: of "gpu[007-009,012]-ib,login1" it is gpu007-ib."""
    found = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    assert found is not None  # it matches nothing, too
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", found[0])
