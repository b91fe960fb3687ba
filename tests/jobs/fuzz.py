"""Mutated files, command lines and rules, over every reader and job: a sentence or what is right.

    python -m tests.jobs.fuzz --count 10000 --seed 0

Everything runs in this process, each case under an alarm. Files are mutated blindly (bits, cuts,
blocks) and knowingly: a header or a JSON value is parsed, one node replaced, and the rest written
as it was, checksums of a zip file included. Command lines draw options of a job and values that
somebody might type, rules with a slip of the pen among them; a job counts as reached when it asks
for its folder, all of its checks behind it. Of the big data sets it sees a few images.

What a case can come to:

    right        a job was reached; a rule was built, and its words are read back as the same; what
                 was read is what the file's checksum or another reader says that it holds
    returned     a reader returned, and nothing says what it should have
    refused      InputError in one line, or exit code 2
    wrong, traceback, hang      faults; their seeds are printed
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import gzip
import hashlib
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
import pytest
import tyro
from safetensors.numpy import save_file

from dng_jax import arrays, cli, data, nets, steps, training, weights
from dng_jax.data import network, raw
from dng_jax.errors import InputError
from dng_jax.experiments import calibrations, problems, rule_builders, rule_specs
from dng_jax.experiments.problems import Problem
from dng_jax.experiments.rule_specs import TrackerOptions
from dng_jax.experiments.source import Source
from dng_jax.jobs import cli as programs
from dng_jax.jobs import page, processes, runs
from dng_jax.jobs.coordinator import Coordinator
from dng_jax.jobs.worker import Worker
from dng_jax.metrics import Reference
from dng_jax.training.checkpoints import Checkpoints
from dng_jax.weights import pretrained, tensors
from eval.bench import job as bench
from eval.calibration import job as calibration
from eval.class_removal import job as class_removal
from eval.exact import job as exact
from eval.hopfield import __main__ as hopfield
from eval.hopfield import sets
from eval.study import cells, plan, report
from eval.study import job as study
from eval.text_to_image import job as text_to_image
from hopfield_jax import attention, projections
from tests import diffusers_reference
from train import logs
from train import options as train
from train.classifier import job as train_classifier
from train.diffusion import job as train_diffusion

FAULTS = ("wrong", "traceback", "hang")
SECONDS = 20.0  # of one case: importing and compiling what it needs may take some
Rng = np.random.Generator


class HangError(BaseException):
    """The alarm of a case."""


class ReachedError(BaseException):
    """A job's checks are passed."""


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


def text_of(rng: Rng, text: str) -> str:
    """A word with a slip of the pen, or with another's end."""
    at, char = int(rng.integers(len(text) + 1)), SLIPS[rng.integers(len(SLIPS))]
    match rng.integers(5):
        case 0:
            return text[:at] + char + text[at:]
        case 1:
            return text[:at] + text[at + 1 :]
        case 2:
            return text[:at] + char + text[at + 1 :]
        case 3:
            end = at + int(rng.integers(1, 8))
            return text[:end] + text[at:]
    other = RULES[rng.integers(len(RULES))]
    return text[:at] + other[int(rng.integers(len(other))) :]


# ---- what a file holds --------------------------------------------------------------------------
# (result, content, result of the unmutated file, its content) -> whether the result is the one that
# the content says; None where nothing can be said.
Right = Callable[[Any, bytes, Any, bytes], "bool | None"]


