"""Every example of the README and the guides runs as it stands; the commands exist."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = {page: page.read_text() for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))}
EXAMPLES = {
    page.relative_to(ROOT).as_posix(): found
    for page, text in PAGES.items()
    if (found := re.findall(r"```python\n(.*?)```", text, re.DOTALL))
}


def printed(code: str, scope: dict) -> str:
    """What a block prints; its names are left in scope, for the next block of the page."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, scope)
    return out.getvalue()


@pytest.mark.parametrize(
    "page",
    [p if p == "README.md" else pytest.param(p, marks=pytest.mark.slow) for p in EXAMPLES],
)
def test_every_example_runs_and_prints_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example may write files
    scope: dict = {}
    for code in EXAMPLES[page]:
        assert max(map(len, code.splitlines())) <= 100
        lines = printed(code, scope).splitlines()
        # print(...)  # (4, 8): a value, not a remark
        for said in re.findall(r"(?m)^ *print\(.*\)  # ([\d(\[TF].*)$", code):
            assert said in lines


def test_the_pages_have_examples():
    guides = (
        "own_images",
        "own_network",
        "own_rule",
        "sweeps_and_chunks",
        "text_to_image",
        "tuning",
    )
    assert {"README.md", *(f"docs/guides/{name}.md" for name in guides)} <= set(EXAMPLES)
    assert len(EXAMPLES["README.md"]) == 3
    assert len(EXAMPLES["README.md"][0].strip().splitlines()) <= 12


def test_the_hopfield_example_finds_every_minimum():
    said = printed(EXAMPLES["README.md"][2], {})
    assert "K_s=6.92458464" in said
    assert "64 certified minima" in said


def test_the_rule_of_the_guide_pushes_away_from_all_its_negatives():
    import jax.numpy as jnp

    from dng_jax import Rule, sample, sample_keys, schedules, steps

    scope: dict = {}
    code = EXAMPLES["docs/guides/own_rule.md"][0]
    assert len(code.split("class Steady:")[1].split("def steady")[0].strip().splitlines()) <= 15
    exec(code, scope)
    rule = scope["steady"](2.0, negatives=("negative:0", "negative:1"))
    assert isinstance(rule, Rule)

    def denoise(x, row, roles):
        slope = {"base": 0.0, "negative:0": 0.1, "negative:1": 0.3}
        return {role: slope[role] + 0 * x for role in roles}

    table, keys = steps.ddpm(schedules.linear(), 2), sample_keys(0, 2)
    for shape in ((2, 2, 2, 1), (2, 3)):  # images, vectors
        result = sample(denoise, table, rule, keys, jnp.zeros(shape), save=("x",))
        # |0.1 + 0.3| at every step
        assert jnp.allclose(result.trace["push"], 0.4)


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
    from eval.tune import job as tune
    from train import options
    from train.tune import options as searched

    text = "\n".join(PAGES.values())
    lines = re.findall(r"(?:python -m|\.\.\.) ((?:train|eval)\.[a-z_]+) ([^`\n#|]+)", text)
    jobs = {"class_removal": class_removal, "study": study, "bench": bench, "tune": tune}
    read = dict.fromkeys((*jobs, "diffusion", "classifier", "train.tune"), 0)
    for job, line in lines:
        words = line.split()
        name = job.rpartition(".")[2]
        if job == "train.tune":
            name = job
            searched.parse(shlex.split(line)).check()
        elif name in jobs:
            config = jobs[name].Config
            tyro.cli(config, args=words)
        elif name in ("diffusion", "classifier"):
            parse = {"diffusion": options.parse_diffusion, "classifier": options.parse_classifier}
            assert parse[name](words).job.steps > 0
        read[name] = read.get(name, 0) + 1
    assert all(read.values()), read
