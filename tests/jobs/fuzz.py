"""Mutated files and command lines, over every reader and job: a sentence or the right result.

    python -m tests.jobs.fuzz --count 10000 --seed 0

Everything runs in this process, each case under an alarm. Files are mutated blindly (bits, cuts,
blocks) and knowingly: a header or a JSON value is parsed, one node replaced, and the rest written
as it was, checksums of a zip file included. Command lines draw options of a job and values that
somebody might type; a job counts as reached when it asks for devices or for its folder.

What a case can come to: right (it returned), refused (InputError in one line, or tyro's exit code
2), traceback, hang. The last two are faults; their seeds are printed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gzip
import io
import json
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import typing
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from safetensors.numpy import save_file

from dng_jax import arrays, data, nets, training, weights
from dng_jax.data import raw
from dng_jax.errors import InputError
from dng_jax.jobs import devices, runs
from dng_jax.metrics import Reference
from dng_jax.training.checkpoints import Checkpoints
from dng_jax.weights import tensors
from eval.bench import job as bench
from eval.calibration import job as calibration
from eval.class_removal import job as class_removal
from eval.exact import job as exact
from eval.hopfield import __main__ as hopfield
from eval.hopfield import sets
from eval.study import cells, report
from eval.study import job as study
from hopfield_jax import attention, projections
from train import logs, start
from train import options as train

SECONDS = 8.0  # of one case: importing what it needs may take some
Rng = np.random.Generator


class HangError(BaseException):
    """The alarm of a case."""


class ReachedError(BaseException):
    """A job's early checks are passed."""


# ---- mutations ----------------------------------------------------------------------------------
STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 10**30, 1.5, -0.0, 1e308, float("nan"), float("inf"), "",
    "x", "0", "../../etc/passwd", "/etc/passwd", "\udcff", "\0", "F8_E4M3", "I64", "[" * 50, [], {},
    [[]], [-1], [1, 2, 3], {"a": 1}, ["x"] * 3,
)  # fmt: skip


def bytes_of(rng: Rng, content: bytes) -> bytes:
    """The content with something done to its bytes."""
    out = bytearray(content)
    at, size = int(rng.integers(len(out) + 1)), int(rng.integers(1, 64))
    match rng.integers(8):
        case 0:
            for place in rng.integers(len(out), size=rng.integers(1, 8)) if out else ():
                out[place] ^= 1 << int(rng.integers(8))
        case 1:
            del out[at:]
        case 2:
            out[at : at + size] = bytes(size)
        case 3:
            out[at : at + size] = rng.bytes(size)
        case 4:
            out[at:at] = out[at : at + size]
        case 5:
            del out[at : at + size]
        case 6:
            out += rng.bytes(size)
        case 7:  # near the beginning, where headers are
            for place in rng.integers(min(len(out), 128), size=3) if out else ():
                out[place] = int(rng.integers(256))
    return bytes(out)


def value_of(rng: Rng, value: Any) -> Any:
    """A JSON value with one node replaced, removed or repeated."""
    places = list(_places(value))
    where = places[rng.integers(len(places))]
    strange = STRANGE[rng.integers(len(STRANGE))]
    if not where:
        return strange
    out = json.loads(json.dumps(value))
    inner = out
    for key in where[:-1]:
        inner = inner[key]
    how = rng.integers(4)
    if how == 0:
        del inner[where[-1]]
    elif how == 1 and isinstance(inner, list):
        inner.insert(where[-1], inner[where[-1]])
    elif how == 1:
        inner[f"{where[-1]}x"] = inner[where[-1]]
    else:
        inner[where[-1]] = strange
    return out


def _places(value: Any, above: tuple = ()) -> Iterator[tuple]:
    yield above
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _places(value[key], (*above, key))


def json_of(rng: Rng, content: bytes) -> bytes:
    """JSON, or lines of it, with one value changed; or its bytes."""
    if rng.random() < 0.3:
        return bytes_of(rng, content)
    lines = content.decode().splitlines() if b'"step"' in content else [content.decode()]
    at = rng.integers(len(lines))
    lines[at] = json.dumps(value_of(rng, json.loads(lines[at])))
    return "\n".join(lines).encode()


