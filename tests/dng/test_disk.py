"""Files that appear whole or not at all; refusals of the disk in one sentence."""

import errno
import os
import subprocess
import sys

import pytest

from dng_jax import disk
from dng_jax.errors import InputError


def test_a_file_appears_when_its_block_ends(tmp_path):
    path = tmp_path / "sub" / "a.npz"
    with disk.whole(path) as part:
        assert part.suffix == ".npz"  # NumPy would append it
        part.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["a.npz"]


def test_a_failed_block_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted():
        with disk.whole(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("RESOURCE_EXHAUSTED: No space left on device"),  # as C++ reports it
    ],
)
def test_a_refusal_is_one_sentence_in_the_words_of_the_outermost_block(tmp_path, error):
    path = tmp_path / "a.txt"
    with pytest.raises(InputError) as caught, disk.whole(path):
        raise error
    assert str(caught.value) == (
        f"cannot write {path} (no space left on device): make room, or name another path"
    )
    with (
        pytest.raises(InputError) as caught,
        disk.refused("write the model", "then --resume"),
        disk.whole(path),
    ):
        raise error
    assert str(caught.value) == (
        "cannot write the model (no space left on device): make room, then --resume"
    )


def test_other_errors_pass_as_they_are(tmp_path):
    for error in (KeyError("a"), InputError("b"), FileNotFoundError(errno.ENOENT, "c")):
        with pytest.raises(type(error)) as caught, disk.whole(tmp_path / "a"):
            raise error
        assert caught.value is error


def test_what_dead_processes_left_is_swept_and_nothing_else(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = [
        f".model.safetensors.{gone.pid}-0a1b2c.safetensors",
        f".README.{gone.pid}-0a1b2c",
        f".a.csv.{os.getpid()}-0a1b2c.csv",  # of a job of the same number, in another container
    ]
    kept = [
        f".a.csv.{os.getppid()}-0a1b2c.csv",
        f".a.csv.{gone.pid}-0a1b2c.png",
        f".a.csv.{gone.pid}",
        f"a.csv.{gone.pid}-0a1b2c.csv",
    ]
    (tmp_path / "below").mkdir()
    for name in left + kept:
        (tmp_path / "below" / name).write_text("half")
    disk.sweep(tmp_path)
    assert sorted(p.name for p in (tmp_path / "below").iterdir()) == sorted(kept)
