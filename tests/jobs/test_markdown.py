"""Whatever a class is called, Markdown shows it so; what needs no escape stands as it is."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from dng_jax.jobs import cells, markdown, tables
from dng_jax.jobs.tables import Table

NASTY = (
    "red | one",
    r"back\slash \| and \* and \\",
    "`code` and ``more`",
    "*bold* **bolder** a* *b",
    "_low_ __init__ a_-b -_- snake_case _",
    "<b>tag</b> <!-- comment --> <https://a.example>",
    "[link](https://a.example) ![picture](https://a.example) [a][b] [ ]",
    "&amp; &#42; AT&T",
    "~~gone~~ ~5 ~",
    "***",
    "größe 日本 é_",
    "\\",
    "|",
)
AS_THEY_ARE = (
    "0.1310* [0.0000, inf]",
    "0.02 [0.01, 0.04]",
    "dng:pair=5,tau=.2,drift=.5",
    "interval(.1,5,dng=2)",
    "own_rules:make_one=1",
    "started at the patterns (K_s)",
    "of the classes, SNR lambda_max(Cov_B) = 1",
    "N <= 3, p < .5",
    "leak % [95%]",
    "–",
    "-2.5e-07",
)


def shown(page):
    """What a reader sees: (text of each block, whether any of it is more than text)."""
    found = []
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(page):
        if token.type == "inline":
            found.append(token.children)
    return found


def plain(parts):
    assert {part.type for part in parts} <= {"text"}
    return "".join(part.content for part in parts)


@pytest.mark.parametrize("name", NASTY)
def test_a_name_is_shown_as_it_is(name, tmp_path):
    table = Table(f"digits without {name}, a* and (* few)", [name, "leak", "next"])
    table.add(f"x{name}", 0.5, f"{name} 0.1* [0, 1]")
    tables.write_tables(tmp_path, table)
    title, *inside = shown((tmp_path / "tables.md").read_text(encoding="utf-8"))
    opened, *parts, closed = [part for part in title if part.content or part.nesting]
    assert [opened.type, closed.type] == ["strong_open", "strong_close"]
    assert plain(parts) == table.title
    cells = [name, "leak", "next", f"x{name}", "0.5", f"{name} 0.1* [0, 1]"]
    assert [plain(parts) for parts in inside] == cells


@pytest.mark.parametrize("name", NASTY)
def test_code_is_shown_as_it_is(name):
    _, _, parts, *_ = shown(f"| a | b |\n|---|---|\n| {markdown.code(name)} |  |\n")
    assert "".join(part.content for part in parts) == name


@pytest.mark.parametrize("cell", AS_THEY_ARE)
def test_numbers_and_rules_need_no_escape(cell):
    assert markdown.cell(cell) == cell


def test_a_mark_and_lines_of_a_cell():
    marked = cells.interval(0.131, 0, float("inf"), sparse=True)
    assert markdown.cell(marked) == marked
    assert markdown.cell("a\nb\r\nc") == "a b c"