def plain(value: Any) -> Any:
    """Of nested values and arrays, bit for bit, what can be compared."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple | list):
        return [plain(inner) for inner in value]
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    if isinstance(value, np.ndarray | jax.Array):
        array = np.asarray(value)
        return array.shape, str(array.dtype), array.tobytes()
    return repr(value)


def by_checksum(result: Any, content: bytes, expected: Any, whole: bytes) -> bool | None:
    """A safetensors file that still has its checksum holds what it held; of another, the numbers of
    every array lie in it."""

    def checksum(content: bytes) -> Any:
        end = 8 + int.from_bytes(content[:8], "little")
        try:
            return json.loads(content[8:end])["__metadata__"]["sha256"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return None

    if checksum(content) == checksum(whole):
        return plain(result) == plain(expected)
    if not isinstance(result, tuple):  # a reference, whose numbers are derived from those stored
        return None
    held = jax.tree.leaves(result)
    found = [x.tobytes() for x in held if isinstance(x, np.ndarray)]
    return all(x in content for x in found) if found else None


def by_crc(result: Any, content: bytes, expected: Any, whole: bytes) -> bool | None:
    """A zip file that lists the parts, sizes and CRC-32s that it listed holds what it held."""

    def listed(content: bytes) -> Any:
        with zipfile.ZipFile(io.BytesIO(content)) as held:
            return {part.filename: (part.CRC, part.file_size) for part in held.infolist()}

    return plain(result) == plain(expected) if listed(content) == listed(whole) else None


def by_numpy(result: Any, content: bytes, *_: Any) -> bool | None:
    """As np.load reads it."""
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception:
        return None
    if isinstance(result, sets.PatternSet):
        return np.array_equal(array, result.patterns) if array.dtype.kind == "f" else None
    return plain(array) == plain(result)


def by_json(result: Any, content: bytes, *_: Any) -> bool:
    """A calibration is what its text says."""
    stored = json.loads(content)
    same = all(
        list(getattr(one, part)) == stored["trackers"][name][part]
        for name, one in result.trackers.items()
        for part in one._fields
    )
    names = ("dataset", "network", "sampler", "steps")
    return same and all(getattr(result, name) == stored[name] for name in names)


# ---- readers ------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Reader:
    """A file that was right, what is done to it, and who reads it. weight: of how many cases;
    right: whether what was read is right, where that can be said."""

    path: Path
    mutate: Callable[[Rng, bytes], bytes]
    read: Callable[[Path], Any]
    weight: float = 1.0
    right: Right | None = None


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

    ddpm = diffusers_reference.write(
        root / "ddpm", diffusers_reference.weights(diffusers_reference.shapes("small"))
    )

    layer = root / "layer.safetensors"
    save_file(
        {
            "key.weight": rng.normal(size=(8, 6)).astype(np.float32),
            "query.weight": rng.normal(size=(8, 6)).astype(np.float16),
            "hidden": rng.normal(size=(5, 6)).astype(np.float32),
        },
        layer,
    )

    def attend(path: Path) -> Any:
        x = projections.read_tensor(path, "hidden", (2,))
        return projections.project(path, x, heads=2, key="key.weight", query="query.weight")

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
    (folder / "a.png").write_bytes(page.PNG + b"picture")
    runs.write_json(folder / "results.json", facts)

    labels = struct.pack(">II", 2049, 9) + bytes(range(9))
    images = struct.pack(">IIII", 2051, 9, 2, 2) + rng.bytes(36)
    (root / "labels.idx").write_bytes(labels)
    (root / "images.gz").write_bytes(gzip.compress(images))
    packed = (root / "images.gz").read_bytes()
    official = raw.File(len(packed), hashlib.sha256(packed).hexdigest())

    with pretrained.path("digits-classifier") as beside:
        fitted = beside.with_name("digits-heads.calibration.json").read_bytes()
    (root / "fitted.json").write_bytes(fitted)

    states = root / "states"
    fresh = training.init_state(
        module, training.make_optimiser(4, 1e-3, 0, 0, 1), jax.random.key(0)
    )
    with Checkpoints(states, nets.describe(module)) as kept:
        kept.save(fresh._replace(step=jax.numpy.int32(1)), 0.5)
        kept.save(fresh._replace(step=jax.numpy.int32(2)), 0.4)

    def resume(path: Path) -> Any:
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
            return opened.restore(fresh)

    def resumed(result: Any, *_: Any) -> bool | None:
        if result is None:  # no state was left
            return None
        state, step = result[0], int(result[0].step)
        same = plain(state._replace(step=fresh.step)) == plain(fresh)
        return same and step in (1, 2)

    (root / "choice.bin").write_bytes(rng.bytes(8))

    def again(result: Path, *_: Any) -> bool:
        return (runs.read_run(result) or {})["config"] == {"steps": 1}

    return {
        "model": Reader(model, safetensors_of, weights.load, 3, by_checksum),
        "diffusers": Reader(
            ddpm / "config.json", json_of, lambda p: weights.diffusers.load_folder(p.parent)
        ),
        "reference": Reader(reference, safetensors_of, Reference.load, 2, by_checksum),
        "safetensors": Reader(reference, safetensors_of, tensors.read, 1, by_checksum),
        "attention": Reader(layer, safetensors_of, attend, 2),
        "npy": Reader(root / "x.npy", npy_of, arrays.read_npy, 2, by_numpy),
        "patterns": Reader(
            root / "x.npy", npy_of, lambda p: sets.build(sets.Source(str(p))), 2, by_numpy
        ),
        "calibration": Reader(root / "fitted.json", json_of, calibrations.load, 3, by_json),
        "cell": Reader(
            root / "cells" / f"{cell.name}.npz", npz_of, lambda p: cells.load(root, cell), 3, by_crc
        ),
        "results": Reader(
            folder / "results.json", json_of, lambda p: report.main(report.Config(p.parent)), 3
        ),
        "run.json": Reader(
            folder / "run.json",
            json_of,
            lambda p: runs.new_run_folder(p.parent, {"steps": 1}, overwrite=True),
            0.1,  # git is asked each time
            again,
        ),
        "metrics": Reader(
            folder / "metrics.jsonl", json_of, lambda p: logs.average_of_last(p.parent)
        ),
        "idx": Reader(
            root / "labels.idx",
            bytes_of,
            lambda p: raw.idx(p.read_bytes()),
            1,
            lambda result, content, *_: content.endswith(result.tobytes()),
        ),
        "idx.gz": Reader(
            root / "images.gz",
            gz_of,
            lambda p: raw.read_file(p, official),
            0.5,
            lambda result, _, expected, __: result == expected,
        ),
        "states": Reader(root / "choice.bin", lambda rng, _: rng.bytes(8), resume, 0.1, resumed),
    }


# ---- jobs ---------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Job:
    """draw: words that somebody might type; run: parses and checks them. weight: of how many
    cases."""

    draw: Callable[[Rng], list[str]]
    run: Callable[[list[str]], Any]
    weight: float = 1.0


def jobs() -> dict[str, Job]:
    """Every job's parser and checks; the one place that knows how jobs parse."""

    def of(module: Any, weight: float = 1.0) -> Job:
        def run(words: list[str]) -> Any:
            return module.main(tyro.cli(module.Config, args=words))

        return Job(drawn_from(module.Config), run, weight)

    def training_of(parse: Callable, module: Any, *configs: type) -> Job:
        return Job(drawn_from(*configs), lambda words: module.run(parse(words)), 0.7)

    made = {
        "class_removal": of(class_removal, 3),
        "calibration": of(calibration, 1.5),
        "exact": of(exact, 0.3),
        "study": of(study, 2),
        "report": of(report, 0.2),
        "bench": of(bench, 0.3),
        "text_to_image": of(text_to_image, 1),
        "train.diffusion": training_of(
            train.parse_diffusion, train_diffusion, train.DiffusionOptions, train.DiffusionJob
        ),
        "train.classifier": training_of(
            train.parse_classifier, train_classifier, train.ClassifierOptions, train.ClassifierJob
        ),
        "dng": Job(named, cli.main, 2),
        "rules": Job(lambda rng: [*ruled(rng, RULES), str(rng.integers(2))], build_rule, 3),
        "families": Job(lambda rng: [*ruled(rng, FAMILIES), str(rng.integers(2))], build_family, 2),
    }
    for name, job in hopfield.COMMANDS.items():
        made[f"hopfield {name}"] = Job(drawn_from(job, first=(name,)), hopfield.main, 0.2)
    return made


