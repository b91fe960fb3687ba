"""Messages between two processes over TCP: a header of JSON, and named arrays. Never pickles.

    message    length (multiprocessing.connection), header as JSON, a line's end, the arrays
    header     {"say": what, ..., "arrays": their names}
    arrays     .npy files of these names one after the other, without Python objects

A machine that vanished is noticed by TCP's keepalive, VANISHED seconds after its last sign of life;
where something was on its way to it, by the operating system's own limit (Linux: a quarter of an
hour). A process that ended, in any way, is noticed at once. Nothing else ends a wait.

Where the environment variable KEY is set, both sides prove to each other that they know it
(multiprocessing.connection, HMAC) before they say anything.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
from collections.abc import Mapping
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]
Header = dict[str, Any]

# What a channel raises where the other side is gone, or is none of ours and says anything.
FAULTS = (
    *(EOFError, OSError, ValueError, LookupError, TypeError, RecursionError),
    AuthenticationError,
)
KEY = "DNG_JAX_KEY"

_IDLE, _INTERVAL, _PROBES = 60, 10, 6
VANISHED = _IDLE + _INTERVAL * _PROBES
_IMMENSE = 1 << 40  # bytes: more than any message, and what a length can say


class Channel:
    """One end of a connection; takes the (blocking) socket over. A thread sends and receives, and
    any other may hang up."""

    def __init__(self, sock: socket.socket) -> None:
        _keep_alive(sock)
        self._socket = sock
        # Its own handle on it, which no other thread closes while this one reads.
        self._connection = Connection(sock.dup().detach())

    def challenge(self) -> None:
        """Asks the other side to prove that it knows the key, and proves it to it; FAULTS."""
        if key := _key():
            deliver_challenge(self._connection, key)
            answer_challenge(self._connection, key)

    def prove(self, seconds: float) -> None:
        """The other side of `challenge`, which begins within this time; FAULTS."""
        if key := _key():
            if not self.answers_within(seconds):
                raise TimeoutError
            answer_challenge(self._connection, key)
            deliver_challenge(self._connection, key)

    def send(self, say: str, arrays: Arrays | None = None, **header: Any) -> None:
        """Sends a message; FAULTS."""
        arrays, file = arrays or {}, io.BytesIO()
        head = {"say": say, **header, "arrays": list(arrays)}
        file.write(json.dumps(head).encode() + b"\n")
        for array in arrays.values():
            np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
        self._connection.send_bytes(file.getbuffer())

    def receive(self, limit: int = _IMMENSE) -> tuple[Header, dict[str, np.ndarray]]:
        """The next message, whenever it comes; FAULTS, also of one longer than limit bytes."""
        file = io.BytesIO(self._connection.recv_bytes(limit))
        header = json.loads(file.readline())
        named = {
            str(name): np.lib.format.read_array(file, allow_pickle=False)
            for name in header["arrays"]
        }
        return header, named

    def answers_within(self, seconds: float) -> bool:
        """Whether something comes within this time; FAULTS."""
        return self._connection.poll(seconds)

    def hang_up(self) -> None:
        """Ends the connection; who waits for it here or there, or sends, gets FAULTS."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends the connection, and gives the handles back."""
        self.hang_up()
        self._connection.close()
        self._socket.close()


def _key() -> bytes:
    return os.environ.get(KEY, "").encode()


def plain(content: Any) -> Any:
    """The content as a header brings it to the other side."""
    return json.loads(json.dumps(content))


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # A message's length and the rest are two packets: the second would wait for the first's answer.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    wanted = {"TCP_KEEPIDLE": _IDLE, "TCP_KEEPINTVL": _INTERVAL, "TCP_KEEPCNT": _PROBES}
    if not hasattr(socket, "TCP_KEEPIDLE"):
        wanted["TCP_KEEPALIVE"] = _IDLE  # as macOS calls it
    for name, value in wanted.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
