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

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from dng_jax.errors import InputError
from dng_jax.jobs.runs import write_text


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
        """Prints to the console, by default stdout."""
        if console is None:
            console = Console()
            if not console.is_terminal:
                # Rich takes a pipe for 80 columns wide and would break numbers over two lines.
                console = Console(width=200)
        table = RichTable(title=Text(self.title), title_justify="left")
        for i, column in enumerate(self.columns):
            table.add_column(Text(column), justify="left" if i == 0 else "right")
        for row in self.rows:
            # As Text, or rich would take the [0.1, 0.2] of an interval for markup.
            table.add_row(*(Text(c) for c in row))
        console.print(table)

    def to_dict(self) -> dict[str, Any]:
        """Title, columns and rows, as `eval.study.report` reads them."""
        return {"title": self.title, "columns": list(self.columns), "rows": self.rows}

    def markdown(self) -> str:
        """The table in GitHub's Markdown, first column left, the others right."""
        rule = [":--"] + ["--:"] * (len(self.columns) - 1)
        head = [[_escaped(c) for c in self.columns], rule]
        body = [[_escaped(c) for c in row] for row in self.rows]
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
    """Prints tables, and writes them as Markdown to the folder's tables.md."""
    for table in tables:
        table.print()
    write_tables(folder, *tables)


def write_tables(folder: str | Path, *tables: Table) -> None:
    """Writes tables as Markdown to the folder's tables.md."""
    text = "\n".join(f"**{table.title}**\n\n{table.markdown()}" for table in tables)
    write_text(Path(folder) / "tables.md", text)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4g}"
    return str(value)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