def drawn_from(*configs: type, first: Sequence[str] = ()) -> Callable[[Rng], list[str]]:
    """Draws command lines of options of these dataclasses, after words that are always there."""
    options = [*options_of(configs), "--help"]
    return lambda rng: [*first, *words_of(rng, options)]


def named(rng: Rng) -> list[str]:
    """Words of `dng`: a job, or nearly one, and what may follow it."""
    first = [*cli.JOBS, "completion", "--version", "--help", "report", "train", "hopfield spectrum"]
    name = first[rng.integers(len(first))]
    name = text_of(rng, name) if rng.random() < 0.4 else name
    return [*name.split(" "), *words_of(rng, ["--seed", "--dataset", "--steps", "--out", "--help"])]


def ruled(rng: Rng, texts: Sequence[str]) -> list[str]:
    """A rule, mostly with slips, and a tracker."""
    text = texts[rng.integers(len(texts))]
    for _ in range(rng.integers(0, 3)):
        text = text_of(rng, text)
    return [text, rule_specs.TRACKERS[rng.integers(len(rule_specs.TRACKERS))]]


@functools.cache
def digits(exact: bool) -> Problem:
    """What rules are built for."""
    return problems.make("digits", ("3", "8"), Source("exact" if exact else "network"))


def build_rule(words: list[str]) -> bool:
    """Whether the rule's own words are read back as the same; builds it."""
    text, tracker, exact = words
    spec = rule_specs.parse(text, tracker)
    rule_builders.build(spec, digits(exact == "1"), TrackerOptions(), "ddpm", 50)
    return rule_specs.parse(str(spec)) == spec


