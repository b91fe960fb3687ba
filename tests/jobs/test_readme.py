"""The README's example runs as it stands, and its commands exist."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PAGES = {page: page.read_text() for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_first_example_runs_and_prints_what_it_says():
    code = EXAMPLES[0]
    assert len(code.strip().splitlines()) <= 12
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    assert out.getvalue().strip() == "(64, 8, 8, 1) (50, 64)"


def test_the_hopfield_example_finds_every_minimum():
    code = EXAMPLES[2]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    assert "K_s=6.92458464" in out.getvalue()
    assert "64 certified minima" in out.getvalue()


def test_the_example_of_own_networks_builds_its_rule():
    code = EXAMPLES[1]

    def network(x, row, roles):
        return dict.fromkeys(roles, x)

    scope = {"my_base": network, "my_negative": network}
    exec(code, scope)
    assert set(scope["rule"].roles) == {"base", "positive", "negative"}


def test_commands_and_files_named_in_the_readme_exist():
    text = "\n".join(PAGES.values())
    jobs = set(re.findall(r"python -m ([a-z_.]+)|\.\.\. ((?:train|eval)\.[a-z_]+)", text))
    names = {name for pair in jobs for name in pair if name}
    assert {"eval.class_removal", "eval.study.report", "train.classifier"} <= names
    for name in names:
        assert importlib.util.find_spec(name) is not None, name
    for page, text in PAGES.items():
        for file in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (page.parent / file).exists(), file


def test_options_named_in_the_readme_are_options():
    import tyro

    from eval.bench import job as bench
    from eval.class_removal import job as class_removal
    from eval.study import job as study
    from train import options

    text = "\n".join(PAGES.values())
    lines = re.findall(r"(?:python -m|\.\.\.) ((?:train|eval)\.[a-z_]+) ([^`\n#|]+)", text)
    read = {"class_removal": 0, "study": 0, "diffusion": 0, "classifier": 0, "bench": 0}
    for job, line in lines:
        words = line.split()
        name = job.rpartition(".")[2]
        if name in ("class_removal", "study", "bench"):
            config = {"class_removal": class_removal, "study": study, "bench": bench}[name].Config
            tyro.cli(config, args=words)
        elif name in ("diffusion", "classifier"):
            parse = {"diffusion": options.parse_diffusion, "classifier": options.parse_classifier}
            assert parse[name](words).job.steps > 0
        read[name] = read.get(name, 0) + 1
    assert all(read.values()), read
