"""The README's example runs as it stands, and its commands exist."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from pathlib import Path

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_the_first_example_runs_and_prints_what_it_says():
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    assert len(code.strip().splitlines()) <= 12
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    assert out.getvalue().strip() == "(64, 8, 8, 1) (50, 64)"


def test_the_second_example_builds_its_rule():
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[1]

    def network(x, row, roles):
        return dict.fromkeys(roles, x)

    scope = {"my_base": network, "my_negative": network}
    exec(code, scope)
    assert set(scope["rule"].roles) == {"base", "positive", "negative"}


def test_commands_and_files_named_in_the_readme_exist():
    root = Path(__file__).resolve().parents[1]
    jobs = set(re.findall(r"python -m ([a-z_.]+)|\.\.\. ((?:train|eval)\.[a-z_]+)", README))
    names = {name for pair in jobs for name in pair if name}
    assert {"eval.class_removal", "eval.study", "train.classifier"} <= names
    for name in names:
        assert importlib.util.find_spec(name) is not None, name
    for file in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (root / file).exists(), file


def test_options_named_in_the_readme_are_options():
    import tyro

    from eval import class_removal

    for line in re.findall(r"python -m eval\.class_removal ([^`\n#]+)`", README):
        config = tyro.cli(class_removal.Config, args=line.split())
        assert config.forbid == ("3", "8")
