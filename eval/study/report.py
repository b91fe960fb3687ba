"""A study folder as one self-contained HTML page, and as the README's tables.

    python -m eval.study.report runs/study-mnist

Writes report.html (tables, pictures inside it, configuration, provenance; no file or address
outside it is needed to read it) and readme.md (the line of provenance, the tables of the curves)
into the folder.
"""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from dng_jax import disk
from dng_jax.errors import InputError
from dng_jax.jobs import cli, page, runs
from dng_jax.jobs.options import as_typed, program, shown
from dng_jax.jobs.tables import Table

TITLES = {
    "curves": "Trade-offs",
    "sensitivity": "Sensitivity of Dynamic Negative Guidance",
    "steps": "Number of steps",
    "several": "Several classes forbidden at once",
    "path": "Images along the guidance curve",
    "calibration": "The tracked posterior against the classifier",
}
# What is read of results.json, as types.
SHAPES: dict[str, Any] = {
    "tables": [{"part": str, "title": str, "columns": [str], "rows": [[str]]}],
    "pictures": [{"part": str, "file": str, "caption": str}],
    "config": {"dataset": str, "seeds": [int], "samples": int, "steps": int},
    "command": str,
    "classes": [str],
}
FACTS = ("command", "config", "provenance", "classifier", "classes")


@dataclass(frozen=True)
class Config:
    """Report of a study."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of a finished study, as eval.study wrote it."""


def main(config: Config) -> Path:
    """Writes report.html and readme.md; returns the path of the page."""
    results = read(config.folder)
    path = config.folder / "report.html"
    elsewhere = "or copy the study to another disk"
    runs.write_text(path, render(results, config.folder), elsewhere)
    runs.write_text(config.folder / "readme.md", readme(results), elsewhere)
    print(f"written: {path}, {config.folder / 'readme.md'}")
    return path


def read(folder: Path) -> dict[str, Any]:
    """results.json of a study; InputError where there is none, or one of another shape."""
    path = folder / "results.json"
    if not path.exists():
        raise InputError(f"{folder} holds no results.json: run eval.study first")
    disk.check_memory(path, 10 * disk.check_file(path))
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error})") from None
    if not isinstance(results, dict) or "tables" not in results:
        raise InputError(f"{folder} holds the results of another job, not of a study")
    if absent := [key for key in FACTS if key not in results]:
        raise InputError(
            f"{folder} holds a study of another version (no {absent[0]}): make the study again"
        )
    for key, shape in SHAPES.items():
        if not _has(results.get(key, []), shape):
            raise InputError(
                f"{path} holds a study of another version, or was altered ({key}): make the study"
                " again"
            )
    for table in results["tables"]:
        if any(len(row) != len(table["columns"]) for row in table["rows"]):
            raise InputError(f"{path}: a row of '{table['title']}' is too short or too long")
    return {"pictures": []} | results


def _has(value: Any, shape: Any) -> bool:
    """Whether a JSON value has the fields and types of a shape; a list: of its one kind."""
    if isinstance(shape, list):
        return isinstance(value, list) and all(_has(v, shape[0]) for v in value)
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(
            name in value and _has(value[name], inner) for name, inner in shape.items()
        )
    return isinstance(value, shape) and not (shape is int and isinstance(value, bool))


def render(results: dict[str, Any], folder: Path) -> str:
    """The page as one string."""
    config = results["config"]
    title = f"Class removal on {shown(config['dataset'])}"
    parts = [f"<p>{page.code(origin(results))}</p>"]
    for part, heading in TITLES.items():
        tables = [t for t in results["tables"] if t["part"] == part]
        pictures = [p for p in results["pictures"] if p["part"] == part]
        if tables or pictures:
            parts.append(f"<h2>{html.escape(heading)}</h2>")
        parts += [
            page.picture(folder, p["file"], p["caption"], "run the study again") for p in pictures
        ]
        parts += [page.table(t) for t in tables]
    parts.append(page.facts({key: results[key] for key in FACTS}))
    return page.whole(title, parts)


def readme(results: dict[str, Any]) -> str:
    """The tables of the curves in Markdown, under a line that says where they come from."""
    tables = [t for t in results["tables"] if t["part"] == "curves"]
    body = "\n".join(f"**{t['title']}**\n\n{_runs_table(t).markdown()}" for t in tables)
    return f"{origin(results)}\n\n{body}"


def origin(results: dict[str, Any]) -> str:
    """Where the figures come from, in one line."""
    config, known = results["config"], runs.in_words(results["provenance"])
    seeds = ", ".join(map(str, config["seeds"]))
    return (
        f"`{results['command']}`, seeds {seeds}, "
        f"{config['samples']} images per seed, setting and forbidden class, "
        f"{config['steps']} steps; commit {known.commit}, {known.hardware}, {known.software}, "
        f"{known.date}"
    )


def _runs_table(stored: dict[str, Any]) -> Table:
    table = Table(stored["title"], stored["columns"])
    for row in stored["rows"]:
        table.add(*row)
    return table


def start() -> None:
    """The report as a program."""
    words = program(f"{__package__}.report")
    about = as_typed(__doc__)
    cli.start(lambda: main(tyro.cli(Config, prog=words, description=about)))


if __name__ == "__main__":
    start()
