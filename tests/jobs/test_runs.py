"""Run folders are never overwritten by accident; results are strict JSON; exit codes."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Annotated

import jax.numpy as jnp
import numpy as np
import pytest
import tyro

from dng_jax.errors import InputError, NonFiniteError
from dng_jax.experiments.rule_specs import TrackerOptions
from dng_jax.experiments.source import Source
from dng_jax.jobs import cli, options, runs, tables
from dng_jax.jobs.devices import Devices
from dng_jax.jobs.tables import Table
from dng_jax.metrics import class_report
from eval.bench import options as bench
from eval.calibration import options as calibration
from eval.class_removal import options as class_removal
from eval.exact import options as exact
from eval.hopfield import options as hopfield
from eval.study import options as study


@dataclasses.dataclass
class Config:
    """A job's settings."""

    out: Path
    steps: int = 50
    scales: tuple[float, ...] = (0.3, float("inf"))
    overwrite: bool = False


def test_a_new_folder_records_config_and_provenance(tmp_path):
    folder = runs.new_run_folder(tmp_path / "a" / "b", Config(Path("anywhere")))
    stored = json.loads((folder / "run.json").read_text())
    assert stored["config"]["scales"] == [0.3, "Infinity"]
    found = stored["provenance"]
    assert found["packages"]["jax"]
    assert found["device_count"] >= 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["time_utc"])
    assert found["git"] is None or re.fullmatch(r"[0-9a-f]{40}", found["git"]["commit"])


def test_a_folder_that_holds_anything_else_is_refused_and_left_alone(tmp_path):
    folder = runs.new_run_folder(tmp_path / "run", Config(tmp_path, steps=50))
    (folder / "result.json").write_text("1")
    first = json.loads((folder / "run.json").read_text())["provenance"]
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    refused = r"holds another run \(steps 50, not 51\): choose another --out$"
    for overwrite in (False, True):
        with pytest.raises(InputError, match=refused):
            runs.new_run_folder(folder, Config(tmp_path, steps=51), overwrite=overwrite)
    with pytest.raises(InputError, match="already holds this run"):
        runs.new_run_folder(folder, Config(tmp_path))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    # `out` and `overwrite` themselves do not make it another run; earlier results stay.
    again = Config(tmp_path / "elsewhere", overwrite=True)
    assert runs.new_run_folder(folder, again, overwrite=True) == folder
    sessions = json.loads((folder / "run.json").read_text())["sessions"]
    assert [s["time_utc"] for s in sessions[:1]] == [first["time_utc"]]
    assert len(sessions) == 2
    assert (folder / "result.json").read_text() == "1"


def test_a_field_that_came_later_had_its_default_before(tmp_path):
    @dataclasses.dataclass
    class Network:
        width: int
        pool: int = 1

    @dataclasses.dataclass
    class Job:
        network: Network
        without: str | None = None

    folder = runs.new_run_folder(tmp_path / "run", {"network": {"width": 8}})
    assert runs.new_run_folder(folder, Job(Network(8)), overwrite=True) == folder
    folder = runs.new_run_folder(tmp_path / "older", {"network": {"width": 8}})
    for other in (Job(Network(8, pool=2)), Job(Network(9)), Job(Network(8), "a")):
        with pytest.raises(InputError, match="holds another run"):
            runs.new_run_folder(folder, other, overwrite=True)


def test_three_fields_that_differ_are_named_wherever_they_lie(tmp_path):
    config = {"network": {"channels": 8, "kind": "unet"}, "a": 1, "b": None, "c": [1], "d": "x"}
    folder = runs.new_run_folder(tmp_path / "run", config)
    other = {"network": {"channels": 16, "kind": "unet"}, "a": 1, "c": [2], "d": "y"}
    with pytest.raises(InputError) as caught:
        runs.new_run_folder(folder, other)
    told = "network.channels 8, not 16; b null, not unset; c [1], not [2]; ..."
    assert f"holds another run ({told}): choose" in str(caught.value)