def safetensors_of(rng: Rng, content: bytes) -> bytes:
    """A safetensors file with its header, its configuration or its bytes changed."""
    end = 8 + int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8:end]), content[end:]
    how = rng.random()
    if how < 0.3:
        return bytes_of(rng, content)
    text = header.get("__metadata__", {})
    if rng.random() < 0.7:
        text.pop("sha256", None)
    if how < 0.6 and "config" in text:
        text["config"] = json.dumps(value_of(rng, json.loads(text["config"])))
    elif how < 0.8:
        header = value_of(rng, header)
    else:
        body = bytes_of(rng, body)
    packed = json.dumps(header).encode()
    return struct.pack("<Q", len(packed)) + packed + body


def npy_of(rng: Rng, content: bytes) -> bytes:
    """An .npy file with its header or its bytes changed."""
    size = int.from_bytes(content[8:10], "little")
    if rng.random() < 0.4:
        return bytes_of(rng, content)
    text = content[10 : 10 + size].decode()
    if rng.random() < 0.7:
        old = ("(5, 4)", "<f8", "False", "descr", "4", ", ", "shape", "}")
        new = ("(1000000000000, 8)", "(-5, 4)", "(5, 4", "|O", "<c16", "|S3", "<M8[s]", "None", "x",
               "((((", "", "'", "<f2", "|V8", "{", "#", "\\",
               "(10000000000000000000000, 4)")  # fmt: skip
        text = text.replace(str(rng.choice(old)), str(rng.choice(new)), 1)
    else:
        text = bytes_of(rng, text.encode()).decode(errors="replace")
    packed = text.encode()[:65535]
    return content[:8] + struct.pack("<H", len(packed)) + packed + content[10 + size :]


def npz_of(rng: Rng, content: bytes) -> bytes:
    """An .npz file with a part of it changed, its checksum right; or its bytes."""
    if rng.random() < 0.5:
        return bytes_of(rng, content)
    with zipfile.ZipFile(io.BytesIO(content)) as held:
        parts = {name: held.read(name) for name in held.namelist()}
    chosen = str(rng.choice(list(parts)))
    if rng.random() < 0.2:
        del parts[chosen]
    else:
        parts[chosen] = npy_of(rng, parts[chosen])
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name, part in parts.items():
            made.writestr(name, part)
    return out.getvalue()


def gz_of(rng: Rng, content: bytes) -> bytes:
    """A gzip file with what is in it changed; or its bytes."""
    if rng.random() < 0.5:
        return bytes_of(rng, content)
    return gzip.compress(bytes_of(rng, gzip.decompress(content)))


# ---- readers ------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Reader:
    """A file that was right, what is done to it, and who reads it. weight: of how many cases."""

    path: Path
    mutate: Callable[[Rng, bytes], bytes]
    read: Callable[[Path], Any]
    weight: float = 1.0


