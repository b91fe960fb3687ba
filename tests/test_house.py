"""What holds the house up: who may import whom, what is private, what may be cited."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import ROOT, Module, imported, modules

ALL = modules()
NAMES = {m.name for m in ALL}
# What each wing may import besides itself.
FLOORS = {
    "dng_jax": (),
    "hopfield_jax": ("dng_jax",),
    "train": ("dng_jax",),
    "eval": ("dng_jax", "hopfield_jax"),
}
# The kernel knows nothing of files, of jobs, or of what jobs are made of.
KERNEL = ("rules", "steps", "schedules", "sampling", "sweeps", "guidance", "posterior", "mixtures",
          "denoisers", "compatibility")  # fmt: skip
ABOVE = ("jobs", "experiments", "plots", "weights", "training", "data", "metrics", "nets")

# What a page or a docstring may point to in the repository.
FOLDERS = r"(?:dng_jax|hopfield_jax|train|eval|tests|docs)"
PATH = rf"(?<![\w./-]){FOLDERS}/[\w./-]+\.(?:py|md|png|safetensors)\b"
LINK = r"\]\((?!http|#)([^\s()#]+)"
SUFFIXES = (".py", ".md", ".png", ".safetensors")


def wing(name: str) -> str:
    return name.split(".")[0]


def tracked(*endings: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    found = [ROOT / line for line in listed.stdout.splitlines() if line.endswith(endings)]
    if not found:
        pytest.skip("not a checkout")
    return [p for p in found if p.exists()]


@pytest.mark.parametrize("name", FLOORS)
def test_wings_stand_on_libraries_and_jobs_never_on_each_other(name):
    wrong = {
        (m.name, other)
        for m in ALL
        if wing(m.name) == name
        for other in m.imports(NAMES)
        if wing(other) not in (name, *FLOORS[name])
    }
    assert not wrong


def test_the_kernel_stands_on_nothing_of_the_library():
    parts = {m.name: m for m in ALL if m.name.startswith("dng_jax.")}
    wrong = {
        (name, other)
        for name, m in parts.items()
        if name.split(".")[1] in KERNEL
        for other in m.imports(NAMES)
        if len(other.split(".")) > 1 and other.split(".")[1] in ABOVE
    }
    assert not wrong


def test_no_module_imports_itself_by_a_detour():
    graph = {m.name: m.imports(NAMES, at_import=True) for m in ALL}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            for other in graph[name]:
                # A folder's __init__ gathers its own modules; they may not ask it back.
                visit(other, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


NAMED_TUPLE = ("_asdict", "_fields", "_make", "_replace")


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in NAMED_TUPLE


@pytest.mark.parametrize("module", ALL, ids=lambda m: m.name)
def test_no_private_name_crosses_a_module(module: Module):
    aliases = set()
    for target, names in imported(module):
        if wing(target) in FLOORS:
            assert not [n for n in names if private(n)], target
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            aliases |= {(a.asname or a.name).split(".")[0] for a in node.names}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            outside = node.value.id in aliases and node.value.id not in ("np", "jnp", "jax", "os")
            assert not (outside and private(node.attr)), f"{node.value.id}.{node.attr}"


def test_every_page_that_is_cited_is_in_the_repository():
    known = {page.name for page in tracked(".md")} | {"model.md", "tables.md", "readme.md"}
    for path in [*ROOT.rglob("*.py")]:
        if ".venv" in path.parts or path.name == "test_house.py":
            continue
        cited = set(re.findall(r"[\w-]+\.md\b", path.read_text(encoding="utf-8")))
        assert cited <= known, (path.relative_to(ROOT), cited - known)


def test_every_link_leads_to_a_file():
    broken = []
    for page in tracked(".py", ".md"):
        for target in re.findall(LINK, page.read_text(encoding="utf-8")):
            # In code, brackets before parentheses are mostly a call.
            meant = page.suffix == ".md" or target.endswith(SUFFIXES)
            if meant and not (page.parent / target).exists():
                broken.append((page.relative_to(ROOT).as_posix(), target))
    assert not broken


def test_every_path_that_is_mentioned_exists():
    gone = [
        (page.relative_to(ROOT).as_posix(), path)
        for page in tracked(".py", ".md")
        for path in re.findall(PATH, page.read_text(encoding="utf-8"))
        if not (ROOT / path).exists()
    ]
    assert not gone


@pytest.mark.parametrize("library", ["dng_jax", "hopfield_jax"])
def test_the_table_of_a_library_names_all_its_modules(library):
    (top,) = (m for m in ALL if m.name == library)
    listed = re.findall(r"(?m)^    (\w+) {2,}\w", ast.get_docstring(top.tree, clean=False) or "")
    assert sorted(listed) == sorted(
        {m.name.split(".")[1] for m in ALL if m.name.startswith(f"{library}.")}
    )


def test_the_library_imports_nothing_heavy():
    code = "import sys; from dng_jax import *; from hopfield_jax import *; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    heavy = {
        "matplotlib",
        "tyro",
        "rich",
        "orbax",
        "tensorboardX",
        "sklearn",
        "tensorflow_datasets",
    }
    assert heavy.isdisjoint(loaded.split())


def test_everything_public_has_a_docstring():
    kinds = ast.FunctionDef | ast.ClassDef
    bare = []
    for m in ALL:
        named = [n for n in m.tree.body if isinstance(n, kinds) and not n.name.startswith("_")]
        bare += [f"{m.name}.{n.name}" for n in named if not ast.get_docstring(n)]
        if not ast.get_docstring(m.tree) and m.path.stat().st_size:
            bare.append(m.name)
    assert not bare
