"""Ctrl-C ends a job in seconds, whatever holds its main thread.

    interrupts.heed()           watches from here on
    interrupts.defer(True)      the first one is left to a handler, however late it comes to run
    interrupts.took()           says that handler: this one was mine

Python raises KeyboardInterrupt once it is its turn again, and that is not before a compilation is
over; one that is raised inside a callback of jax is lost. So a thread watches too. It ends the
process GRACE seconds after the first Ctrl-C that nobody took, and at the second one at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

GRACE = 3.0
EXIT_CODE = 130
# SIGUSR1, which Windows does not have, is what batch systems send some time before a job's limit.
STOPS = (signal.SIGTERM, *filter(None, [getattr(signal, "SIGUSR1", None)]), signal.SIGINT)

_deferred = threading.Event()
_taken = threading.Event()


def heed() -> None:
    """Watches for Ctrl-C in this process; does nothing outside the main thread."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    except ValueError:  # no signal comes to another thread
        return
    threading.Thread(target=_watch, args=(read,), daemon=True).start()


def defer(wanted: bool) -> None:
    """Whether there is something to save, for which the first Ctrl-C can wait."""
    _deferred.set() if wanted else _deferred.clear()


def took() -> None:
    """Says that the Ctrl-C that came is being heeded, and ends nothing by itself."""
    _taken.set()


def leave(*, said: str = "") -> None:
    """Ends the process with 130, not by way of the interpreter, which would wait for, or crash,
    threads that still compile."""

    def last_words() -> None:
        # The cursor, which a progress bar hides.
        cursor = "\x1b[?25h" if said and sys.stdout.isatty() else ""
        for stream, text in ((sys.stderr, said), (sys.stdout, cursor)):
            with contextlib.suppress(OSError, ValueError):
                stream.write(text)
                stream.flush()

    # A thread, since one that writes to a pipe that nobody empties holds the stream for ever.
    speaker = threading.Thread(target=last_words, daemon=True)
    try:
        speaker.start()
        speaker.join(timeout=1.0)
    finally:
        os._exit(EXIT_CODE)


def _watch(pipe: int) -> None:
    came = 0
    while number := os.read(pipe, 1):
        came += number[0] in STOPS
        if number[0] != signal.SIGINT:
            continue
        if came > 1:
            leave(said="interrupted\n")
        # Judged when the handler has had its time: by then another may be in its place.
        judge = threading.Timer(GRACE, _leave_unless_taken)
        judge.daemon = True
        judge.start()


def _leave_unless_taken() -> None:
    if not (_taken.is_set() or _deferred.is_set()):
        leave(said="interrupted\n")