def test_a_full_disk_is_one_sentence_and_other_faults_keep_their_traceback(tmp_path, monkeypatch):
    def refuse(number):
        def write_text(path, *_, **__):
            raise OSError(number, os.strerror(number), str(path))

        monkeypatch.setattr(Path, "write_text", write_text)

    refuse(errno.ENOSPC)
    with pytest.raises(
        InputError,
        match=r"run.json \(no space left on device\): make room, or choose another --out",
    ):
        runs.new_run_folder(tmp_path / "run", {"steps": 1})
    refuse(errno.EACCES)
    with pytest.raises(InputError, match=r"r.json \(permission denied\): see to the folder"):
        runs.write_json(tmp_path / "r.json", 1)
    refuse(errno.EMFILE)
    with pytest.raises(OSError, match="Too many open files"):
        runs.write_json(tmp_path / "r.json", 1)


def test_a_job_killed_before_its_run_json_was_whole_leaves_the_folder_free(tmp_path):
    (tmp_path / ".run.json.4711").write_text('{"config": {"st')
    assert runs.new_run_folder(tmp_path, Config(tmp_path)) == tmp_path
    with pytest.raises(InputError, match="already holds this run"):
        runs.new_run_folder(tmp_path, Config(tmp_path))


@pytest.mark.parametrize("name", ["thesis.txt", "run.json"])
def test_foreign_files_are_refused_even_with_overwrite(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="another run"):
        runs.new_run_folder(tmp_path, {"steps": 1}, overwrite=True)
    assert (tmp_path / name).read_text() == "mine"


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="cannot make the folder"):
            runs.new_run_folder(path, {})


def test_git_of_a_folder_inside_another_checkout_is_none(tmp_path):
    (tmp_path / "inner").mkdir()
    assert runs.checkout(tmp_path) is None
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert runs.checkout(tmp_path / "inner") is None


