"""A report as one self-contained HTML page: no file or address outside it is needed to read it."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dng_jax import disk
from dng_jax.errors import InputError

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 80em; padding: 0 1em;
  color: #1b1b1b; background: #fff }
h1 { font-size: 1.6em } h2 { margin-top: 2em; border-bottom: 1px solid #ccc }
img { max-width: 100% }
div.wide { overflow-x: auto; margin: 1em 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 12.5px }
caption { text-align: left; font-weight: 600; padding: .3em 0; font-size: 14px }
th, td { padding: .2em .5em; border-bottom: 1px solid #ddd; text-align: right }
th { vertical-align: bottom } td { white-space: nowrap }
th:first-child, td:first-child { text-align: left } pre { background: #f5f5f5; padding: 1em;
  overflow-x: auto; font-size: 12px }
"""
PNG = b"\x89PNG\r\n\x1a\n"


def whole(title: str, parts: Sequence[str]) -> str:
    """The page of parts that are HTML already."""
    head = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>'
        f"{head}</title><style>{STYLE}</style></head>\n<body>\n<h1>{head}</h1>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def table(stored: Mapping[str, Any]) -> str:
    """A table as jobs.tables.Table.to_dict has it."""

    def line(cells, tag):
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    rows = "\n".join(line(row, "td") for row in stored["rows"])
    return (
        f'<div class="wide"><table><caption>{html.escape(stored["title"])}</caption>'
        f"<thead>{line(stored['columns'], 'th')}</thead><tbody>{rows}</tbody></table></div>"
    )


def code(text: str) -> str:
    """Markdown's `code` as HTML, everything else escaped."""
    parts = text.split("`")
    return "".join(
        f"<code>{html.escape(part)}</code>" if i % 2 else html.escape(part)
        for i, part in enumerate(parts)
    )


def facts(values: Mapping[str, Any]) -> str:
    """Configuration and provenance, as JSON holds them."""
    text = html.escape(json.dumps(values, indent=2, ensure_ascii=False))
    return f"<h2>Configuration and provenance</h2><pre>{text}</pre>"


def picture(folder: Path, name: str, caption: str, again: str) -> str:
    """A PNG file inside the folder, with what stands below it; again: the remedy where it is none.

    InputError where it is not inside the folder, cannot be read, or is no PNG.
    """
    # Whoever wrote results.json must not choose which file of the reader's goes into the page.
    path, parts = folder / name, Path(name).parts
    inside = path.resolve().is_relative_to(folder.resolve()) and ".." not in parts
    if not parts or Path(name).is_absolute() or not inside or path.suffix != ".png":
        raise InputError(f"{folder}: '{name}' is no picture inside the folder: {again}")
    disk.check_memory(path, 3 * disk.check_file(path))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): {again}") from None
    if not content.startswith(PNG):
        raise InputError(f"{path} is no PNG picture: {again}")
    data = base64.b64encode(content).decode()
    text = html.escape(caption)
    return (
        f'<figure><img alt="{text}" src="data:image/png;base64,{data}">'
        f"<figcaption>{text}</figcaption></figure>"
    )
