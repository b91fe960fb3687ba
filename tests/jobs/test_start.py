"""How jobs start: what is imported before a command line is parsed, and what --help shows."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys

import pytest

from dng_jax import cli
from tests.house import ROOT, imported, modules

HEAVY = ("jax", "flax", "matplotlib", "scipy", "sklearn", "optax", "orbax", "tensorflow_datasets")
HOPFIELD = ("bifurcation", "attention", "diffusion")

# Every --help in one process: what is imported for one of them would be there for all.
HELP = """
import contextlib, io, json, sys
from dng_jax import cli
texts = {}
for words in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        cli.main([*words.split(), "--help"])
    texts[words] = out.getvalue()
print(json.dumps({"texts": texts, "modules": [*sys.modules]}))
"""


@pytest.fixture(scope="module")
def shown():
    words = [*cli.JOBS, *(f"hopfield {name}" for name in HOPFIELD)]
    child = subprocess.run(
        [sys.executable, "-c", HELP, json.dumps(words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    return json.loads(child.stdout)


def test_help_is_shown_before_anything_that_computes_is_imported(shown):
    assert set(HEAVY).isdisjoint(name.partition(".")[0] for name in shown["modules"])


def test_help_names_the_command_that_was_typed(shown):
    for words, text in shown["texts"].items():
        assert f"usage: dng {words} " in text, (words, text[:200])


@pytest.mark.parametrize("name", ["dng_jax", "dng_jax.nets", "dng_jax.training"])
def test_lazy_names_are_those_that_type_checkers_see(name):
    package = importlib.import_module(name)
    (source,) = (m for m in modules() if m.name == name)
    (guard,) = (n for n in source.tree.body if isinstance(n, ast.If))
    seen = {}
    for statement in guard.body:
        assert isinstance(statement, ast.ImportFrom)
        for alias in statement.names:
            seen[alias.name] = statement.module
    eager = {n for target, names in imported(source, at_import=True) for n in names}
    assert set(seen) - {"__version__"} == set(package.__all__) - eager
    for exported, home in seen.items():
        whole = importlib.import_module(home)
        value = getattr(package, exported)
        assert value is (
            getattr(whole, exported) if home != name else sys.modules[f"{name}.{exported}"]
        )
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'sampel'"):
        package.sampel  # noqa: B018