def test_json_is_strict_and_whole(tmp_path):
    value = {
        "nan": float("nan"),
        "inf": np.float32(-np.inf),
        "array": np.array([[1.0, np.nan]]),
        "jax": jnp.arange(2, dtype=jnp.bfloat16),
        "count": np.int64(3),
        "flag": np.bool_(True),
        7: Path("a/b"),
        "report": class_report(np.array([1, 9, 9]), np.array([False, True, True])).leak,
    }
    path = runs.write_json(tmp_path / "r.json", value)
    read = json.loads(path.read_text(), parse_constant=lambda c: pytest.fail(f"not JSON: {c}"))
    assert read["nan"] is None
    assert read["inf"] == "-Infinity"
    assert read["array"] == [[1.0, None]]
    assert read["jax"] == [0.0, 1.0]
    assert (read["count"], read["flag"], read["7"]) == (3, True, "a/b")
    assert read["report"]["count"] == 1
    before = path.read_text()
    with pytest.raises(InputError, match="cannot write object"):
        runs.write_json(path, {"x": object()})
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("steps must be > 0"), 2),
        (NonFiniteError("step 3"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes_and_one_sentence(capsys, error, code):
    def job():
        raise error

    with pytest.raises(SystemExit) as left:
        cli.main(job)
    assert left.value.code == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert str(error) in captured.err


def test_faults_keep_their_traceback_and_success_returns():
    with pytest.raises(ZeroDivisionError):
        cli.main(lambda: 1 / 0)
    assert cli.main(lambda: 1) is None


def test_a_warning_is_one_sentence_said_once(capsys):
    def job():
        for text in ("old weights:\n  train\x1b again", "old weights: train\x1b again", "another"):
            warnings.warn(text, UserWarning, stacklevel=1)
        warnings.warn("overflow", RuntimeWarning, stacklevel=1)

    with warnings.catch_warnings(record=True) as others:
        warnings.simplefilter("always")
        before = warnings.showwarning
        cli.main(job)
        assert warnings.showwarning is before
    assert capsys.readouterr().err == ("warning: old weights: train\\x1b again\nwarning: another\n")
    assert [str(other.message) for other in others] == ["overflow"]  # a fault, shown as ever


def test_table_gives_markdown_and_prints_intervals(capsys):
    table = Table("leak", ["rule", "KL(q||g)", "leak [95%]"])
    table.add("pair", np.float32(0.123456), "[0.1, 0.2]")
    table.add("classes", float("nan"), None)
    with pytest.raises(InputError, match="3 cells"):
        table.add("short")
    assert table.markdown() == (
        "| rule | KL(q\\|\\|g) | leak [95%] |\n| :-- | --: | --: |\n"
        "| pair | 0.1235 | [0.1, 0.2] |\n| classes | – | – |\n"
    )
    table.add("x" * 90, 1, 2)
    table.print()
    printed = capsys.readouterr().out
    assert "[0.1, 0.2]" in printed  # not taken for markup
    assert "x" * 90 in printed  # a pipe is not 80 columns wide


def test_records_become_tables_and_csv(tmp_path):
    records = [{"N": 3, "K": np.array([1.0, 2.0])}, {"N": 5, "K": np.array([0.1])}]
    table = tables.Table.of("t", records, {"N": "N", "first": lambda r: r["K"][0]})
    assert table.rows == [("3", "1"), ("5", "0.1")]
    path = tables.write_csv(tmp_path / "t.csv", records)
    assert path.read_text() == "N,K\n3,1.0\n3,2.0\n5,0.1\n"
    assert tables.write_csv(path, records, ["K"]).read_text() == "K\n1.0\n2.0\n0.1\n"


def test_options_below_their_bound_are_named():
    with pytest.raises(InputError, match=r"--log-every must be at least 1, got 0$"):
        options.at_least(1, steps=3, log_every=0)
    with pytest.raises(InputError, match="got nan"):
        options.at_least(0, decay=float("nan"))
    with pytest.raises(InputError, match=r"^--network.head-channels must"):
        options.at_least(1, examples=None, **{"network.head_channels": 0})


@dataclasses.dataclass(frozen=True)
class Nested:
    network: str = "heads"
    negatives: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Flags:
    scale_shift: bool = True


@dataclasses.dataclass(frozen=True)
class Asked:
    forbid: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    steps: int = 50
    inner: Annotated[Nested, tyro.conf.arg(name="")] = Nested()
    fast: bool = False
    other: Nested = Nested()
    flags: Flags = Flags()
    dataset: str = "digits"
    run: options.RunOptions = dataclasses.field(default_factory=options.RunOptions)


def test_networks_of_each_class_keep_the_folder_that_tells_them_apart():
    nested = Nested("/data/a.safetensors", ("/data/only-{k}/model.safetensors",))
    asked = dataclasses.replace(Asked(), inner=nested)
    said = options.command("job", asked, Asked())
    assert said == "job --network a.safetensors --negatives 'only-{k}/model.safetensors'"


def test_a_mapping_gets_the_fields_that_came_after_it_was_written(tmp_path):
    identity = {"job": "study", "source": Nested("label")}
    runs.new_run_folder(tmp_path / "r", identity)
    file = tmp_path / "r/run.json"
    stored = json.loads(file.read_text())
    del stored["config"]["source"]["negatives"]
    file.write_text(json.dumps(stored))
    runs.new_run_folder(tmp_path / "r", identity, overwrite=True)
    other = identity | {"source": Nested("label", ("b",))}
    with pytest.raises(InputError, match="holds another run"):
        runs.new_run_folder(tmp_path / "r", other, overwrite=True)


def test_the_command_that_repeats_a_run_names_what_differs_and_no_folder():
    nested = Nested("/data/a.safetensors", ("/data/b.safetensors", "c.safetensors"))
    other, run = Nested("label"), options.RunOptions("/data/run", overwrite=True)
    asked = Asked(("3", "8"), 20, nested, True, other, Flags(False), "a/b:1.0.0", run)
    again = options.command("python -m job", asked, Asked())
    assert again == (
        "python -m job --forbid 3 --forbid 8 --steps 20 --network a.safetensors"
        " --negatives b.safetensors c.safetensors --fast --other.network label"
        " --flags.no-scale-shift --dataset a/b:1.0.0"
    )
    assert (
        options.command("python -m job", tyro.cli(Asked, args=again.split()[3:]), Asked()) == again
    )
    assert options.command("python -m job", Asked(), Asked()) == "python -m job"
    assert options.command("python -m job", Asked(), asked).count(" --no-fast ") == 1


def job_configs():
    tracked = ("unguided", "interval(0.1,5,dng=2)", "reject:pair=1.2,calibration=c.json")
    source = Source(network="my net.safetensors", negatives=("a.safetensors", "b.safetensors"))
    yield class_removal.Config(forbid=("a b", "3"), rules=tracked, source=source)
    yield class_removal.Config(options=TrackerOptions(delta=-1e-5), calibration=None, seeds=(1, 2))
    yield study.Config(families=tracked[1:], calibration="c.json", parts=("curves",), seeds=(4, 5))
    yield calibration.Config(dataset="a/b:1.0.0", samplers=("ddim",), trackers=("pair", "odds"))
    yield exact.Config(seed=3, samples=10)
    yield bench.Config("throughput", networks=("mnist", "cifar10:label"))
    yield bench.Config(devices=Devices("cpu", 2), steps=3)
    of_file = {"file": "f.safetensors", "key": "layer/attention/k", "heads": 2}
    given = {"attention": of_file, "capacity": {"sizes": (), "energies": ("dot", "euclidean")}}
    given |= {"landscape": {"at": (1.5, 2e-7)}, "spectrum": {"source": hopfield.Source("p.npy")}}
    for name, options_of in hopfield.COMMANDS.items():
        yield options_of(seed=3, **given.get(name, {}))


@pytest.mark.parametrize("config", tuple(job_configs()), ids=lambda c: type(c).__module__)
def test_the_command_that_a_job_records_is_read_back_as_the_same_run(config):
    words = options.command("python -m job", config, type(config)())
    assert tyro.cli(type(config), args=shlex.split(words)[3:]) == config


def test_folders_are_cut_where_a_file_is_named_and_nowhere_else():
    rules = ("np=.3", "reject:pair=1.2,calibration=/data/cal/c.json,drift=1", "own.rules:a=2")
    asked = class_removal.Config(forbid=("a b",), rules=rules)
    assert options.command("dng class-removal", asked, class_removal.Config()) == (
        "dng class-removal --forbid 'a b'"
        " --rules np=.3 reject:pair=1.2,calibration=c.json,drift=1 own.rules:a=2"
    )
    asked = hopfield.Attention(file="/data/f.safetensors", key="h/0/k")
    assert options.command("x", asked, hopfield.Attention()) == "x --file f.safetensors --key h/0/k"


def test_a_job_inside_another_is_named_as_itself(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dng study"])
    assert options.program("eval.calibration") == "dng calibration"
    assert options.program("eval.study.report") == "dng study report"
    monkeypatch.setattr(sys, "argv", ["/somewhere/__main__.py"])
    assert options.program("eval.class_removal") == "python -m eval.class_removal"


def test_options_that_name_nothing_or_something_twice_are_named():
    options.distinct(seeds=(1, 2))
    with pytest.raises(InputError, match=r"name at least one of --part-seeds"):
        options.distinct(part_seeds=())
    with pytest.raises(InputError, match=r"--seeds 1 2 1 names something twice"):
        options.distinct(seeds=(1, 2, 1))