def readers(root: Path) -> dict[str, Reader]:
    """One of each, with its files, below root."""
    rng = np.random.default_rng(0)
    config = nets.ClassifierConfig((4, 4, 1), 2, (3,), 4)
    module = nets.Classifier(config)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *config.example())["params"]
    params = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)
    model, reference = root / "m.safetensors", root / "m.reference.safetensors"
    weights.save(model, params, nets.describe(module), {"note": "x"})
    made = Reference.of(rng.normal(size=(20, 3)), np.arange(20) % 2, 2, extractor="x")
    made.save(reference)

    layer = root / "layer.safetensors"
    save_file(
        {
            "key.weight": rng.normal(size=(8, 6)).astype(np.float32),
            "query.weight": rng.normal(size=(8, 6)).astype(np.float16),
            "hidden": rng.normal(size=(5, 6)).astype(np.float32),
        },
        layer,
    )

    def attend(path: Path) -> None:
        x = projections.read_tensor(path, "hidden", (2,))
        projections.project(path, x, heads=2, key="key.weight", query="query.weight")

    np.save(root / "x.npy", rng.normal(size=(5, 4)))
    cell = cells.Cell("curves", (0,), "np", (cells.Setting(0.1),), 5, "ddpm", 0, 3)
    features = rng.normal(size=(1, 3, 4)).astype(np.float16)
    cells.save(root, cell, cells.Found(np.zeros((1, 3), np.uint8), features, 5))

    folder = root / "run"
    runs.new_run_folder(folder, {"steps": 1})
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": i, "seconds": 0.1 * i, "loss": 0.5}) + "\n" for i in range(9))
    )
    facts = {
        "tables": [{"part": "curves", "title": "a", "columns": ["a", "b"], "rows": [["c", "d"]]}],
        "pictures": [{"part": "curves", "file": "a.png", "caption": "a"}],
        "config": {"dataset": "digits", "seeds": [0, 1], "samples": 4, "steps": 5},
        "provenance": runs.provenance(),
        "command": "python -m eval.study",
        "classifier": "x",
        "classes": ["0"],
    }
    (folder / "a.png").write_bytes(report.PNG + b"picture")
    runs.write_json(folder / "results.json", facts)

    labels = struct.pack(">II", 2049, 9) + bytes(range(9))
    images = struct.pack(">IIII", 2051, 9, 2, 2) + rng.bytes(36)
    (root / "labels.idx").write_bytes(labels)
    (root / "images.gz").write_bytes(gzip.compress(images))
    official = raw.File(len((root / "images.gz").read_bytes()), "0" * 64)

    states = root / "states"
    fresh = training.init_state(
        module, training.make_optimiser(4, 1e-3, 0, 0, 1), jax.random.key(0)
    )
    with Checkpoints(states, nets.describe(module)) as kept:
        kept.save(fresh._replace(step=jax.numpy.int32(1)), 0.5)
        kept.save(fresh._replace(step=jax.numpy.int32(2)), 0.4)

    def resume(path: Path) -> None:
        # The file lies in a copy of the states, which reading may move.
        copy = root / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(states, copy)
        inside = [p for p in sorted(copy.rglob("*")) if p.is_file()]
        content = path.read_bytes()
        target = inside[content[0] % len(inside)] if content else inside[0]
        rng = np.random.default_rng(list(content[:8]))
        if rng.random() < 0.15:
            shutil.rmtree(target.parent)
        elif rng.random() < 0.15:
            target.unlink()
        else:
            target.write_bytes(bytes_of(rng, target.read_bytes()))
        with Checkpoints(copy, nets.describe(module), report=lambda line: None) as opened:
            opened.restore(fresh)

    (root / "choice.bin").write_bytes(rng.bytes(8))

    def decode(path: Path) -> None:
        raw.read_file(path, official)

    return {
        "model": Reader(model, safetensors_of, weights.load, 3),
        "reference": Reader(reference, safetensors_of, Reference.load, 2),
        "safetensors": Reader(reference, safetensors_of, tensors.read),
        "attention": Reader(layer, safetensors_of, attend, 2),
        "npy": Reader(root / "x.npy", npy_of, arrays.read_npy, 2),
        "patterns": Reader(root / "x.npy", npy_of, lambda p: sets.build(sets.Source(str(p))), 2),
        "cell": Reader(
            root / "cells" / f"{cell.name}.npz", npz_of, lambda p: cells.load(root, cell), 3
        ),
        "results": Reader(
            folder / "results.json", json_of, lambda p: report.main(report.Config(p.parent)), 3
        ),
        "run.json": Reader(
            folder / "run.json",
            json_of,
            lambda p: runs.new_run_folder(p.parent, {"steps": 1}, overwrite=True),
            0.1,  # git is asked each time
        ),
        "metrics": Reader(
            folder / "metrics.jsonl", json_of, lambda p: logs.average_of_last(p.parent)
        ),
        "idx": Reader(root / "labels.idx", bytes_of, lambda p: raw.idx(p.read_bytes())),
        "idx.gz": Reader(root / "images.gz", gz_of, decode, 0.5),
        "states": Reader(root / "choice.bin", lambda rng, _: rng.bytes(8), resume, 0.02),
    }


# ---- jobs ---------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Job:
    """configs: the types whose fields are its options; run: parses words, and checks them."""

    configs: tuple[type, ...]
    run: Callable[[list[str]], Any]
    words: tuple[str, ...] = ()
    weight: float = 1.0


