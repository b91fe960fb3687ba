"""What every job does around its work: a folder per run, its provenance, its JSON.

A run folder holds run.json beside the results:

    config       what was asked for
    provenance   what it last ran on; results are those of this
    sessions     the same of every start and resume, the first one first
    and what the job adds

Nothing here deletes anything, but for temporaries that killed jobs left.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib.metadata
import itertools
import json
import math
import os
import platform
import subprocess
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from dng_jax import disk
from dng_jax.errors import InputError, difference
from dng_jax.jobs import locks
from dng_jax.jobs.options import WHERE

PACKAGES = (
    "dng-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "scipy",
    "scikit-learn",
    "safetensors",
)
WHERE_NOT_WHAT = (*WHERE, "devices")
ROOT = Path(__file__).resolve().parents[2]
OTHERWISE = "or choose another --out"


def new_run_folder(
    path: str | Path | None,
    config: Any,
    *,
    job: str = "run",
    overwrite: bool = False,
    option: str = "--overwrite",
    facts: Mapping[str, Any] | None = None,
    shared: bool = False,
    besides: Collection[str] = (),
) -> Path:
    """Makes the folder of a run and writes its run.json; returns the path.

    path None: the first of runs/JOB, runs/JOB-2, ... that does not exist.
    config: a dataclass or mapping; its fields `out`, `overwrite`, `resume` and `devices` say where
    the run goes, not what it is, and do not count when two configurations are compared. A folder
    that holds anything is refused with InputError, unless it holds the run of the same
    configuration and overwrite is True: then its files stay and the job may continue from them or
    write them again.
    option: the command-line option that sets overwrite, for the message. facts: added to run.json.
    shared: several processes of this run may be at work in the folder at once. besides: names that
    the folder may hold before it is a run's.
    InputError, too, where the disk refuses.
    """
    wanted = to_json(config)
    if not isinstance(wanted, dict):
        raise InputError(
            f"a run's config must be a dataclass or a mapping, got {type(config).__name__}"
        )
    path = _made(path, job)
    usual = _defaults(config)
    _refuse_another(path, wanted, overwrite, option, usual, besides)
    try:
        alone = not shared and locks.hold(path)
        if shared:
            locks.share(path)
    except OSError as error:
        raise InputError(
            f"cannot write to {path} ({error.strerror}): choose another --out"
        ) from error
    # Again, now that nobody else can begin: another job may have, since.
    _refuse_another(path, wanted, overwrite, option, usual, besides)
    if alone:
        disk.sweep(path)
    now, before = provenance(), read_run(path) or {}
    held = before.get("sessions", [])
    sessions = [*(held if isinstance(held, list) else ()), now]
    record = {"config": wanted, "provenance": now, "sessions": sessions, **(facts or {})}
    write_json(path / "run.json", record)
    return path


def _made(path: str | Path | None, job: str) -> Path:
    """The folder, made; of path None a new one, which no other job can have made."""
    words = (job if n == 1 else f"{job}-{n}" for n in itertools.count(1))
    wanted = (Path("runs") / word for word in words) if path is None else iter((Path(path),))
    folder = next(wanted)
    try:
        str(folder).encode()
        folder.parent.mkdir(parents=True, exist_ok=True)
        while path is None:
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                folder = next(wanted)
        folder.mkdir(exist_ok=True)
    except UnicodeEncodeError:
        # Saved states, event files and JSON name it, and they are UTF-8.
        name = os.fsencode(folder).decode("ascii", "backslashreplace")
        raise InputError(f"the folder {name} is not named in UTF-8: choose another --out") from None
    except OSError as error:
        raise InputError(
            f"cannot make the folder {folder} ({error.strerror}): choose another --out"
        ) from error
    return folder


def _defaults(config: Any) -> dict[str, Any]:
    """What the fields of a dataclass are where nothing is said, those inside it likewise, as JSON;
    without those that have no default. Of a mapping: those of the dataclasses it holds."""
    found: dict[str, Any] = {}
    if isinstance(config, Mapping):
        return {name: _defaults(v) for name, v in config.items() if dataclasses.is_dataclass(v)}
    for field in dataclasses.fields(config) if dataclasses.is_dataclass(config) else ():
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found[field.name] = _defaults(value)
        elif field.default is not dataclasses.MISSING:
            found[field.name] = to_json(field.default)
    return found


def _completed(stored: Any, usual: Mapping[str, Any]) -> Any:
    """A stored configuration with the fields that came after it was written, at their defaults."""
    if not isinstance(stored, dict):
        return stored
    inner = {
        name: _completed(stored[name], value)
        for name, value in usual.items()
        if name in stored and isinstance(value, dict)
    }
    return dict(usual) | stored | inner


def _refuse_another(
    path: Path,
    wanted: dict[str, Any],
    overwrite: bool,
    option: str,
    usual: Mapping[str, Any],
    besides: Collection[str],
) -> None:
    """InputError where the folder holds anything but this run, or holds it and may not."""
    try:
        # Half a run.json, of a job killed before it began, holds nothing.
        held = any(
            p.name not in (locks.NAME, *besides) and not p.name.startswith(".run.json.")
            for p in path.iterdir()
        )
    except OSError as error:
        raise InputError(
            f"cannot read the folder {path} ({error.strerror}): choose another --out"
        ) from error
    if not held:
        return
    stored = read_run(path)
    known = _identity(_completed((stored or {}).get("config"), usual))
    if known is None:
        raise InputError(
            f"{path} holds another run, or files of no run at all: choose another --out"
        )
    if known != _identity(wanted):
        raise InputError(
            f"{path} holds another run ({difference(known, _identity(wanted))}):"
            " choose another --out"
        )
    if not overwrite:
        raise InputError(f"{path} already holds this run: choose another --out, or add {option}")


def read_run(path: str | Path) -> dict[str, Any] | None:
    """The run.json of a folder; None where there is none that can be read."""
    try:
        stored = json.loads((Path(path) / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return stored if isinstance(stored, dict) else None


def provenance() -> dict[str, Any]:
    """What a result depends on besides its configuration: versions, machine, commit, UTC time.

    git is None outside a checkout of this project. Names neither the machine nor its user.
    """
    import jax

    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None  # run from a checkout that is not installed
    devices = jax.devices()
    return {
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "backend": devices[0].platform,
        "device": devices[0].device_kind,
        "device_count": len(devices),
        "prng": {
            "implementation": jax.config.values["jax_default_prng_impl"],
            "threefry_partitionable": jax.config.values["jax_threefry_partitionable"],
        },
        "x64": jax.config.values["jax_enable_x64"],
        "git": checkout(ROOT),
    }


class Words(NamedTuple):
    """A provenance as a person reads it."""

    commit: str
    hardware: str
    software: str
    date: str


def in_words(known: Mapping[str, Any]) -> Words:
    """A `provenance` in words; a commit with changes says so, "unknown" outside a checkout.

    InputError for what is no `provenance`.
    """
    try:
        git = known["git"] or {"commit": "unknown", "dirty": False}
        devices = f"{known['device_count']} x {known['device']}"
        return Words(
            git["commit"] + (" with changes" if git["dirty"] else ""),
            f"{devices}, {known['cpu']}, {known['cpu_count']} CPU cores",
            f"jax {known['packages']['jax']}, flax {known['packages']['flax']}",
            known["time_utc"][:10],
        )
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(
            "a record of what a run ran on (provenance) is of another version or was altered:"
            " make the run again"
        ) from error


def to_json(value: Any) -> Any:
    """The value as strict JSON types.

    Dataclasses and named tuples become objects, arrays lists, paths and enum members strings.
    NaN becomes null, infinities the strings "Infinity" and "-Infinity": JSON has neither.
    InputError for what has no such form.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(to_json(k)): to_json(v) for k, v in value.items()}
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return to_json(value._asdict())
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted((to_json(v) for v in value), key=str)
    if hasattr(value, "tolist"):  # arrays and their numbers, without importing what they are of
        return to_json(value.tolist())
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, str | int):
        return value
    raise InputError(
        f"cannot write {type(value).__name__} as JSON: pass numbers, strings, arrays or mappings"
    )


