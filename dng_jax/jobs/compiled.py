"""Compiled programs, kept on disk from run to run: JAX's persistent compilation cache.

A folder of this user alone, ~/.cache/dng-jax or below XDG_CACHE_HOME, with one in it per kind of
processor, since what was compiled for one may hold instructions that another lacks. When a job
starts and they have grown beyond SIZE, the oldest go. JAX's own variables,
JAX_COMPILATION_CACHE_DIR and JAX_ENABLE_COMPILATION_CACHE, are left as they are where they are set.

JAX can bound the cache itself, but then takes a lock for every program that it looks up, and one
write that was killed half way keeps it from storing anything again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import stat
from pathlib import Path

SIZE = 2 << 30  # bytes
LEAST = 0.2  # seconds: what compiles faster is compiled again
_THEIRS = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")


def keep() -> None:
    """Sets this process's and its children's variables; to be called before jax is imported. A home
    that cannot be written to, or that others can, costs no run: nothing is kept."""
    if any(name in os.environ for name in _THEIRS):
        return
    place = folder()
    try:
        if not place.is_absolute() or not _ours(place):
            return
        sweep(place.parent)
    except OSError:
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(place)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(LEAST))


def folder() -> Path:
    """Where they are kept on this kind of processor; a relative path where no home is known."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(home):  # as the specification of that variable has it
        home = os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "dng-jax" / "compiled" / _processor()


def sweep(kept: Path, size: int = SIZE) -> None:
    """Removes the oldest files of all processors' folders beyond so many bytes."""
    files = [(path, path.stat()) for path in kept.glob("*/*") if path.is_file()]
    total = sum(found.st_size for _, found in files)
    for path, found in sorted(files, key=lambda file: file[1].st_mtime):
        if total <= size:
            break
        path.unlink(missing_ok=True)  # another job may sweep as well
        total -= found.st_size


def _ours(place: Path) -> bool:
    """Makes the folders; whether this user alone may write there: what lies in them is run."""
    for path in (place.parent.parent, place.parent, place):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.stat()
        if os.name == "posix" and (
            found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        ):
            return False
    return os.access(place, os.W_OK)


def _processor() -> str:
    """Twelve hexadecimal digits of its kind: what it is called and what it can do."""
    said = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        lines = (line.strip() for line in file)
        found = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
        said += sorted(found)
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:12]
