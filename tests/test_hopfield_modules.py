"""The package's table of modules names every file, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import hopfield_jax


def test_the_table_names_every_module():
    files = {p.stem for p in Path(hopfield_jax.__file__).parent.glob("*.py")} - {"__init__"}
    text = hopfield_jax.__doc__
    table, rest = text.split("\n\n")[1], text.split("\n\n", 2)[2]
    named = set(re.findall(r"(?:^|  )([a-z_]+)  ", table, re.MULTILINE))
    named |= {"plots", "figures"} & set(re.findall(r"\w+", rest))
    assert named == files