def build_family(words: list[str]) -> bool:
    """The same for every scale of a study's family, with and without a calibration."""
    text, _, exact = words
    same = True
    for families in ((text,), plan.calibrated((text,), "bundled")):
        for family, scales in plan.grids_of(families).items():
            spec = rule_specs.parse(family)
            same &= spec.family == family
            for scale in scales:
                rule = spec.with_scale(scale)
                rule_builders.build(rule, digits(exact == "1"), TrackerOptions(), "ddpm", 50)
                same &= rule_specs.parse(str(rule)) == rule
    return same


SLIPS = (*",=:().-+_ 0159eEn\0\n", "\udcff", "ü", "nan", "inf", "1e400", "/", "9" * 400)
RULES = (
    "unguided", "np=0.3", "sld=0.5", "cfg=1.5", "feedback=0.9,tau=2,offset=1",
    "feedback=0.5,t0=0.7,t1=0.3", "dng=1", "dng:pair=5,tau=.2,drift=.5,prior=.01",
    "dng:odds,delta=0.002", "dng:classes-model=2", "dng:exact", "reject:pair=1.2,calibration=none",
    "reject=2,tau=0.5", "reference", "retrained", "interval(0.1,5,dng:pair=2)",
    "interval(0,inf,np=1)",
    "dng:pair,calibration=bundled", "dng:odds=2,calibration=fitted.json", "my_rules:soft=2",
    "json:loads=1", "math:sqrt",
)  # fmt: skip
FAMILIES = (
    "np", "sld=1,0.5", "dng:pair=1,3,10", "dng:pair=2,tau=0.5", "dng:classes=1,2,4",
    "interval(0.1,5,dng:pair=1,2)", "interval(0.1,5,np)", "cfg=1,2", "dng:odds,prior=0.2",
    "reject:pair=1.2,2,calibration=bundled", "feedback=0.5,0.9,tau=1", "dng:pair=1,drift=.5,2",
)  # fmt: skip
MODELS = ("small.safetensors", "digits.safetensors", "none.safetensors", "x.npy", "ddpm")
FOLDERS = ("folder:.", "folder:shapes", "folder:shapes/@8", "folder:shapes@4096", "folder:x.npy")
# What a person most likely gives an option, by its last word.
LIKELY: dict[str, tuple[str, ...]] = {
    "dataset": ("digits", "mnist", "cifar10", *FOLDERS),
    "network": ("bundled", "heads", "label", "digits-label", "cifar10-label", *MODELS),
    "negatives": (*MODELS, "{k}.safetensors"),
    "retrained": (*MODELS, "{k}.safetensors"),
    "classifier": MODELS,
    "init": MODELS,
    "file": ("layer.safetensors",),
    "denoiser": ("exact", "network"),
    "features": ("classifier", "inception"),
    "forbid": ("0", "3", "9", "10", "zero"),
    "sampler": (*steps.TABLES,),
    "samplers": (*steps.TABLES,),
    "steps": ("1", "5", "50", "1000"),
    "rules": RULES,
    "rule": (*RULES, "np=1.7", "sld=1", "dng:pair=5,tau=.2"),
    "model": (".", "tiny", "owner/name"),
    "variant": ("a", "nested", "raw"),
    "size": ("64", "8x12"),
    "branches": ("map",),
    "study": ("paper",),
    "families": FAMILIES,
    "parts": plan.PARTS,
    "tracker": rule_specs.TRACKERS,
    "trackers": rule_specs.FITTED,
    "calibration": ("bundled", "fitted.json", "none", "x.npy"),
    "save-images": ("png", "npz"),
    "preset": ("digits", "mnist-small", "mnist", "fashion_mnist"),
    "conditioning": ("heads", "label", "none"),
    "patterns": ("random", "ultrametric", "digits", "mnist", "x.npy"),
    "data-dir": (".", "/work"),
    "platform": ("cpu", "gpu"),
    "dtype": ("float16", "float32"),
    "norm": ("none", "batch"),
    "momentum": ("0.9", "1"),
}


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


def words_of(rng: Rng, options: Sequence[str]) -> list[str]:
    """Options and values that somebody might type."""
    words = []
    for _ in range(rng.integers(0, 5)):
        # No numpy string: it drops zero bytes and surrogates.
        known = rng.random() < 0.95
        name = options[rng.integers(len(options))] if known else VALUES[rng.integers(len(VALUES))]
        words.append(name)
        likely = LIKELY.get(name.removeprefix("--").rpartition(".")[2], ())
        if likely and rng.random() < 0.75:
            value = likely[rng.integers(len(likely))]
            words.append(text_of(rng, value) if rng.random() < 0.2 else value)
        else:
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
            found = call()
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
    if found is False:
        return "wrong", "another result than the one of the whole file"
    return ("right" if found is True else "returned"), ""