def jobs() -> dict[str, Job]:
    """Every job's parser and early checks; the one place that knows how jobs parse."""

    def of(module: Any) -> Job:
        def run(words: list[str]) -> Any:
            return module.main(tyro.cli(module.Config, args=words))

        return Job((module.Config,), run)

    def training_of(parse: Callable, options: type, job: type) -> Job:
        def run(words: list[str]) -> None:
            chosen = parse(words)
            chosen.check()
            assert chosen.folder
            start.process_arguments(chosen.coordinator, chosen.num_processes, chosen.process_id, {})

        return Job((options, job), run, weight=0.5)

    made = {
        "class_removal": of(class_removal),
        "calibration": of(calibration),
        "exact": of(exact),
        "study": of(study),
        "report": of(report),
        "bench": of(bench),
        "train.diffusion": training_of(
            train.parse_diffusion, train.DiffusionOptions, train.DiffusionJob
        ),
        "train.classifier": training_of(
            train.parse_classifier, train.ClassifierOptions, train.ClassifierJob
        ),
    }
    for name, job in hopfield.COMMANDS.items():
        made[f"hopfield {name}"] = Job((job,), hopfield.main, (name,), 0.2)
    return made


VALUES = (
    "0", "1", "2", "3", "-1", "7", "50", "64", "1000", "100000", "4294967296", "1" + "0" * 30,
    "18446744073709551616", "1.5", "-0.0", "0.5", "1e-300", "1e308", "1e400", "nan", "inf", "-inf",
    "", " ", "x", "None", "none", "True", "False", "\udcff", "ü", "digits", "mnist",
    "cifar10", "imagenet",
    "ddpm", "ddim", "pair", "odds", "classes", "exact", "unguided", "np=0.3", "np=nan", "np=", "=",
    "dng:", "dng:pair=5", "dng:x", "sld=-1", "reference", "reference=1", "heads", "label", "a/b",
    "../x", "/etc/passwd", "/dev/null", "/dev/zero", "x.npy", "none.safetensors", "curves", "path",
    "8,9",
    "1x1", "64x128", "0x0", "random", "equidistant", "ultrametric", "principal", "float16", "best",
    "[1]", "{}", "--", "-", "x" * 3000, "localhost:1", ":", "cpu", "gpu", "inception",
)  # fmt: skip


def options_of(configs: Sequence[type]) -> list[str]:
    """The options of dataclasses, those inside them included."""
    found = []
    for config in configs:
        hints = typing.get_type_hints(config, include_extras=True)
        for field in dataclasses.fields(config):
            hint, bare = hints[field.name], False
            if typing.get_origin(hint) is typing.Annotated:
                bare = any(getattr(m, "name", None) == "" for m in hint.__metadata__)
                hint = typing.get_args(hint)[0]
            if dataclasses.is_dataclass(hint):
                inner = options_of((typing.cast("type", hint),))
                found += inner if bare else [f"--{field.name}.{o[2:]}" for o in inner]
            else:
                found.append("--" + field.name.replace("_", "-"))
    return [*dict.fromkeys(found)]


def words_of(rng: Rng, job: Job, options: Sequence[str]) -> list[str]:
    """A command line that somebody might type."""
    words = list(job.words)
    for _ in range(rng.integers(0, 4)):
        name = str(rng.choice(options)) if rng.random() < 0.93 else str(rng.choice(VALUES))
        words.append(name)
        # No numpy string: it drops zero bytes and surrogates.
        words += [VALUES[i] for i in rng.integers(len(VALUES), size=rng.integers(0, 3))]
    return words


# ---- cases --------------------------------------------------------------------------------------
@contextlib.contextmanager
def alarmed(seconds: float) -> Iterator[None]:
    """HangError after so many seconds."""

    def ring(*_):
        raise HangError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(call: Callable[[], Any]) -> tuple[str, str]:
    """What a case came to, and the fault in words."""
    silent = io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(silent),
            contextlib.redirect_stderr(silent),
            warnings.catch_warnings(),
            np.errstate(all="ignore"),
            alarmed(SECONDS),
        ):
            warnings.simplefilter("ignore")
            call()
    except InputError as error:
        said = str(error)
        if "\n" in said or not said or len(said) > 4000:
            return "traceback", f"no sentence: {said[:200]!r}"
        return "refused", ""
    except SystemExit as error:
        if error.code in (0, None):
            return "right", ""
        return ("refused", "") if error.code == 2 else ("traceback", f"exit code {error.code}")
    except ReachedError:
        return "right", ""
    except HangError:
        return "hang", "".join(traceback.format_exc().splitlines()[-6:-1])[-300:]
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "site-packages" not in f.filename] or frames
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}"
        return "traceback", f"{type(error).__name__}: {str(error)[:160]!r} at {place}"
    return "right", ""


