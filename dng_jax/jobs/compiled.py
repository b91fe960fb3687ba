"""Compiled programs, kept on disk from run to run: JAX's persistent compilation cache.

A folder of this user, ~/.cache/dng-jax or below XDG_CACHE_HOME, with one in it per kind of
processor, since what was compiled for one may hold instructions that another lacks. The least used
make room when it grows beyond SIZE. JAX's own variables, JAX_COMPILATION_CACHE_DIR and
JAX_ENABLE_COMPILATION_CACHE, are left as they are where they are set.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from pathlib import Path

SIZE = 2 << 30  # bytes
LEAST = 0.2  # seconds: what compiles faster is compiled again
_THEIRS = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")


def keep() -> None:
    """Sets this process's and its children's variables; to be called before jax is imported."""
    if any(name in os.environ for name in _THEIRS):
        return
    place = folder()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written to costs no run
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(place)
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(SIZE))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(LEAST))


def folder() -> Path:
    """Where they are kept on this kind of processor."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "dng-jax" / "compiled" / _processor()


def _processor() -> str:
    """Twelve hexadecimal digits of its kind: what it is called and what it can do."""
    said = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        lines = (line.strip() for line in file)
        found = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
        said += sorted(found)
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:12]