@contextlib.contextmanager
def stopped_jobs() -> Iterator[None]:
    """Jobs stop where they ask for their folder; no network is there, and few images."""

    def reached(*_, **__):
        raise ReachedError

    def offline(url: str) -> None:
        raise OSError("no network in a test")

    whole = data.load

    @functools.cache
    def some(name: str, split: str, folder: str | None) -> Any:
        images, labels, info = whole(name, split)
        return images[:500], labels[:500], info

    def few(name: str, split: str = "all", **_: Any) -> Any:
        return some(name, split, os.environ.get("DNG_JAX_DATA"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "new_run_folder", reached)
        # Work that comes before the folder: `hopfield attention`, and joining other processes.
        patch.setattr(attention, "report", reached)
        patch.setattr(processes, "join", reached)
        patch.setattr(Coordinator, "__enter__", reached)
        patch.setattr(Worker, "__enter__", reached)
        patch.setattr(network, "check", offline)
        patch.setitem(sys.modules, "huggingface_hub", None)
        patch.setattr(data, "load", few)
        patch.setattr(programs, "start", programs.main)  # the other would take the streams
        yield


@contextlib.contextmanager
def as_before() -> Iterator[None]:
    """What a job changes of its process is changed back."""
    environment, argv, path = dict(os.environ), sys.argv[:], sys.path[:]
    platforms = jax.config.values["jax_platforms"]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        sys.argv[:], sys.path[:] = argv, path
        jax.config.update("jax_platforms", platforms)


def file_cases(count: int, seed: int, root: Path) -> Iterator[tuple[str, int, str, str]]:
    """(reader, case, outcome, fault) of mutated files."""
    made = readers(root)
    whole = {name: r.path.read_bytes() for name, r in made.items()}
    expected: dict[str, Any] = {}
    names = list(made)
    share = np.array([made[n].weight for n in names])
    for case in range(count):
        rng = np.random.default_rng([seed, case])
        name = names[rng.choice(len(names), p=share / share.sum())]
        reader = made[name]
        if reader.right and name not in expected:
            expected[name] = reader.read(reader.path)
        content = reader.mutate(rng, whole[name])

        known = (content, expected.get(name), whole[name])

        def read(reader=reader, known=known):
            found = reader.read(reader.path)
            return reader.right(found, *known) if reader.right else None

        reader.path.write_bytes(content)
        kind, fault = outcome(read)
        reader.path.write_bytes(whole[name])
        yield name, case, kind, fault


def command_cases(count: int, seed: int, root: Path) -> Iterator[tuple[str, int, str, str]]:
    """(job, case, outcome, fault and words) of command lines, given in a folder below root."""
    made = jobs()
    with pretrained.path("digits-classifier") as path:
        shutil.copy(path, root / "cwd" / "digits.safetensors")
    for file, there in {"m": "small", "layer": "layer"}.items():
        shutil.copy(root / f"{file}.safetensors", root / "cwd" / f"{there}.safetensors")
    shutil.copytree(root / "ddpm", root / "cwd" / "ddpm")
    for file in ("fitted.json", "x.npy"):
        shutil.copy(root / file, root / "cwd")
    names = list(made)
    share = np.array([made[n].weight for n in names])
    digits(False), digits(True)  # what they compile is no case's time
    with stopped_jobs():
        for case in range(count):
            rng = np.random.default_rng([seed, case, 1])
            name = names[rng.choice(len(names), p=share / share.sum())]
            job = made[name]
            words = job.draw(rng)
            with as_before():
                kind, fault = outcome(lambda job=job, words=words: job.run(words))
            shown = " ".join(w if len(w) < 60 else w[:57] + "..." for w in words)
            yield name, case, kind, f"{fault} | {shown!r}" if fault else ""


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
            for cases in (file_cases(files, seed, root), command_cases(commands, seed, root)):
                for reader, case, kind, fault in cases:
                    if time.monotonic() - began > seconds:
                        break
                    counts.setdefault(reader, Counter())[kind] += 1
                    if kind in FAULTS:
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
    kinds = ("right", "returned", "refused", *FAULTS)
    print(f"{'':22}{'cases':>9}" + "".join(f"{kind:>11}" for kind in kinds))
    total: Counter = sum(counts.values(), Counter())
    for name, found in [*counts.items(), ("all", total)]:
        print(f"{name:22}{found.total():9}" + "".join(f"{found[kind]:11}" for kind in kinds))
    print(f"{total.total()} cases, seed {given.seed}, in {time.monotonic() - began:.0f} s")
    for fault in faults[:200]:
        print(fault.encode("ascii", "backslashreplace").decode())
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