@contextlib.contextmanager
def stopped_jobs() -> Iterator[None]:
    """Jobs stop where they ask for devices, or for their folder."""

    def reached(*_, **__):
        raise ReachedError

    held = devices.select, runs.new_run_folder, attention.report
    # The last is where `hopfield attention` begins its work, before it has a folder.
    devices.select = runs.new_run_folder = attention.report = reached
    try:
        yield
    finally:
        devices.select, runs.new_run_folder, attention.report = held


def file_cases(count: int, seed: int, root: Path) -> Iterator[tuple[str, int, str, str]]:
    """(reader, case, outcome, fault) of mutated files."""
    made = readers(root)
    whole = {name: r.path.read_bytes() for name, r in made.items()}
    names = list(made)
    share = np.array([made[n].weight for n in names])
    for case in range(count):
        rng = np.random.default_rng([seed, case])
        name = names[rng.choice(len(names), p=share / share.sum())]
        reader = made[name]
        reader.path.write_bytes(reader.mutate(rng, whole[name]))
        found = outcome(lambda reader=reader: reader.read(reader.path))
        reader.path.write_bytes(whole[name])
        yield name, case, *found


def command_cases(count: int, seed: int) -> Iterator[tuple[str, int, str, str]]:
    """(job, case, outcome, fault and words) of command lines."""
    made = jobs()
    names = list(made)
    options = {name: [*options_of(made[name].configs), "--help"] for name in names}
    share = np.array([made[n].weight for n in names])
    with stopped_jobs():
        for case in range(count):
            rng = np.random.default_rng([seed, case, 1])
            name = names[rng.choice(len(names), p=share / share.sum())]
            job = made[name]
            words = words_of(rng, job, options[name])
            kind, fault = outcome(lambda job=job, words=words: job.run(words))
            shown = " ".join(w if len(w) < 40 else w[:37] + "..." for w in words)
            yield name, case, kind, f"{fault} | {shown}" if fault else ""


def run(
    files: int, commands: int, seed: int, seconds: float = float("inf")
) -> tuple[dict[str, Counter], list[str]]:
    """Counts per reader and job, and the faults; ends after so many seconds."""
    began = time.monotonic()
    counts: dict[str, Counter] = {}
    faults: list[str] = []
    before = Path.cwd()
    data.load("digits")  # what it imports is no case's time
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "cwd").mkdir()
        os.chdir(root / "cwd")
        try:
            for cases in (file_cases(files, seed, root), command_cases(commands, seed)):
                for reader, case, kind, fault in cases:
                    if time.monotonic() - began > seconds:
                        break
                    counts.setdefault(reader, Counter())[kind] += 1
                    if kind in ("traceback", "hang"):
                        faults.append(f"{reader}, seed {seed}, case {case}: {kind}: {fault}")
        finally:
            os.chdir(before)
    return counts, faults


def main() -> None:
    """Prints a line per reader and job, then every fault; exit code 1 where there is one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10000, help="cases, two thirds of them files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", type=int, help="of the cases; default: a third")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after so many")
    given = parser.parse_args()
    commands = given.count // 3 if given.commands is None else given.commands
    # A case that asks for too much memory fails, and does not take the machine with it.
    resource.setrlimit(resource.RLIMIT_AS, (64 << 30, resource.RLIM_INFINITY))
    began = time.monotonic()
    counts, faults = run(given.count - commands, commands, given.seed, given.seconds)
    kinds = ("right", "refused", "traceback", "hang")
    print(f"{'':26}" + "".join(f"{kind:>11}" for kind in kinds))
    total: Counter = sum(counts.values(), Counter())
    for name, found in [*counts.items(), ("all", total)]:
        print(f"{name:26}" + "".join(f"{found[kind]:11}" for kind in kinds))
    print(f"{total.total()} cases in {time.monotonic() - began:.0f} s")
    for fault in faults[:200]:
        print(fault.encode("ascii", "backslashreplace").decode())
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
