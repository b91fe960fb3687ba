"""One record, every form of it: records (mappings) become tables, Markdown and CSV.

record     {"rule": "np=0.3", "leak": 0.02, ...}, also what results.json holds
table      Table.of(title, records, {heading: field, or record -> cell})
CSV        write_csv(path, records, fields): a record of arrays [n] gives n lines, its single
           values repeated
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from dng_jax.errors import InputError
from dng_jax.jobs import markdown
from dng_jax.jobs.runs import write_text

NOTHING = "–"


class Table:
    """Results by rows: for a person at the terminal, or as Markdown for a report.

    Cells: strings as they are, floats to 4 significant digits, None and NaN as an en dash.
    """

    def __init__(self, title: str, columns: Sequence[str]) -> None:
        self.title, self.columns = title, tuple(columns)
        self.rows: list[tuple[str, ...]] = []

    @classmethod
    def of(
        cls,
        title: str,
        records: Sequence[Mapping[str, Any]],
        columns: Mapping[str, str | Callable[[Any], object]],
    ) -> Table:
        """One row per record; columns: heading -> field of the record, or record -> cell."""
        table = cls(title, tuple(columns))
        for record in records:
            table.add(*(record[c] if isinstance(c, str) else c(record) for c in columns.values()))
        return table

    def add(self, *cells: object) -> None:
        """Adds one row; InputError unless it has one cell per column."""
        if len(cells) != len(self.columns):
            raise InputError(
                f"a row of '{self.title}' needs {len(self.columns)} cells, got {len(cells)}"
            )
        self.rows.append(tuple(_cell(c) for c in cells))

    def print(self, console: Console | None = None) -> None:
        """Prints to the console, by default stdout; no number and no name is ever cut.

        Where the columns do not fit side by side, headings and intervals take several lines; where
        that is still too wide, a second table goes on with the first column and those left over,
        and where two columns are too many, every row becomes a list. A pipe is as wide as needed.
        """
        console = Console() if console is None else console
        rows = [[_printable(cell, console.encoding) for cell in row] for row in self.rows]
        whole = self._widths(rows, str.splitlines)
        if not console.is_terminal:  # rich takes it for 80 columns wide
            console.width = max(_total(whole), console.width)
        if _total(whole) <= console.width:
            self._print_grid(console, rows, whole)
            return
        rows = [[_folded(cell) for cell in row] for row in rows]
        narrow = self._widths(rows, str.split)
        if all(_total([narrow[0], width]) <= console.width for width in narrow[1:]):
            for i, chosen in enumerate(_pieces(narrow, console.width)):
                piece = Table(self.title if i == 0 else "", [self.columns[c] for c in chosen])
                part = [[row[c] for c in chosen] for row in rows]
                piece._print_grid(console, part, [narrow[c] for c in chosen])
        else:
            self._print_list(console, rows)

    def _widths(
        self, rows: Sequence[Sequence[str]], parts: Callable[[str], Sequence[str]]
    ) -> list[int]:
        """Of each column: the widest line of its cells, the widest part of its heading."""
        columns = zip(*rows, strict=True) if rows else [()] * len(self.columns)
        return [
            max([1, *map(cell_len, [*parts(heading), *"\n".join(cells).splitlines()])])
            for heading, cells in zip(self.columns, columns, strict=True)
        ]

    def _print_grid(
        self, console: Console, rows: Sequence[Sequence[str]], widths: Sequence[int]
    ) -> None:
        table = RichTable(title=Text(self.title) if self.title else None, title_justify="left")
        for i, (column, width) in enumerate(zip(self.columns, widths, strict=True)):
            table.add_column(Text(column), justify="left" if i == 0 else "right", width=width)
        for row in rows:
            # As Text, or rich would take the [0.1, 0.2] of an interval for markup.
            table.add_row(*(Text(c) for c in row))
        console.print(table)

    def _print_list(self, console: Console, rows: Sequence[Sequence[str]]) -> None:
        lines = [self.title]
        for row in rows:
            lines += ["", row[0]]
            for heading, cell in zip(self.columns[1:], row[1:], strict=True):
                lines += [f"  {heading}", *(f"    {line}" for line in cell.splitlines())]
        for line in lines:
            # Terminals break what is too wide by themselves; rich would cut a long word.
            console.print(Text(line), no_wrap=True, overflow="ignore", crop=False)

    def to_dict(self) -> dict[str, Any]:
        """Title, columns and rows, as `eval.study.report` reads them."""
        return {"title": self.title, "columns": list(self.columns), "rows": self.rows}

    def markdown(self) -> str:
        """The table in GitHub's Markdown, first column left, the others right."""
        rule = [":--"] + ["--:"] * (len(self.columns) - 1)
        head = [[markdown.cell(c) for c in self.columns], rule]
        body = [[markdown.cell(c) for c in row] for row in self.rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in head + body)


def write_csv(
    path: str | Path, records: Sequence[Mapping[str, Any]], fields: Sequence[str] | None = None
) -> Path:
    """Records as CSV with all digits; fields: which of their entries, in order (default: all).

    Arrays [n] of a record give n lines, its single values stand on each of them.
    """
    import numpy as np

    names = list(records[0] if fields is None else fields)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for record in records:
        columns = np.broadcast_arrays(*(np.atleast_1d(np.asarray(record[n])) for n in names))
        writer.writerows(zip(*(c.tolist() for c in columns), strict=True))
    return write_text(path, text.getvalue())


def publish(folder: str | Path, *tables: Table) -> None:
    """Writes tables as Markdown to the folder's tables.md, and prints them."""
    write_tables(folder, *tables)
    for table in tables:
        table.print()


def write_tables(folder: str | Path, *tables: Table) -> None:
    """Writes tables as Markdown to the folder's tables.md."""
    text = "\n".join(f"{markdown.strong(table.title)}\n\n{table.markdown()}" for table in tables)
    write_text(Path(folder) / "tables.md", text)


def _printable(cell: str, encoding: str) -> str:
    """The cell with a hyphen for the dash, where the terminal has none."""
    try:
        cell.encode(encoding)
    except UnicodeEncodeError:
        return cell.replace(NOTHING, "-")
    return cell


def _folded(cell: str) -> str:
    """An interval below its value."""
    return cell.replace(" [", "\n[")


def _total(widths: Sequence[int]) -> int:
    """Of a table: every column has a space on both sides, and lines between and around them."""
    return sum(widths) + 3 * len(widths) + 1


def _pieces(widths: Sequence[int], room: int) -> list[list[int]]:
    """Columns in their order, in tables that fit into the room and begin with the first one."""
    pieces = [[0]]
    for column in range(1, len(widths)):
        if _total([widths[c] for c in (*pieces[-1], column)]) > room:
            pieces.append([0])
        pieces[-1].append(column)
    return pieces


def _cell(value: object) -> str:
    if value is None:
        return NOTHING
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return NOTHING if math.isnan(value) else f"{value:.4g}"
    return str(value)
