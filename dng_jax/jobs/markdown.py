"""Text in Markdown as it is: classes are called what their folders are, which may be *anything*.

text(s)      within a line
strong(s)    a line of its own, in bold
cell(s)      in a table
code(s)      in a table, as code

Escaped is what GitHub's Markdown would take for a mark, and no more: a number with its interval and
the name of a rule stand in the source as they are shown.
"""

from __future__ import annotations

import re

_MARKS = re.compile(
    r"""
      [\\`~$]
    | \*(?!\s|$)                        # one that ends a word, as in 0.13*, opens nothing
    | (?<![^\W_])_ | _(?![^\W_])        # between letters or digits it is one of them
    | <(?=[a-zA-Z/!?])
    | &(?=\#?\w+;)
    | \](?=[(\[])                       # of a link; [0.1, 0.2] is none
    """,
    re.VERBOSE,
)
_ESCAPED = r"\\\g<0>"
# Where bold is open a star that ends a word would end it.
_MARKS_IN_BOLD = re.compile(rf"{_MARKS.pattern} | \*", re.VERBOSE)


def text(said: str) -> str:
    """The text on one line, every mark in it escaped."""
    return _MARKS.sub(_ESCAPED, _line(said))


def strong(said: str) -> str:
    """The text on one line in bold."""
    return f"**{_MARKS_IN_BOLD.sub(_ESCAPED, _line(said))}**"


def cell(said: str) -> str:
    """The text as a cell of a table."""
    return text(said).replace("|", "\\|")


def code(said: str) -> str:
    """The text as a cell of a table in the type of code, where that has a form for it."""
    line = _line(said)
    if "\\|" in line:
        return cell(line)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " * ("`" in line)
    return fence + space + line.replace("|", "\\|") + space + fence


def _line(said: str) -> str:
    return re.sub(r"[\r\n]+", " ", said)
