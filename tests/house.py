"""The shape of the code: a table of its folders, and the graph of its imports, by reading alone.

    python tests/house.py               files, lines, longest function, most parameters per folder
    python tests/house.py ../other      the same of another checkout

Length of a function: lines of its body without its docstring. Lines of a file: all of them.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WINGS = ("dng_jax", "hopfield_jax", "train", "eval")


@dataclass(frozen=True)
class Module:
    """A source file of a wing; name dotted, packages by their folder's name."""

    root: Path
    path: Path

    @property
    def name(self) -> str:
        """dng_jax.posterior.pair; eval.study for eval/study/__init__.py."""
        parts = self.path.relative_to(self.root).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def package(self) -> str:
        """What relative imports start from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return ast.parse(self.path.read_text(encoding="utf-8"))

    def imports(self, known: set[str], *, at_import: bool = False) -> set[str]:
        """Names of the known modules that it imports; at_import: when it is itself imported."""
        found = set()
        for target, names in imported(self, at_import=at_import):
            found |= {full for n in names if (full := f"{target}.{n}") in known} or {target} & known
        return found - {self.name}


def modules(root: Path = ROOT) -> list[Module]:
    """Every source file of the wings."""
    return [Module(root, p) for wing in WINGS for p in sorted((root / wing).rglob("*.py"))]


def imported(module: Module, *, at_import: bool = False):
    """(module, names) of every import statement; names () where a module is imported as such."""
    nodes = list(module.tree.body) if at_import else list(ast.walk(module.tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.package.split(".")
            base = base[: len(base) - node.level + 1] if node.level else []
            yield ".".join([*base, *filter(None, [node.module])]), [a.name for a in node.names]


def functions(module: Module):
    """(name, lines of the body without the docstring, number of parameters) of every function."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            a = node.args
            every = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
            count = sum(x is not None and x.arg not in ("self", "cls") for x in every)
            yield node.name, length, count


def table(root: Path = ROOT) -> str:
    """Markdown: a row for each wing as a whole, and one for each of its folders."""
    found = modules(root)
    rows = ["| folder | files | lines | longest function | most parameters |"]
    rows.append("|:--|--:|--:|:--|:--|")
    for wing in WINGS:
        inside = [m for m in found if m.name.split(".")[0] == wing]
        rows.append(_row(f"**{wing}**", inside))
        folders = sorted({m.path.parent for m in inside})
        for folder in folders if len(folders) > 1 else ():
            mine = [m for m in inside if m.path.parent == folder]
            rows.append(_row(folder.relative_to(root).as_posix(), mine))
    return "\n".join(rows)


def _row(title: str, inside: list[Module]) -> str:
    lines = sum(len(m.path.read_text(encoding="utf-8").splitlines()) for m in inside)
    every = [f for m in inside for f in functions(m)] or [("", 0, 0)]
    longest, widest = max(every, key=lambda f: f[1]), max(every, key=lambda f: f[2])
    return (
        f"| {title} | {len(inside)} | {lines:,} | {longest[0]} {longest[1]}"
        f" | {widest[0]} {widest[2]} |"
    )


if __name__ == "__main__":
    print(table(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT))