def write_json(path: str | Path, value: Any) -> Path:
    """Writes `to_json(value)`, whole or not at all: a reader never sees half a file."""
    text = json.dumps(to_json(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return write_text(path, text)


def write_text(path: str | Path, text: str, otherwise: str = OTHERWISE) -> Path:
    """Writes a file whole or not at all; InputError where the disk refuses, with what to do
    otherwise."""
    with disk.refused(f"write {path}", otherwise), disk.whole(path) as part:
        # Of names in other bytes what can be read is kept, and JSON stays JSON.
        part.write_text(text, encoding="utf-8", errors="backslashreplace")
    return Path(path)


def writing(folder: Path) -> AbstractContextManager[None]:
    """For a block that writes into a run's folder: what the disk refuses, in a job's words."""
    return disk.refused(f"write to {folder}", OTHERWISE)


def identity(config: Any) -> dict[str, Any]:
    """Of a configuration, as JSON, what says which run it is: all but where it runs."""
    found: dict[str, Any] = _identity(to_json(config))
    return found


def _identity(config: Any) -> Any:
    if not isinstance(config, dict):
        return None
    return {k: v for k, v in config.items() if k not in WHERE_NOT_WHAT}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def checkout(root: Path) -> dict[str, Any] | None:
    """Commit, and whether the code differs from it; None where root is not a checkout's top."""

    def ask(*words: str) -> str | None:
        try:
            answer = subprocess.run(
                # A status would otherwise take the index lock from whoever is committing.
                ["git", "--no-optional-locks", "-C", str(root), *words],
                capture_output=True,
                text=True,
                timeout=20,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    # Installed below somebody else's checkout, git would answer with that project's commit.
    if (top := ask("rev-parse", "--show-toplevel")) is None or Path(top).resolve() != root:
        return None
    commit, changes = ask("rev-parse", "HEAD"), ask("status", "--porcelain", "-uno")
    # A new module counts although it is untracked; results written into the checkout do not.
    new = ask("ls-files", "--others", "--exclude-standard", "--", "*.py")
    return None if commit is None else {"commit": commit, "dirty": bool(changes or new)}
