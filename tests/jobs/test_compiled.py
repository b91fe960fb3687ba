"""Where compiled programs are kept, and that nothing else is touched."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from dng_jax.jobs import compiled
from dng_jax.jobs.devices import Devices

NAME = "JAX_COMPILATION_CACHE_DIR"


@pytest.fixture
def home(monkeypatch, tmp_path):
    for name in [*os.environ]:
        if name.startswith(("JAX_COMPILATION_CACHE", "JAX_ENABLE_COMP", "JAX_PERSISTENT")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_programs_are_kept_below_the_cache_of_the_user(home, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", {**os.environ})
        compiled.keep()
        place = Path(os.environ[NAME])
        assert place.is_dir()
        assert place == compiled.folder()
        assert place.is_relative_to(home / "dng-jax" / "compiled")
        assert all(p.stat().st_mode & 0o077 == 0 for p in (place, place.parent))
        assert "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ


def test_the_oldest_make_room(tmp_path):
    for age, name in enumerate(("a/new", "b/middle", "a/old")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(10))
        os.utime(path, (1e9 - age, 1e9 - age))
    compiled.sweep(tmp_path, 20)
    assert {p.name for p in tmp_path.glob("*/*")} == {"new", "middle"}


def test_nothing_is_kept_where_others_may_write(home):
    (home / "dng-jax").mkdir(mode=0o777)
    (home / "dng-jax").chmod(0o777)
    compiled.keep()
    assert NAME not in os.environ


@pytest.mark.parametrize("elsewhere", ["relative", ""])
def test_a_folder_is_never_relative_to_where_a_job_is_started(home, monkeypatch, elsewhere):
    monkeypatch.setenv("XDG_CACHE_HOME", elsewhere)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # no home is known
    compiled.keep()
    assert NAME not in os.environ


@pytest.mark.parametrize("name", ["JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"])
def test_what_jax_was_told_stays(home, monkeypatch, name):
    monkeypatch.setenv(name, "false")
    before = {**os.environ}
    compiled.keep()
    assert {**os.environ} == before
    assert not any(home.iterdir())


def test_a_home_without_room_costs_no_run(home, monkeypatch):
    (home / "dng-jax").write_text("a file where the folder would be")
    compiled.keep()
    assert NAME not in os.environ


def test_another_processor_has_another_folder(home, monkeypatch):
    here = compiled.folder()
    monkeypatch.setattr(compiled.platform, "machine", lambda: "another")
    assert compiled.folder() != here


def test_no_cache_switches_it_off():
    before = jax.config.jax_enable_compilation_cache
    try:
        Devices(cache=False).select()
        assert not jax.config.jax_enable_compilation_cache
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


@pytest.mark.slow
def test_a_job_finds_what_the_one_before_compiled(home):
    job = ["-m", "eval.class_removal", "--samples", "8", "--steps", "4", "--rules", "unguided"]

    def run(name, *words):
        place = ["--out", str(home / name), *words]
        subprocess.run([sys.executable, *job, *place], check=True, capture_output=True)
        kept = compiled.folder()
        return {p.name for p in kept.glob("*-cache")} if kept.exists() else set()

    assert not run("without", "--no-cache")
    first = run("first")
    assert first
    assert run("second") == first
